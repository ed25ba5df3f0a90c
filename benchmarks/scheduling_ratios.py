"""Measured ratios of A_min and A_max to H-SF, beside log(1/α), over α = lower / upper.

    python benchmarks/scheduling_ratios.py [--quick]

500 requests with prompts of 1 and outputs in [1, u], u = 1/α from 1 to 1,000, M = 20 (u + 1), all
at 0, the same interval [1, u] for all. Outputs are geometric with mean u/4 (cut off at u), or two
points: 1 with probability 0.9, else u. Means over 20 seeds (`--quick`: u to 20).
"""

import common
import numpy as np

from jaxalloc import Requests, policies, simulate_batch
from jaxalloc.traces.generators import Law

SEEDS, NUM = 20, 500
LONGEST = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def law(name, longest):
    if name == "two-point":
        return Law(name="two_point", least=1, most=longest, weight=0.9)
    return Law(name="geometric", mean=max(longest / 4, 1.001), most=longest)


def ratios(name, longest):
    output = law(name, longest).draw(np.random.default_rng(longest), SEEDS * NUM)
    requests = Requests.create(prompt=1, output=output.reshape(SEEDS, NUM), lower=1, upper=longest)
    capacity = 20 * (longest + 1)
    best = simulate_batch(requests, capacity, policies.HindsightShortestFirst()).total_latency
    row = {"law": name, "alpha": 1 / longest, "log": np.log(longest)}
    for policy in (policies.AMin(), policies.AMax()):
        schedule = simulate_batch(requests, capacity, policy)
        assert (schedule.status == 0).all()
        ratio = np.asarray(schedule.total_latency / best)
        row[type(policy).__name__] = ratio.mean()
        row[f"{type(policy).__name__} worst"] = ratio.max()
    common.show(row)
    return row


def measure(quick):
    longest = LONGEST[:5] if quick else LONGEST
    rows = [ratios(name, most) for name in ("geometric", "two-point") for most in longest]
    return {"seeds": SEEDS, "requests": NUM, "rows": rows}


if __name__ == "__main__":
    common.main(__file__, measure)
