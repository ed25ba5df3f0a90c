"""Columns of CSV and Parquet files, checked: what is wrong is named with its row and column."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxalloc.times import BadCell, Times, duration_size, read_times

SUFFIXES = (".csv", ".parquet")
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0")
_MAX_LENGTH = 40

Column = Any  # a `pyarrow.ChunkedArray`; of a CSV file, text


class Table:
    """The columns of a file that were asked for.

    Attributes:
      path: the file.
      columns: by field.
      names: the names of the columns in the file, by field.
      header: the names of all columns of the file.
    """

    def __init__(
        self, path: Path, columns: dict[str, Column], names: dict[str, str], header: list[str]
    ) -> None:
        self.path = path
        self.columns = columns
        self.names = names
        self.header = header

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def numbers(self, field: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A column of finite numbers, at least 0."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.columns[field]
        if pa.types.is_string(column.type):
            column = pc.utf8_trim_whitespace(column)
        try:
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            values = _one_by_one(column)
        values = np.asarray(values, np.float64)
        for wrong, rule in (
            (np.isnan(values), "is not a number"),
            (np.isinf(values), "is not finite"),
            (values < 0, "must not be negative"),
        ):
            self._reject(field, wrong, rule)
        return values

    def flags(self, field: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A column of 0 and 1, true and false, yes and no; as 0 and 1."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.columns[field]
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.float64())
        if pa.types.is_string(column.type):
            words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
            hit = pc.is_in(words, pa.array(TRUE_WORDS))
            known = pc.or_(hit, pc.is_in(words, pa.array(FALSE_WORDS)))
            wrong = ~known.to_numpy(zero_copy_only=False).astype(bool)
            self._reject(field, wrong, "must be 0 or 1 (or true or false)")
            return hit.to_numpy(zero_copy_only=False).astype(np.float64)
        values = self.numbers(field)
        self._reject(field, (values != 0) & (values != 1), "must be 0 or 1")
        return values

    def codes(self, field: str) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[str]]:
        """A column of names as numbers, and the names in the order of the numbers."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.columns[field]
        if pa.types.is_nested(column.type):
            self._reject(field, np.ones(len(column), bool), "is not a name")
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        empty = pc.or_(pc.is_null(column), pc.equal(column, "")).fill_null(True)
        self._reject(field, empty.to_numpy(zero_copy_only=False).astype(bool), "names nothing")
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        place = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        names = [str(name) for name in encoded.dictionary.to_pylist()]
        order = np.argsort(names, kind="stable")
        rank = np.empty(len(names), np.int64)
        rank[order] = np.arange(len(names))
        return rank[place], [names[i] for i in order]

    def seconds(
        self, field: str, seconds_per_unit: float | None = None
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A column of durations, in seconds (see `times.duration_size`)."""
        return self.numbers(field) * duration_size(self.names[field], seconds_per_unit)

    def times(self, field: str, seconds_per_unit: float | None = None) -> Times:
        """A column of moments, in seconds after the first (see `times.read_times`)."""
        try:
            return read_times(
                self.columns[field],
                self.names[field],
                seconds_per_unit=seconds_per_unit,
                beside=self.header,
            )
        except BadCell as error:
            self._reject(field, np.arange(len(self)) == error.row, error.rule)
            raise
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _reject(self, field: str, wrong: np.ndarray[Any, Any], rule: str) -> None:
        """Raise ValueError for the first row that is wrong."""
        if not wrong.any():
            return
        row = int(np.argmax(wrong))
        value = self.columns[field][row].as_py()
        place = f"row {row + 1}"
        if self.path.suffix.lower() == ".csv":
            place += f" (line {_line_of(self.path, row)})"
        shown = "an empty cell" if value is None or value == "" else _shorten(value)
        raise ValueError(
            f"{self.path}: {place}, column {self.names[field]}: {shown} {rule}: correct it"
        )


def read_table(
    path: str | Path, wanted: Mapping[str, str], optional: tuple[str, ...] = ()
) -> Table:
    """Read some columns of a CSV or Parquet file.

    Args:
      path: the file.
      wanted: the name of the column of every field.
      optional: fields that are left out where the file has no such column.

    Raises:
      ValueError: the file does not exist, is malformed or empty, or lacks a column; one line that
        names the file, the row, the column and the fix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in {' or '.join(SUFFIXES)}: convert it")
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the path of a file")
    there = _header(path)
    names = {field: name for field, name in wanted.items() if name in there}
    for field, name in wanted.items():
        if field not in names and field not in optional:
            given = "" if name == field else f" (for {field})"
            raise ValueError(
                f"{path}: column {name}{given} is missing: "
                f"name the one that is meant, of {', '.join(there) or 'none'}"
            )
    for name in names.values():
        if there.count(name) > 1:
            raise ValueError(f"{path}: {there.count(name)} columns are called {name}: rename them")
    read = _read_csv if path.suffix.lower() == ".csv" else _read_parquet
    table = read(path, sorted(set(names.values())))
    if table.num_rows == 0:
        raise ValueError(f"{path} is empty (0 rows): give a file with measurements")
    columns = {field: table.column(name) for field, name in names.items()}
    return Table(path, columns, names, there)


def _header(path: Path) -> list[str]:
    """The names of the columns."""
    if path.suffix.lower() == ".csv":
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                return next(csv.reader(file), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is not CSV in UTF-8: {error}: convert it") from None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names: list[str] = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not Parquet: {_one_line(error)}: convert it") from None
    return names


def _read_csv(path: Path, names: list[str]) -> Any:
    """The columns as text."""
    import pyarrow as pa
    from pyarrow import csv as pacsv

    types = dict.fromkeys(names, pa.string())
    try:
        return pacsv.read_csv(
            path,
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(include_columns=names, column_types=types),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(_malformed(path, error)) from None


def _malformed(path: Path, error: Exception) -> str:
    """What is wrong with a CSV file that cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            width = len(next(rows, []))
            for number, row in enumerate((row for row in rows if row), start=1):
                if len(row) != width:
                    return (
                        f"{path}: row {number} (line {rows.line_num}), column "
                        f"{min(len(row), width) + 1}: the row has {len(row)} cells, "
                        f"the header {width}: correct it"
                    )
    except (UnicodeDecodeError, csv.Error) as other:
        return f"{path} is not CSV in UTF-8: {other}: convert it"
    return f"{path} is not CSV: {error}: correct it"


def _read_parquet(path: Path, names: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=names)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not Parquet: {_one_line(error)}: convert it") from None
    return pa.table({name: _plain(table.column(name)) for name in table.column_names})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _plain(column: Column) -> Column:
    """Text in the one form of all in which it may be stored, dates as times."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return column.cast(pa.timestamp("s")) if pa.types.is_date(column.type) else column


def _one_by_one(column: Column) -> np.ndarray[Any, Any]:
    """Numbers, NaN where there is none."""
    return np.array([float(w) if _is_number(w) else np.nan for w in column.to_pylist()])


def _is_number(word: Any) -> bool:
    try:
        float(word)
    except (TypeError, ValueError):
        return False
    return True


def _line_of(path: Path, row: int) -> int:
    """The line of the file on which a row ends, counted from 1 with the header."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        next(rows)
        for number, _ in enumerate(cells for cells in rows if cells):
            if number == row:
                break
        return rows.line_num


def _shorten(value: Any) -> str:
    text = " ".join(repr(value).split()) if isinstance(value, str) else f"{value}"
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"
