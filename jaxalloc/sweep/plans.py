"""A plan: which configurations, and what is done with each of them."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxalloc.allocation.model.domain import FIELDS, domain_error
from jaxalloc.allocation.model.workload import Workload
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver
from jaxalloc.sweep import allocations, schedules, settings
from jaxalloc.sweep.axes import Axis, Span, check_whole
from jaxalloc.sweep.chunks import Job
from jaxalloc.sweep.designs import (
    MAX_CONFIGURATIONS,
    Design,
    Draws,
    Grid,
    Table,
    check_distinct,
    check_size,
    read_table,
)
from jaxalloc.sweep.placement import chunk_rows
from jaxalloc.sweep.seals import digest_of
from jaxalloc.workloads.files import load, override, to_workload

DESIGNS = ("grid", "sobol", "random")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
      design: the configurations.
      job: what is done with each.
    """

    design: Design
    job: Job

    @property
    def size(self) -> int:
        """Number of configurations."""
        return self.design.size

    @property
    def name(self) -> str:
        """What pictures call it."""
        return str(getattr(self.job, "name", self.job.kind))

    def describe(self) -> dict[str, Any]:
        """As plain Python: two plans that say the same here have the same answers."""
        return self.job.describe() | self.design.describe()

    @property
    def digest(self) -> str:
        """SHA-256 of `describe()`."""
        return digest_of(self.describe())


def rows_of_chunks(plan: Plan, wanted: int | None, share: int, mesh: Mesh | None) -> int:
    """The rows of a chunk: those wanted, or what suits a process that has a share of the rows.

    Raises:
      ValueError: fewer than 1 are wanted.
    """
    if wanted is not None:
        check_whole("--chunk-size", wanted, 1, MAX_CONFIGURATIONS)
    rows = wanted or chunk_rows(share, plan.job.lane_bytes(), plan.job.most_rows, mesh)
    return min(rows, plan.size)


def make_plan(
    study: str | os.PathLike[str] | Workload | None = None,
    axes: Mapping[str, Any] | None = None,
    *,
    schedule: str | None = None,
    fields: Mapping[str, Any] | None = None,
    design: str = "grid",
    points: int | None = None,
    seed: int = 0,
    table: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    solver: Solver | None = None,
) -> Plan:
    """A plan, checked; `jaxalloc.sweep.plan` says what the arguments mean."""
    from jaxalloc.sweep.planfile import is_plan_file, read_plan_file

    if schedule is None and isinstance(study, str | os.PathLike) and is_plan_file(study):
        if axes or fields or (design, points, seed, table, solver) != ("grid", None, 0, None, None):
            raise ValueError(f"{study} is a plan that says it all: write into it what is to change")
        return make_plan(**read_plan_file(Path(study)))
    if (study is None) == (schedule is None):
        raise ValueError("plan: give a workload or a schedule, and not both")
    if schedule is not None:
        given = dict(fields or {}) | {"source": schedule}
        readers = _Readers(settings.parse_axis, settings.parse_drawn)
        varied = _design(dict(axes or {}), readers, design, points, seed, table)
        job: Job = schedules.make_schedules(given, varied)
    else:
        allocation = _allocations(study, dict(fields or {}), solver)
        readers = _Readers(
            functools.partial(allocations.parse_axis, tasks=allocation.tasks),
            functools.partial(allocations.parse_drawn, tasks=allocation.tasks),
        )
        varied = _design(dict(axes or {}), readers, design, points, seed, table)
        job = allocation
    check_distinct(varied.axes)
    check_size(varied)
    job.check(varied)
    return Plan(varied, job)


def _allocations(
    study: Any, fields: dict[str, Any], solver: Solver | None
) -> allocations.Allocations:
    """The job of a workload, a file or a built-in."""
    solver = Newton() if solver is None else solver
    if isinstance(study, Workload):
        if study.batch_shape:
            raise ValueError(f"workload has batch axes {study.batch_shape}: give one workload")
        if fields:
            raise ValueError(f"fields = {sorted(fields)}: put them into the workload itself")
        base = _on_host(study)
        tasks = tuple(str(k) for k in range(study.num_types))
        return allocations.Allocations(base, tasks, solver, "workload")
    numbers = {name: _number(name, value) for name, value in fields.items()}
    file = override(load(study), numbers, f"{study} with {', '.join(numbers)}")
    import jax

    with jax.enable_x64(True):  # the plan is the same whatever it will be computed in
        base = _on_host(to_workload(file))
    return allocations.Allocations(base, file.task_names, solver, file.name or Path(study).stem)


def _on_host(workload: Workload) -> Workload:
    """A workload of NumPy arrays."""
    fields: dict[str, Any] = {name: np.asarray(getattr(workload, name)) for name in FIELDS}
    return Workload(**fields)


def _number(name: str, value: Any) -> float:
    if name not in FIELDS or name == "mix":
        close = [field for field in FIELDS if field != "mix"]
        raise ValueError(f"fields: {name} is no field: give one of {', '.join(close)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"fields: {name} = {value!r} is not a number: give {FIELDS[name].meaning}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floating-point numbers
        number = math.inf
    problem = domain_error(name, number)
    if problem:
        raise ValueError(f"fields: {problem}")
    return number


class _Readers(NamedTuple):
    """How the axes of a job are read from their names and values."""

    axis: Callable[[str, Any], Axis]
    drawn: Callable[[str, Any], Axis | Span]


def _design(
    axes: dict[str, Any], readers: _Readers, method: str, points: int | None, seed: int, table: Any
) -> Design:
    """The design of axes, drawn points or a table."""
    if table is not None:
        if axes or method != "grid" or points is not None:
            raise ValueError("table: its columns are the axes: drop axes, design and points")
        columns = table if isinstance(table, Mapping) else read_table(Path(table))
        made = tuple(readers.axis(name, values) for name, values in columns.items())
        sizes = {axis.label: len(axis.values) for axis in made}
        if not made or len(set(sizes.values())) != 1:
            raise ValueError(f"table: columns of {sizes} rows: give columns of one length")
        return Table(made)
    if method not in DESIGNS:
        raise ValueError(f"design = {method!r} is unknown: give one of {', '.join(DESIGNS)}")
    if method == "grid":
        if points is not None:
            raise ValueError(f"points = {points}: a grid has as many as its axes: drop it")
        return Grid(tuple(readers.axis(name, values) for name, values in axes.items()))
    found = tuple(readers.drawn(name, values) for name, values in axes.items())
    if points is None:
        raise ValueError(f"points = None: design = {method!r} needs how many to draw")
    if not found:
        raise ValueError(f"axes: design = {method!r} needs at least one")
    count = check_whole("points", points, 1, MAX_CONFIGURATIONS)
    return Draws(method, found, count, check_whole("seed", seed, 0, 2**63 - 1))
