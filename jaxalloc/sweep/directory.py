"""A folder of Parquet parts with a manifest: what is there, what is missing, what is damaged.

Every part is a chunk and tells which: plan, number, rows. The manifest can be made again from it.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.backend.chunks import num_cores
from jaxalloc.sweep.axes import Axis
from jaxalloc.sweep.chunks import Chunk, column_types
from jaxalloc.sweep.manifest import MANIFEST, SAME, compare, new_manifest, read_manifest
from jaxalloc.sweep.parquet import (
    about_schema,
    check_parent,
    encode,
    schema_of,
    to_table,
    write_whole,
)
from jaxalloc.sweep.plans import Plan


class Found(NamedTuple):
    """What is in a folder.

    Attributes:
      parts: what every valid part says of itself, by its number.
      damaged: names of parts that cannot be read, and why.
    """

    parts: dict[int, dict[str, Any]]
    damaged: dict[str, str]

    def statuses(self) -> Counter[str]:
        """Counts by name over all valid parts."""
        return sum((Counter(about["status"]) for about in self.parts.values()), Counter())


class Directory(NamedTuple):
    """Where the parts of one sweep go.

    Attributes:
      path: the folder.
      plan: what is swept.
      manifest: what its file says.
    """

    path: Path
    plan: Plan
    manifest: dict[str, Any]

    @property
    def rows(self) -> int:
        """Rows of a chunk."""
        return int(self.manifest["chunk_size"])

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.plan.size // self.rows)

    def write_part(self, chunk: Chunk) -> Counter[str]:
        """Write one part; it appears when it is complete. Returns its statuses."""
        data, statuses = self.encoded(chunk)
        write_whole(self.path / part_name(chunk.number), data)
        return statuses

    def encoded(self, chunk: Chunk) -> tuple[Any, Counter[str]]:
        """The bytes of a part, and its statuses."""
        statuses = count_statuses(self.plan, chunk)
        about = {
            "plan_hash": self.manifest["plan_hash"],
            "chunk": chunk.number,
            "chunk_size": self.rows,
            "start": chunk.start,
            "stop": chunk.stop,
            "status": dict(statuses),
        } | {key: self.manifest[key] for key in SAME}
        schema = schema_of(column_types(self.plan.design, self.plan.job), about)
        table = to_table(chunk.columns, schema, self.plan.job.statuses)
        return encode(table, repeating(self.plan)), statuses

    def write_manifest(self, **more: Any) -> Directory:
        """Write the manifest with these entries changed."""
        manifest = self.manifest | more
        text = json.dumps(manifest, indent=1)
        write_whole(self.path / MANIFEST, text.encode() + b"\n")
        return self._replace(manifest=manifest)


def part_name(index: int) -> str:
    """The file of one chunk."""
    return f"part-{index:07d}.parquet"


def repeating(plan: Plan) -> list[str]:
    """The columns of few different values."""
    design = plan.design
    few = [axis.label for axis in design.axes if isinstance(axis, Axis) and len(axis.values) < 1000]
    return ["status", *few]


def count_statuses(plan: Plan, chunk: Chunk) -> Counter[str]:
    """How many rows of a chunk ended how."""
    counts = np.bincount(chunk.columns["status"], minlength=len(plan.job.statuses)).tolist()
    return Counter({name: n for name, n in zip(plan.job.statuses, counts, strict=True) if n})


def prepare(
    path: Path, plan: Plan, resume: bool, chunk_size: int, wanted: int | None
) -> tuple[Directory, Found]:
    """Make a folder that exists ready for the missing parts.

    Args:
      path: the folder.
      plan: what is to be swept.
      resume: whether it may hold something.
      chunk_size: rows of a chunk where the folder does not say.
      wanted: what the caller asked for, which must not contradict the folder.

    Raises:
      ValueError: it holds something else; names it and the fix.
    """
    name = f"--out = {str(path)!r}"
    entries = sorted(entry.name for entry in path.iterdir())
    if entries and not resume:
        raise ValueError(f"{name} is not empty: add --resume to continue it, or give another")
    manifest, fresh = read_manifest(path), new_manifest(plan, chunk_size)
    others = [entry for entry in entries if not _is_own(entry)]
    if manifest is None and others:
        raise ValueError(f"{name} holds {others[0]!r} and no manifest of a sweep: give another")
    if manifest is not None:
        compare(name, manifest, fresh)
    found = _inspect(path, name, fresh, entries)
    rows = _rows_of(name, manifest, found) or chunk_size
    if wanted is not None and rows != min(wanted, plan.size):
        raise ValueError(f"--chunk-size = {wanted}: {path} has chunks of {rows} rows: drop it")
    for entry in entries:
        if _is_unfinished(entry):
            (path / entry).unlink(missing_ok=True)
    directory = Directory(path, plan, manifest or new_manifest(plan, rows))
    stale = directory.manifest["complete"] and len(found.parts) < directory.num_chunks
    if manifest is None or stale:
        directory = directory.write_manifest(complete=False)
    return directory, found


def _rows_of(name: str, manifest: Mapping[str, Any] | None, found: Found) -> int | None:
    """The rows of a chunk, on which the manifest and all parts must agree; None without any."""
    said = {int(about["chunk_size"]) for about in found.parts.values()}
    said |= {int(manifest["chunk_size"])} if manifest else set()
    if len(said) > 1:
        raise ValueError(f"{name} holds parts of {sorted(said)} rows: keep those of one size")
    return said.pop() if said else None


def make_folder(path: Path) -> None:
    """Raise ValueError unless there is a folder to write to, made if absent."""
    name = f"--out = {str(path)!r}"
    if path.exists() and not path.is_dir():
        raise ValueError(f"{name} is a file: give a folder, or a name that ends in .parquet")
    check_parent(path, "--out")
    try:
        path.mkdir(exist_ok=True)
        (path / f".{MANIFEST}.probe.tmp").touch()
        (path / f".{MANIFEST}.probe.tmp").unlink()
    except OSError as error:
        raise ValueError(f"{name} cannot be written ({error.strerror}): give another") from None


def _is_unfinished(entry: str) -> bool:
    return entry.startswith((".part-", f".{MANIFEST}")) and entry.endswith(".tmp")


def _is_own(entry: str) -> bool:
    is_part = entry.startswith("part-") and entry.endswith(".parquet")
    return entry == MANIFEST or is_part or _is_unfinished(entry)


def _inspect(path: Path, name: str, fresh: Mapping[str, Any], entries: list[str]) -> Found:
    """Read every part to its end, its checksums compared."""
    files = [entry for entry in entries if entry.endswith(".parquet")]
    read = functools.partial(_read_part, path, fresh)
    found = Found({}, {})
    with ThreadPoolExecutor(num_cores()) as pool:
        for entry, about in zip(files, pool.map(read, files), strict=True):
            if isinstance(about, str):
                if not _is_own(entry):
                    raise ValueError(f"{name} holds {entry}, which is no part: move it away")
                found.damaged[entry] = about
                continue
            if about.get("plan_hash") != fresh["plan_hash"] or entry != part_name(about["chunk"]):
                raise ValueError(f"{name} holds {entry}, a part of another sweep: move it away")
            compare(name, about, fresh)
            found.parts[about["chunk"]] = about
    return found


def _read_part(folder: Path, fresh: Mapping[str, Any], entry: str) -> dict[str, Any] | str:
    """What a part says of itself once all of it was read; or why it cannot be.

    What is of another plan is not judged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(folder / entry, page_checksum_verification=True).read()
        about = about_schema(table.schema)
    except (OSError, pa.ArrowException, ValueError) as error:
        return str(error).splitlines()[0]
    if about.get("plan_hash") != fresh["plan_hash"]:
        return about
    try:
        whole = about["stop"] - about["start"] == len(table)
    except (KeyError, TypeError):
        whole = False
    if not whole or table.column_names != list(fresh["columns"]):
        return f"{len(table)} rows of {table.num_columns} columns"
    counted = table["status"].value_counts().to_pylist()
    return about | {"status": {pair["values"]: pair["counts"] for pair in counted}}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else writes to the folder meanwhile; the lock ends with the process.

    Raises:
      ValueError: somebody else does.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--out = {str(path)!r}: another sweep is writing there: wait for it"
            ) from None
        yield
    finally:
        os.close(descriptor)
