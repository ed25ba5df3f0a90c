"""Where a benchmark ran, and where its report goes: beside the scripts, with its versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import jax

HERE = Path(__file__).parent
FIGURES = HERE.parent / "figures"


def commit() -> str:
    """The commit that ran, marked if the package itself had changes."""
    git = ["git", "-C", str(HERE)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if found.returncode:
        return "unknown"
    root = HERE.parents[1] / "jaxalloc"
    changes = subprocess.run(
        [*git, "status", "--porcelain", str(root)], capture_output=True, text=True
    )
    return found.stdout.strip() + ("-modified" if changes.stdout else "")


COMMIT = commit()  # at the start: the tree may move on during a long run


def processor() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else "unknown"


def environment() -> dict[str, Any]:
    """Device, versions and commit."""
    device = jax.devices()[0]
    return {
        "date": date.today().isoformat(),
        "commit": COMMIT,
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)),
        "dtype": "float64" if jax.config.values["jax_enable_x64"] else "float32",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")},
    }


def write(name: str, document: dict[str, Any]) -> None:
    """Write a report beside the scripts."""
    text = json.dumps({"environment": environment(), **document}, indent=1)
    (HERE / name).write_text(text + "\n")
    print(f"wrote benchmarks/calibration/{name}")
