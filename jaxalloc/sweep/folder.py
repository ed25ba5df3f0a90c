"""A folder of parts and a manifest: what is there, what is missing, what is damaged.

Every part is a pure function of the plan and its number, and appears whole, so that any number of
processes may work on a folder at the same time: the worst they do is the same work twice. The
manifest says what the sweep is and with what it was begun; it can be made again from the plan.
"""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pyarrow as pa
import pyarrow.parquet as pq

from jaxalloc.backend.chunks import num_cores
from jaxalloc.files import check_parent
from jaxalloc.sweep.axes import check_whole
from jaxalloc.sweep.designs import MAX_CONFIGURATIONS
from jaxalloc.sweep.parts import about, damage_of, part_name, seal, seal_name, unseal, write
from jaxalloc.sweep.plans import Plan

MANIFEST = "_manifest.json"  # readers of a folder of Parquet files pass over such a name
FORMAT = 3
# What must be the same for parts to be the same bit for bit.
SAME = ("dtype", "device", "jax", "jaxalloc")
_PART = r"part-\d{7,}\.parquet"
_SEALS = rf"{re.escape(MANIFEST)}|_{_PART}\.json"
_UNFINISHED = re.compile(rf"\.({_PART}|{_SEALS})\.\w+\.tmp")
_OWN = re.compile(rf"{_PART}|{_SEALS}|{_UNFINISHED.pattern}")


class Found(NamedTuple):
    """What is in a folder.

    Attributes:
      parts: what every valid part says of itself, by its number.
      damaged: names of parts that are not as they were written, and why.
    """

    parts: dict[int, dict[str, Any]]
    damaged: dict[str, str]


def new_manifest(plan: Plan, chunk_size: int | None = None) -> dict[str, Any]:
    """What a sweep is, and with what it is begun here.

    Raises:
      ValueError: the size of a chunk is none.
    """
    if chunk_size is not None:
        check_whole("chunk_size", chunk_size, 1, MAX_CONFIGURATIONS)
    rows = min(chunk_size or plan.chunk_size, plan.size)
    versions = {"python": platform.python_version()}
    for name in ("jaxalloc", "jax", "jaxlib", "numpy", "pyarrow"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "format": FORMAT,
        "plan": plan.describe(),
        "plan_hash": plan.digest,
        "configurations": plan.size,
        "chunk_size": rows,
        "chunks": -(-plan.size // rows),
        "shape": list(plan.design.shape),
        "columns": plan.columns,
        "dtype": plan.job.dtype().name,
        "device": jax.local_devices()[0].device_kind,
        "jax": versions["jax"],
        "jaxalloc": versions["jaxalloc"],
        "versions": versions,
    }


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none, or not as it was written."""
    try:
        manifest = unseal((path / MANIFEST).read_bytes())
    except OSError:
        return None
    return manifest if manifest is not None and manifest.get("format") == FORMAT else None


def is_of(found: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of one sweep, continued exactly."""
    return all(found.get(key) == fresh[key] for key in ("plan_hash", *SAME))


def join(
    path: Path, plan: Plan, *, resume: bool, chunk_size: int | None, whole: bool
) -> tuple[dict[str, Any], Found]:
    """Make a folder ready for the missing parts: its manifest, and what is there.

    Args:
      path: the folder, made if absent.
      plan: what is to be swept.
      resume: whether it may hold something.
      chunk_size: what the caller asked for, which must not contradict the folder.
      whole: read every part to its end.

    Raises:
      ValueError: it holds something else; names it and the fix.
    """
    name = f"--out = {str(path)!r}"
    _make(path, name)
    entries = sorted(entry.name for entry in path.iterdir())
    if entries and not resume:
        raise ValueError(f"{name} is not empty: add --resume to continue it, or give another")
    manifest = read_manifest(path)
    others = [entry for entry in entries if not _OWN.fullmatch(entry)]
    if manifest is None and others:
        raise ValueError(f"{name} holds {others[0]!r} and no manifest of a sweep: give another")
    fresh = new_manifest(plan, chunk_size)
    if manifest is not None:
        _compare(name, manifest, fresh)
    found = inspect(path, fresh, whole)
    sizes = {one["chunk_size"] for one in (*found.parts.values(), *filter(None, [manifest]))}
    if len(sizes) > 1:
        raise ValueError(f"{name} holds parts of {sorted(sizes)} rows: keep those of one size")
    if chunk_size is not None and sizes - {fresh["chunk_size"]}:
        raise ValueError(
            f"chunk_size = {chunk_size}: {path} has chunks of {sizes.pop()} rows: drop it"
        )
    fresh = new_manifest(plan, *sizes) if sizes else fresh
    beyond = found.damaged.keys() - set(map(part_name, range(fresh["chunks"])))
    if beyond:
        raise _foreign(name, min(beyond))
    if manifest is None:
        write(path / MANIFEST, seal(fresh).encode())
    return fresh, found


def _make(path: Path, name: str) -> None:
    """Raise ValueError unless there is a folder to write to, made if absent."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{name} is a file: give a folder, or a name that ends in .parquet")
    check_parent(path, "--out")
    try:
        path.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileNotFoundError:  # another process has made one file of it meanwhile
        raise
    except OSError as error:
        raise ValueError(f"{name} cannot be written ({error.strerror}): give another") from None


def inspect(path: Path, fresh: Mapping[str, Any], whole: bool) -> Found:
    """Compare every part with its digest, and with the sweep it should be a part of.

    Raises:
      ValueError: a file is no part of it; names it and the fix.
    """
    name = f"--out = {str(path)!r}"
    files = sorted(entry.name for entry in path.iterdir() if entry.suffix == ".parquet")
    found = Found({}, {})
    with ThreadPoolExecutor(num_cores()) as pool:
        judged = pool.map(lambda entry: _judge(path / entry, whole), files)
        for entry, (said, damage) in zip(files, judged, strict=True):
            known = said is None or (said.get("plan_hash"), part_name(said.get("chunk", -1))) == (
                fresh["plan_hash"],
                entry,
            )
            if not (known and re.fullmatch(_PART, entry)):
                raise _foreign(name, entry)
            if damage or said is None:
                found.damaged[entry] = str(damage)
                continue
            _compare(name, said, fresh)
            found.parts[said["chunk"]] = said
    return found


def _foreign(name: str, entry: str) -> ValueError:
    return ValueError(f"{name} holds {entry}, which is no part of this sweep: move it away")


def _judge(part: Path, whole: bool) -> tuple[dict[str, Any] | None, str | None]:
    """What a part says of itself, if it can be read; and what is wrong with it."""
    damage = damage_of(part, whole)
    if damage and part.with_name(seal_name(part.name)).exists():
        return None, damage
    try:
        return about(pq.read_schema(part)), damage
    except (OSError, pa.ArrowException, ValueError) as error:
        return None, damage or str(error).splitlines()[0]


def _compare(name: str, manifest: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
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


def tidy(path: Path) -> None:
    """Remove what was left unfinished in a folder that has all its parts."""
    for entry in path.glob(".*.tmp"):
        if _UNFINISHED.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def verify(path: Path, plan: Plan | None = None) -> tuple[int, dict[str, str]]:
    """Read a whole folder: how many parts are as they were written, and which not, and why.

    Raises:
      ValueError: it holds something else, a sweep of another plan, or a damaged manifest, without
        which nothing is known of the others.
    """
    name = f"--out = {str(path)!r}"
    if not path.is_dir():
        raise ValueError(f"{name} is no folder: give one with the parts of a sweep")
    manifest = read_manifest(path)
    if manifest is None:
        raise ValueError(f"{name}: {MANIFEST} is missing or damaged: --resume makes it again")
    if plan is not None:
        _compare(name, manifest, new_manifest(plan, manifest["chunk_size"]))
    parts, damaged = inspect(path, manifest, whole=True)
    absent = set(map(part_name, range(manifest["chunks"]))) - {*map(part_name, parts), *damaged}
    return len(parts), damaged | dict.fromkeys(sorted(absent), "it is missing")
