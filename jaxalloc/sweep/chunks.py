"""Solving a grid chunk by chunk: every chunk has the same shape, so it is compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxalloc.allocation.batch import solve_batch
from jaxalloc.allocation.mg1 import mean_system_time, mean_wait, utilization
from jaxalloc.allocation.objective import mean_accuracy
from jaxalloc.allocation.optimum import Status
from jaxalloc.allocation.workload import Workload
from jaxalloc.sweep.grid import Grid, coordinates, workloads

Columns = dict[str, np.ndarray[Any, Any]]

_MEASURES = {
    "utilization": utilization,
    "mean_accuracy": mean_accuracy,
    "mean_wait": mean_wait,
    "mean_system_time": mean_system_time,
}
STATUS_NAMES = np.array([status.name for status in sorted(Status)])


class Chunk(NamedTuple):
    """The answers of the rows [start, stop) of a grid, by column."""

    start: int
    stop: int
    columns: Columns


def column_names(grid: Grid) -> tuple[str, ...]:
    """The columns of a sweep, in order: axes, status, totals, convergence, tokens by task."""
    labels = [axis.label for axis in grid.axes]
    tokens = [f"tokens.{task}" for task in grid.tasks]
    return (*labels, "status", "objective", *_MEASURES, "residual", "steps", *tokens)


def solve_grid(grid: Grid, solver: Any, chunk_size: int) -> Iterator[Chunk]:
    """Solve a grid in C order of its axes, at most `chunk_size` configurations at a time."""
    rows = -(-grid.size // -(-grid.size // chunk_size))  # even chunks: little to fill up
    for start in range(0, grid.size, rows):
        stop = min(start + rows, grid.size)
        batch = workloads(grid, start, stop, rows)
        allocation = solve_batch(batch, solver)
        measures = _measure(batch, allocation.tokens)
        answers: Columns = {
            "status": STATUS_NAMES[np.asarray(allocation.status)],
            "objective": np.asarray(allocation.objective),
            **{name: np.asarray(value) for name, value in measures.items()},
            "residual": np.asarray(allocation.residual),
            "steps": np.asarray(allocation.steps),
        }
        tokens = np.asarray(allocation.tokens)
        answers |= {f"tokens.{task}": tokens[:, k] for k, task in enumerate(grid.tasks)}
        kept = {name: value[: stop - start] for name, value in answers.items()}
        yield Chunk(start, stop, coordinates(grid, start, stop) | kept)


@jax.jit
def _measure(batch: Workload, tokens: jax.Array) -> dict[str, jax.Array]:
    """What the optimum means for the queries, by column: [B] each."""
    return {name: jax.vmap(measure)(batch, tokens) for name, measure in _MEASURES.items()}
