"""Which configurations: every row of a design is a pure function of its number.

So any process can make any chunk of a sweep, and a chunk made again is the same bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxalloc.sweep.axes import Array, Axis, Span, digest

Columns = dict[str, Array]

# More than this is a slip of the keyboard: a day's work at 10,000 configurations a second.
MAX_CONFIGURATIONS = 10**9
_SOBOL_BITS = 30  # SciPy's default: points are multiples of 2^-30
_GROUP = 10  # bits looked up at a time
_WORDS = 4  # 64-bit words that Philox makes at a time


class Design(Protocol):
    """A numbered set of configurations."""

    @property
    def size(self) -> int:
        """Number of configurations."""

    @property
    def axes(self) -> tuple[Axis | Span, ...]:
        """What varies."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis of a grid; (size,) elsewhere."""

    def rows(self, start: int, stop: int) -> Columns:
        """[stop - start] the value of every axis, by its label."""

    def describe(self) -> dict[str, Any]:
        """As plain Python: what tells this design from another."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The product of the axes, in C order: the last one runs fastest."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of configurations."""
        return math.prod(self.shape)

    def rows(self, start: int, stop: int) -> Columns:
        """[stop - start] the value of every axis, by its label."""
        if not self.axes:
            return {}
        places = np.unravel_index(np.arange(start, stop), self.shape)
        return {
            axis.label: axis.values[place] for axis, place in zip(self.axes, places, strict=True)
        }

    def describe(self) -> dict[str, Any]:
        """As plain Python."""
        return {"design": "grid", "axes": {axis.label: axis.describe() for axis in self.axes}}


@dataclasses.dataclass(frozen=True)
class Draws:
    """Points of the unit cube taken to the axes: independent ("random") or of low discrepancy.

    "sobol" are Sobol's points (direction numbers of SciPy) under a random digital shift.

    Attributes:
      method: "random" or "sobol".
      axes: one a dimension.
      size: number of points.
      seed: of the draws, or of the shift.
    """

    method: str
    axes: tuple[Axis | Span, ...]
    size: int
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    def rows(self, start: int, stop: int) -> Columns:
        """[stop - start] the value of every axis, by its label."""
        columns = {}
        for place, axis in enumerate(self.axes):
            if self.method == "random":
                share = _uniform(self.seed, place, start, stop)
            else:
                share = _sobol(len(self.axes), place, self.size, self.seed, start, stop)
            columns[axis.label] = axis.at(share)
        return columns

    def describe(self) -> dict[str, Any]:
        """As plain Python."""
        axes = {axis.label: axis.describe() for axis in self.axes}
        return {"design": self.method, "points": self.size, "seed": self.seed, "axes": axes}


def _uniform(seed: int, stream: int, start: int, stop: int) -> Array:
    """Numbers start to stop of one stream of draws from [0, 1): counters make each on its own."""
    philox = np.random.Philox(key=np.array([seed, stream], np.uint64))
    philox.advance(start // _WORDS)
    first = start % _WORDS
    return np.random.Generator(philox).random(first + stop - start)[first:]


def _sobol(dimensions: int, place: int, size: int, seed: int, start: int, stop: int) -> Array:
    """Coordinate `place` of the points start to stop, shifted: digits added without carry.

    Point i is the exclusive or of the direction numbers at the bits of its Gray code.
    """
    index = np.arange(start, stop)
    gray = index ^ (index >> 1)
    shift = int(_uniform(seed, place, 0, 1)[0] * 2**_SOBOL_BITS)
    digits = np.full(index.shape, shift, np.int64)
    for group, table in enumerate(_sobol_tables(dimensions, max(size - 1, 1).bit_length())):
        digits ^= table[place][(gray >> (group * _GROUP)) & (2**_GROUP - 1)]
    return digits / 2.0**_SOBOL_BITS


@functools.lru_cache(maxsize=8)
def _sobol_tables(dimensions: int, bits: int) -> list[Array]:
    """[groups][dimensions, 2^_GROUP] what every value of a group of bits contributes.

    The direction numbers are read off the points 1, 2, 4, …: the Gray code of 2^k has the bits k
    and k - 1.
    """
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=False)
    engine.fast_forward(1)
    made, last = 1, np.zeros(dimensions, np.int64)
    tables: list[Array] = []
    for bit in range(-(-bits // _GROUP) * _GROUP):
        if bit < bits:
            engine.fast_forward(2**bit - made)
            last = last ^ np.rint(engine.random(1)[0] * 2**_SOBOL_BITS).astype(np.int64)
            made = 2**bit + 1
        if bit % _GROUP == 0:
            tables.append(np.zeros((dimensions, 1), np.int64))
        tables[-1] = np.concatenate([tables[-1], tables[-1] ^ last[:, None]], axis=1)
    return tables


@dataclasses.dataclass(frozen=True)
class Table:
    """Configurations one by one, as they stand in a file.

    Attributes:
      axes: the columns, all of one length.
    """

    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.axes[0].values)

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    def rows(self, start: int, stop: int) -> Columns:
        """[stop - start] the value of every column, by its label."""
        return {axis.label: axis.values[start:stop] for axis in self.axes}

    def describe(self) -> dict[str, Any]:
        """As plain Python: the columns by their digest."""
        labels = [axis.label for axis in self.axes]
        sha256 = digest({axis.label: axis.values for axis in self.axes})
        return {"design": "table", "columns": labels, "rows": self.size, "sha256": sha256}


def filled(design: Design, start: int, stop: int, count: int) -> Columns:
    """The rows [start, stop), filled up to `count` with copies of the last one."""
    short = count - (stop - start)
    values = design.rows(start, stop)
    return {name: np.pad(column, (0, short), mode="edge") for name, column in values.items()}


def read_table(path: Path) -> Columns:
    """The columns of a CSV or Parquet file, by name.

    Raises:
      ValueError: the file cannot be read, or is empty; names it and the fix.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    name = f"table = {str(path)!r}"
    readers = {".csv": csv.read_csv, ".parquet": parquet.read_table}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{name} must end in .csv or .parquet: convert it")
    try:
        table = readers[path.suffix.lower()](path)
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist: give the path of a file") from None
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name} cannot be read ({reason}): correct it") from None
    if not table.num_rows or not table.num_columns:
        raise ValueError(f"{name} has no rows: give at least one configuration")
    twice = {label for label in table.column_names if table.column_names.count(label) > 1}
    if twice:
        raise ValueError(f"{name} has several columns {min(twice)}: keep one")
    columns = {}
    for label, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            raise ValueError(f"{name}: column {label} has empty cells: fill them")
        texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        values = column.to_pylist() if texts else column.to_numpy()
        columns[str(label)] = np.asarray(values)
    return columns


def check_size(design: Design) -> None:
    """Raise ValueError if there are more configurations than anyone can want."""
    if design.size > MAX_CONFIGURATIONS:
        counts = " x ".join(str(count) for count in design.shape)
        size = f"{design.size:.3g}" if design.size < 1e300 else "too many"
        raise ValueError(
            f"axes: {counts} = {size} configurations: "
            f"give fewer values, at most {MAX_CONFIGURATIONS:g} together"
        )


def check_distinct(axes: Sequence[Axis | Span]) -> None:
    """Raise ValueError if two axes set the same number."""
    for place, axis in enumerate(axes):
        for other in axes[:place]:
            if other.field == axis.field and (
                other.task == axis.task or None in (other.task, axis.task)
            ):
                raise ValueError(
                    f"axis {axis.label}: axis {other.label} sets the same number: drop one"
                )
