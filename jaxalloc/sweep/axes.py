"""What varies: an axis holds the values of one quantity, a span the interval it is drawn from."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

MAX_VALUES = 10**7  # of one axis: they are held in memory
_LISTED_IN_FULL = 10_000  # a longer list is known by its digest


class Quantity(NamedTuple):
    """What may be varied, for the readers of this module.

    Attributes:
      kind: "number", "whole" (numbers) or "text".
      problem: what is wrong with a value, and the fix; None if nothing is.
    """

    kind: str
    problem: Callable[[Any], str | None]


@dataclasses.dataclass(frozen=True)
class Axis:
    """The values one quantity takes.

    Attributes:
      field: a field of `Workload`, or a setting of a schedule.
      task: the name of the one task type it is about; None for all.
      values: [n] float64, int64 or text, in the order of the rows.
      log: spaced evenly in the logarithm.
      listed: given one by one.
    """

    field: str
    task: str | None
    values: Array
    log: bool = False
    listed: bool = False

    @property
    def label(self) -> str:
        """The name of its column: `arrival_rate`, `decay.GSM8K`."""
        return _label(self.field, self.task)

    def describe(self) -> dict[str, Any]:
        """As plain Python: what tells this axis from another."""
        if not self.listed:
            first, last = self.values[0].item(), self.values[-1].item()
            spacing = "log" if self.log else "linear"
            return {"start": first, "stop": last, "count": len(self.values), "spacing": spacing}
        if len(self.values) <= _LISTED_IN_FULL:
            return {"values": self.values.tolist()}
        return {"count": len(self.values), "sha256": digest({"": self.values})}

    def ends(self) -> tuple[Any, Any]:
        """Smallest and largest value."""
        return self.values.min().item(), self.values.max().item()

    def extremes(self) -> Iterable[Any]:
        """The values that are to be checked: the ends of numbers, all texts."""
        return self.values.tolist() if self.values.dtype.kind == "U" else self.ends()

    def at(self, share: Array) -> Array:
        """The values at shares in [0, 1) of the list."""
        places = np.minimum((share * len(self.values)).astype(np.int64), len(self.values) - 1)
        return self.values[places]


@dataclasses.dataclass(frozen=True)
class Span:
    """The interval from which a quantity is drawn, evenly or evenly in the logarithm.

    Attributes:
      field, task: as for an axis.
      low, high: the ends.
      log: even in the logarithm.
      whole: whole numbers, both ends included.
    """

    field: str
    task: str | None
    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def label(self) -> str:
        """The name of its column."""
        return _label(self.field, self.task)

    def describe(self) -> dict[str, Any]:
        """As plain Python."""
        return {"from": self.low, "to": self.high, "spacing": "log" if self.log else "linear"}

    def ends(self) -> tuple[Any, Any]:
        """Smallest and largest value."""
        return min(self.low, self.high), max(self.low, self.high)

    extremes = ends

    def at(self, share: Array) -> Array:
        """The values at shares in [0, 1) of the interval."""
        if self.whole:
            low, high = self.ends()
            if self.log:
                drawn = low * np.exp(share * math.log((high + 1) / low))
            else:
                drawn = low + share * (high - low + 1)
            return np.clip(np.floor(drawn), low, high).astype(np.int64)
        if self.log:
            return np.clip(self.low * np.exp(share * math.log(self.high / self.low)), *self.ends())
        return np.clip(self.low + share * (self.high - self.low), *self.ends())


def _label(field: str, task: str | None) -> str:
    return field if task is None else f"{field}.{task}"


def digest(columns: dict[str, Array]) -> str:
    """SHA-256 of named columns."""
    state = hashlib.sha256()
    for name, values in columns.items():
        data = values.tobytes() if values.dtype.kind in "if" else "\0".join(values).encode()
        state.update(f"{name}:{values.dtype.kind}:{len(values)}:".encode() + data)
    return state.hexdigest()


def read_axis(field: str, task: str | None, given: Any, quantity: Quantity) -> Axis:
    """An axis from a list, a number, or a text `a:b:n` or `a:b:n:log`, ends included.

    Args:
      field, task: what it is about.
      given: the values.
      quantity: what they may be.

    Raises:
      ValueError: names the axis, the values and the fix.
    """
    axis = read_drawn(field, task, given, quantity, spans=False)
    assert isinstance(axis, Axis)
    return axis


def read_drawn(
    field: str, task: str | None, given: Any, quantity: Quantity, *, spans: bool = True
) -> Axis | Span:
    """As `read_axis`; a text `a:b` or `a:b:log` is the span from which values are drawn."""
    name = f"axis {_label(field, task)}"
    if isinstance(given, str) and quantity.kind != "text":
        axis = _parse(name, field, task, given, quantity.kind == "whole", spans)
    else:
        axis = Axis(field, task, _as_values(name, given, quantity.kind), listed=True)
    for value in axis.extremes():
        problem = quantity.problem(value)
        if problem:
            raise ValueError(f"{name} = {_short(given)}: {problem}")
    return axis


def _as_values(name: str, given: Any, kind: str) -> Array:
    """[n] the values of a list or of one number or text."""
    try:
        values = np.atleast_1d(np.asarray(given))
    except ValueError:  # lists of several lengths
        raise ValueError(f"{name} = {_short(given)} is not a list of values: correct it") from None
    if values.ndim > 1:
        raise ValueError(f"{name} = {_short(given)} is not a list of values: correct it")
    if not values.size:
        raise ValueError(f"{name} = {_short(given)} has no values: give a list with at least one")
    if kind == "text":
        if values.dtype.kind != "U":
            raise ValueError(f"{name} = {_short(given)} is not text: put the values in quotes")
        return values
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name} = {_short(given)} is not a list of numbers: correct it")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} = {_short(given)} has a value that is not finite: correct it")
    return _whole(name, given, values) if kind == "whole" else values.astype(np.float64)


def check_whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number in bounds.

    Raises:
      ValueError: it is none; names it and the bounds.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(
            f"{name} = {_short(value)} must be a whole number from {least} to {most}: give another"
        )
    return int(value)


def _whole(name: str, given: Any, values: Array) -> Array:
    if np.any((values >= 2.0**63) | (values < -(2.0**63))):
        raise ValueError(f"{name} = {_short(given)} has a value beyond 64 bits: correct it")
    if np.any(values != np.floor(values)):
        raise ValueError(f"{name} = {_short(given)} must be whole numbers: correct it")
    return values.astype(np.int64)


def _parse(
    name: str, field: str, task: str | None, text: str, whole: bool, drawn: bool
) -> Axis | Span:
    """An axis from `a`, `a:b:n` or `a:b:n:log`, ends included; a span from `a:b` or `a:b:log`."""
    if drawn:
        wanted = "give a:b or a:b:log (drawn from a to b), a:b:n, or a list"
    else:
        wanted = "give a number, a:b:n or a:b:n:log (from a to b in n steps)"
    start, *rest = text.split(":")
    log = rest[-1:] == ["log"]
    bounds = rest[:-1] if log else rest
    try:
        if not rest:
            return Axis(field, task, _as_values(name, float(start), "whole" if whole else "number"))
        if len(bounds) not in ((1, 2) if drawn else (2,)):
            raise _NotAnAxis
        first, last = float(start), float(bounds[0])
        count = int(bounds[1]) if len(bounds) == 2 else None
    except (_NotAnAxis, OverflowError):
        raise ValueError(f"{name} = {text!r} is not an axis: {wanted}") from None
    except ValueError as error:
        own = str(error).startswith("axis ")
        message = str(error) if own else f"{name} = {text!r} is not an axis: {wanted}"
        raise ValueError(message) from None
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"{name} = {text!r} has an end that is not finite: {wanted}")
    if log and min(first, last) <= 0:
        raise ValueError(f"{name} = {text!r} has an end at or below 0: drop :log or raise it")
    if count is None:
        ends = _as_values(name, [first, last], "whole" if whole else "number")
        return Span(field, task, ends[0].item(), ends[1].item(), log, whole)
    if count < 1 or (count == 1 and first != last):
        raise ValueError(f"{name} = {text!r} has {count} values: give at least 2, or a number")
    if count > MAX_VALUES:
        raise ValueError(f"{name} = {text!r} has {count} values: give at most {MAX_VALUES}")
    values = (np.geomspace if log else np.linspace)(first, last, count)
    if whole:  # 16:4096:9:log is powers of two, but for rounding
        near = np.rint(values)
        values = np.where(np.isclose(values, near, rtol=1e-12, atol=0), near, values)
    return Axis(field, task, _whole(name, text, values) if whole else values, log)


class _NotAnAxis(Exception):
    """Too few colons or too many."""


def _short(given: Any) -> str:
    try:
        text = " ".join(repr(given).split())
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:59] + "…"
