"""A part: the rows of one chunk as a Parquet file, and the digests by which damage is seen.

Every Parquet file tells in its footer what it is of and how its rows ended (`about`). Beside a part
is a small file, written by whoever wrote the part: its length, the SHA-256 of the whole, and that
of its footer, which is quick to check. What is JSON (that file, the manifest, what a footer tells)
holds a digest of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxalloc.files import new_file
from jaxalloc.sweep.axes import Columns

_METADATA = b"jaxalloc"
_SEAL = "sha256"
_SUMS = "jaxalloc.columns"
_TAIL = 8  # bytes after Parquet's footer: its length, and a mark
_TYPES = {"text": "string", "float32": "float", "float64": "double", "int32": "int32"}
OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    # The digits of floating-point numbers hardly compress: level 1 takes twice the time for 7 %.
    "compression_level": -3,
    "write_page_checksum": True,  # of the data alone: page headers would hold the statistics
    "write_statistics": False,
    "use_dictionary": ["status"],
}


def seal(document: Mapping[str, Any]) -> str:
    """A document as JSON that holds its own digest."""
    text = json.dumps(document, separators=(",", ":"))
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**document, _SEAL: sha256}, indent=1) + "\n"


def unseal(text: bytes) -> dict[str, Any] | None:
    """The document; None if one byte of the text is not as `seal` made it."""
    try:
        document = json.loads(text)
        document.pop(_SEAL)
        whole = seal(document).encode() == text
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    return document if whole else None


def schema_of(columns: Mapping[str, str], metadata: Mapping[str, Any]) -> pa.Schema:
    """The schema of columns with types "text", "int32", "int64", "float32" or "float64"."""
    fields = [(name, pa.type_for_alias(_TYPES.get(kind, kind))) for name, kind in columns.items()]
    return pa.schema(fields, metadata={_METADATA: seal(metadata)})


def about(schema: pa.Schema) -> dict[str, Any]:
    """What a file of this package says of itself; empty for any other, or a damaged one."""
    return unseal((schema.metadata or {}).get(_METADATA, b"")) or {}


def to_table(columns: Columns, schema: pa.Schema, statuses: Sequence[str]) -> pa.Table:
    """The columns as a table; those called `status` hold numbers of `statuses`."""
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


def encode(table: pa.Table) -> pa.Buffer:
    """The bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=len(table), **OPTIONS)
    return sink.getvalue()


def part_name(number: int) -> str:
    """The file of one chunk."""
    return f"part-{number:07d}.parquet"


def seal_name(part: str) -> str:
    """The file beside a part; readers of a folder of Parquet files pass over such a name."""
    return f"_{part}.json"


def write_part(path: Path, data: Any) -> None:
    """Write a part and its digest; each appears when it is whole.

    The digest comes first, so that no part is ever without; if the machine fails before that is on
    the disk, the part is solved again.
    """
    write(path.with_name(seal_name(path.name)), _seal_of(data).encode(), durable=False)
    write(path, data)


def write(path: Path, data: Any, *, durable: bool = True) -> None:
    """Write a file that appears when it is whole, and of which all who write it write the same."""
    try:
        with new_file(path, durable=durable) as file:
            file.write(data)
    except FileNotFoundError:
        if not path.exists():  # else another process wrote it, and tidied up meanwhile
            raise


def _seal_of(data: Any) -> str:
    """What stands beside a part of these bytes."""
    view = memoryview(data)
    footer = min(int.from_bytes(view[-_TAIL : -_TAIL // 2], "little") + _TAIL, len(view))
    return seal(
        {
            "length": len(view),
            "whole": hashlib.sha256(view).hexdigest(),
            "footer_length": footer,
            "footer": hashlib.sha256(view[-footer:]).hexdigest(),
        }
    )


def damage_of(part: Path, whole: bool) -> str | None:
    """What is wrong with a part; None if nothing is.

    Args:
      part: its file, beside which is its digest.
      whole: read all of it; else its length and its footer are compared.
    """
    try:
        text = part.with_name(seal_name(part.name)).read_bytes()
        said = unseal(text)
        if said is None or said.keys() != {"length", "whole", "footer_length", "footer"}:
            return "its digest is damaged"
        if whole:
            same = _seal_of(part.read_bytes()).encode() == text
            return None if same else "its digest differs"
        with part.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length != said["length"]:
                return f"{length} bytes, not {said['length']}"
            file.seek(length - said["footer_length"])
            differs = hashlib.sha256(file.read()).hexdigest() != said["footer"]
            return "the digest of its footer differs" if differs else None
    except FileNotFoundError as error:
        return "it is missing" if error.filename == str(part) else "it has no digest"
    except OSError as error:
        return error.strerror or str(error)


def write_one_file(parts: Sequence[Path], path: Path, schema: pa.Schema) -> None:
    """Put the rows of all parts into one Parquet file, which appears when it is whole."""
    sums = dict.fromkeys(schema.names, 0)
    with new_file(path) as file, pq.ParquetWriter(file, schema, **OPTIONS) as writer:
        for part in parts:
            table = pq.ParquetFile(part, page_checksum_verification=True).read()
            sums = {name: checksum(table[name], value) for name, value in sums.items()}
            writer.write_table(table.replace_schema_metadata(schema.metadata))
        said = {name: [str(schema.field(name).type), value] for name, value in sums.items()}
        writer.add_key_value_metadata({_SUMS: seal(said)})


def checksum(column: pa.ChunkedArray, value: int = 0) -> int:
    """CRC-32 of the values of a column, going on from that of the rows before.

    Parquet's own checksums are of pages; what a footer says of pages, types and rows has none.
    """
    for chunk in column.chunks:
        *_, data = chunk.buffers()
        if pa.types.is_string(chunk.type):
            ends = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset :][: len(chunk) + 1]
            value = zlib.crc32(memoryview(data)[ends[0] : ends[-1]], value)
        else:
            value = zlib.crc32(chunk.to_numpy(zero_copy_only=False), value)
    return value


def is_as_written(path: Path, table: pa.Table) -> bool:
    """Whether columns of the one file are, by type and value, what `write_one_file` wrote."""
    said = unseal((pq.read_metadata(path).metadata or {}).get(_SUMS.encode(), b"")) or {}
    found = {name: [str(table[name].type), checksum(table[name])] for name in table.column_names}
    return all(said.get(name) == sums for name, sums in found.items())
