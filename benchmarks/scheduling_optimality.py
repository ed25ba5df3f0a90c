"""H-SF against the exact optimum of tiny instances, and against the volume bound at 40 to 60.

    python benchmarks/scheduling_optimality.py [--quick]

200 instances of 6 to 10 requests, M ~ U{12..20}, s ~ U{1..5}, o ~ U{1..M − s}, all at 0, solved by
SciPy's `milp`; and 1,000 instances of the first synthetic model of arXiv 2502.07115 (M ~ U{30..50},
40 to 60 requests), where only the bound is known. `--quick`: ten tiny ones.
"""

import common
import numpy as np
from scheduling.test_optimum import optimal_latency, tiny_instance

from jaxalloc import Requests, latency_bound, policies, simulate_batch


def batch(cases, width):
    prompt, output = (
        np.stack([np.pad(case[k], (0, width - len(case[k]))) for case in cases]) for k in (0, 1)
    )
    return Requests.create(prompt=prompt, output=output), np.array([case[2] for case in cases])


def larger_instance(rng):
    num, capacity = int(rng.integers(40, 61)), int(rng.integers(30, 51))
    prompt = rng.integers(1, 6, num)
    return prompt, rng.integers(1, capacity - prompt + 1), capacity


def summary(ratios):
    return {
        "instances": len(ratios),
        "mean": np.mean(ratios),
        "worst": np.max(ratios),
        "share_optimal": np.mean(ratios <= 1 + 1e-9),
    }


def measure(quick):
    rng = np.random.default_rng(0)
    tiny = [tiny_instance(rng) for _ in range(10 if quick else 200)]
    requests, capacity = batch(tiny, 10)
    shortest = policies.HindsightShortestFirst()
    known = np.asarray(simulate_batch(requests, capacity, shortest).total_latency)
    best = np.array([optimal_latency(*tiny[i], known[i]) for i in range(len(tiny))])
    bound = np.asarray(latency_bound(requests, capacity))
    assert (best <= known).all()
    assert (bound <= best).all()
    large, room = batch([larger_instance(rng) for _ in range(1_000)], 60)
    latency = simulate_batch(large, room, shortest).total_latency
    return {
        "h_sf_over_optimum": summary(known / best),
        "optimum_over_bound": summary(best / bound),
        "h_sf_over_bound_at_40_to_60": summary(np.asarray(latency / latency_bound(large, room))),
    }


if __name__ == "__main__":
    common.main(__file__, measure)
