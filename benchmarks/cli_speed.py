"""Claim: a command of the README answers within 5 s on two quiet cores, 1.5 s the second time.

    python benchmarks/cli_speed.py [--quick]

Each command runs in a process of its own, first with an empty folder of compiled programs, then
with what that run left there (see `jaxalloc/cli/compute.py`): wall clock and processor time, of the
user and of the system, of the process. Commands that simulate are marked: their time is also that
of the simulation. Writes cli_speed.json.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

COMMANDS = {
    "--help": False,
    "presets": False,
    "doctor": False,
    "solve qwen3-8b": False,
    "solve qwen3-8b --integer --certificates": False,
    "sensitivity qwen3-8b": False,
    "frontier qwen3-8b --system-time 2 --mean-tokens 1000": False,
    "sweep qwen3-8b --arrival-rate 0.01:2:200:log --accuracy-weight 1:300:99 --out a": False,
    "queue qwen3-8b": True,
    "schedule geometric:mean=100 --capacity 16492 --requests 500": True,
}
REPEATS = 5  # of what is warm: the median is told


def run(words, folder, cache):
    """Wall clock and processor seconds of one command."""
    own = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(common.ROOT)}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "jaxalloc", *words.split()],
        cwd=folder,
        env=inherited | own,
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"jaxalloc {words}: {done.stderr}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "processor": used}


def measure(quick):
    rows = []
    for words, simulates in COMMANDS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cold = run(words, folder, folder / "cache")
            warm = [run(words, folder, folder / "cache") for _ in range(1 if quick else REPEATS)]
            kept = sum(file.stat().st_size for file in folder.rglob("*-cache"))
        middle = {
            key: sorted(one[key] for one in warm)[len(warm) // 2] for key in ("wall", "processor")
        }
        row = {"command": words, "simulates": simulates, "cold": cold, "warm": middle}
        rows.append(row | {"cache_bytes": kept})
        print(
            f"{words:95s} cold {cold['wall']:6.2f} s ({cold['processor']:6.2f} of a core), "
            f"warm {middle['wall']:6.2f} s ({middle['processor']:6.2f})",
            file=sys.stderr,
            flush=True,
        )
    return {"commands": rows}


if __name__ == "__main__":
    common.main(__file__, measure, whole=True)
