"""Trace files: CSV, JSON lines, JSON of vLLM's serving benchmark, Parquet.

Columns are recognized by the names that public traces give them: Azure LLM inference 2023 and 2024,
Mooncake, BurstGPT, vLLM; any other file is read by naming its columns.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxalloc.times import read_times
from jaxalloc.traces.trace import MOST_TOKENS, Floats, Trace

Table = dict[str, Any]  # [N] cells by column: a list, or a PyArrow column

# For every field the columns that are taken for it.
RECOGNIZED = {
    "prompt": ("ContextTokens", "input_length", "Request tokens", "input_lens", "prompt"),
    "output": ("GeneratedTokens", "output_length", "Response tokens", "output_lens", "output"),
    "arrival": ("TIMESTAMP", "timestamp", "Timestamp", "start_times", "arrival"),
    "lower": ("lower",),
    "upper": ("upper",),
    "predicted": ("predicted",),
}
NEEDED = ("prompt", "output")
ABSENT = {"prompt": 0, "output": 1}  # where they are not needed
SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
_MOST_SHOWN = 200  # characters of a value in a message


def read_trace(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    needed: Collection[str] = NEEDED,
    seconds_per_unit: float | None = None,
) -> Trace:
    """Read a trace.

    Args:
      path: a file that ends in .csv, .jsonl, .json or .parquet.
      columns: names of the columns by field (prompt, output, arrival, lower, upper, predicted),
        where they are not recognized.
      needed: fields that the file must have. Without an arrival all arrive at 0, without a prompt
        it has 0 tokens, without an output 1.
      seconds_per_unit: of numeric arrivals, such as 1e-3; None: what `times.read_times` tells
        from the names of the columns, or an error where they leave it open.

    Raises:
      ValueError: the file does not exist, has no such column or no such number; the message names
        the field, the value and the fix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"trace = {path} must end in {', '.join(SUFFIXES)}: convert it")
    if not path.is_file():
        raise ValueError(f"trace = {path} does not exist: give the path of a file")
    try:
        table = _READERS[path.suffix.lower()](path)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"trace = {path} is not {path.suffix[1:]}: {error}") from None
    except OSError as error:
        raise ValueError(f"trace = {path} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise ValueError(f"trace = {path} is nested too deeply: give one object a row") from None
    names = _choose_columns(table, dict(columns or {}), needed, path)
    lengths = {name: len(table[name]) for name in names.values()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"trace = {path} has lists of unequal length: {lengths}")
    return _to_trace(table, names, seconds_per_unit)


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        body = [row for row in rows if row]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise ValueError(f"row {number} of {path} has {len(row)} cells, not {len(header)}")
    return {name: [row[i] for row in body] for i, name in enumerate(_different(header, path))}


def _read_json_lines(path: Path) -> Table:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"line {number} of {path} is not JSON: {error.msg}: was the file cut off?"
            ) from None
    return _from_records(rows, path)


def _read_json(path: Path) -> Table:
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, list):
        return _from_records(document, path)
    if not isinstance(document, dict):
        raise ValueError(f"trace = {path} must hold a list of objects, or an object of lists")
    return {name: value for name, value in document.items() if isinstance(value, list)}


def _from_records(rows: list[Any], path: Path) -> Table:
    """Columns of all names that a row has."""
    names: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} of {path} is {_shown(row)}, not an object: correct it")
        names |= dict.fromkeys(row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Table:
    from pyarrow import ArrowException, parquet

    try:
        names = _different(parquet.read_schema(path).names, path)
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"trace = {path} is not parquet: {said}") from None
    return {name: table.column(i) for i, name in enumerate(names)}


def _different(names: list[str], path: Path) -> list[str]:
    """The names of columns; no two that have one may have the same."""
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(f"trace = {path} has two columns {twice[0]!r}: rename one")
    return names


_READERS = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _choose_columns(
    table: Table, given: dict[str, str], needed: Collection[str], path: Path
) -> dict[str, str]:
    """The column of every field that the file has."""
    there = _shown(", ".join(table) or "none")
    names = {}
    for field, known in RECOGNIZED.items():
        if field in given:
            if given[field] not in table:
                raise ValueError(
                    f"column of {field} = {given[field]!r} is not in {path}: choose from {there}"
                )
            names[field] = given[field]
            continue
        found = [name for name in known if name in table]
        if found:
            names[field] = found[0]
        elif field in needed:
            raise ValueError(f"no column of {path} is known to be the {field}: name it, of {there}")
    unknown = set(given) - set(RECOGNIZED)
    if unknown:
        raise ValueError(f"field {min(unknown)!r} is unknown: choose from {', '.join(RECOGNIZED)}")
    return names


def _to_trace(table: Table, names: dict[str, str], seconds_per_unit: float | None) -> Trace:
    """Columns as numbers, in order of arrival, without requests that generated nothing."""
    fields = {
        field: _tokens(table[name], name) for field, name in names.items() if field != "arrival"
    }
    size = len(table[next(iter(names.values()))])
    for field, value in ABSENT.items():
        fields.setdefault(field, np.full(size, value))
    unit = None
    arrival = np.zeros(size)
    if "arrival" in names:
        column = names["arrival"]
        arrival, unit = read_times(
            table[column], column, seconds_per_unit=seconds_per_unit, beside=table
        )
    kept = fields["output"] > 0
    if not kept.any():
        raise ValueError("the trace has no request that generates a token: give another")
    order = np.argsort(arrival[kept], kind="stable")
    arrival = arrival[kept][order]
    whole = {field: values[kept][order].astype(np.int64) for field, values in fields.items()}
    return Trace(arrival=arrival - arrival[0], **whole, dropped=int(np.sum(~kept)), time_unit=unit)


def _tokens(values: Any, name: str) -> Floats:
    """A column of whole numbers of tokens."""
    array = _numbers(values, name)
    wrong = np.flatnonzero((array != np.floor(array)) | (array < 0) | (array > MOST_TOKENS))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"{name} = {array[row]:g} in row {row + 1} must be a whole number of tokens, from 0 "
            f"to {MOST_TOKENS}"
        )
    return array


def _numbers(values: Any, name: str) -> Floats:
    """A column of finite numbers."""
    cells = values if isinstance(values, list) else values.to_pylist()
    array = np.empty(len(cells))
    for row, value in enumerate(cells):
        try:
            array[row] = float("" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"{name} = {_shown(value)} in row {row + 1} is not a number: correct it"
            ) from None
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} = {array[row]} in row {row + 1} must be finite: correct it")
    return array


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = value if isinstance(value, str) and ", " in value else repr(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
