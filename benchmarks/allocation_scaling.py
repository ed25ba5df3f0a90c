"""Claim: cost is linear in the number of workloads and of types, and memory stays bounded.

Each size runs in a fresh process, so that its peak resident memory is its own: up to 10^6 workloads
of K = 6 and up to K = 10^5 types, float64. Then the time from the first call of `solve` to its
result in fresh processes, compile included, imports excluded.

    python benchmarks/allocation_scaling.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import common
import problems

LANES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
TYPES = (1, 10, 100, 1_000, 10_000, 100_000)
TYPES_LANES = 8
SIX = 6
FIRST_CALLS = 7


def child(lanes: int, num_types: int, repeats: int) -> dict[str, Any]:
    """Solve one size in this process: seconds of the first and of later calls, peak memory."""
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    import jaxalloc

    fields = problems.random_workloads(0, lanes, num_types)
    batch = jax.block_until_ready(common.workloads(fields))
    del fields
    before = peak_mebibytes()
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        answer = jax.block_until_ready(jaxalloc.solve_batch(batch))
        seconds.append(time.perf_counter() - start)
    return {
        "lanes": lanes,
        "num_types": num_types,
        "first_call_seconds": seconds[0],
        "seconds": common.spread(seconds[1:]),
        "peak_mebibytes_before_solving": before,
        "peak_mebibytes": peak_mebibytes(),
        "converged": float(np.mean(np.asarray(answer.status) == 0)),
        "largest_residual": float(np.max(answer.residual)),
        "steps_p50": float(np.median(answer.steps)),
        "steps_mean": float(np.mean(answer.steps)),
    }


def child_first_call() -> dict[str, Any]:
    """Seconds from the first call of `solve` to its result; nothing was compiled before."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jaxalloc

    fields = problems.qwen3_8b(0.1)
    start = time.perf_counter()
    workload = jaxalloc.Workload.create(**fields)
    created = time.perf_counter()
    jax.block_until_ready(jaxalloc.solve(workload))
    end = time.perf_counter()
    return {"create": created - start, "solve": end - created}


def peak_mebibytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_fresh_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{found.stderr}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def draw(by_lanes: list[dict[str, Any]], by_types: list[dict[str, Any]]) -> None:
    """Seconds against the number of workloads and of types, beside a line of slope one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, rows, key, label in (
        (panels[0], by_lanes, "lanes", f"workloads (K = {SIX})"),
        (panels[1], by_types, "num_types", f"types K ({TYPES_LANES} workloads)"),
    ):
        sizes = [row[key] for row in rows]
        seconds = [row["seconds"]["median"] for row in rows]
        line = [seconds[-1] * size / sizes[-1] for size in sizes]
        axes.loglog(sizes, line, color="#8c9bb0", linestyle="--", label="linear")
        axes.loglog(sizes, seconds, "o-", color="#c44e52", label="jaxalloc")
        axes.set_xlabel(label)
        axes.set_ylabel("seconds, compiled")
        axes.legend(frameon=False, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    largest = by_lanes[-1]
    panels[0].text(
        0.98,
        0.04,
        f"peak at {largest['lanes']:,}: {largest['peak_mebibytes'] / 1024:.2f} GiB resident",
        transform=panels[0].transAxes,
        ha="right",
        fontsize=8,
    )
    common.FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(common.FIGURES / "allocation_scaling.png", dpi=160)


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['lanes']:8} workloads, K = {row['num_types']:6}: "
        f"{row['seconds']['median']:9.4f} s, first call {row['first_call_seconds']:.2f} s, "
        f"peak {row['peak_mebibytes']:6.0f} MiB, converged {row['converged']:.2%}, "
        f"mean steps {row['steps_mean']:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="sizes up to 10,000")
    parser.add_argument("--size", nargs=3, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.size or given.first_call:
        print(json.dumps(child(*given.size) if given.size else child_first_call()))
        return
    most = 10_000 if given.quick else 1_000_000
    by_lanes, by_types = [], []
    for lanes in (n for n in LANES if n <= most):
        repeats = 15 if lanes <= 10_000 else 5
        by_lanes.append(in_fresh_process("--size", str(lanes), str(SIX), str(repeats)))
        show(by_lanes[-1])
    for num_types in (k for k in TYPES if k <= most):
        by_types.append(in_fresh_process("--size", str(TYPES_LANES), str(num_types), "5"))
        show(by_types[-1])
    first = [in_fresh_process("--first-call") for _ in range(3 if given.quick else FIRST_CALLS)]
    solve_seconds = [call["solve"] for call in first]
    print(f"first call of solve: median {statistics.median(solve_seconds):.2f} s")
    content = {
        "dtype": "float64",
        "by_lanes": by_lanes,
        "by_types": by_types,
        "first_solve_seconds": common.spread(solve_seconds),
        "first_create_seconds": common.spread([call["create"] for call in first]),
    }
    common.save("allocation_scaling", content, given.quick)
    if not given.quick:
        draw(by_lanes, by_types)


if __name__ == "__main__":
    main()
