"""Tables: CSV, JSON, JSON lines and Parquet; what is wrong is named by row, column and value."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as pacsv, parquet

from jaxalloc.messages import one_line, shown, suggest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
TRUE, FALSE = pa.array(["true", "yes", "1", "1.0"]), pa.array(["false", "no", "0", "0.0"])


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
        try:
            values = cells if isinstance(cells, pa.ChunkedArray) else pa.array(cells)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):  # of several types
            values = pa.array([None if cell is None else str(cell) for cell in cells])
        values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
        is_a = pa.types
        kind = values.type.value_type if is_a.is_dictionary(values.type) else values.type
        if is_a.is_date(kind):
            kind = pa.timestamp("s")
        elif is_a.is_null(kind) or is_a.is_floating(kind) or is_a.is_decimal(kind):
            kind = pa.float64()
        elif is_a.is_integer(kind):
            kind = pa.uint64() if is_a.is_uint64(kind) else pa.int64()
        elif not is_a.is_timestamp(kind):
            kind = pa.string()
        try:
            values = values.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            where = f"{path}: " if path else ""
            raise ValueError(
                f"{where}column {name} holds {values.type}: name one of numbers or text"
            ) from None
        text = is_a.is_string(kind)
        return cls(name, pc.utf8_trim_whitespace(values) if text else values, path)

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
    if pa.types.is_string(values.type):
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
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}: convert it")
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the path of a file")
    try:
        header, take = _READERS[path.suffix.lower()](path)
        names = _choose(path, header, fields, needed, columns or {})
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
    path: Path,
    header: list[str],
    fields: Mapping[str, Sequence[str]],
    needed: Collection[str],
    given: Mapping[str, str],
) -> dict[str, str]:
    """The column of every field that the file has."""
    unknown = set(given) - set(fields)
    if unknown:
        raise ValueError(f"field {min(unknown)!r} is unknown: {suggest(min(unknown), fields)}")
    names = {}
    for field, known in fields.items():
        wanted = [given[field]] if field in given else known
        found = [name for name in wanted if name in header]
        if found:
            names[field] = found[0]
        elif field in needed or field in given:
            word = f"column {given[field]} (for {field})" if field in given else f"column {field}"
            raise ValueError(
                f"{path}: {word} is missing: name the one that is meant, of {shown(header, 200)}"
            )
    for name in names.values():
        if header.count(name) > 1:
            raise ValueError(f"{path}: {header.count(name)} columns are called {name}: rename them")
    return names


Reader = Callable[[Path], tuple[list[str], Callable[[list[str]], dict[str, Any]]]]


def _open_csv(path: Path) -> Any:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), []), functools.partial(_take_csv, path)


def _take_csv(path: Path, names: list[str]) -> dict[str, Any]:
    bad: list[Any] = []

    def keep(row: Any) -> str:
        bad.append(row)
        return "skip"

    table = pacsv.read_csv(
        path,
        pacsv.ReadOptions(use_threads=False),  # so that rows are counted
        pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        pacsv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.string())),
    )
    if bad:
        cells, width = bad[0].actual_columns, bad[0].expected_columns
        raise ValueError(
            f"{_place(path, bad[0].number - 2)}, column {min(cells, width) + 1}: "
            f"the row has {cells} cells, the header {width}: correct it"
        )
    return dict(zip(table.column_names, table.columns, strict=True))


def _open_parquet(path: Path) -> Any:
    file = parquet.ParquetFile(path)

    def take(names: list[str]) -> dict[str, Any]:
        table = file.read(columns=names)
        return {name: table.column(name) for name in names}

    return file.schema_arrow.names, take


def _open_json_lines(path: Path) -> Any:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}: line {number} is not JSON: {error.msg}: was the file cut off?"
            ) from None
    return _of_records(path, rows)


def _open_json(path: Path) -> Any:
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, list):
        return _of_records(path, document)
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold a list of objects, or an object of lists: correct it")
    return _of_lists({name: cells for name, cells in document.items() if isinstance(cells, list)})


def _of_records(path: Path, rows: list[Any]) -> Any:
    """Columns of all names that a row has."""
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(
                f"{_place(path, rows.index(row))} is {shown(row)}, no object: correct it"
            )
    names = dict.fromkeys(name for row in rows for name in row)
    return _of_lists({name: [row.get(name) for row in rows] for name in names})


def _of_lists(lists: dict[str, Any]) -> Any:
    return list(lists), lambda names: {name: lists[name] for name in names}


_READERS: dict[str, Reader] = {
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
