"""Trace files: CSV, JSON lines, JSON of vLLM's serving benchmark, Parquet.

Columns are recognized by the names that public traces give them: Azure LLM inference 2023 and 2024,
Mooncake, BurstGPT, vLLM; any other file is read by naming its columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from jaxalloc.traces.trace import Floats, Trace

Table = dict[str, list[Any]]

# For every field the columns that are taken for it, and the seconds of one unit of an arrival.
RECOGNIZED = {
    "prompt": ("ContextTokens", "input_length", "Request tokens", "input_lens", "prompt"),
    "output": ("GeneratedTokens", "output_length", "Response tokens", "output_lens", "output"),
    "arrival": ("TIMESTAMP", "timestamp", "Timestamp", "start_times", "arrival"),
    "lower": ("lower",),
    "upper": ("upper",),
    "predicted": ("predicted",),
}
NEEDED = ("prompt", "output")
MILLISECONDS = 1e-3
SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")


def read_trace(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    seconds_per_unit: float | None = None,
) -> Trace:
    """Read a trace.

    Args:
      path: a file that ends in .csv, .jsonl, .json or .parquet.
      columns: names of the columns by field (prompt, output, arrival, lower, upper, predicted),
        where they are not recognized; without an arrival all arrive at 0.
      seconds_per_unit: of numeric arrivals; None: 0.001 for Mooncake's `timestamp`, else 1.

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
    names = _choose_columns(table, dict(columns or {}), path)
    if seconds_per_unit is None:
        seconds_per_unit = MILLISECONDS if names.get("arrival") == "timestamp" else 1.0
    return _to_trace(table, names, seconds_per_unit)


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        body = [row for row in rows if row]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise ValueError(f"row {number} of {path} has {len(row)} cells, not {len(header)}")
    return {name: [row[i] for row in body] for i, name in enumerate(header)}


def _read_json_lines(path: Path) -> Table:
    lines = path.read_text(encoding="utf-8").splitlines()
    return _from_records([json.loads(line) for line in lines if line.strip()], path)


def _read_json(path: Path) -> Table:
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, list):
        return _from_records(document, path)
    if not isinstance(document, dict):
        raise ValueError(f"trace = {path} must hold a list of objects, or an object of lists")
    table = {name: value for name, value in document.items() if isinstance(value, list)}
    lengths = {name: len(value) for name, value in table.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"trace = {path} has lists of unequal length: {lengths}")
    return table


def _from_records(rows: list[Any], path: Path) -> Table:
    """Columns of the names that the first row has."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} of {path} is {row!r}, not an object: correct it")
    return {name: [row.get(name) for row in rows] for name in (rows[0] if rows else ())}


def _read_parquet(path: Path) -> Table:
    from pyarrow import ArrowInvalid, parquet

    try:
        table: Table = parquet.read_table(path).to_pydict()
    except ArrowInvalid as error:
        raise ValueError(f"trace = {path} is not parquet: {error}") from None
    return table


_READERS = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _choose_columns(table: Table, given: dict[str, str], path: Path) -> dict[str, str]:
    """The column of every field that the file has."""
    there = ", ".join(table) or "none"
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
        elif field in NEEDED:
            raise ValueError(f"no column of {path} is known to be the {field}: name it, of {there}")
    unknown = set(given) - set(RECOGNIZED)
    if unknown:
        raise ValueError(f"field {min(unknown)!r} is unknown: choose from {', '.join(RECOGNIZED)}")
    return names


def _to_trace(table: Table, names: dict[str, str], seconds_per_unit: float) -> Trace:
    """Columns as numbers, in order of arrival, without requests that generated nothing."""
    fields: dict[str, Any] = {
        field: _numbers(table[name], name) for field, name in names.items() if field != "arrival"
    }
    for field, values in fields.items():
        wrong = np.flatnonzero((values != np.floor(values)) | (values < 0))
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(
                f"{names[field]} = {values[row]:g} in row {row + 1} must be a whole number of "
                "tokens, 0 or more"
            )
    if "arrival" in names:
        arrival = _times(table[names["arrival"]], names["arrival"], seconds_per_unit)
    else:
        arrival = np.zeros(fields["output"].shape)
    kept = fields["output"] > 0
    if not kept.any():
        raise ValueError("the trace has no request that generates a token: give another")
    order = np.argsort(arrival[kept], kind="stable")
    arrival = arrival[kept][order]
    whole = {field: values[kept][order].astype(np.int64) for field, values in fields.items()}
    return Trace(arrival=arrival - arrival[0], **whole, dropped=int(np.sum(~kept)))


def _numbers(values: list[Any], name: str) -> Floats:
    """A column of numbers."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        for row, value in enumerate(values, start=1):
            try:
                float(value)
            except (TypeError, ValueError):
                message = f"{name} = {value!r} in row {row} is not a number: correct it"
                raise ValueError(message) from None
        raise
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} = {array[row]} in row {row + 1} must be finite: correct it")
    return array


def _times(values: list[Any], name: str, seconds_per_unit: float) -> Floats:
    """Arrivals in seconds, from numbers or from dates and times (ISO 8601)."""
    first = values[0] if values else 0.0
    is_text = isinstance(first, str) and not first.replace(".", "", 1).lstrip("-").isdigit()
    if not is_text and not isinstance(first, datetime):
        return _numbers(values, name) * seconds_per_unit
    moments = []
    for row, value in enumerate(values, start=1):
        try:
            moments.append(_moment(value))
        except ValueError:
            raise ValueError(
                f"{name} = {value!r} in row {row} is not a time: write 2023-11-16 18:15:46.68"
            ) from None
    start = moments[0]
    return np.array([(moment - start).total_seconds() for moment in moments])


def _moment(value: Any) -> datetime:
    """A date and time; digits beyond microseconds, which Azure's traces have, are cut off."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    day, point, fraction = str(value).strip().partition(".")
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))][:6]
    return datetime.fromisoformat(f"{day}.{digits}" if point else day).replace(tzinfo=None)
