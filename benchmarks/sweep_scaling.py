"""Sweeps of 10^3 to 10^7 allocations (K = 5): time, memory, and what the sweep adds to the solving.

    python benchmarks/sweep_scaling.py [--quick]

Each size has a process of its own, which compiles first, then sweeps into a folder of Parquet parts
and solves the same lanes, laid out beforehand, with nothing else to do, in turns. The overhead is
what the sweep takes beyond that: plan, transfer, Parquet, fsync. The largest resident memory is
that of the process after its first sweep. `--quick`: up to 10^5; on a GPU up to 10^8.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import jax
import numpy as np

from jaxalloc import load, solve_batch, sweep

GRIDS = ((40, 25), (100, 100), (400, 250), (1000, 1000), (4000, 2500), (10_000, 10_000))
REPEATS, GROUP = 3, 1 << 20  # lanes laid out at a time


def sweep_once(plan):
    """Seconds of a sweep, and the bytes that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = common.clock(lambda: sweep.run(plan, Path(folder) / "study").complete)
        return seconds, sum(path.stat().st_size for path in Path(folder).rglob("part-*.parquet"))


def solve_only(rates, weights):
    """Seconds of solving all lanes; they are laid out off the clock."""
    base, seconds = load("qwen3-8b").workload, 0.0
    grid = np.geomspace(0.01, 2, rates), np.geomspace(1, 300, weights)
    for first in range(0, rates * weights, GROUP):
        lane = np.arange(first, min(first + GROUP, rates * weights))
        place = np.unravel_index(lane, (rates, weights))
        shapes = {name: (len(lane), *np.shape(leaf)) for name, leaf in vars(base).items()}
        lanes = {name: np.broadcast_to(getattr(base, name), s) for name, s in shapes.items()}
        lanes |= {"arrival_rate": grid[0][place[0]], "accuracy_weight": grid[1][place[1]]}
        lanes = jax.block_until_ready(common.workloads(lanes))
        seconds += common.clock(lambda lanes=lanes: solve_batch(lanes))[0]
    return seconds


def one_size(rates, weights):
    """One size, in this process."""
    axes = {"arrival_rate": f"0.01:2:{rates}:log", "accuracy_weight": f"1:300:{weights}:log"}
    plan = sweep.plan("qwen3-8b", axes)
    first, written = sweep_once(plan)
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    solve_only(rates, weights)
    pairs = [(sweep_once(plan)[0], solve_only(rates, weights)) for _ in range(REPEATS)]
    seconds, solving = np.median(pairs, axis=0)
    return {
        "configurations": plan.size,
        "first_sweep_seconds": first,
        "sweep_seconds": seconds,
        "sweep_seconds_all": [pair[0] for pair in pairs],
        "solve_seconds": solving,
        "solve_seconds_all": [pair[1] for pair in pairs],
        "overhead": seconds / solving - 1,
        "per_second": plan.size / seconds,
        "max_resident_bytes": resident,
        "bytes_on_disk": written,
        "platform": jax.default_backend(),
    }


def measure(quick):
    most = 10**5 if quick else 10**7 if jax.default_backend() == "cpu" else 10**8
    results = []
    for size in GRIDS:
        if np.prod(size) <= most:
            line = [sys.executable, __file__, "child", *map(str, size)]
            done = subprocess.run(line, stdout=subprocess.PIPE, check=True)
            results.append(json.loads(done.stdout))
            common.show(results[-1])
    return {"results": results}


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        jax.config.update("jax_enable_x64", True)
        common.show(one_size(*map(int, sys.argv[2:])))
    else:
        common.main(__file__, measure, whole=True)
