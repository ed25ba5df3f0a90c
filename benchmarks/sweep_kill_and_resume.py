"""A sweep of 10^6 configurations, killed at random moments and resumed, ends as if it never was.

    python benchmarks/sweep_kill_and_resume.py [--quick]

Kills (SIGKILL) fall while Python starts, while XLA compiles, while parts are written: a third after
a random time, the others some milliseconds after a random number of new parts. At the end every
part is compared byte for byte, and the table row for row, with those of a run that nothing touched.
`--quick`: 5 kills of 10^5.
"""

import collections
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

from jaxalloc import sweep

CHUNK = 4096
START_SECONDS = 4.0  # Python, JAX and the compiler, more or less
MOST_NEW_PARTS = 6


def launch(folder, weights):
    """A sweep of Qwen3-8B over a thousand arrival rates and that many accuracy weights."""
    axes = ["--arrival-rate", "0.01:2:1000:log", "--accuracy-weight", f"1:300:{weights}:log"]
    line = [sys.executable, "-m", "jaxalloc", "sweep", "qwen3-8b", *axes, "--out", str(folder)]
    line += ["--chunk-size", str(CHUNK), "--resume", "--json"]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def parts(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*.parquet")}


def kill_once(process, folder, rng, early):
    """Kill at a random moment; how many parts were new, and whether a file was left unfinished."""

    def count():
        return len(list(folder.glob("part-*.parquet")))

    before = count()
    wanted = before + (MOST_NEW_PARTS if early else rng.integers(0, MOST_NEW_PARTS + 1))
    end = time.monotonic() + (rng.uniform(0, START_SECONDS) if early else 600)
    while count() < wanted and time.monotonic() < end and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.02))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "a run ended before it was killed"
    return count() - before, folder.exists() and any(folder.glob(".*"))


def measure(quick):
    kills, weights = (5, 100) if quick else (50, 1000)
    rng = np.random.default_rng(20)
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        finish(launch(whole, weights))
        found = [kill_once(launch(killed, weights), killed, rng, i % 3 == 0) for i in range(kills)]
        so_far = len(parts(killed))
        finish(launch(killed, weights))
        one, other = parts(whole), parts(killed)
        names = [sorted(path.name for path in each.iterdir()) for each in (whole, killed)]
        document = {
            "configurations": 1000 * weights,
            "chunk_size": CHUNK,
            "parts": len(one),
            "kills": kills,
            "kills_that_left_an_unfinished_file": sum(left for _, left in found),
            "new_parts_by_kills": dict(sorted(collections.Counter(n for n, _ in found).items())),
            "parts_before_the_last_resume": so_far,
            "parts_equal_byte_for_byte": sum(other[name] == one[name] for name in one),
            "tables_equal": sweep.open(killed).table() == sweep.open(whole).table(),
            "same_files": names[0] == names[1],
        }
    assert document["tables_equal"], "the rows differ"
    assert document["same_files"], "a file is left over or missing"
    assert document["parts_equal_byte_for_byte"] == len(one), "a part differs"
    return document


if __name__ == "__main__":
    common.main(__file__, measure, whole=True)
