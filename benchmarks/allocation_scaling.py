"""Cost is linear in the number of workloads and of types, and memory stays bounded.

    python benchmarks/allocation_scaling.py [--quick]

Each size runs in a fresh process, so that its peak resident memory is its own: up to 10^6 workloads
of K = 6 and up to K = 10^5 types, float64. Then the time from the first call of `solve` to its
result in fresh processes, compile included, imports excluded. `--quick`: sizes up to 10,000.
"""

import json
import resource
import subprocess
import sys
import time

import common
import jax
import numpy as np
import problems

import jaxalloc

LANES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
TYPES = (1, 10, 100, 1_000, 10_000, 100_000)
TYPES_LANES, SIX, FIRST_CALLS = 8, 6, 7


def one_size(lanes, num_types):
    """Solve one size in this process: seconds of the first and of later calls, peak memory."""
    fields = problems.random_workloads(0, lanes, num_types)
    batch = jax.block_until_ready(common.workloads(fields))
    del fields
    side = {"": lambda: jaxalloc.solve_batch(batch)}
    before = peak_mebibytes()
    times = common.interleave(side, 15 if lanes * num_types <= 100_000 else 5)[""]
    answer = jaxalloc.solve_batch(batch)
    return {
        "lanes": lanes,
        "num_types": num_types,
        "first_call_seconds": times["first_call_seconds"],
        "seconds": times["wall"],
        "peak_mebibytes_before_solving": before,
        "peak_mebibytes": peak_mebibytes(),
        "converged": float(np.mean(np.asarray(answer.status) == 0)),
        "largest_residual": float(np.max(answer.residual)),
        "steps_mean": float(np.mean(answer.steps)),
    }


def first_call():
    """Seconds from the first call of `solve` to its result; nothing was compiled before."""
    fields = problems.qwen3_8b(0.1)
    start = time.perf_counter()
    workload = jaxalloc.Workload.create(**fields)
    created = time.perf_counter()
    jax.block_until_ready(jaxalloc.solve(workload))
    return {"create": created - start, "solve": time.perf_counter() - created}


def peak_mebibytes():
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fresh(*arguments):
    """What one of the two says in a process of its own."""
    line = [sys.executable, __file__, "child", *map(str, arguments)]
    found = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    print(found.stdout, end="", flush=True)
    return json.loads(found.stdout)


def measure(quick):
    most = 10_000 if quick else 1_000_000
    firsts = [fresh() for _ in range(3 if quick else FIRST_CALLS)]
    return {
        "dtype": "float64",
        "by_lanes": [fresh(lanes, SIX) for lanes in LANES if lanes <= most],
        "by_types": [fresh(TYPES_LANES, types) for types in TYPES if types <= most],
        "first_solve_seconds": common.spread([first["solve"] for first in firsts]),
        "first_create_seconds": common.spread([first["create"] for first in firsts]),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        jax.config.update("jax_enable_x64", True)
        size = [int(word) for word in sys.argv[2:]]
        print(json.dumps(one_size(*size) if size else first_call()))
    else:
        common.main(__file__, measure, whole=True)
