"""Which configurations: every row of a design is a pure function of its number.

So any process can make any chunk of a sweep, and a chunk made again is the same bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxalloc.messages import within
from jaxalloc.sweep.axes import Array, Axis, Columns, Quantity, check_whole, digest, read_axis
from jaxalloc.tables import read_columns

# More than this is a slip of the keyboard: a day's work at 10,000 configurations a second.
MAX_CONFIGURATIONS = 10**9
METHODS = ("grid", "sobol", "random")
_WORDS = 4  # 64-bit words that Philox makes at a time


@dataclasses.dataclass(frozen=True)
class Design:
    """A numbered set of configurations.

    Attributes:
      kind: "grid" (the product of the axes, in C order: the last one runs fastest), "table" (the
        axes are its columns), "sobol" (SciPy's scrambled points) or "random" (independent ones).
      axes: what varies.
      size: number of configurations.
      seed: of points that are drawn.
    """

    kind: str
    axes: tuple[Axis, ...]
    size: int
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis of a grid; (size,) elsewhere."""
        grid = tuple(len(axis.values) for axis in self.axes)
        return grid if self.kind == "grid" else (self.size,)

    def rows(self, start: int, stop: int) -> Columns:
        """[stop - start] the value of every axis, by its label."""
        if self.kind == "table":
            return {axis.label: axis.values[start:stop] for axis in self.axes}
        if self.kind == "grid":
            places = np.unravel_index(np.arange(start, stop), self.shape) if self.axes else ()
            return {axis.label: axis.values[at] for axis, at in zip(self.axes, places, strict=True)}
        if self.kind == "random":
            shares = [_uniform(self.seed, k, start, stop) for k in range(len(self.axes))]
        else:
            shares = list(_sobol(len(self.axes), self.seed).points(start, stop).T)
        return {axis.label: axis.at(share) for axis, share in zip(self.axes, shares, strict=True)}

    def corners(self) -> Columns:
        """The rows that hold the extremes of every axis together: all those of a table."""
        if self.kind == "table":
            return self.rows(0, self.size)
        return {axis.label: np.array(axis.ends()) for axis in self.axes}

    def describe(self) -> dict[str, Any]:
        """As plain Python: what tells this design from another."""
        if self.kind == "table":
            sha256 = digest({axis.label: axis.values for axis in self.axes})
            labels = [axis.label for axis in self.axes]
            return {"design": self.kind, "columns": labels, "rows": self.size, "sha256": sha256}
        axes = {axis.label: axis.describe() for axis in self.axes}
        if self.kind == "grid":
            return {"design": self.kind, "axes": axes}
        scramble = {"scrambled": True} if self.kind == "sobol" else {}
        points = {"points": self.size, "seed": self.seed}
        return {"design": self.kind, **points, **scramble, "axes": axes}


def fill(rows: Columns, count: int) -> Columns:
    """Rows filled up to `count` with copies of the last one."""
    return {
        name: np.pad(column, (0, count - len(column)), mode="edge") for name, column in rows.items()
    }


def grid(axes: tuple[Axis, ...]) -> Design:
    """The product of some axes."""
    return Design("grid", axes, math.prod(len(axis.values) for axis in axes))


def _uniform(seed: int, stream: int, start: int, stop: int) -> Array:
    """Numbers start to stop of one stream of draws from [0, 1): counters make each on its own."""
    philox = np.random.Philox(key=np.array([seed, stream], np.uint64))
    philox.advance(start // _WORDS)
    first = start % _WORDS
    return np.random.Generator(philox).random(first + stop - start)[first:]


class _Sobol:
    """Sobol's points; those that follow the last ones are made fastest."""

    def __init__(self, dimensions: int, seed: int) -> None:
        from scipy.stats import qmc

        self._engine = qmc.Sobol(dimensions, scramble=True, seed=np.random.default_rng(seed))
        self._lock = threading.Lock()

    def points(self, start: int, stop: int) -> Array:
        """[stop - start, dimensions] in [0, 1)."""
        with self._lock:
            if self._engine.num_generated > start:
                self._engine.reset()
            if start > self._engine.num_generated:
                self._engine.fast_forward(start - self._engine.num_generated)
            # One alone at first: SciPy warns of a first call for no power of two.
            first = self._engine.random(1)
            return np.concatenate([first, self._engine.random(stop - start - 1)])


@functools.lru_cache(maxsize=2)
def _sobol(dimensions: int, seed: int) -> _Sobol:
    return _Sobol(dimensions, seed)


def make_design(
    axes: Mapping[str, Any],
    quantity: Callable[[str], Quantity],
    method: str,
    points: int | None,
    seed: int,
    table: Any,
) -> Design:
    """The design of axes, drawn points or a table; `jaxalloc.sweep.plan` explains the arguments.

    Raises:
      ValueError: names the axis or the argument, the value and the fix.
    """

    def read(columns: Mapping[str, Any], drawn: bool = False) -> tuple[Axis, ...]:
        return tuple(read_axis(n, v, quantity(n), drawn=drawn) for n, v in columns.items())

    if table is not None:
        if axes or method != "grid" or points is not None:
            raise ValueError("table: its columns are the axes: drop axes, design and points")
        made = read(table if isinstance(table, Mapping) else read_table(Path(table)))
        sizes = {axis.label: len(axis.values) for axis in made}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"table: columns of {sizes} rows: give columns of one length")
        design = Design("table", made, len(made[0].values))
    elif method not in METHODS:
        raise ValueError(f"design = {method!r} is unknown: give one of {', '.join(METHODS)}")
    elif method == "grid":
        if points is not None:
            raise ValueError(f"points = {points}: a grid has as many as its axes: drop it")
        design = grid(read(axes))
    else:
        found = read(axes, drawn=True)
        if points is None:
            raise ValueError(f"points = None: design = {method!r} needs how many to draw")
        if not found:
            raise ValueError(f"axes: design = {method!r} needs at least one")
        count = check_whole("points", points, 1, MAX_CONFIGURATIONS)
        design = Design(method, found, count, check_whole("seed", seed, 0, 2**63 - 1))
    _check(design)
    return design


def _check(design: Design) -> None:
    """Raise ValueError if there are too many configurations, or two axes set the same number."""
    if design.size > MAX_CONFIGURATIONS:
        counts = " x ".join(map(str, design.shape))
        size = f"{design.size:.3g}" if design.size < 1e300 else "too many"
        raise ValueError(
            f"axes: {counts} = {size} configurations: "
            f"give fewer values, at most {MAX_CONFIGURATIONS:g} together"
        )
    for place, axis in enumerate(design.axes):
        for other in design.axes[:place]:
            same_task = other.task == axis.task or None in (other.task, axis.task)
            if other.field == axis.field and same_task:
                raise ValueError(
                    f"axis {axis.label}: axis {other.label} sets the same number: drop one"
                )


def read_table(path: Path) -> Columns:
    """The columns of a file, by name; ValueError names what is wrong with it and the fix."""
    with within("table"):
        return {name: column.plain() for name, column in read_columns(path)[0].items()}
