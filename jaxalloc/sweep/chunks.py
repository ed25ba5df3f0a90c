"""A sweep as a sequence of chunks of one shape: each launch makes one chunk a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from jax.sharding import Mesh

from jaxalloc.sweep.designs import Columns, Design, filled
from jaxalloc.sweep.placement import MostRows, in_order, num_threads

Kept = TypeVar("Kept")


class Job(Protocol):
    """What is done with every configuration."""

    @property
    def kind(self) -> str:
        """`allocation` or `schedule`."""

    @property
    def statuses(self) -> tuple[str, ...]:
        """Names of the statuses, by number."""

    @property
    def failures(self) -> tuple[str, ...]:
        """The statuses that are no answers."""

    @property
    def most_rows(self) -> MostRows:
        """The most rows of a chunk."""

    def describe(self) -> dict[str, Any]:
        """As plain Python: what tells this job from another."""

    def dtype(self) -> np.dtype[Any]:
        """What it computes in."""

    def columns(self) -> dict[str, str]:
        """Names and types of the answers, in order."""

    def lane_bytes(self) -> int:
        """Memory of a configuration while it is worked on."""

    def check(self, design: Design) -> None:
        """Raise ValueError if a configuration is impossible."""

    def start(self, rows: Columns, count: int, mesh: Mesh | None) -> Any:
        """Start on `count` configurations; what `finish` waits for."""

    def finish(self, started: Any) -> Columns:
        """Wait for the answers, by column."""


class Chunk(NamedTuple):
    """The answers of the rows [start, stop), by column, the axes first; `status` as numbers."""

    number: int
    start: int
    stop: int
    columns: Columns


class Launch(NamedTuple):
    """Chunks that are solved together, and the values of their axes, filled up to whole chunks."""

    chunks: tuple[int, ...]
    rows: Columns
    started: Any


def column_types(design: Design, job: Job) -> dict[str, str]:
    """Names and types of all columns of a sweep, in order: the axes, then the answers."""
    kinds = {"f": "float64", "i": "int64", "U": "text"}
    types = {axis.label: axis.at(np.zeros(1)).dtype.kind for axis in design.axes}
    return {label: kinds[kind] for label, kind in types.items()} | job.columns()


def solve_chunks(
    design: Design,
    job: Job,
    chunks: Iterable[int],
    rows: int,
    mesh: Mesh | None,
    keep: Callable[[Chunk], Kept],
) -> Iterator[Kept]:
    """`keep(chunk)` of every chunk, in order, while the next ones are being solved.

    Args:
      design: the configurations.
      job: what is done with them.
      chunks: numbers of the chunks; chunk c holds the rows from c · `rows` on.
      rows: of a chunk; the last one is filled up with copies of its last row.
      mesh: the devices; None for one.
      keep: called in a thread of its own.
    """
    width = 1 if mesh is None else mesh.size

    def start(numbers: tuple[int, ...]) -> Launch:
        places = [number * rows for number in (*numbers, *numbers[-1:] * (width - len(numbers)))]
        stops = [min(place + rows, design.size) for place in places]
        parts = [filled(design, *ends, rows) for ends in zip(places, stops, strict=True)]
        values = _side_by_side(parts)
        return Launch(numbers, values, job.start(values, width * rows, mesh))

    def finish(launch: Launch) -> list[Kept]:
        columns = launch.rows | job.finish(launch.started)
        kept = []
        for place, number in enumerate(launch.chunks):
            first, last = number * rows, min((number + 1) * rows, design.size)
            own = slice(place * rows, place * rows + last - first)
            part = {name: column[own] for name, column in columns.items()}
            kept.append(keep(Chunk(number, first, last, part)))
        return kept

    for group in in_order(start, finish, _groups(chunks, width), num_threads(mesh)):
        yield from group


def _groups(chunks: Iterable[int], width: int) -> Iterator[tuple[int, ...]]:
    """The chunks, `width` at a time."""
    group: list[int] = []
    for number in chunks:
        group.append(number)
        if len(group) == width:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)


def _side_by_side(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
