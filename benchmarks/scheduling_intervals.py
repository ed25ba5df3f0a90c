"""How A_max and A_min take wider prediction intervals: 150 requests, M = 400.

    python benchmarks/scheduling_intervals.py [--quick]

Prompts of 4 tokens, outputs min(80, 1 + Exp(18)), all at 0; the interval of an output is its bin,
of 1 to 80 bins over [1, 80]. Means over 200 seeds (`--quick`: 20).
"""

import common
import numpy as np

from jaxalloc import Requests, policies, simulate_batch
from jaxalloc.traces.intervals import bins

NUM, CAPACITY, PROMPT, LONGEST, MEAN = 150, 400, 4, 80, 18


def measure(quick):
    seeds, rows = 20 if quick else 200, []
    rng = np.random.default_rng(0)
    output = np.minimum(LONGEST, 1 + rng.exponential(MEAN, (seeds, NUM)).astype(int))
    for count in (1, 2, 3, 5, 10, 20, 40, 80):
        made = [bins(row, count, LONGEST) for row in output]
        lower, upper = np.stack([m.lower for m in made]), np.stack([m.upper for m in made])
        requests = Requests.create(prompt=PROMPT, output=output, lower=lower, upper=upper)
        row = {"bins": count, "mean_width": np.mean(upper - lower)}
        for name in ("HindsightShortestFirst", "AMax", "AMin"):
            schedule = simulate_batch(requests, CAPACITY, getattr(policies, name)())
            assert (schedule.status == 0).all()
            latency = np.asarray(schedule.mean_latency)
            row[name] = latency.mean()
            row[f"{name} standard error"] = latency.std(ddof=1) / np.sqrt(seeds)
            row[f"{name} evictions"] = np.mean(schedule.total_evictions)
        rows.append(row)
        common.show(row)
    # Wider intervals hurt A_max; A_min is within a quarter of H-SF from ten bins on.
    a_max = [row["AMax"] for row in rows]
    assert a_max == sorted(a_max, reverse=True)
    assert all(r["AMin"] < 1.25 * r["HindsightShortestFirst"] for r in rows if r["bins"] >= 10)
    return {"seeds": seeds, "requests": NUM, "capacity": CAPACITY, "rows": rows}


if __name__ == "__main__":
    common.main(__file__, measure)
