"""Both GPU kernels on the GPU found here: are they right, how fast are they, what bounds them.

    python benchmarks/gpu.py [--minutes 8.5]

- 10^4 to 10^8 workloads, K = 6 and 64, float32 and float64, and 64 to 20,000 instances of 2,000
  requests, from and to device memory: a first call that compiles, medians of the others, the peak
  of the device memory.
- Answers beside the extended-precision oracle and the CPU's; schedules beside the CPU's, exactly.
- The floor: the bytes that must move at the speed at which this device copies, and the share of it
  reached.
- The plain form on the same GPU, and the numba loops on all cores of the same machine.

Every part is a process of its own (`gpu_parts.py`) with a share of the time; one that fails or runs
out of time leaves its rows so far and says so. Writes results/gpu.json, which `figures.py gpu`
draws. Without a GPU every part runs once in interpret mode at a tiny size, which shows that the
command works and nothing else: it prints its report and writes nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import common

# Name, arguments and the most seconds of each part; what matters most comes first.
PARTS = {
    "device": 40,
    "allocation float32 6": 90,
    "scheduling AMin": 90,
    "numba": 70,
    "allocation float64 6": 90,
    "allocation float32 64": 60,
    "allocation float64 64": 60,
    "scheduling MCSF": 40,
    "scheduling VLLMFirstCome": 40,
    "allocation float32 6 plain": 40,
    "scheduling AMin plain": 60,
}


def run_part(part, seconds, mode):
    """The rows of one part, and what went wrong."""
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
        "JAXALLOC_GPU_KERNELS": "0" if part.endswith("plain") else "1",
    }
    line = [sys.executable, str(common.ROOT / "benchmarks" / "gpu_parts.py"), *part.split(), mode]
    began, failed = time.perf_counter(), None
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, env=environment, timeout=seconds, check=False
        )
        output, failed = done.stdout, done.stderr[-3000:] if done.returncode else None
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        failed = f"out of time after {seconds:.0f} s"
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    spent = round(time.perf_counter() - began, 1)
    return {"part": part, "rows": rows, "failed": failed, "part_seconds": spent}


def add_floors(rows, device):
    """To every row the seconds that its bytes take at the least, and the share of the time."""
    for row in rows if len(device) == 2 else ():
        if "least_bytes" in row:
            row["floor_seconds"] = row["least_bytes"] / device[1]["bytes_per_second"]
            row["share_of_floor"] = row["floor_seconds"] / row["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.5, help="ends within this time")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in interpret mode")
    parser.add_argument("--only", default="", help="parts whose name begins so")
    given = parser.parse_args()
    deadline = time.perf_counter() + 60 * given.minutes
    smoke = given.smoke or not has_gpu()
    parts = []
    for part, most in PARTS.items():
        if part != "device" and not part.startswith(given.only):
            continue
        left = deadline - time.perf_counter()
        if left < 5:
            parts.append({"part": part, "rows": [], "failed": "not begun: out of time"})
            continue
        seconds = min(left - 3, 300 if smoke else most)
        parts.append(run_part(part, seconds, "--smoke" if smoke else "--full"))
        add_floors(parts[-1]["rows"], parts[0]["rows"])
        print(f"{part}: {parts[-1]['part_seconds']} s, {parts[-1]['failed'] or 'done'}", flush=True)
        for row in parts[-1]["rows"]:
            common.show(row)
    failures = [entry["part"] for entry in parts if entry["failed"]]
    print(f"{len(parts) - len(failures)} parts done, failed: {', '.join(failures) or 'none'}")
    if smoke or given.only:
        print("a smoke or partial run: nothing written")
        return 1 if failures else 0
    common.save("gpu", {"parts": parts}, whole=True)
    return 0


def has_gpu():
    """Asked in a process of its own, which lets the device go."""
    code = "import jax; jax.devices('cuda')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return found.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
