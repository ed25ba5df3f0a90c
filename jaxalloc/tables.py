"""Tables: CSV, JSON, JSON lines and Parquet; what is wrong is named by row, column and value."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as pacsv, parquet, types

from jaxalloc.messages import one_line, shown, suggest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
TRUE, FALSE = pa.array(["true", "yes", "1", "1.0"]), pa.array(["false", "no", "0", "0.0"])
# What columns become; all others text.
_KINDS = (
    (types.is_timestamp, None),
    (types.is_date, pa.timestamp("s")),
    (types.is_signed_integer, pa.int64()),
    (types.is_unsigned_integer, pa.uint64()),
    (lambda kind: types.is_floating(kind) or types.is_decimal(kind), pa.float64()),
    (types.is_null, pa.float64()),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """Cells of a file, checked as they are taken.

    Attributes:
      name: what the file calls it.
      values: [N] a PyArrow array: numbers, moments or text without spaces around it.
      path: the file, if it is one.
    """

    name: str
    values: Any
    path: Path | None = None

    @classmethod
    def create(cls, name: str, cells: Any, path: Path | None = None) -> Column:
        """Cells of a list or of PyArrow, of whatever type; ValueError where one holds several."""
        if not isinstance(cells, pa.ChunkedArray):
            try:
                cells = pa.chunked_array([pa.array(cells)])
            except (pa.ArrowException, OverflowError, TypeError, ValueError):  # of several types
                words = [None if cell is None else str(cell) for cell in cells]
                cells = pa.chunked_array([pa.array(words, pa.string())])
        own = cells.type.value_type if types.is_dictionary(cells.type) else cells.type
        kind = next((kind or own for is_one, kind in _KINDS if is_one(own)), pa.string())
        try:
            values = pa.concat_arrays([pa.array([], kind), *cells.cast(kind).chunks])
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            where = f"{path}: " if path else ""
            fix = "name one of numbers or text"
            raise ValueError(f"{where}column {name} holds {cells.type}: {fix}") from None
        return cls(name, pc.utf8_trim_whitespace(values) if kind == pa.string() else values, path)

    def numbers(self) -> Floats:
        """Finite numbers, at least 0."""
        values = to_floats(self.values)
        self.reject(np.isnan(values), "is not a number: correct it")
        self.reject(np.isinf(values), "is not finite: correct it")
        self.reject(values < 0, "must not be negative: correct it")
        return values

    def flags(self) -> Floats:
        """0 and 1, false and true, no and yes; as 0 and 1."""
        words = pc.utf8_lower(self.values.cast(pa.string()))
        hit, miss = (np.asarray(pc.is_in(words, meaning)) for meaning in (TRUE, FALSE))
        self.reject(~(hit | miss), "must be 0 or 1 (or true or false): correct it")
        return hit.astype(np.float64)

    def codes(self) -> tuple[Integers, tuple[str, ...]]:
        """Names as numbers, and the names in the order of the numbers."""
        words = self.values.cast(pa.string()).fill_null("")
        self.reject(np.asarray(pc.equal(words, "")), "names nothing: correct it")
        names = sorted(pc.unique(words).to_pylist())
        place = pc.index_in(words, pa.array(names, pa.string()))
        return place.to_numpy(zero_copy_only=False).astype(np.int64), tuple(names)

    def plain(self) -> Any:
        """[N] integers where all cells are, else floats where all are numbers, else text."""
        words = self.values.cast(pa.string()).fill_null("")
        self.reject(np.asarray(pc.equal(words, "")), "is no value: fill it")
        for kind in (pa.int64(), pa.float64()):
            with contextlib.suppress(pa.ArrowInvalid):
                return self.values.cast(kind).to_numpy(zero_copy_only=False)
        return np.array(words.to_pylist())

    def reject(self, wrong: Any, rule: str) -> None:
        """Raise ValueError for the first row that is `wrong` [N]; `rule` says how, and the fix."""
        if wrong.any():
            raise self.error(int(np.argmax(wrong)), rule)

    def error(self, row: int, rule: str) -> ValueError:
        """What is wrong with the cell of a row, from 0."""
        value = self.values[row].as_py()
        cell = "an empty cell" if value is None or value == "" else shown(value)
        return ValueError(f"{_place(self.path, row)}, column {self.name}: {cell} {rule}")


def to_floats(values: Any) -> Floats:
    """A PyArrow array as numbers; NaN for a cell that is none."""
    if types.is_string(values.type):
        values = pc.if_else(pc.equal(values, ""), None, values)
    try:
        floats = values.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        floats = pa.array([cast(cell, pa.float64()) for cell in values.to_pylist()], pa.float64())
    return np.asarray(floats.to_numpy(zero_copy_only=False), np.float64)


def cast(cell: Any, kind: Any) -> Any:
    """A cell as another type of PyArrow's; None where it cannot be."""
    try:
        return pa.scalar(cell).cast(kind).as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def read_table(
    path: str | Path,
    fields: Mapping[str, Sequence[str]],
    *,
    needed: Collection[str],
    columns: Mapping[str, str] | None = None,
) -> tuple[dict[str, Column], list[str]]:
    """The columns of some fields, and the names of all columns.

    Args:
      path: a file that ends in one of `SUFFIXES`.
      fields: the names by which a column is known, by field.
      needed: fields that the file must have; others are left out where it has none.
      columns: names of the columns by field, where they are not known.

    Raises:
      ValueError: the file does not exist, is malformed or empty, or lacks a column; one line that
        names the file, the row, the column and the fix.
    """
    choose = functools.partial(_choose, path, fields, needed, columns or {})
    return read_columns(path, choose)


def read_columns(
    path: str | Path,
    choose: Callable[[list[str]], dict[str, str]] = lambda names: dict(
        zip(names, names, strict=True)
    ),
) -> tuple[dict[str, Column], list[str]]:
    """Columns, all by their names or as `choose` calls them, and all names; errors as above."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}: convert it")
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the path of a file")
    try:
        header, take = _READERS[path.suffix.lower()](path)
        names = choose(header)
        twice = [name for name in names.values() if header.count(name) > 1]
        if twice:
            raise ValueError(f"{path}: two columns are called {twice[0]}: rename one")
        taken = take(sorted(set(names.values())))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, pa.ArrowException) as error:
        said = one_line(str(error))
        raise ValueError(f"{path} is not {path.suffix[1:].lower()}: {said}: correct it") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {one_line(error.strerror or error)}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply: give one object a row") from None
    found = {name: Column.create(name, cells, path) for name, cells in taken.items()}
    lengths = {name: len(column.values) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path} has lists of unequal length: {lengths}: correct it")
    if not any(lengths.values()):
        raise ValueError(f"{path} is empty (0 rows): give another")
    return {field: found[name] for field, name in names.items()}, header


def _choose(
    path: str | Path,
    fields: Mapping[str, Sequence[str]],
    needed: Collection[str],
    given: Mapping[str, str],
    header: list[str],
) -> dict[str, str]:
    """The column of every field that the file has."""
    names = {}
    for field in given:
        if field not in fields:
            raise ValueError(f"{path}: field {field!r} is unknown: {suggest(field, fields)}")
    for field, known in fields.items():
        found = [name for name in ([given[field]] if field in given else known) if name in header]
        if found:
            names[field] = found[0]
        elif field in needed or field in given:
            said = f"{given[field]} (for {field})" if field in given else field
            there = shown(header, 200)
            raise ValueError(f"{path}: column {said} is missing: name what is meant, of {there}")
    return names


# The names of the columns, and a function from some of them to their cells.
Opened = tuple[list[str], Callable[[list[str]], dict[str, Any]]]


def _open_csv(path: Path) -> Opened:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), []), functools.partial(_take_csv, path)


def _take_csv(path: Path, names: list[str]) -> dict[str, Any]:
    texts = dict.fromkeys(names, pa.string())
    try:
        table = pacsv.read_csv(
            path,
            pacsv.ReadOptions(use_threads=False),  # so that rows are counted
            pacsv.ParseOptions(newlines_in_values=True),
            pacsv.ConvertOptions(include_columns=names, column_types=texts),
        )
    except pa.ArrowInvalid as error:
        said = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
        if said is None:
            raise
        row, wanted, found = map(int, said.groups())
        at = f"{_place(path, row - 2)}, column {min(wanted, found) + 1}"
        told = f"{at}: the row has {found} cells, the header {wanted}: correct it"
        raise ValueError(told) from None
    return _by_name(table)


def _open_parquet(path: Path) -> Opened:
    file = parquet.ParquetFile(path)
    return file.schema_arrow.names, lambda names: _by_name(file.read(columns=names))


def _by_name(table: Any) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _open_json_lines(path: Path) -> Opened:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}: line {number} is not JSON: {error.msg}: was the file cut off?"
            ) from None
    return _of_records(path, rows)


def _open_json(path: Path) -> Opened:
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, list):
        return _of_records(path, document)
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold a list of objects, or an object of lists: correct it")
    lists = {name: cells for name, cells in document.items() if isinstance(cells, list)}
    return list(lists), lambda names: {name: lists[name] for name in names}


def _of_records(path: Path, rows: list[Any]) -> Opened:
    """Columns of all names that a row has."""
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{_place(path, number)} is {shown(row)}, no object: correct it")
    header = list(dict.fromkeys(name for row in rows for name in row))
    return header, lambda names: {name: [row.get(name) for row in rows] for name in names}


_READERS = {
    ".csv": _open_csv,
    ".jsonl": _open_json_lines,
    ".json": _open_json,
    ".parquet": _open_parquet,
}
SUFFIXES = tuple(_READERS)


def _place(path: Path | None, row: int) -> str:
    """The file, the row and, of CSV, the line on which it ends; all but `row` counted from 1."""
    if path is None or path.suffix.lower() != ".csv":
        return f"{path}: row {row + 1}" if path else f"row {row + 1}"
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        for _ in zip(range(row + 2), (cells for cells in rows if cells), strict=False):
            pass
        return f"{path}: row {row + 1} (line {rows.line_num})"
