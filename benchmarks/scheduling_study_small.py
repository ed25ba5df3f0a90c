"""How A_max and A_min take wider prediction intervals: 150 requests, M = 400.

    python benchmarks/scheduling_small_study.py

Prompts of 4 tokens, outputs min(80, 1 + Exp(18)), all at 0; the interval of an output is its bin,
of 1 to 80 bins over [1, 80]. Means over 200 seeds. Writes small_study.json.
"""

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import common  # noqa: E402

from jaxalloc import Requests, policies, simulate_batch  # noqa: E402
from jaxalloc.traces.intervals import bins  # noqa: E402

SEEDS, NUM, CAPACITY, PROMPT, LONGEST, MEAN = 200, 150, 400, 4, 80, 18
BINS = (1, 2, 3, 5, 10, 20, 40, 80)


def main():
    rng = np.random.default_rng(0)
    output = np.minimum(LONGEST, 1 + rng.exponential(MEAN, (SEEDS, NUM)).astype(int))
    rows = []
    for count in BINS:
        made = [bins(row, count, LONGEST) for row in output]
        lower, upper = np.stack([m.lower for m in made]), np.stack([m.upper for m in made])
        requests = Requests.create(prompt=PROMPT, output=output, lower=lower, upper=upper)
        row = {"bins": count, "mean_width": float(np.mean(upper - lower))}
        for name in ("HindsightShortestFirst", "AMax", "AMin"):
            schedule = simulate_batch(requests, CAPACITY, getattr(policies, name)())
            assert (schedule.status == 0).all()
            latency = np.asarray(schedule.mean_latency)
            row[name] = float(latency.mean())
            row[f"{name} standard error"] = float(latency.std(ddof=1) / np.sqrt(SEEDS))
            row[f"{name} evictions"] = float(np.mean(schedule.total_evictions))
        rows.append(row)
        print({k: round(v, 2) for k, v in row.items()}, flush=True)
    # Wider intervals hurt A_max; A_min is within a quarter of H-SF from ten bins on.
    a_max = [row["AMax"] for row in rows]
    assert a_max == sorted(a_max, reverse=True)
    assert all(r["AMin"] < 1.25 * r["HindsightShortestFirst"] for r in rows if r["bins"] >= 10)
    common.save(
        "scheduling_study_small",
        {"seeds": SEEDS, "requests": NUM, "capacity": CAPACITY, "rows": rows},
    )


if __name__ == "__main__":
    main()
