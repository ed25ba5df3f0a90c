"""What every benchmark of this folder shares: the inputs, where it ran, and where results go."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import oracles
import problems
import rivals

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "benchmarks" / "figures"

__all__ = ["oracles", "problems", "rivals"]

PACKAGES = ("jax", "numpy", "scipy", "numba", "cvxpy", "clarabel", "moreau", "jaxopt")


def environment() -> dict[str, Any]:
    """Device, versions and commit of this run."""
    import jax

    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else processor(),
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if version(name)},
        "commit": COMMIT,
    }


def processor() -> str:
    """The name of this machine's processor."""
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return names[0].split(":")[1].strip() if names else platform.processor()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit that ran, marked if the package itself had changes."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if found.returncode:
        return "unknown"
    changes = subprocess.run(
        [*git, "status", "--porcelain", "jaxalloc"], capture_output=True, text=True
    )
    return found.stdout.strip() + ("-modified" if changes.stdout else "")


def save(name: str, quick: bool, content: dict[str, Any]) -> None:
    """Write results/allocation_NAME.json; a quick run prints it and leaves the file alone."""
    text = json.dumps({"environment": environment(), **content}, indent=1, default=_plain)
    if quick:
        print(text)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"allocation_{name}.json").write_text(text + "\n")
    print(f"wrote {RESULTS.relative_to(ROOT)}/allocation_{name}.json")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else float(value)


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Median, 99th percentile and largest."""
    values = np.asarray(values, dtype=np.float64)
    return {
        "p50": float(np.quantile(values, 0.5, method="nearest")),
        "p99": float(np.quantile(values, 0.99, method="nearest")),
        "max": float(values.max()),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and the best of repeated timings."""
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return {"median": median, "q1": low, "q3": high, "best": min(seconds), "repeats": len(seconds)}


def workloads(fields: dict[str, np.ndarray], dtype: Any = np.float64) -> Any:
    """The batch as a `jaxalloc.Workload` of the given dtype."""
    import jax.numpy as jnp

    import jaxalloc

    return jaxalloc.Workload(**{name: jnp.asarray(v, dtype) for name, v in fields.items()})


COMMIT = commit()  # at the start: the tree may move on during a long run
