"""Columns of times: numbers of a known unit, or dates; no unit is guessed where two could be meant.

Every reader of a file calls `read_times` for moments and `read_durations` for durations: the same
column is read the same way by all of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jaxalloc.messages import choices
from jaxalloc.tables import Column, Floats, cast, to_floats

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
DATES = "date"
# How names of columns end: `latency_ms`, `arrivalTimeNs`, `time (s)`, `elapsed seconds`.
_ENDINGS = {
    "s": "s sec secs second seconds",
    "ms": "ms msec msecs millis millisecond milliseconds",
    "us": "us µs μs usec usecs micros microsecond microseconds",
    "ns": "ns nsec nsecs nanos nanosecond nanoseconds",
}
_UNIT_OF = {ending: unit for unit, endings in _ENDINGS.items() for ending in endings.split()}
_LONGER = ["min", "mins", "minute", "minutes", "h", "hr", "hrs", "hour", "hours", "day", "days"]
# `timestamp` alone says nothing: public traces mean another unit each, and carry other columns.
_AMBIGUOUS = "timestamp"
_MARKS = (("chat_id", "s"), ("hash_ids", "ms"), ("Request tokens", "s"))
_EPOCH = (1e9, 2.5e9)  # Unix seconds from 2001 to 2049
_NOT_A_TIME = "is not a time: write seconds, or 2023-11-16 18:15:46.68"
_FORMS = (pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"))  # of text


class Times(NamedTuple):
    """What `read_times` returns.

    Attributes:
      seconds: [N] s after the earliest of them.
      unit: what was read: "s", "ms", "us", "ns" (or "0.5 s" where that was said), or "date".
    """

    seconds: Floats
    unit: str


def named_unit(name: str, given: str | None = None) -> str | None:
    """The unit that the name of a column ends in, else the one given.

    Raises:
      ValueError: the name's is longer than a second or another than the one given, or that is none.

    >>> named_unit("latency_ms"), named_unit("arrivalTimeNs"), named_unit("time (s)")
    ('ms', 'ns', 's')
    >>> named_unit("latency"), named_unit("latency", "us")
    (None, 'us')
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    ending = words[-1].lower() if words else ""
    unit = _UNIT_OF.get(ending, given)
    if ending in _LONGER:
        raise ValueError(f"column {name!r} is not in seconds: convert it, and rename it")
    if given not in (None, *TIME_UNITS):
        raise ValueError(f"time_unit = {given!r} is unknown: {choices(TIME_UNITS)}")
    if given not in (None, unit):
        raise ValueError(
            f"time_unit = {given}: column {name!r} is in {unit} by its name: drop one, or rename it"
        )
    return unit


def read_durations(column: Column, time_unit: str | None = None) -> Floats:
    """Durations in seconds: numbers in the unit of the column's name, else the one given, else s.

    Raises:
      ValueError: a cell is no duration, or what is given is another unit than the name's.

    >>> read_durations(Column.create("latency_ms", ["250", "5e-1"])).tolist()
    [0.25, 0.0005]
    """
    return column.numbers() * TIME_UNITS[named_unit(column.name, time_unit) or "s"]


def read_times(
    column: Column, *, time_unit: str | None = None, beside: Collection[str] = ()
) -> Times:
    """Moments of a column, as seconds after the earliest.

    Numbers are in the unit of the column's name (`arrival_ms`), else in the one that is given, else
    in seconds. A column called `timestamp` tells none: it is milliseconds beside Mooncake's
    columns, seconds beside Qwen-Bailian's and BurstGPT's, of Unix time if it can only be that, and
    an error otherwise. Dates and times are ISO 8601; those with offsets are moments, whatever the
    clocks show.

    Args:
      column: [N] numbers, texts or dates; at least one.
      time_unit: of numbers, one of `TIME_UNITS`, where the name tells none.
      beside: names of the file's other columns.

    Raises:
      ValueError: a cell is no time, or the unit is left open, is given and another than the name's,
        or is not the one that the numbers tell.

    >>> read_times(Column.create("arrival_ms", ["1e3", "5e-1", "0"])).seconds.tolist()
    [1.0, 0.0005, 0.0]
    >>> summer, winter = "2024-11-03T01:59:59-04:00", "2024-11-03T01:00:00-05:00"
    >>> read_times(Column.create("TIMESTAMP", [summer, winter])).seconds
    array([0., 1.])
    """
    values = _numbers_or_moments(column)
    if pa.types.is_timestamp(values.type):
        column.reject(np.asarray(values.is_null()), _NOT_A_TIME)
        try:
            moments = values.cast(pa.timestamp("ns", values.type.tz)).cast(pa.int64())
        except pa.ArrowInvalid:
            raise ValueError(f"column {column.name} has times before 1678 or after 2262") from None
        return Times(_since_first(np.asarray(moments)) * 1e-9, DATES)
    floats = to_floats(values)
    column.reject(~np.isfinite(floats), "must be a finite number: correct it")
    unit = named_unit(column.name, time_unit)
    if time_unit is None:
        unit = _told_unit(floats, column, unit, beside)
    return Times(_since_first(np.asarray(values)) * TIME_UNITS[unit or "s"], unit or "s")


def _numbers_or_moments(column: Column) -> Any:
    """[N] integers where all cells are, else floats where all are numbers or empty, else moments.

    Moments of text all have an offset or all have none; what is below 1 ns is cut off.
    """
    if not pa.types.is_string(column.values.type):
        return column.values
    blank = pc.if_else(pc.equal(column.values, ""), None, column.values)
    words = pc.replace_substring_regex(blank, r"(\.\d{9})\d+", r"\1")
    for text, kind in ((blank, pa.int64()), (blank, _FORMS[0]), *((words, f) for f in _FORMS[1:])):
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            continue
    is_of = np.array([[cast(word, f) is not None for f in _FORMS] for word in words.to_pylist()])
    column.reject(~is_of.any(axis=1), _NOT_A_TIME)
    form = is_of.argmax(axis=1)
    raise column.error(
        int(np.argmax(form != form[0])), "is of another form than row 1: write all times alike"
    )


def _told_unit(values: Floats, column: Column, own: str | None, beside: Collection[str]) -> str:
    """The unit that the name, the other columns and Unix time agree upon."""
    low, high = _EPOCH
    epoch = [
        u for u, s in TIME_UNITS.items() if low <= values.min() * s <= values.max() * s <= high
    ]
    unit: str | None = own or "s"
    if column.name.lower() == _AMBIGUOUS:
        marked = [meant for mark, meant in _MARKS if mark in beside]
        unit = next(iter(marked + epoch), None)
    if unit is not None and (unit in epoch or not epoch):
        return unit
    doubt = "could be seconds or milliseconds: say which, s or ms"
    if unit is not None:
        looks = f"looks like Unix time in {epoch[0]}"
        doubt = f"is taken for {unit}, but {looks}: rename it, or say which, {epoch[0]} or {unit}"
    raise ValueError(f"time_unit: {column.error(0, doubt)}")


def _since_first(values: NDArray[Any]) -> Floats:
    """Differences from the least, taken before rounding."""
    with np.errstate(over="ignore"):
        if np.ptp(values) < 0:  # integers too far apart for their type
            values = values.astype(np.float64)
        apart = (values - values.min()).astype(np.float64)
    if not np.isfinite(apart).all():
        raise ValueError(f"times from {values.min():g} to {values.max():g} are too far apart")
    return apart
