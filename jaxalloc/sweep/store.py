"""One Parquet file that appears under its name only when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Appender(Protocol):
    """Adds rows to a file: arrays of one length by column, in the order of the columns."""

    def __call__(self, columns: Mapping[str, np.ndarray[Any, Any]], /) -> None:
        """Add the rows."""


def check_target(path: Path, suffixes: tuple[str, ...], field: str) -> None:
    """Raise ValueError unless a file of that name could be written: before any computing.

    The message names `field`, the path and the fix.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{field} = {str(path)!r} must end in {' or '.join(suffixes)}: rename it")
    if path.is_dir():
        raise ValueError(f"{field} = {str(path)!r} is a folder: give a file")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"{field} = {str(path)!r}: there is no folder {str(folder)!r}: make it")
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"{field} = {str(path)!r}: the folder {str(folder)!r} is not writable: give another"
        )


def partial_path(path: Path) -> Path:
    """Where the rows of an interrupted sweep are left: `sweep.partial.parquet`."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


@contextmanager
def parquet_file(
    path: Path, columns: tuple[str, ...], metadata: Mapping[str, Any]
) -> Iterator[Appender]:
    """A Parquet file to append to; it appears at `path` when the block ends.

    Where the block is left by an exception, `path` stays as it was and the rows appended so far
    are left at `partial_path(path)`; none, no file.

    Args:
      path: the file; an old one is replaced at the end.
      columns: names of the columns; `status` holds text, `steps` int32, the others float64.
      metadata: kept in the file as JSON under the key `jaxalloc`.

    Raises:
      OSError: the disk is full, or whatever else kept the file from being written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"status": pa.string(), "steps": pa.int32()}
    schema = pa.schema(
        [(name, types.get(name, pa.float64())) for name in columns],
        metadata={"jaxalloc": json.dumps(metadata)},
    )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = 0

    def append(chunk: Mapping[str, np.ndarray[Any, Any]], /) -> None:
        nonlocal rows
        writer.write_table(pa.table({name: chunk[name] for name in columns}, schema=schema))
        rows += len(chunk["status"])

    try:
        writer = pq.ParquetWriter(unfinished, schema)
        target = path
        try:
            yield append
        except BaseException:  # Ctrl-C too: what was appended is kept
            target = partial_path(path)
            raise
        finally:
            writer.close()  # where this fails nothing is renamed
            if rows:
                _sync(unfinished)
                unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the file is on the disk, so that a rename never shows an empty one."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
