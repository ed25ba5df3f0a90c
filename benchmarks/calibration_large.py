"""Time and memory of `jaxalloc fit` on a table of a million rows.

    python benchmarks/calibration_large.py [--quick]

Five tasks, 2,000 questions each; once with eight budgets, once with a different budget in almost
every row. The command runs in a process of its own, from CSV to TOML. `--quick`: 10,000 rows.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
from calibration_synthetic import LEVELS
from pyarrow import csv

CURVES = np.array(  # gain, decay, floor near the built-in ones
    [[0.6, 1e-4, 0.04], [0.7, 1.2e-4, 0.05], [0.23, 2.6e-4, 0.35], [0.68, 2.7e-3, 0.28],
     [0.3, 2e-4, 0.05]]
)  # fmt: skip


def table(rows, free):
    """Columns of a table of runs."""
    rng = np.random.default_rng(0)
    task = rng.integers(0, len(CURVES), rows)
    gain, decay, floor = CURVES[task].T
    tokens = np.round(rng.gamma(1, 3000, rows), 2) if free else rng.choice(LEVELS, rows)
    correct = rng.random(rows) < floor - gain * np.expm1(-decay * tokens)
    return {
        "task": np.array(list("abcde"))[task],
        "question": rng.integers(0, 2000, rows),
        "tokens": tokens,
        "correct": correct.astype(int),
        "seconds": np.round((0.2 + 1e-3 * tokens) * rng.gamma(25, 0.04, rows), 4),
    }


def measure(quick):
    rows = 10_000 if quick else 1_000_000
    document = {"rows": rows}
    for name, free in (("eight budgets", False), ("free budgets", True)):
        with tempfile.TemporaryDirectory() as folder:
            runs = Path(folder) / "runs.csv"
            csv.write_csv(pa.table(table(rows, free)), runs)
            line = [sys.executable, "-m", "jaxalloc", "fit", str(runs)]
            line += ["--out", str(runs.with_suffix(".toml"))]
            seconds, _ = common.clock(lambda line=line: subprocess.run(line, check=True) and None)
        # The largest child so far: the second only tells if it is larger.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        document[name] = {"seconds": seconds, "peak of the runs so far, GiB": peak}
    return document


if __name__ == "__main__":
    common.main(__file__, measure, whole=True)
