"""A sweep of allocations: every configuration is a workload, its answer the optimal budgets."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxalloc.allocation.model.domain import FIELDS, SCALARS, domain_error
from jaxalloc.allocation.model.mg1 import mean_system_time, mean_wait, utilization
from jaxalloc.allocation.model.objective import mean_accuracy
from jaxalloc.allocation.model.workload import Workload
from jaxalloc.allocation.optimum.optimum import Allocation, Status, classify, solve
from jaxalloc.backend.dispatch import dispatch
from jaxalloc.sweep.axes import Array, Axis, Quantity, Span, read_axis, read_drawn
from jaxalloc.sweep.designs import Columns, Design, Table, filled
from jaxalloc.sweep.placement import MostRows, spread

_MEASURES = {
    "utilization": utilization,
    "mean_accuracy": mean_accuracy,
    "mean_wait": mean_wait,
    "mean_system_time": mean_system_time,
}
_MIX_SLACK = 1e-6
_BLOCK = 1 << 14  # rows judged at a time, where the first one is no workload
# Arrays of a lane that live at the same time in the solver's loop, beside its inputs and outputs.
_WORKING_COPIES = 6

Targets = tuple[tuple[str, int | None], ...]  # field and task of every column


def parse_axis(name: str, given: Any, tasks: Sequence[str]) -> Axis:
    """An axis of workloads from its name (`decay`, `decay.GSM8K`) and values (see `read_axis`).

    `mix.GSM8K` is the share of one task; the others keep their proportions.

    Raises:
      ValueError: names the axis, the values and the fix.

    >>> parse_axis("arrival_rate", "0.01:1:3:log", ("GSM8K",)).values
    array([0.01, 0.1 , 1.  ])
    """
    return read_axis(*_check_name(name, tasks), given, _quantity(name))


def parse_drawn(name: str, given: Any, tasks: Sequence[str]) -> Axis | Span:
    """As `parse_axis`; `a:b` and `a:b:log` are spans (see `read_drawn`)."""
    return read_drawn(*_check_name(name, tasks), given, _quantity(name))


def _check_name(name: str, tasks: Sequence[str]) -> tuple[str, str | None]:
    """The field and the task of a name."""
    field, _, task = name.partition(".")
    if field not in FIELDS or (field == "mix" and not task):
        raise ValueError(_unknown_field(name, field))
    if task:
        if not FIELDS[field].per_type:
            raise ValueError(f"axis {name}: {field} has one value a server: drop .{task}")
        if task not in tasks:
            raise ValueError(f"axis {name}: no task {task!r}: give one of {', '.join(tasks)}")
    return field, task or None


def _quantity(name: str) -> Quantity:
    """What the numbers of a field may be."""
    field = name.partition(".")[0]

    def problem(value: Any) -> str | None:
        if field == "mix" and value > 1:
            return f"mix = {value:g} must not exceed 1: give a probability"
        return domain_error(field, float(value))

    return Quantity("number", problem)


def _unknown_field(name: str, field: str) -> str:
    if field == "mix":
        return f"axis {name}: the sum of mix is fixed at 1: give the share of one task, mix.TASK"
    close = difflib.get_close_matches(field, SCALARS, n=1)
    fix = f"did you mean {close[0]}?" if close else f"give one of {', '.join(SCALARS)}"
    return f"axis {name}: {field!r} is no field: {fix}"


@dataclasses.dataclass(frozen=True)
class Allocations:
    """The optimum of a workload whose fields vary.

    Attributes:
      base: the workload that stands where nothing varies; unbatched.
      tasks: names of its K task types.
      solver: how the optimum is found.
      name: of the workload.
    """

    base: Workload
    tasks: tuple[str, ...]
    solver: Any
    name: str

    kind = "allocation"
    statuses = tuple(status.name for status in sorted(Status))
    failures = ("MAX_STEPS", "NON_FINITE", "INVALID")  # the other statuses are answers
    most_rows = MostRows(cpu=1 << 16, accelerator=1 << 20)

    def describe(self) -> dict[str, Any]:
        """As plain Python: what tells this job from another."""
        fields = {field: np.asarray(getattr(self.base, field)).tolist() for field in FIELDS}
        solver = {"name": type(self.solver).__name__, **vars(self.solver)}
        return {"job": self.kind, "tasks": list(self.tasks), "workload": fields, "solver": solver}

    def dtype(self) -> np.dtype[Any]:
        """What it computes in: the widest of the workload's that JAX is set to."""
        wide = jax.config.values["jax_enable_x64"] and self.base.dtype == np.float64
        return np.dtype(np.float64 if wide else np.float32)

    def columns(self) -> dict[str, str]:
        """Names and types of the answers, in order."""
        number = self.dtype().name
        figures = dict.fromkeys(("objective", *_MEASURES, "residual"), number)
        tokens = dict.fromkeys((f"tokens.{task}" for task in self.tasks), number)
        return {"status": "text", **figures, "steps": "int32", **tokens}

    def lane_bytes(self) -> int:
        """Memory of a configuration while it is solved."""
        numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(self.base)) + len(self.columns())
        return numbers * self.dtype().itemsize * _WORKING_COPIES

    def check(self, design: Design) -> None:
        """Raise ValueError if there is no workload in the whole design, or an impossible one."""
        _check_accuracy(self.base, self.tasks, design)
        _check_mix(self.base, self.tasks, design)
        problem = self._problem(design.rows(0, 1))
        if problem is None:
            return
        judge = jax.jit(jax.vmap(classify))
        for start in range(0, design.size, _BLOCK):
            rows = filled(design, start, min(start + _BLOCK, design.size), _BLOCK)
            status = judge(self._lanes(rows, _BLOCK, None))
            if not np.isin(status, (Status.INVALID, Status.NON_FINITE)).all():
                return
        raise ValueError(f"every configuration is INVALID: of the first, {problem}: correct it")

    def _problem(self, row: Columns) -> str | None:
        """Why one configuration is no workload; its mix has been judged."""
        fields = {name: np.array(leaf, self.dtype()) for name, leaf in vars(self.base).items()}
        with np.errstate(over="ignore"):  # inf is found below
            for (field, task), column in zip(self._targets(row), row.values(), strict=True):
                if field != "mix":
                    fields[field][... if task is None else task] = column[0]
        try:
            Workload.create(**fields, allow_accuracy_above_one=True)
        except ValueError as error:
            return str(error)
        return None

    def _targets(self, rows: Columns) -> Targets:
        """What every column sets."""
        named = (label.partition(".") for label in rows)
        return tuple((field, self.tasks.index(task) if task else None) for field, _, task in named)

    def _lanes(self, rows: Columns, count: int, mesh: Mesh | None) -> Workload:
        """`count` rows as workloads."""
        dtype = self.dtype()
        base = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), self.base)
        with np.errstate(over="ignore"):  # inf: such a lane is NON_FINITE
            values = tuple(column.astype(dtype) for column in (np.zeros(count), *rows.values()))
        lanes: Workload = _filler(self._targets(rows), mesh)(base, values)
        return lanes

    def start(self, rows: Columns, count: int, mesh: Mesh | None) -> Any:
        """Start solving `count` rows; what `finish` waits for."""
        return _solver(self.solver, mesh)((), self._lanes(rows, count, mesh))

    def finish(self, started: Any) -> Columns:
        """Wait for the answers, by column."""
        status, figures, steps, tokens = jax.tree.map(np.asarray, started)
        answers: Columns = {"status": status, **figures, "steps": steps}
        names = [name for name in self.columns() if name.startswith("tokens.")]
        return answers | dict(zip(names, np.ascontiguousarray(tokens.T), strict=True))


@functools.cache
def _filler(targets: Targets, mesh: Mesh | None) -> Any:
    """The function that lays out a chunk, of a base workload and of columns of [B] numbers.

    The first column only says how many lanes there are; the others are what varies.
    """

    def fill_chunk(base: Workload, values: tuple[jax.Array, ...]) -> Workload:
        return _fill(base, values[0].shape[0], values[1:], targets)

    return spread(fill_chunk, mesh)


@functools.cache
def _solver(solver: Any, mesh: Mesh | None) -> Any:
    """The function that solves a chunk, the same whatever varies."""

    def solve_one(workload: Workload) -> tuple[Allocation, dict[str, Any]]:
        best = solve(workload, solver)
        return best, {name: measure(workload, best.tokens) for name, measure in _MEASURES.items()}

    def solve_chunk(_: Any, lanes: Workload) -> Any:
        # Row by row: what is computed for many rows at once may end in other last bits where a
        # vector, or a core's share, ends.
        best, measures = jax.vmap(lambda workload: dispatch(solve_one, workload))(lanes)
        figures = {"objective": best.objective, **measures, "residual": best.residual}
        return best.status, figures, best.steps, best.tokens

    return spread(solve_chunk, mesh)


def _fill(base: Workload, rows: int, values: tuple[jax.Array, ...], targets: Targets) -> Workload:
    """The workloads of a chunk: the base with its columns put in their places, [B] lanes."""
    fields = {
        name: jnp.broadcast_to(leaf, (rows, *jnp.shape(leaf))) for name, leaf in vars(base).items()
    }
    shares = [task for field, task in targets if field == "mix" and task is not None]
    for (field, task), value in zip(targets, values, strict=True):
        if task is not None:
            fields[field] = fields[field].at[:, task].set(value)
        elif FIELDS[field].per_type:
            fields[field] = jnp.broadcast_to(value[:, None], fields[field].shape)
        else:
            fields[field] = value
    if shares:
        fields["mix"] = _mix(base.mix, fields["mix"], shares)
    return Workload(**fields)


def _mix(base: jax.Array, given: jax.Array, tasks: list[int]) -> jax.Array:
    """[B, K] shares: those given of some tasks, and the rest in the proportions of the base."""
    others = [k for k in range(base.shape[0]) if k not in tasks]
    if not others:
        return given
    kept = base[jnp.array(others)]
    rest = jnp.maximum(1 - jnp.sum(given[:, jnp.array(tasks)], axis=1), 0)
    shares = kept / jnp.where(jnp.sum(kept) > 0, jnp.sum(kept), 1)  # else nothing is left
    return given.at[:, jnp.array(others)].set(rest[:, None] * shares[None, :])


def _largest(base: Workload, tasks: tuple[str, ...], design: Design, field: str) -> Array:
    """[K] the largest value of a field over all configurations; [K, rows] its values in a table."""
    varied = {axis.field for axis in design.axes}
    rows = _rows_of_table(design) if varied & {"floor", "gain"} else None
    largest = np.array(getattr(base, field), np.float64)
    if rows is not None:
        largest = np.repeat(largest[:, None], design.size, axis=1)
    for axis in design.axes:
        if axis.field == field:
            place = slice(None) if axis.task is None else tasks.index(axis.task)
            largest[place] = axis.ends()[1] if rows is None else rows[axis.label]
    return largest


def _rows_of_table(design: Design) -> Columns | None:
    """All rows of a table, whose columns belong together; None of any other design."""
    return design.rows(0, design.size) if isinstance(design, Table) else None


def _check_accuracy(base: Workload, tasks: tuple[str, ...], design: Design) -> None:
    """Raise ValueError if floor + gain exceeds 1 at the largest values of both."""
    total = _largest(base, tasks, design, "floor") + _largest(base, tasks, design, "gain")
    total = total.reshape(len(tasks), -1).max(axis=1)
    if np.any(total > 1 + 4 * np.finfo(np.float64).eps):
        worst = int(np.argmax(total))
        raise ValueError(
            f"axes: floor + gain = {total[worst]:g} of task {tasks[worst]} must not "
            "exceed 1: lower the end of an axis"
        )


def _check_mix(base: Workload, tasks: tuple[str, ...], design: Design) -> None:
    """Raise ValueError unless every configuration has shares that can sum to 1."""
    axes = [axis for axis in design.axes if axis.field == "mix"]
    if not axes:
        return
    given = [axis.task for axis in axes]
    kept = sum(float(np.asarray(base.mix)[k]) for k, task in enumerate(tasks) if task not in given)
    rows = _rows_of_table(design)
    if rows is not None:
        total = np.sum([rows[axis.label] for axis in axes], axis=0)
        low, high = float(total.min()), float(total.max())
    else:
        low, high = (sum(axis.ends()[end] for axis in axes) for end in (0, 1))
    if high > 1 + _MIX_SLACK or (not kept and low < 1 - _MIX_SLACK):
        raise ValueError(
            f"axes: the sum of mix = {high if high > 1 else low:g} must be 1: give shares that "
            "leave the rest to the other tasks"
        )
