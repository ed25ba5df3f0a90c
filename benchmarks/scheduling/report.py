"""What every report says of the machine and the versions it was made with."""

import json
import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import jax
import numpy as np

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
        "x64": bool(jax.config.jax_enable_x64),
    }


def write(name, document):
    """Write a report beside the scripts."""
    text = json.dumps({"environment": environment(), **document}, indent=1)
    (HERE / name).write_text(text + "\n")
