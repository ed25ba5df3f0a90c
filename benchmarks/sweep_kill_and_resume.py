"""A sweep of 10^6 configurations, killed at random moments and resumed, ends as if it never was.

    python benchmarks/sweep_kill_and_resume.py [--quick]

Kills (SIGKILL) fall while Python starts, while XLA compiles, while parts are written: a third after
a random time, the others some milliseconds after a random number of new parts. At the end every
part is compared byte for byte, and the table row for row, with those of a run that nothing touched.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import common
import numpy as np

from jaxalloc import sweep

CHUNK = 4096
START_SECONDS = 4.0  # Python, JAX and the compiler, more or less
MOST_NEW_PARTS = 6


def command(rates, weights):
    """The words of a sweep of Qwen3-8B over that many arrival rates and accuracy weights."""
    axes = ["--arrival-rate", f"0.01:2:{rates}:log", "--accuracy-weight", f"1:300:{weights}:log"]
    return [sys.executable, "-m", "jaxalloc", "sweep", "qwen3-8b", *axes]


def launch(line, folder):
    return subprocess.Popen(
        [*line, "--chunk-size", str(CHUNK), "--resume", "--json", "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parts(folder):
    return {path.name: path for path in folder.glob("part-*.parquet")}


def kill_once(line, folder, rng, early):
    """Start, kill at a random moment; how many parts were new, and what was left unfinished."""
    before = len(parts(folder))
    wanted = before + (MOST_NEW_PARTS if early else rng.integers(0, MOST_NEW_PARTS + 1))
    process = launch(line, folder)
    end = time.monotonic() + (rng.uniform(0, START_SECONDS) if early else 600)
    while len(parts(folder)) < wanted and time.monotonic() < end and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.02))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [path.name for path in folder.glob(".*")] if folder.exists() else []
    return {
        "new_parts": len(parts(folder)) - before,
        "unfinished_files": len(left),
        "killed": process.returncode == -signal.SIGKILL,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="5 kills of 10^5; writes no report")
    quick = parser.parse_args().quick
    kills, line = (5, command(1000, 100)) if quick else (50, command(1000, 1000))
    rng = np.random.default_rng(20)
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    whole, killed = folder / "whole", folder / "killed"
    untouched = launch(line, whole)
    answer, errors = untouched.communicate()
    assert untouched.returncode == 0, errors
    moments = [kill_once(line, killed, rng, early=i % 3 == 0) for i in range(kills)]
    assert all(moment["killed"] for moment in moments), "a run ended before it was killed"
    so_far = len(parts(killed))
    last = launch(line, killed)
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    names = sorted(parts(whole))
    same_parts = sum(
        parts(killed)[name].read_bytes() == parts(whole)[name].read_bytes() for name in names
    )
    document = {
        "configurations": json.loads(answer)["configurations"],
        "chunk_size": CHUNK,
        "parts": len(names),
        "kills": sum(moment["killed"] for moment in moments),
        "kills_that_left_an_unfinished_file": sum(m["unfinished_files"] > 0 for m in moments),
        "new_parts_by_kills": dict(sorted(Counter(m["new_parts"] for m in moments).items())),
        "parts_before_the_last_resume": so_far,
        "parts_equal_byte_for_byte": same_parts,
        "tables_equal": sweep.open(killed).table() == sweep.open(whole).table(),
        "same_files": sorted(p.name for p in killed.iterdir())
        == sorted(p.name for p in whole.iterdir()),
    }
    print(json.dumps(document, indent=1))
    if not quick:
        common.save("sweep_kill_and_resume", document)
    shutil.rmtree(folder)
    assert document["tables_equal"], "the rows differ"
    assert document["same_files"], "a file is left over or missing"
    assert same_parts == len(names), "a part differs"


if __name__ == "__main__":
    main()
