"""Sweeps of 10^3 to 10^7 allocations (K = 5): time, memory, and what the sweep adds to the solving.

    python benchmarks/sweep_scaling.py [--quick | --gpu]

Each size has a process of its own, which compiles first, then sweeps into a folder of Parquet parts
and solves the same lanes, laid out beforehand, with nothing else to do, in turns. The overhead is
what the sweep takes beyond that: plan, transfer, Parquet, fsync. The largest resident memory is the
kernel's (VmHWM), after the first sweep and before any bare solving.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import numpy as np

GRIDS = {10**3: (40, 25), 10**4: (100, 100), 10**5: (400, 250), 10**6: (1000, 1000)}
GRIDS |= {10**7: (4000, 2500), 10**8: (10_000, 10_000)}  # the last on a GPU alone
REPEATS = 3
GROUP = 16  # chunks laid out at a time


def measure(rates, weights):
    """One size, in this process."""
    import jax

    jax.config.update("jax_enable_x64", True)

    from jaxalloc import sweep
    from jaxalloc.sweep.designs import fill
    from jaxalloc.sweep.running import run_plan

    axes = {"arrival_rate": f"0.01:2:{rates}:log", "accuracy_weight": f"1:300:{weights}:log"}
    plan = sweep.plan("qwen3-8b", axes)
    rows = min(plan.chunk_size, plan.size)
    began = time.perf_counter()
    plan.job.solve(fill(plan.design.rows(0, rows), shape(plan, rows)))
    compile_seconds = time.perf_counter() - began
    sweeps, bare, bytes_written, resident = [], [], 0, 0
    for _ in range(REPEATS):
        folder = Path(tempfile.mkdtemp(prefix="sweep-"))
        outcome = run_plan(plan, folder, chunk_size=rows)
        assert outcome.statuses == {"CONVERGED": plan.size}
        sweeps.append(outcome.seconds)
        bytes_written = sum(path.stat().st_size for path in folder.glob("part-*"))
        shutil.rmtree(folder)
        resident = resident or most_resident()
        bare.append(solve_only(plan, rows))
    seconds, solving = float(np.median(sweeps)), float(np.median(bare))
    return {
        "configurations": plan.size,
        "chunk_size": rows,
        "compile_seconds": compile_seconds,
        "sweep_seconds": seconds,
        "sweep_seconds_all": sweeps,
        "solve_seconds": solving,
        "solve_seconds_all": bare,
        "overhead": seconds / solving - 1,
        "per_second": plan.size / seconds,
        "max_resident_bytes": resident,
        "bytes_on_disk": bytes_written,
        "platform": jax.default_backend(),
    }


def shape(plan, rows):
    """How many lanes are compiled for so many rows."""
    return min(rows, 1 << (plan.size - 1).bit_length())


def solve_only(plan, rows):
    """Seconds of solving all chunks on all cores; their lanes are laid out off the clock."""
    import jax

    from jaxalloc.backend.chunks import num_cores
    from jaxalloc.sweep import allocations
    from jaxalloc.sweep.designs import fill

    solve = allocations._solver(plan.job.solver)
    chunks, seconds = range(-(-plan.size // rows)), 0.0
    for first in range(0, len(chunks), GROUP):
        lanes = []
        for chunk in chunks[first : first + GROUP]:
            values = plan.design.rows(chunk * rows, min((chunk + 1) * rows, plan.size))
            lanes.append(jax.device_put(plan.job.workloads(fill(values, shape(plan, rows)))))
        jax.block_until_ready(lanes)
        began = time.perf_counter()
        with ThreadPoolExecutor(num_cores()) as pool:
            list(pool.map(lambda lane: jax.block_until_ready(solve(lane)), lanes))
        seconds += time.perf_counter() - began
    return seconds


def most_resident():
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def draw(results):
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from jaxalloc.cli.plots.style import STYLE, look

    sizes = [row["configurations"] for row in results]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        times, more = figure.subplots(1, 2)
        for k, (key, label) in enumerate(
            {
                "sweep_seconds": "the sweep, into Parquet",
                "solve_seconds": "its solving alone",
            }.items()
        ):
            times.plot(sizes, [row[key] for row in results], label=label, ms=6, **look(k))
        times.set(xscale="log", yscale="log", xlabel="configurations", ylabel="time, s")
        times.set_title("Time on two CPU cores, K = 5, once compiled")
        times.legend(frameon=False)
        more.plot(sizes, [row["overhead"] for row in results], ms=6, **look(2))
        more.axhline(0.3, color="#555555", lw=1, ls="--")
        more.set(xscale="log", yscale="log", xlabel="configurations", ylim=(0.1, 10))
        more.yaxis.set_major_formatter(PercentFormatter(1.0))
        more.set_title("What plan, transfer and Parquet add; dashed: 30 %")
        figure.savefig(common.FIGURES / "sweep_scaling.png", dpi=160)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="up to 10^5; writes no report")
    parser.add_argument("--gpu", action="store_true", help="up to 10^8; writes scaling_gpu.json")
    parser.add_argument("--size", type=int, help="measure one size and print it as JSON")
    asked = parser.parse_args()
    if asked.size:
        print(json.dumps(measure(*GRIDS[asked.size])))
        return
    results = []
    largest = 10**5 if asked.quick else 10**8 if asked.gpu else 10**7
    for size in [size for size in GRIDS if size <= largest]:
        line = [sys.executable, __file__, "--size", str(size)]
        done = subprocess.run(line, check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout))
        row = results[-1]
        print(
            f"{size:>10,}: {row['sweep_seconds']:.3f} s, solving {row['solve_seconds']:.3f} s, "
            f"overhead {row['overhead']:.1%}, {row['max_resident_bytes'] / 2**30:.2f} GiB",
            flush=True,
        )
    if asked.gpu:
        common.save("sweep_scaling_gpu", {"results": results})
    elif not asked.quick:
        common.save("sweep_scaling", {"results": results})
        draw(results)


if __name__ == "__main__":
    main()
