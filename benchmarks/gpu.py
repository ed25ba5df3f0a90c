"""Both GPU kernels on the GPU found here: are they right, how fast are they, what bounds them.

    python benchmarks/gpu.py [--minutes 8.5]

- 10^4 to 10^8 workloads, K = 6 and 64, float32 and float64, and 64 to 20,000 instances of 2,000
  requests, from and to device memory: a first call that compiles, medians of the others, the peak
  of the device memory.
- Answers beside the extended-precision oracle and the CPU's; schedules beside the CPU's, exactly.
- The floor: the bytes that must move at the speed at which this device copies, and the operations
  that must be done at the speed at which it multiplies and adds; and the share of it reached.
- The plain form on the same GPU, and the numba loops on all cores of the same machine.

Every part is a process of its own (`gpu_parts.py`) with a share of the time; one that fails or runs
out of time leaves its rows so far and says so. Writes results/gpu.json and figures/gpu.png. Without
a GPU every part runs once in interpret mode at a tiny size, which shows that the command works and
nothing else: it prints its report and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
# Name, arguments and the most seconds of each part; what matters most comes first.
PARTS = (
    ("device", 40),
    ("allocation float32 6", 90),
    ("scheduling AMin", 90),
    ("numba", 70),
    ("allocation float64 6", 90),
    ("allocation float32 64", 60),
    ("allocation float64 64", 60),
    ("blocks float32", 30),
    ("blocks float64", 30),
    ("scheduling MCSF", 40),
    ("scheduling VLLMFirstCome", 40),
    ("allocation float32 6 plain", 40),
    ("scheduling AMin plain", 60),
)
PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "numpy", "numba")


def run_part(part: str, seconds: float, mode: str) -> dict[str, Any]:
    """The rows of one part, and what went wrong."""
    plain = part.endswith("plain")
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAXALLOC_GPU_KERNELS": "0" if plain else "1",
    }
    command = [sys.executable, str(HERE / "gpu_parts.py"), *part.split(), mode]
    began, failed = time.perf_counter(), None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=seconds, check=False
        )
        output, failed = done.stdout, done.stderr[-3000:] if done.returncode else None
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        failed = f"out of time after {seconds:.0f} s"
    rows = [json.loads(line[4:]) for line in output.splitlines() if line.startswith("ROW ")]
    return {
        "part": part,
        "rows": rows,
        "failed": failed,
        "part_seconds": round(time.perf_counter() - began, 1),
    }


def add_floors(report: list[dict[str, Any]]) -> None:
    """To every row the seconds that bytes and operations take at the least, and the share."""
    rates: dict[str, dict[str, float]] = {}
    for row in report[0]["rows"][1:]:
        rates.setdefault(row["dtype"], {}).update(row)
    for entry in report[1:]:
        for row in entry["rows"]:
            rate = rates.get(row.get("dtype", "float32"), {})
            if "least_bytes" not in row or len(rate) < 3:
                continue
            moving = row["least_bytes"] / rate["bytes_per_second"]
            doing = row.get("least_operations", 0) / rate["multiply_adds_per_second"]
            row["floor_bytes_seconds"], row["floor_operations_seconds"] = moving, doing
            row["share_of_floor"] = max(moving, doing) / row["seconds"]


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    per_second = next((key for key in row if key.endswith("s_per_second")), None)
    shown = (
        "device",
        "dtype",
        "num_types",
        "lanes",
        "policy",
        "instances",
        "form",
        "job",
        "threads",
    )
    parts = [f"{key} {row[key]}" for key in shown if key in row]
    if per_second:
        parts.append(f"{row[per_second]:.3g} {per_second.replace('_', ' ')}")
    if "share_of_floor" in row:
        parts.append(f"{row['share_of_floor']:.1%} of the floor")
    for key in ("false_claims", "other_status_than_cpu", "exact_beside_cpu", "skipped"):
        if key in row:
            parts.append(f"{key} {row[key]}")
    return ", ".join(parts)


def draw(report: list[dict[str, Any]], device: str, path: Path) -> None:
    """Throughput over size, both jobs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for entry in report:
        part = entry["part"]
        rows = [row for row in entry["rows"] if "seconds" in row]
        if part.startswith("allocation") and rows:
            _, dtype, types, *form = part.split()
            label = f"{dtype}, K = {types}" + (", plain form" if form else "")
            sizes, speed = zip(
                *((r["lanes"], r["workloads_per_second"]) for r in rows), strict=True
            )
            left.loglog(sizes, speed, "--o" if "plain" in part else "-o", label=label)
        elif part.startswith("scheduling") and rows:
            label = part.removeprefix("scheduling ").replace(" plain", ", plain form")
            pairs = ((r["instances"], r["requests_per_second"]) for r in rows)
            sizes, speed = zip(*pairs, strict=True)
            right.loglog(sizes, speed, "--o" if "plain" in part else "-o", label=label)
        elif part == "numba":
            for row in rows:
                panel = left if row["job"] == "allocation" else right
                speed = row.get("workloads_per_second", row.get("requests_per_second"))
                types = f", K = {row['num_types']}" if "num_types" in row else ""
                panel.axhline(speed, color="0.5", lw=1, ls=":")
                text = f"numba, {row['threads']} threads{types}"
                panel.annotate(
                    text, (0.02, speed), xycoords=("axes fraction", "data"), va="bottom", fontsize=8
                )
    left.set(xlabel="workloads", ylabel="workloads a second", title="allocation")
    right.set(xlabel="instances of 2,000 requests", ylabel="requests a second", title="scheduling")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.suptitle(device)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def installed() -> dict[str, str]:
    """Versions of what was there."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.5, help="ends within this time")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in interpret mode")
    parser.add_argument("--only", help="parts whose name begins so")
    given = parser.parse_args()
    deadline = time.perf_counter() + 60 * given.minutes
    smoke = given.smoke or not has_gpu()
    report: list[dict[str, Any]] = []
    for part, most in PARTS:
        if given.only and part != "device" and not part.startswith(given.only):
            continue
        left = deadline - time.perf_counter()
        if left < 5:
            report.append({"part": part, "rows": [], "failed": "not begun: out of time"})
        else:
            seconds = min(left - 3, 300 if smoke else most)
            report.append(run_part(part, seconds, "--smoke" if smoke else "--full"))
        add_floors(report)
        entry = report[-1]
        print(f"{part}: {entry.get('part_seconds', 0)} s, {entry['failed'] or 'done'}", flush=True)
        for row in entry["rows"]:
            print("  " + line(row), flush=True)
    rows = report[0]["rows"]
    document = {
        "environment": {
            "date": datetime.now(UTC).date().isoformat(),
            "device": rows[0]["device"] if rows else "unknown",
            "cores": len(os.sched_getaffinity(0)),
            "python": sys.version.split()[0],
            "versions": installed(),
            "commit": commit(),
        },
        "parts": report,
    }
    failures = [entry["part"] for entry in report if entry["failed"]]
    print(f"{len(report) - len(failures)} parts done, failed: {', '.join(failures) or 'none'}")
    if smoke or given.only:
        print("a smoke or partial run: nothing written")
        sys.exit(1 if failures else 0)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(report, document["environment"]["device"], HERE / "figures" / "gpu.png")
    print("wrote benchmarks/results/gpu.json and benchmarks/figures/gpu.png")


def has_gpu() -> bool:
    """Asked in a process of its own, which lets the device go."""
    code = "import jax; jax.devices('cuda')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return found.returncode == 0


if __name__ == "__main__":
    main()
