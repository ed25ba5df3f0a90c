"""What every report says of the machine and the versions it was made with, and the sweeps."""

import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import jax
import numpy as np
import pyarrow

HERE = Path(__file__).parent
FIGURES = HERE.parent / "figures"


def environment():
    """Device, versions and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "pyarrow": pyarrow.__version__,
        "dtype": "float64",
    }


def write(name, document):
    """Write a report beside the scripts."""
    text = json.dumps({"environment": environment(), **document}, indent=1)
    (HERE / name).write_text(text + "\n")


def command(rates, weights):
    """The words of a sweep of Qwen3-8B over that many arrival rates and accuracy weights."""
    axes = ["--arrival-rate", f"0.01:2:{rates}:log", "--accuracy-weight", f"1:300:{weights}:log"]
    return [sys.executable, "-m", "jaxalloc", "sweep", "qwen3-8b", *axes]
