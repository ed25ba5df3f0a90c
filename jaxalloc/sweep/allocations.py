"""A sweep of allocations: every configuration is a workload, its answer the optimal budgets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalloc.allocation.model.domain import FIELDS, MIX_TOLERANCE, SCALARS, domain_error
from jaxalloc.allocation.model.mg1 import mean_system_time, mean_wait, utilization
from jaxalloc.allocation.model.objective import mean_accuracy
from jaxalloc.allocation.model.workload import Workload
from jaxalloc.allocation.optimum.solve import Allocation, classify, solve
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.backend.dispatch import dispatch
from jaxalloc.messages import suggest
from jaxalloc.sweep.axes import Array, Columns, Quantity
from jaxalloc.sweep.designs import Design, fill

_MEASURES = {
    "utilization": utilization,
    "mean_accuracy": mean_accuracy,
    "mean_wait": mean_wait,
    "mean_system_time": mean_system_time,
}
_BLOCK = 1 << 14  # rows judged at a time
# Arrays of a lane that live at the same time in the solver's loop, beside its inputs and outputs.
_WORKING_COPIES = 6


def quantity_of(label: str, tasks: Sequence[str]) -> Quantity:
    """What an axis of workloads may hold: `decay` (of every task), `decay.GSM8K` (of one).

    `mix.GSM8K` is the share of one task; the others keep their proportions.

    Raises:
      ValueError: there is no such number; names the axis and the fix.
    """
    field, _, task = label.partition(".")
    if field == "mix" and not task:
        raise ValueError(
            f"axis {label}: the sum of mix is fixed at 1: give the share of one task, mix.TASK"
        )
    if field not in FIELDS:
        raise ValueError(f"axis {label}: {field!r} is no field: {suggest(field, SCALARS)}")
    if task and not FIELDS[field].per_type:
        raise ValueError(f"axis {label}: {field} has one value a server: drop .{task}")
    if task and task not in tasks:
        raise ValueError(f"axis {label}: no task {task!r}: give one of {', '.join(tasks)}")

    def problem(value: Any) -> str | None:
        if field == "mix" and value > 1:
            return f"mix = {value:g} must not exceed 1: give a probability"
        return domain_error(field, float(value))

    return Quantity("number", problem)


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
    rows_of_a_chunk = (1 << 12, 1 << 16)  # least and most

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
        """Memory of a configuration while it is solved; in float64, whatever it is solved in."""
        numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(self.base)) + len(self.columns())
        return numbers * 8 * _WORKING_COPIES

    def check(self, design: Design) -> None:
        """Raise ValueError if a configuration is impossible, or none of them is a workload."""
        corners = self.workloads(design.corners())
        best = np.max(corners.floor + corners.gain, axis=0)
        if np.any(best > 1 + 4 * np.finfo(self.dtype()).eps):
            worst = int(np.argmax(best))
            raise ValueError(
                f"axes: floor + gain = {best[worst]:g} of task {self.tasks[worst]} must not "
                "exceed 1: lower the end of an axis"
            )
        total = np.sum(corners.mix, axis=1)
        off = int(np.argmax(abs(total - 1)))
        if abs(total[off] - 1) > MIX_TOLERANCE and "mix" in {axis.field for axis in design.axes}:
            raise ValueError(
                f"axes: the sum of mix = {total[off]:g} must be 1: give shares that leave the "
                "rest to the other tasks"
            )
        first = {name: leaf[0] for name, leaf in vars(self.workloads(design.rows(0, 1))).items()}
        try:
            Workload.create(**first, allow_accuracy_above_one=True)
        except ValueError as error:
            if not self._any_valid(design):
                message = f"every configuration is INVALID: of the first, {error}: correct it"
                raise ValueError(message) from None

    def _any_valid(self, design: Design) -> bool:
        """Whether some configuration is a workload."""
        judge = jax.jit(jax.vmap(classify))
        for start in range(0, design.size, _BLOCK):
            rows = fill(design.rows(start, min(start + _BLOCK, design.size)), _BLOCK)
            status = judge(self.workloads(rows))
            if not np.isin(status, (Status.INVALID, Status.NON_FINITE)).all():
                return True
        return False

    def workloads(self, rows: Columns) -> Workload:
        """[B] configurations as workloads of NumPy arrays: the base with the columns put in."""
        dtype, count = self.dtype(), len(next(iter(rows.values()), [0]))
        fields: dict[str, Any] = {
            name: np.broadcast_to(np.asarray(leaf, dtype), (count, *np.shape(leaf)))
            for name, leaf in vars(self.base).items()
        }
        shares = np.zeros(len(self.tasks), bool)
        for label, column in rows.items():
            field, _, task = label.partition(".")
            with np.errstate(over="ignore"):  # inf: such a lane is NON_FINITE
                values = column.astype(dtype)
            if task:
                fields[field] = np.array(fields[field])
                fields[field][:, self.tasks.index(task)] = values
                shares[self.tasks.index(task)] |= field == "mix"
            else:
                values = values[:, None] if FIELDS[field].per_type else values
                fields[field] = np.broadcast_to(values, fields[field].shape)
        if shares.any():
            _share_the_rest(fields["mix"], shares)
        return Workload(**fields)

    def solve(self, rows: Columns) -> Columns:
        """The answers of some configurations, by column."""
        found = _solver(self.solver)(_on_the_device(self.workloads(rows)))
        status, figures, steps, tokens = jax.tree.map(np.asarray, found)
        names = [f"tokens.{task}" for task in self.tasks]
        return {"status": status, **figures, "steps": steps} | dict(
            zip(names, np.ascontiguousarray(tokens.T), strict=True)
        )


def _on_the_device(lanes: Workload) -> Workload:
    """The workloads; a field that does not vary goes to the device once, not for every row."""
    once = jax.tree.map(lambda field: field if field.strides[0] else field[0], lanes)
    return _repeat(once, len(lanes.arrival_rate))


@functools.partial(jax.jit, static_argnames="count")
def _repeat(fields: Workload, count: int) -> Workload:
    return Workload(
        **{
            name: field
            if field.ndim > FIELDS[name].per_type
            else jnp.broadcast_to(field, (count, *field.shape))
            for name, field in vars(fields).items()
        }
    )


@functools.cache
def _solver(solver: Any) -> Any:
    """The function that solves a chunk, the same whatever varies."""

    def solve_one(workload: Workload) -> tuple[Allocation, dict[str, Any]]:
        best = solve(workload, solver)
        return best, {name: measure(workload, best.tokens) for name, measure in _MEASURES.items()}

    def solve_chunk(lanes: Workload) -> Any:
        # Row by row: what is computed for many rows at once may end in other last bits where a
        # vector, or a core's share, ends.
        best, measures = jax.vmap(lambda workload: dispatch(solve_one, workload))(lanes)
        figures = {"objective": best.objective, **measures, "residual": best.residual}
        return best.status, figures, best.steps, best.tokens

    return jax.jit(solve_chunk)


def _share_the_rest(mix: Array, given: Array) -> None:
    """Fill up [B, K] shares: to types that are not given, the rest in the proportions they have."""
    kept = mix[:1, ~given]
    rest = np.maximum(1 - np.sum(mix[:, given], axis=1, keepdims=True), 0)
    mix[:, ~given] = rest * (kept / max(np.sum(kept), np.finfo(mix.dtype).tiny))
