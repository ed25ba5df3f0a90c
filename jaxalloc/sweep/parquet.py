"""Rows as Parquet: one file that appears when it is complete, or the bytes of a part."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxalloc.files import publish, unfinished_file
from jaxalloc.sweep.seals import seal, unseal

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"jaxalloc"
_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    # The digits of floating-point numbers hardly compress: level 1 takes twice the time for 7 %.
    "compression_level": -3,
    "write_page_checksum": True,  # of the data alone: page headers would hold the statistics
    "write_statistics": False,
}


class Appender(Protocol):
    """Adds rows to a file."""

    def __call__(self, table: pa.Table, /) -> None:
        """Add the rows."""


def schema_of(columns: Mapping[str, str], metadata: Mapping[str, Any]) -> pa.Schema:
    """The schema of columns with types "text", "int32", "int64", "float32" or "float64"."""
    import pyarrow as pa

    types = {"text": pa.string(), "float32": pa.float32(), "float64": pa.float64()}
    types |= {"int32": pa.int32(), "int64": pa.int64()}
    fields = [(name, types[kind]) for name, kind in columns.items()]
    return pa.schema(fields, metadata={METADATA: seal(metadata)})


def to_table(
    columns: Mapping[str, np.ndarray[Any, Any]], schema: pa.Schema, statuses: Sequence[str]
) -> pa.Table:
    """The columns as a table; those called `status` hold numbers of `statuses`."""
    import pyarrow as pa

    arrays = []
    for field in schema:
        values = np.asarray(columns[field.name])
        if field.name == "status":
            coded = pa.DictionaryArray.from_arrays(values.astype(np.int32), list(statuses))
            arrays.append(coded.cast(field.type))
        else:
            whole = values.tolist() if values.dtype.kind == "U" else values
            arrays.append(pa.array(whole, type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def about_schema(schema: pa.Schema) -> dict[str, Any]:
    """What a file of this package says of itself; empty for any other, or a damaged one."""
    return unseal((schema.metadata or {}).get(METADATA, b"")) or {}


def encode(table: pa.Table, repeating: list[str]) -> pa.Buffer:
    """The bytes of a Parquet file.

    Args:
      table: its rows.
      repeating: the columns of few different values.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=repeating, row_group_size=len(table), **_OPTIONS)
    return sink.getvalue()


def check_target(path: Path, suffixes: tuple[str, ...], field: str) -> None:
    """Raise ValueError unless a file of that name could be written: before any computing.

    The message names `field`, the path and the fix.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{field} = {str(path)!r} must end in {' or '.join(suffixes)}: rename it")
    if path.is_dir():
        raise ValueError(f"{field} = {str(path)!r} is a folder: give a file")
    check_parent(path, field)


def check_parent(path: Path, field: str) -> None:
    """Raise ValueError unless something can be put where `path` is."""
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
def parquet_file(path: Path, schema: pa.Schema, repeating: list[str]) -> Iterator[Appender]:
    """A Parquet file to append to; it appears at `path` when the block ends.

    Where the block is left by an exception, `path` stays as it was and the rows appended so far
    are left at `partial_path(path)`; none, no file. Nor where it was the appending that failed: a
    file that lacks a piece cannot be read.

    Args:
      path: the file; an old one is replaced at the end.
      schema: of its rows.
      repeating: the columns of few different values.

    Raises:
      OSError: the disk is full, or whatever else kept the file from being written.
    """
    import pyarrow.parquet as pq

    rows = lost = 0

    def append(table: pa.Table, /) -> None:
        nonlocal rows, lost
        lost += len(table)
        writer.write_table(table)
        lost -= len(table)
        rows += len(table)

    with unfinished_file(path) as file:
        writer = pq.ParquetWriter(file, schema, use_dictionary=repeating, **_OPTIONS)
        target = path
        try:
            yield append
        except BaseException:  # Ctrl-C too: what was appended is kept
            target = partial_path(path)
            raise
        finally:
            try:
                writer.close()
            except OSError:
                if not lost:
                    raise
            if rows and not lost:
                publish(file, target)
