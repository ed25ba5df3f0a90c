"""Which configurations: a base workload and the axes that vary it.

The rows of a grid are the points of the product of its axes in C order: the last axis runs fastest.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxalloc.allocation.workload import Workload
from jaxalloc.workloads.fields import FIELDS, SCALARS, domain_error

# More than this is a slip of the keyboard: a day's work at 10,000 configurations a second.
MAX_CONFIGURATIONS = 10**9
MAX_VALUES = 10**7  # of one axis: they are held in memory


@dataclasses.dataclass(frozen=True)
class Axis:
    """The values one field takes, for every task type or for one of them.

    Attributes:
      field: a field of `Workload`.
      task: the name of the one task type it is about; None for all.
      values: [n] float64, in the order of the rows.
      log: spaced evenly in the logarithm.
    """

    field: str
    task: str | None
    values: np.ndarray[Any, np.dtype[np.float64]]
    log: bool

    @property
    def label(self) -> str:
        """The name of its column: `arrival_rate`, `decay.GSM8K`."""
        return self.field if self.task is None else f"{self.field}.{self.task}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A workload and the axes that vary it.

    Attributes:
      base: the workload that stands where no axis says otherwise; unbatched.
      tasks: names of its K task types.
      axes: the axes, slowest first.
    """

    base: Workload
    tasks: tuple[str, ...]
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of configurations."""
        return math.prod(self.shape)


def parse_axis(name: str, text: str, tasks: Sequence[str]) -> Axis:
    """An axis from its name (`decay`, `decay.GSM8K`) and text (`a:b:n`, `a:b:n:log`, `a`).

    Raises:
      ValueError: names the axis, the text and the fix.

    >>> parse_axis("arrival_rate", "0.01:1:3:log", ["GSM8K"]).values
    array([0.01, 0.1 , 1.  ])
    """
    field, _, task = name.partition(".")
    if field not in SCALARS:
        raise ValueError(_unknown_field(name, field))
    if task:
        if not FIELDS[field].per_type:
            raise ValueError(f"axis {name}: {field} has one value a server: drop .{task}")
        if task not in tasks:
            raise ValueError(f"axis {name}: no task {task!r}: give one of {', '.join(tasks)}")
    values, log = _parse_values(name, text)
    for value in (values.min(), values.max()):
        problem = domain_error(field, float(value))
        if problem:
            raise ValueError(f"axis {name} = {text!r}: {problem}")
    return Axis(field, task or None, values, log)


def _unknown_field(name: str, field: str) -> str:
    if field == "mix":
        return f"axis {name}: the sum of mix is fixed at 1: vary it in workload files"
    close = difflib.get_close_matches(field, SCALARS, n=1)
    fix = f"did you mean {close[0]}?" if close else f"give one of {', '.join(SCALARS)}"
    return f"axis {name}: {field!r} is no field: {fix}"


def _parse_values(name: str, text: str) -> tuple[np.ndarray[Any, np.dtype[np.float64]], bool]:
    """[n] values of `a`, `a:b:n` or `a:b:n:log`, ends included, and whether the last."""
    wanted = "give a number, a:b:n or a:b:n:log (from a to b in n steps)"
    start, *rest = text.split(":")
    try:
        if not rest:
            return np.array([float(start)]), False
        log = rest[2:] == ["log"]
        if len(rest) != 2 + log:
            raise ValueError
        first, last, count = float(start), float(rest[0]), int(rest[1])
    except ValueError:
        raise ValueError(f"axis {name} = {text!r} is not an axis: {wanted}") from None
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"axis {name} = {text!r} has an end that is not finite: {wanted}")
    if count < 1 or (count == 1 and first != last):
        raise ValueError(f"axis {name} = {text!r} has {count} values: give at least 2, or a number")
    if count > MAX_VALUES:
        raise ValueError(f"axis {name} = {text!r} has {count} values: give at most {MAX_VALUES}")
    if not log:
        return np.linspace(first, last, count), False
    if min(first, last) <= 0:
        raise ValueError(f"axis {name} = {text!r} has an end at or below 0: drop :log or raise it")
    return np.geomspace(first, last, count), True


def make_grid(base: Workload, tasks: Sequence[str], axes: Sequence[Axis]) -> Grid:
    """A grid, checked: every number set by one axis at most, its size, accuracy at most 1.

    Raises:
      ValueError: names the axis, the value and the fix.
    """
    seen: dict[str, Axis] = {}
    for axis in axes:
        clash = [
            other.label
            for other in seen.values()
            if other.field == axis.field and (None in (other.task, axis.task) or other == axis)
        ]
        if axis.label in seen or clash:
            other = axis.label if axis.label in seen else clash[0]
            raise ValueError(f"axis {axis.label}: axis {other} sets the same number: drop one")
        seen[axis.label] = axis
    grid = Grid(base, tuple(tasks), tuple(axes))
    if grid.size > MAX_CONFIGURATIONS:
        counts = " x ".join(str(count) for count in grid.shape)
        raise ValueError(
            f"axes: {counts} = {grid.size:.3g} configurations: "
            f"give fewer values, at most {MAX_CONFIGURATIONS:g} together"
        )
    _check_accuracy(grid)
    return grid


def _check_accuracy(grid: Grid) -> None:
    """Raise ValueError if floor + gain exceeds 1 at the largest values of both."""
    largest = {name: np.array(getattr(grid.base, name)) for name in ("floor", "gain")}
    for axis in grid.axes:
        if axis.field in largest:
            place = slice(None) if axis.task is None else grid.tasks.index(axis.task)
            largest[axis.field][place] = axis.values.max()
    total = largest["floor"] + largest["gain"]
    if np.any(total > 1 + 4 * np.finfo(np.float64).eps):
        worst = int(np.argmax(total))
        raise ValueError(
            f"axes: floor + gain = {total[worst]:g} of task {grid.tasks[worst]} must not "
            "exceed 1: lower the end of an axis"
        )


def coordinates(grid: Grid, start: int, stop: int) -> dict[str, np.ndarray[Any, Any]]:
    """The value of every axis, by label, in the rows [start, stop): [stop - start] each."""
    if not grid.axes:
        return {}
    places = np.unravel_index(np.arange(start, stop), grid.shape)
    return {axis.label: axis.values[place] for axis, place in zip(grid.axes, places, strict=True)}


def workloads(grid: Grid, start: int, stop: int, rows: int) -> Workload:
    """The workloads of the rows [start, stop), as a batch of `rows`: the last one fills it up."""
    index = np.minimum(np.arange(start, start + rows), stop - 1)
    places = np.unravel_index(index, grid.shape) if grid.axes else ()
    fields: dict[str, Any] = {}
    for name, field in FIELDS.items():
        value = np.asarray(getattr(grid.base, name))
        fields[name] = np.broadcast_to(value, (rows, *value.shape)).copy()
        if field.per_type and fields[name].ndim != 2:
            raise ValueError(f"base: {name} has shape {value.shape}: give one workload, no batch")
    for axis, place in zip(grid.axes, places, strict=True):
        column = axis.values[place]
        if axis.task is not None:
            fields[axis.field][:, grid.tasks.index(axis.task)] = column
        elif FIELDS[axis.field].per_type:
            fields[axis.field][:] = column[:, None]
        else:
            fields[axis.field] = column.astype(fields[axis.field].dtype)
    return Workload(**{name: jnp.asarray(value) for name, value in fields.items()})
