"""A folder of Parquet parts with a manifest: what is there, what is missing, what is damaged.

Every part is a chunk and tells which: plan, number, rows. The manifest can be made again from it.
Beside every part is its digest (`seals`).
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.backend import num_cores
from jaxalloc.files import new_file
from jaxalloc.sweep.axes import Axis
from jaxalloc.sweep.chunks import Chunk, column_types
from jaxalloc.sweep.manifest import MANIFEST, SAME, compare, new_manifest, read_manifest
from jaxalloc.sweep.parquet import about_schema, check_parent, encode, schema_of, to_table
from jaxalloc.sweep.plans import Plan
from jaxalloc.sweep.seals import damage_of_part, seal, seal_name, seal_of_part

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
        """Write one part; it appears when it is complete. Returns its statuses.

        Its digest comes first, so that no part is ever without; if the machine fails before that
        is on the disk, the part is solved again.
        """
        data, statuses = self.encoded(chunk)
        name = part_name(chunk.number)
        write_whole(self.path / seal_name(name), seal_of_part(data).encode(), durable=False)
        write_whole(self.path / name, data)
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
        write_whole(self.path / MANIFEST, seal(manifest).encode())
        return self._replace(manifest=manifest)


def write_whole(path: Path, data: Any, *, durable: bool = True) -> None:
    """Write a file that appears when it is complete."""
    with new_file(path, durable=durable) as file:
        file.write(data)


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
    path: Path, plan: Plan, resume: bool, chunk_size: int, wanted: int | None, whole: bool
) -> tuple[Directory, Found]:
    """Make a folder that exists ready for the missing parts.

    Args:
      path: the folder.
      plan: what is to be swept.
      resume: whether it may hold something.
      chunk_size: rows of a chunk where the folder does not say.
      wanted: what the caller asked for, which must not contradict the folder.
      whole: read every part to its end.

    Raises:
      ValueError: it holds something else; names it and the fix.
    """
    name = f"--out = {str(path)!r}"
    entries = sorted(entry.name for entry in path.iterdir())
    if entries and not resume:
        raise ValueError(f"{name} is not empty: add --resume to continue it, or give another")
    manifest, fresh = read_manifest(path), new_manifest(plan, chunk_size)
    others = [entry for entry in entries if not _OWN.fullmatch(entry)]
    if manifest is None and others:
        raise ValueError(f"{name} holds {others[0]!r} and no manifest of a sweep: give another")
    if manifest is not None:
        compare(name, manifest, fresh)
    found = _inspect(path, name, fresh, entries, whole)
    rows = _rows_of(name, manifest, found) or chunk_size
    if wanted is not None and rows != min(wanted, plan.size):
        raise ValueError(f"--chunk-size = {wanted}: {path} has chunks of {rows} rows: drop it")
    directory = Directory(path, plan, manifest or new_manifest(plan, rows))
    beyond = found.damaged.keys() - set(map(part_name, range(directory.num_chunks)))
    if beyond:
        raise ValueError(f"{name} holds {min(beyond)}, which is no part of it: move it away")
    for entry in entries:
        if _UNFINISHED.fullmatch(entry):
            (path / entry).unlink(missing_ok=True)
    stale = directory.manifest["complete"] and len(found.parts) < directory.num_chunks
    if manifest is None or stale:
        directory = directory.write_manifest(complete=False)
    return directory, found


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
        compare(name, manifest, new_manifest(plan, manifest["chunk_size"]))
    entries = sorted(entry.name for entry in path.iterdir())
    found = _inspect(path, name, manifest, entries, whole=True)
    damaged = dict(found.damaged)
    if manifest["complete"]:
        absent = set(map(part_name, range(manifest["chunks"]))) - {*entries}
        damaged |= dict.fromkeys(sorted(absent), "it is missing")
    return len(found.parts), damaged


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
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"{name} cannot be written ({error.strerror}): give another") from None


def _inspect(
    path: Path, name: str, fresh: Mapping[str, Any], entries: list[str], whole: bool
) -> Found:
    """Compare every part with its digest, and with the sweep it should be a part of."""
    files = [entry for entry in entries if entry.endswith(".parquet")]
    found = Found({}, {})
    with ThreadPoolExecutor(num_cores()) as pool:
        judged = pool.map(lambda entry: _judge(path / entry, whole), files)
        for entry, (about, damage) in zip(files, judged, strict=True):
            if about is None or not re.fullmatch(_PART, entry):
                raise ValueError(f"{name} holds {entry}, which is no part: move it away")
            label = (about.get("plan_hash"), part_name(about.get("chunk", -1)))
            if about and label != (fresh["plan_hash"], entry):
                raise ValueError(f"{name} holds {entry}, a part of another sweep: move it away")
            if damage:
                found.damaged[entry] = damage
                continue
            compare(name, about, fresh)
            found.parts[about["chunk"]] = about
    return found


def _judge(part: Path, whole: bool) -> tuple[dict[str, Any] | None, str | None]:
    """What a part says of itself (nothing where it cannot), and what is wrong with it.

    None: it can be read, and was not written by a sweep.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    damage = damage_of_part(part, whole)
    sealed = part.with_name(seal_name(part.name)).exists()
    if damage and sealed:
        return {}, damage
    try:
        about = about_schema(pq.read_schema(part))
    except (OSError, pa.ArrowException, ValueError) as error:
        return {}, damage or str(error).splitlines()[0]
    return (about or None), damage


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
