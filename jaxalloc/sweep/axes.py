"""What varies: an axis holds the values of one quantity, or the ends between which it is drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.messages import shown

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

MAX_VALUES = 10**7  # of one axis: they are held in memory
_LISTED_IN_FULL = 10_000  # a longer list is known by its digest
_GRID = "give a number, a:b:n or a:b:n:log (from a to b in n steps)"
_DRAWN = "give a:b or a:b:log (drawn from a to b), a:b:n, or a list"


class Quantity(NamedTuple):
    """What may be varied.

    Attributes:
      kind: "number", "whole" (numbers) or "text".
      problem: what is wrong with a value, and the fix; None if nothing is.
    """

    kind: str
    problem: Callable[[Any], str | None]


@dataclasses.dataclass(frozen=True)
class Axis:
    """The values of one quantity.

    Attributes:
      label: the name of its column: `arrival_rate`, `decay.GSM8K` (of one task).
      values: [n] float64, int64 or text, in the order of the rows; where it is drawn the two ends.
      spacing: "listed" (one by one), "linear" or "log".
      drawn: whether it takes any value between the ends, both included.
    """

    label: str
    values: Array
    spacing: str = "listed"
    drawn: bool = False

    @property
    def field(self) -> str:
        """The field of `Workload`, or the setting of a schedule."""
        return self.label.partition(".")[0]

    @property
    def task(self) -> str | None:
        """The one task type that it is about; None for all."""
        return self.label.partition(".")[2] or None

    @property
    def log(self) -> bool:
        """Whether it is spaced evenly in the logarithm."""
        return self.spacing == "log"

    def describe(self) -> dict[str, Any]:
        """As plain Python: what tells this axis from another."""
        first, last = self.values[0].item(), self.values[-1].item()
        if self.drawn:
            return {"from": first, "to": last, "spacing": self.spacing}
        if self.spacing != "listed":
            count = len(self.values)
            return {"start": first, "stop": last, "count": count, "spacing": self.spacing}
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
        """The values at shares in [0, 1) of the list, or of the interval."""
        if not self.drawn:
            return self.values[(share * len(self.values)).astype(np.int64)]
        low, high = self.ends()
        whole = self.values.dtype.kind == "i"
        end = high + 1 if whole else high
        values = (
            low * np.exp(share * math.log(end / low)) if self.log else low + share * (end - low)
        )
        values = np.clip(np.floor(values) if whole else values, low, high)
        return values.astype(self.values.dtype)


def digest(columns: Columns) -> str:
    """SHA-256 of named columns."""
    state = hashlib.sha256()
    for name, values in columns.items():
        data = values.tobytes() if values.dtype.kind in "if" else "\0".join(values).encode()
        state.update(f"{name}:{values.dtype.kind}:{len(values)}:".encode() + data)
    return state.hexdigest()


def read_axis(label: str, given: Any, quantity: Quantity, *, drawn: bool = False) -> Axis:
    """An axis from a list, a number, or a text `a:b:n` or `a:b:n:log`, ends included.

    Args:
      label: what it is about.
      given: the values.
      quantity: what they may be.
      drawn: `a:b` and `a:b:log` are intervals from which values are drawn.

    Raises:
      ValueError: names the axis, the values and the fix.
    """
    try:
        if isinstance(given, str) and quantity.kind != "text":
            axis = _parse(label, given, quantity.kind, drawn)
        else:
            axis = Axis(label, _as_values(given, quantity.kind))
        for problem in map(quantity.problem, axis.extremes()):
            if problem:
                raise ValueError(f": {problem}")
    except ValueError as error:
        raise ValueError(f"axis {label} = {shown(given)}{error}") from None
    return axis


def read_one(name: str, given: Any, quantity_of: Callable[[str], Quantity]) -> Any:
    """The one value of a quantity that does not vary.

    Raises:
      ValueError: names the field, the value and the fix.
    """
    try:
        axis = read_axis(name, given, quantity_of(name))
    except ValueError as error:
        called = "schedule" if name == "source" else f"fields: {name}"
        raise ValueError(str(error).replace(f"axis {name}", called, 1)) from None
    if len(axis.values) != 1:
        raise ValueError(f"fields: {name} = {shown(given)} has several values: make it an axis")
    return axis.values[0].item()


def _as_values(given: Any, kind: str) -> Array:
    """[n] the values of a list or of one number or text; an error says what they are not."""
    try:
        values = np.atleast_1d(np.asarray(given))
    except ValueError:  # lists of several lengths
        raise ValueError(" is not a list of values: correct it") from None
    if values.ndim > 1:
        raise ValueError(" is not a list of values: correct it")
    if not values.size:
        raise ValueError(" has no values: give a list with at least one")
    if kind == "text":
        if values.dtype.kind not in "Uiu":
            raise ValueError(" is not text: put the values in quotes")
        return values.astype(str)  # numbers too: prompt = 32
    if values.dtype.kind not in "iuf":
        raise ValueError(" is not a list of numbers: correct it")
    if not np.isfinite(values).all():
        raise ValueError(" has a value that is not finite: correct it")
    if kind == "number":
        return values.astype(np.float64)
    if np.any((values >= 2.0**63) | (values < -(2.0**63))):
        raise ValueError(" has a value beyond 64 bits: correct it")
    if np.any(values != np.floor(values)):
        raise ValueError(" must be whole numbers: correct it")
    return values.astype(np.int64)


def _parse(label: str, text: str, kind: str, drawn: bool) -> Axis:
    """An axis from `a`, `a:b:n` or `a:b:n:log`; drawn from `a:b` or `a:b:log`."""
    wanted = _DRAWN if drawn else _GRID
    first, *bounds = text.split(":")
    spacing = "log" if bounds[-1:] == ["log"] else "linear"
    bounds = bounds[:-1] if spacing == "log" else bounds
    try:
        if ":" not in text:
            return Axis(label, _as_values(float(first), kind))
        ends = [float(first), float(bounds[0])]
        count = int(bounds[1]) if len(bounds) == 2 else None
        if len(bounds) > 2 or (count is None and not drawn):
            raise IndexError
    except (IndexError, OverflowError):
        raise ValueError(f" is not an axis: {wanted}") from None
    except ValueError as error:
        own = str(error).startswith(" ")  # of the value itself, which is a number
        raise ValueError(str(error) if own else f" is not an axis: {wanted}") from None
    if not np.isfinite(ends).all():
        raise ValueError(f" has an end that is not finite: {wanted}")
    if spacing == "log" and min(ends) <= 0:
        raise ValueError(" has an end at or below 0: drop :log or raise it")
    if count is None:
        return Axis(label, _as_values(ends, kind), spacing, drawn=True)
    if count < 1 or (count == 1 and ends[0] != ends[1]):
        raise ValueError(f" has {count} values: give at least 2, or a number")
    if count > MAX_VALUES:
        raise ValueError(f" has {count} values: give at most {MAX_VALUES}")
    values = (np.geomspace if spacing == "log" else np.linspace)(ends[0], ends[1], count)
    if kind == "whole":  # 16:4096:9:log is powers of two, but for rounding
        near = np.rint(values)
        values = np.where(np.isclose(values, near, rtol=1e-12, atol=0), near, values)
    return Axis(label, _as_values(values, kind), spacing)


def check_whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number in bounds.

    Raises:
      ValueError: it is none; names it and the bounds.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(
            f"{name} = {shown(value)} must be a whole number from {least} to {most}: give another"
        )
    return int(value)
