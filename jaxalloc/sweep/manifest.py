"""The manifest of a folder: what the sweep is, and with what it was begun."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxalloc.sweep.chunks import column_types
from jaxalloc.sweep.plans import Plan
from jaxalloc.sweep.seals import unseal

MANIFEST = "_manifest.json"  # readers of a folder of Parquet files pass over such a name
FORMAT = 2
# What must be the same for parts to be the same bit for bit.
SAME = ("dtype", "device", "jax", "jaxalloc")


def versions() -> dict[str, str]:
    """The versions that this process runs."""
    found = {"python": platform.python_version()}
    for name in ("jaxalloc", "jax", "jaxlib", "numpy", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def new_manifest(plan: Plan, chunk_size: int) -> dict[str, Any]:
    """The manifest of a sweep that begins."""
    found = versions()
    return {
        "format": FORMAT,
        "plan": plan.describe(),
        "plan_hash": plan.digest,
        "configurations": plan.size,
        "chunk_size": chunk_size,
        "chunks": -(-plan.size // chunk_size),
        "shape": list(plan.design.shape),
        "columns": column_types(plan.design, plan.job),
        "dtype": plan.job.dtype().name,
        "device": jax.local_devices()[0].device_kind,
        "jax": found["jax"],
        "jaxalloc": found["jaxalloc"],
        "versions": found,
        "complete": False,
    }


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none, or not as it was written."""
    try:
        manifest = unseal((path / MANIFEST).read_bytes())
    except OSError:
        return None
    return manifest if manifest is not None and manifest.get("format") == FORMAT else None


def compare(name: str, manifest: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Raise ValueError unless the folder is of this plan, and continuing it is exact."""
    if manifest["plan_hash"] != fresh["plan_hash"]:
        raise ValueError(
            f"{name} is of another plan ({_difference(manifest['plan'], fresh['plan'])}): "
            "give that plan, or another folder"
        )
    for key in SAME:
        if manifest.get(key) != fresh[key]:
            raise ValueError(
                f"{name} was begun with {key} = {manifest.get(key)} and this is {fresh[key]}: "
                "continue it there, or give another folder"
            )


def _difference(before: Any, after: Any, place: str = "") -> str:
    """Where two descriptions differ first, and how."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *after]:
            inner = f"{place}.{key}" if place else str(key)
            if key not in before or key not in after:
                return f"{inner} is {'gone' if key in before else 'new'}"
            if before[key] != after[key]:
                return _difference(before[key], after[key], inner)
    if before == after:
        return "the order of its axes"
    return f"{place} was {str(before)[:60]}, is {str(after)[:60]}"
