"""Claim: on a GPU one to ten million workloads (K = 6) are solved in one batch; what bounds it.

10^6 and 10^7 workloads in float32 and float64, each in a fresh process, so that the peak of the
device memory is its own: time of `solve_batch` from and to device memory, compiled. Without a GPU
it runs on the CPU at a smaller size, which only shows that the script works.

    python benchmarks/allocation/gpu.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import report
from report import oracles, problems

NUM_TYPES = 6
GPU_LANES = (1_000_000, 10_000_000)
CPU_LANES = (10_000, 100_000)
DRAWN_AT_ONCE = 1_000_000
JUDGED = 10_000


def draw_fields(lanes: int, dtype: str) -> problems.Fields:
    """Random workloads of the dtype, drawn in parts that fit the host's memory."""
    parts = []
    for seed, first in enumerate(range(0, lanes, DRAWN_AT_ONCE)):
        drawn = problems.random_workloads(seed, min(DRAWN_AT_ONCE, lanes - first), NUM_TYPES)
        parts.append({name: value.astype(dtype) for name, value in drawn.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def child(lanes: int, dtype: str, repeats: int) -> dict[str, Any]:
    """Solve one size in this process; the first lanes are judged by the oracle."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import jaxalloc

    fields = draw_fields(lanes, dtype)
    batch = jax.block_until_ready(report.workloads(fields, dtype))
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        answer = jax.block_until_ready(jaxalloc.solve_batch(batch))
        seconds.append(time.perf_counter() - start)
    statistics = jax.devices()[0].memory_stats() or {}
    judged = problems.lanes(fields, slice(0, JUDGED))
    residual = oracles.residual(judged, np.asarray(answer.tokens[:JUDGED])).astype(np.float64)
    status, steps = np.asarray(answer.status), np.asarray(answer.steps)
    claimed = status[:JUDGED] == jaxalloc.Status.CONVERGED
    moved = sum(leaf.nbytes for leaf in jax.tree.leaves((batch, answer)))
    timing = report.spread(seconds[1:])
    return {
        "lanes": lanes,
        "num_types": NUM_TYPES,
        "dtype": dtype,
        "first_call_seconds": seconds[0],
        "seconds": timing,
        "workloads_per_second": lanes / timing["median"],
        "gibibytes_in_and_out": moved / 2**30,
        "gibibytes_per_second": moved / 2**30 / timing["median"],
        "peak_device_gibibytes": statistics.get("peak_bytes_in_use", 0) / 2**30,
        "status": {s.name: int(np.sum(status == s)) for s in jaxalloc.Status},
        "steps": {**report.quantiles(steps), "mean": float(steps.mean())},
        "judged_lanes": len(residual),
        "judged_residual": report.quantiles(residual),
        "false_claims": int(np.sum(claimed & ~(residual <= tolerance(dtype)))),
        "environment": report.environment(),
    }


def tolerance(dtype: str) -> float:
    """What jaxalloc calls converged in this dtype."""
    return 1e-8 if dtype == "float64" else 1e-5


def in_fresh_process(lanes: int, dtype: str, repeats: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--size", str(lanes), dtype, str(repeats)]
    # Without this the allocator takes most of the device at once.
    variables = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    found = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{found.stderr}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smaller size, three repeats")
    parser.add_argument("--size", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.size:
        lanes, dtype, repeats = given.size
        print(json.dumps(child(int(lanes), dtype, int(repeats))))
        return
    has_gpu = in_fresh_process(1_000, "float32", 1)["environment"]["platform"] == "gpu"
    sizes = GPU_LANES if has_gpu else CPU_LANES
    rows = []
    for lanes in sizes[:1] if given.quick else sizes:
        for dtype in ("float32", "float64"):
            rows.append(in_fresh_process(lanes, dtype, 3 if given.quick else 9))
            row = rows[-1]
            print(
                f"{row['environment']['device']}: {lanes:9} workloads {dtype}: "
                f"{row['seconds']['median'] * 1e3:8.2f} ms, "
                f"{row['workloads_per_second']:.3g} a second, "
                f"{row['gibibytes_per_second']:.1f} GiB/s in and out, "
                f"peak {row['peak_device_gibibytes']:.2f} GiB, status {row['status']}, "
                f"steps mean {row['steps']['mean']:.1f} max {row['steps']['max']:.0f}, "
                f"residual max {row['judged_residual']['max']:.1e}, "
                f"false claims {row['false_claims']}",
                flush=True,
            )
    # A run on the CPU is a smoke test and leaves no result behind.
    report.save("gpu", given.quick or not has_gpu, {"rows": rows})


if __name__ == "__main__":
    main()
