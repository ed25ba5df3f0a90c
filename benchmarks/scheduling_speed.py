"""Requests a second: `simulate_batch` beside a compact numba event loop and plain Python.

    python benchmarks/scheduling_speed.py

64 instances of 2,000 requests (s ~ U{1..32}, o ~ U{1..255}, lower = o / 2, M = 16,492) and 1,000 of
500 (M = 4,000). The package runs its general code: any arrivals, wrong bounds, every policy, the
metrics. Rounds of all sides are interleaved; medians. Writes speed.json.
"""

import argparse
import resource
import time

import common
import jax
import numba
import numpy as np
import scheduling_numba as numba_opponent
from scheduling.reference import Rules, simulate as plain_python

from jaxalloc import Requests, policies, simulate_batch

SIZES = ((64, 2_000, 16_492), (1_000, 500, 4_000))
OTHERS = {
    "A_max, upper = 2 o": policies.AMax(),
    "H-SF": policies.HindsightShortestFirst(),
    "MC-SF, predicted = 3/4 o": policies.MCSF(),
    "MC-Benchmark, predicted = 3/4 o": policies.MCBenchmark(),
    "vLLM, first come": policies.VLLMFirstCome(),
    "α-protection (0.1), 1,000 rounds": policies.AlphaProtection(0.1),
    "α-protection β-clearing (0.1, 0.2), 1,000 rounds": policies.AlphaBetaClearing(0.1, 0.2),
}


def instances(size, num):
    rng = np.random.default_rng(0)
    output = rng.integers(1, 256, (size, num)).astype(np.int32)
    prompt = rng.integers(1, 33, (size, num)).astype(np.int32)
    return prompt, output, np.maximum(output // 2, 1)


def timed(run):
    began = time.perf_counter()
    answer = run()
    return answer, time.perf_counter() - began


def duel(size, num, capacity, repeats):
    """A_min: the package against numba, on the same instances."""
    prompt, output, lower = instances(size, num)
    requests = Requests.create(prompt=prompt, output=output, lower=lower)
    finish, evictions = np.zeros_like(output), np.zeros_like(output)

    def ours():
        return jax.block_until_ready(simulate_batch(requests, capacity, policies.AMin()))

    def theirs():
        numba_opponent.run_batch(prompt, output, lower, capacity, finish, evictions)

    schedule, compilation = timed(ours)
    theirs()
    assert (np.asarray(schedule.finish) == finish).all()
    assert (np.asarray(schedule.evictions) == evictions).all()
    pairs = [(timed(ours)[1], timed(theirs)[1]) for _ in range(repeats)]
    mine, numba_time = np.median(pairs, axis=0)
    row = {
        "instances": size, "requests": num, "capacity": capacity, "repeats": repeats,
        "jaxalloc_requests_per_second": size * num / mine,
        "numba_requests_per_second": size * num / numba_time,
        "ratio": numba_time / mine,
        "ratio_quartiles": np.percentile([b / a for a, b in pairs], [25, 75]).tolist(),
        "compilation_seconds": compilation,
        "rounds": float(np.mean(schedule.rounds)),
        "evictions": float(np.mean(schedule.total_evictions)),
    }  # fmt: skip
    print(row, flush=True)
    return row


def other_policies(repeats):
    size, num, capacity = SIZES[0]
    prompt, output, lower = instances(size, num)
    requests = Requests.create(
        prompt=prompt, output=output, lower=lower, upper=2 * output,
        predicted=np.maximum(output * 3 // 4, 1),
    )  # fmt: skip
    rows = {}
    for name, policy in OTHERS.items():
        limit = 1_000 if policy.beta else None

        def run(policy=policy, limit=limit):
            return jax.block_until_ready(
                simulate_batch(requests, capacity, policy, max_rounds=limit)
            )

        schedule = run()
        seconds = np.median([timed(run)[1] for _ in range(repeats)])
        rows[name] = {
            "requests_per_second": size * num / seconds,
            "rounds": float(np.mean(schedule.rounds)),
            "evictions": float(np.mean(schedule.total_evictions)),
            "finished": float(np.mean(np.asarray(schedule.status) == 0)),
        }
        print(name, rows[name], flush=True)
    return rows


def plain():
    """One instance in the style of the authors' simulators."""
    num, capacity = 200, 1_600
    prompt, output, lower = (x[0].tolist() for x in instances(1, num))
    _, seconds = timed(
        lambda: plain_python(prompt, output, [0] * num, lower, output, output, capacity,
                             Rules("a_min"), max_rounds=10**6)
    )  # fmt: skip
    return {"requests": num, "capacity": capacity, "requests_per_second": num / seconds}


def scaling():
    """Cost in the number of instances, and the memory of the largest batch."""
    rows = []
    for size in (125, 250, 500, 1_000):
        prompt, output, lower = instances(size, 2_000)
        requests = Requests.create(prompt=prompt, output=output, lower=lower)

        def run(requests=requests):
            return jax.block_until_ready(simulate_batch(requests, 16_492, policies.AMin()))

        run()
        seconds = min(timed(run)[1] for _ in range(2))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append({"instances": size, "seconds": seconds, "peak_resident_gib": peak})
        print(rows[-1], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    document = {
        "numba": numba.__version__,
        "numba_threads": numba.get_num_threads(),
        "a_min": [duel(*size, arguments.repeats) for size in SIZES],
        "plain_python": plain(),
        "other_policies": other_policies(5),
        "scaling": scaling(),
    }
    common.save("scheduling_speed", document)


if __name__ == "__main__":
    main()
