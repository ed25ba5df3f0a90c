"""Columns of times: numbers of a known unit, or dates; no unit is guessed where two could be meant.

Every reader of a file calls `read_times` for moments and `duration_size` for durations: the same
column is read the same way by all of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
DATES = "date"
# How names of columns end: `latency_ms`, `arrivalTimeNs`, `time (s)`, `elapsed seconds`.
_ENDINGS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"),
    "us": ("us", "µs", "μs", "usec", "usecs", "micros", "microsecond", "microseconds"),
    "ns": ("ns", "nsec", "nsecs", "nanos", "nanosecond", "nanoseconds"),
}
_UNIT_OF = {ending: unit for unit, endings in _ENDINGS.items() for ending in endings}
_LONGER = ("min", "mins", "minute", "minutes", "h", "hr", "hrs", "hour", "hours", "day", "days")
# `timestamp` alone says nothing: public traces mean another unit each, and carry other columns.
_AMBIGUOUS = "timestamp"
_MARKS = (("chat_id", "s"), ("hash_ids", "ms"), ("Request tokens", "s"))
_EPOCH = (1e9, 2.5e9)  # Unix seconds from 2001 to 2049
_MOST_INT64 = 2**63 - 1
_NOT_A_TIME = "is not a time: write seconds, or 2023-11-16 18:15:46.68"


class BadCell(ValueError):
    """One cell is wrong.

    Attributes:
      row: its number, from 0.
      rule: what is wrong, and the fix.
    """

    def __init__(self, name: str, value: Any, row: int, rule: str) -> None:
        shown = "an empty cell" if value is None or value == "" else repr(value)
        super().__init__(f"{name} = {shown} in row {row + 1} {rule}")
        self.row = row
        self.rule = rule


class Times(NamedTuple):
    """What `read_times` returns.

    Attributes:
      seconds: [N] s after the earliest of them.
      unit: what was read: "s", "ms", "us", "ns" (or "0.5 s" where that was said), or "date".
    """

    seconds: Floats
    unit: str


def named_unit(name: str) -> str | None:
    """The unit that the name of a column ends in, or None.

    Raises:
      ValueError: it is one longer than a second.

    >>> named_unit("latency_ms"), named_unit("arrivalTimeNs"), named_unit("time (s)")
    ('ms', 'ns', 's')
    >>> named_unit("latency")
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    ending = words[-1].lower() if words else ""
    if ending in _LONGER:
        raise ValueError(f"column {name!r} is not in seconds: convert it, and rename it")
    return _UNIT_OF.get(ending)


def duration_size(name: str, seconds_per_unit: float | None = None) -> float:
    """Seconds of 1 in a column of durations: as its name says, else as given, else 1.

    Raises:
      ValueError: what is given is another than the name's.

    >>> duration_size("latency_ms"), duration_size("latency", 1e-6), duration_size("latency")
    (0.001, 1e-06, 1.0)
    """
    own = named_unit(name)
    if own is None:
        return 1.0 if seconds_per_unit is None else seconds_per_unit
    _check_agreement(name, own, seconds_per_unit)
    return TIME_UNITS[own]


def read_times(
    column: Any,
    name: str,
    *,
    seconds_per_unit: float | None = None,
    beside: Collection[str] = (),
) -> Times:
    """Moments of a column, as seconds after the earliest.

    Numbers are in the unit of the column's name (`arrival_ms`), else in the one that is given, else
    in seconds. A column called `timestamp` tells none: it is milliseconds beside Mooncake's
    columns, seconds beside Qwen-Bailian's and BurstGPT's, of Unix time if it can only be that, and
    an error otherwise. Dates and times are ISO 8601; those with offsets are moments, whatever the
    clocks show.

    Args:
      column: [N] numbers, texts or dates: a list or a PyArrow column.
      name: what the file calls it.
      seconds_per_unit: of numbers, such as `TIME_UNITS["ms"]`, where the name tells none.
      beside: names of the file's other columns.

    Raises:
      BadCell: a cell is no time.
      ValueError: the unit is left open, is given and another than the name's, or is not the one
        that the numbers tell.

    >>> read_times(["1e3", "5e-1", "0"], "arrival_ms").seconds.tolist()
    [1.0, 0.0005, 0.0]
    >>> read_times(["2024-11-03T01:59:59-04:00", "2024-11-03T01:00:00-05:00"], "TIMESTAMP").seconds
    array([0., 1.])
    """
    import pyarrow as pa

    column = _as_column(column, name)
    if not pa.types.is_timestamp(column.type):
        numbers = _numbers(column)
        if numbers is not None:
            return _of_numbers(numbers, column, name, seconds_per_unit, beside)
        column = _moments(column, name)
    _reject(column, name, np.asarray(column.is_null()), _NOT_A_TIME)
    try:
        moments = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    except pa.ArrowInvalid:
        raise ValueError(f"{name} has times outside the years 1678 to 2262: correct it") from None
    return Times(_since_first(moments.to_numpy(zero_copy_only=False)) * 1e-9, DATES)


def _as_column(values: Any, name: str) -> Any:
    """A PyArrow array of numbers, texts or times; text of other things, which are no times."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(values, pa.Array | pa.ChunkedArray):
        try:
            column = pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            column = pa.array([None if value is None else str(value) for value in values])
        values = column
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):
            values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    if pa.types.is_null(values.type):
        values = values.cast(pa.float64())
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if pa.types.is_string(values.type):
        values = pc.utf8_trim_whitespace(values)
    elif not (
        pa.types.is_timestamp(values.type)
        or pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_decimal(values.type)
    ):
        raise ValueError(f"{name} holds {values.type}, no times: name another column")
    return values


def _numbers(column: Any) -> Any:
    """[N] integers where all are, else floats; None unless all cells are numbers or empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type):
        return column
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), None, column)
    try:
        floats = column.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        return floats


def _of_numbers(
    numbers: Any, column: Any, name: str, size: float | None, beside: Collection[str]
) -> Times:
    import pyarrow as pa

    values = numbers.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    _reject(column, name, ~np.isfinite(values), "must be a finite number: correct it")
    if not values.size:
        return Times(values, "s")
    own = named_unit(name)
    if size is None:
        unit = _told_unit(values, name, own, beside)
        size = TIME_UNITS[unit]
    else:
        _check_agreement(name, own, size)
        unit = next((unit for unit, known in TIME_UNITS.items() if known == size), f"{size:g} s")
    whole = numbers.to_numpy(zero_copy_only=False)
    return Times(_since_first(whole) * size, unit)


def _check_agreement(name: str, own: str | None, size: float | None) -> None:
    if own is not None and size is not None and TIME_UNITS[own] != size:
        raise ValueError(
            f"column {name!r} is in {own} by its name: drop --time-unit, or rename the column"
        )


def _told_unit(values: Floats, name: str, own: str | None, beside: Collection[str]) -> str:
    """The unit that the name, the other columns and Unix time agree upon."""
    low, high = _EPOCH
    epoch = [
        unit
        for unit, size in TIME_UNITS.items()
        if low <= values.min() * size and values.max() * size <= high
    ]
    unit: str | None = own or "s"
    if name.lower() == _AMBIGUOUS:
        marked = [meant for mark, meant in _MARKS if mark in beside]
        unit = next(iter(marked + epoch), None)
    if unit is None:
        raise ValueError(
            f"{name} = {values[0]:g} in row 1 could be seconds or milliseconds: say which with "
            "--time-unit s or --time-unit ms"
        )
    if epoch and unit not in epoch:
        raise ValueError(
            f"{name} = {values[0]:.15g} in row 1 is taken for {unit}, but looks like Unix time in "
            f"{epoch[0]}: rename it, or say which with --time-unit {epoch[0]} or --time-unit {unit}"
        )
    return unit


def _since_first(values: NDArray[Any]) -> Floats:
    """Differences from the least, taken before rounding."""
    if not values.size:
        return values.astype(np.float64)
    if values.dtype.kind == "i" and int(values.max()) - int(values.min()) > _MOST_INT64:
        values = values.astype(np.float64)
    with np.errstate(over="ignore"):
        apart = (values - values.min()).astype(np.float64)
    if not np.isfinite(apart).all():
        raise ValueError(f"times from {values.min():g} to {values.max():g} are too far apart")
    return apart


def _moments(column: Any, name: str) -> Any:
    """Text as moments, all with an offset or all without one; what is below 1 ns is cut off."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.replace_substring_regex(column, r"(\.\d{9})\d+", r"\1")
    for zone in (None, "UTC"):
        try:
            return column.cast(pa.timestamp("ns", zone))
        except pa.ArrowInvalid:
            continue
    forms = [_form(word) for word in column.to_pylist()]
    _reject(column, name, np.array([form is None for form in forms]), _NOT_A_TIME)
    other = next(row for row, form in enumerate(forms) if form != forms[0])
    raise BadCell(
        name, column[other].as_py(), other, "is of another form than row 1: write all times alike"
    )


def _form(word: str | None) -> str | None:
    """Whether a text is a number, a date or a date with an offset; None if it is no time."""
    import pyarrow as pa

    for form, kind in (
        ("number", pa.float64()),
        ("date", pa.timestamp("ns")),
        ("offset", pa.timestamp("ns", "UTC")),
    ):
        try:
            found = pa.scalar(word).cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        return form if found.is_valid else None
    return None


def _reject(column: Any, name: str, wrong: NDArray[np.bool_], rule: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise BadCell(name, column[row].as_py(), row, rule)
