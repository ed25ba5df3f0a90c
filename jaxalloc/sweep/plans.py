"""A plan: which configurations, and what is done with each of them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxalloc.allocation.model.workload import Workload
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver
from jaxalloc.sweep import allocations, settings
from jaxalloc.sweep.allocations import Allocations
from jaxalloc.sweep.axes import read_one
from jaxalloc.sweep.designs import Design, make_design
from jaxalloc.sweep.planfile import read_plan_file
from jaxalloc.sweep.schedules import Schedules, make_schedules
from jaxalloc.workloads.files import load, override

_CHUNK_BYTES = 1 << 28  # that the rows of a chunk may take while they are solved
_CHUNKS = 8  # at least, so that every core has some, if they do not become small


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
      design: the configurations.
      job: what is done with each.
    """

    design: Design
    job: Allocations | Schedules

    @property
    def size(self) -> int:
        """Number of configurations."""
        return self.design.size

    @property
    def chunk_size(self) -> int:
        """Rows of a chunk: a power of two that depends on the plan alone, and so does a part."""
        least, most = self.job.rows_of_a_chunk
        fitting = _CHUNK_BYTES // self.job.lane_bytes()
        rows = min(max(self.size // _CHUNKS, least), most, max(fitting, 1))
        return 1 << (rows.bit_length() - 1)

    @property
    def columns(self) -> dict[str, str]:
        """Names and types of all columns, in order: the axes, then the answers."""
        kinds = {"f": "float64", "i": "int64", "U": "text"}
        axes = {axis.label: kinds[axis.values.dtype.kind] for axis in self.design.axes}
        return axes | self.job.columns()

    def describe(self) -> dict[str, Any]:
        """As plain Python: two plans that say the same here have the same answers."""
        return self.job.describe() | self.design.describe()

    @property
    def digest(self) -> str:
        """SHA-256 of `describe()`, in which the order of the axes counts."""
        text = json.dumps(self.describe(), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def plan(
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
    """What to sweep: a workload or a schedule, what is fixed and what varies.

    Args:
      study: a built-in workload, a workload file, a `Workload`, or a plan file (TOML), which says
        all the rest.
      axes: what varies, by name (`arrival_rate`, `decay.GSM8K`; of a schedule `policy`, `capacity`,
        `intervals`, `interval_width`, `seed`, …): a list, or "a:b:n" or "a:b:n:log", ends included;
        where points are drawn also "a:b" or "a:b:log". Rows run in C order of the axes.
      schedule: a law of outputs ("geometric:mean=100") or a trace, instead of a workload.
      fields: numbers of the workload, or settings of the schedule, that do not vary.
      design: "grid", or points drawn "sobol" or "random".
      points: how many are drawn.
      seed: of the draws.
      table: configurations one by one: a CSV or Parquet file, or columns by name.
      solver: of allocations; None: `Newton()`.

    Raises:
      ValueError: names the field, the value and the fix.

    >>> import jaxalloc
    >>> study = jaxalloc.sweep.plan("qwen3-8b", {"arrival_rate": "0.01:1:5:log"})
    >>> study.size
    5
    """
    file = read_plan_file(Path(study)) if isinstance(study, str | os.PathLike) else None
    if file is not None:
        drawn = (design, points, seed, table, solver) != ("grid", None, 0, None, None)
        if schedule or axes or fields or drawn:
            raise ValueError(f"{study} is a plan that says it all: write into it what is to change")
        return plan(**file)
    if (study is None) == (schedule is None):
        raise ValueError("plan: give a workload or a schedule, and not both")
    varied, how = dict(axes or {}), (design, points, seed, table)
    job: Allocations | Schedules
    if schedule is not None:
        made = make_design(varied, settings.quantity_of, *how)
        job = make_schedules(dict(fields or {}) | {"source": schedule}, made)
    else:
        job = _allocations(study, dict(fields or {}), solver or Newton())
        quantity = functools.partial(allocations.quantity_of, tasks=job.tasks)
        made = make_design(varied, quantity, *how)
    job.check(made)
    return Plan(made, job)


def _allocations(study: Any, fields: dict[str, Any], solver: Solver) -> Allocations:
    """The job of a workload, a file or a built-in."""
    if isinstance(study, Workload):
        if study.batch_shape:
            raise ValueError(f"workload has batch axes {study.batch_shape}: give one workload")
        if fields:
            raise ValueError(f"fields = {sorted(fields)}: put them into the workload itself")
        tasks = tuple(str(k) for k in range(study.num_types))
        return Allocations(jax.tree.map(np.asarray, study), tasks, solver, "workload")
    quantity = functools.partial(allocations.quantity_of, tasks=())
    numbers = {name: read_one(name, value, quantity) for name, value in fields.items()}
    file = override(load(study), numbers, f"{study} with {', '.join(numbers)}")
    with jax.enable_x64(True):  # the plan is the same whatever it will be computed in
        base = jax.tree.map(np.asarray, file.workload)
    return Allocations(base, file.names, solver, file.name or Path(study).stem)
