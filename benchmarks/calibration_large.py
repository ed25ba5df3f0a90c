"""Time and memory of `jaxalloc fit` on a table of a million rows.

    python benchmarks/calibration_large.py [--rows 1000000]

Five tasks, 2,000 questions each; once with eight budgets, once with a different budget in almost
every row. The command runs in a process of its own, from CSV to TOML. Written to large.json.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from calibration_synthetic import LEVELS

TASKS = "abcde"


def table(rows: int, free: bool) -> dict:
    """Columns of a table of runs of curves near the built-in ones."""
    rng = np.random.default_rng(0)
    task = rng.integers(0, len(TASKS), rows)
    curves = np.array(
        [
            [0.60, 1.0e-4, 0.04],
            [0.70, 1.2e-4, 0.05],
            [0.23, 2.6e-4, 0.35],
            [0.68, 2.7e-3, 0.28],
            [0.30, 2.0e-4, 0.05],
        ]
    )
    gain, decay, floor = curves[task].T
    tokens = np.round(rng.gamma(1, 3000, rows), 2) if free else rng.choice(LEVELS, rows)
    correct = rng.random(rows) < floor - gain * np.expm1(-decay * tokens)
    return {
        "task": np.array(list(TASKS))[task],
        "question": rng.integers(0, 2000, rows),
        "tokens": tokens,
        "correct": correct.astype(int),
        "seconds": np.round((0.2 + 1e-3 * tokens) * rng.gamma(25, 0.04, rows), 4),
    }


def main() -> None:
    import pyarrow as pa
    from pyarrow import csv

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    document: dict[str, Any] = {"rows": given.rows}
    for name, free in (("eight budgets", False), ("free budgets", True)):
        with tempfile.TemporaryDirectory() as folder:
            runs = Path(folder) / "runs.csv"
            csv.write_csv(pa.table(table(given.rows, free)), runs)
            line = [sys.executable, "-m", "jaxalloc", "fit", str(runs)]
            line += ["--out", str(runs.with_suffix(".toml"))]
            began = time.perf_counter()
            subprocess.run(line, check=True, capture_output=True)
            document[name] = {"seconds": time.perf_counter() - began}
            # The largest child so far: the second only tells if it is larger.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            document[name]["peak of the runs so far, GiB"] = peak / 2**20
    common.save("calibration_large", document)


if __name__ == "__main__":
    main()
