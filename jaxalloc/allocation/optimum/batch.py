"""Many workloads at once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalloc.allocation.model.checks import check_kind
from jaxalloc.allocation.model.workload import PerServer, PerType, Workload, aligned
from jaxalloc.allocation.optimum.solve import Allocation, allocation_tangent, as_tangent, solve
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver
from jaxalloc.backend.chunks import in_chunks, placement_of, platform_of
from jaxalloc.backend.sharding import over_lanes
from jaxalloc.numerics import cast

Lanes = tuple[Workload, Any]  # workloads, and tokens to start from or None

_CPU_LANES, _ACCELERATOR_LANES = 1 << 14, 1 << 22  # the most in a chunk


def solve_batch(
    workloads: Workload, solver: Solver = Newton(), initial: PerType | None = None
) -> Allocation:
    """Optimal token budgets of many workloads: `solve` over any leading axes.

    The same answer as `jax.vmap(solve)`, in chunks that keep the memory bounded and all cores of a
    CPU busy, also in an eager `jax.grad`; under `jax.jit` and `jax.vmap` it is one computation.

    Args:
      workloads: fields of shape [*B] and [*B, K].
      solver: as for `solve`.
      initial: [*B, K] tokens to start from; entries that are not finite are ignored.

    Returns:
      An `Allocation` with the leading axes *B.

    >>> import jax.numpy as jnp, jaxalloc
    >>> workloads = jaxalloc.Workload.create(
    ...     arrival_rate=jnp.array([0.1, 1.0, 20.0]), mix=[1.0], gain=0.5, decay=1e-3, floor=0.2,
    ...     base_time=0.1, time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> fractions = jaxalloc.status_fractions(jaxalloc.solve_batch(workloads))
    >>> print(f"{fractions['INFEASIBLE']:.2f}")
    0.33
    """
    check_kind(workloads)
    shape = workloads.batch_shape
    platform, device, spread = placement_of((workloads, initial))
    on_host = platform == "cpu" and not spread
    lanes = _broadcast(workloads, initial, shape, on_host)
    if platform is None or spread:
        return _optima(*lanes, solver)
    if len(shape) != 1:
        lanes = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(shape) :]), lanes)
    with jax.default_device(device) if device else contextlib.nullcontext():
        answer = _optima(*lanes, solver)
    if len(shape) != 1:
        answer = jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), answer)
    return jax.device_put(answer, device) if device else answer


def status_fractions(allocation: Allocation) -> dict[str, Any]:
    """Share of the lanes that ended with each status, by name; under tracing, traced shares.

    All shares of a batch without lanes are 0.
    """
    xp = jnp if isinstance(allocation.status, jax.core.Tracer) else np
    ended = xp.asarray(allocation.status)
    return {status.name: xp.sum(ended == status) / max(ended.size, 1) for status in Status}


def _broadcast(workloads: Workload, initial: Any, shape: tuple[int, ...], on_host: bool) -> Lanes:
    """Every array with all leading axes, in the widest dtype; views where possible."""
    dtype = workloads.dtype
    given = dict(vars(workloads)) | ({} if initial is None else {"initial": initial})
    arrays = {
        name: np.asarray(value, dtype) if on_host else cast(value, dtype)
        for name, value in given.items()
    }
    lanes = aligned(arrays, shape, workloads.num_types)
    initial = lanes.pop("initial", None)
    return Workload(**lanes), initial


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _optima(workloads: Workload, start: Any, solver: Solver) -> Allocation:
    """The optimum of every lane, with the derivative that each has alone.

    The rule belongs here, outside of the chunks: so the forward pass of an eager `jax.grad` still
    sees concrete arrays and keeps all cores busy.
    """
    work = functools.partial(_solve_lanes, solver=solver)
    lanes = workloads, start
    if platform_of(lanes) is None:
        return work(lanes)
    nothing = jax.tree.map(lambda _: 0.0, lanes)
    idle = dataclasses.replace(nothing[0], decay=1.0, time_per_token=1.0), nothing[1]
    return in_chunks(work, lanes, cpu=_CPU_LANES, accelerator=_ACCELERATOR_LANES, idle=idle)


@_optima.defjvp
def _optima_jvp(solver: Solver, primals: Lanes, moved: Lanes) -> tuple[Allocation, Allocation]:
    answers = _optima(*primals, solver)
    return answers, as_tangent(answers, _tangents(primals[0], answers, moved[0]))


@jax.jit
def _tangents(
    workloads: Workload, answers: Allocation, moved: Workload
) -> tuple[PerType, PerServer]:
    rule = over_lanes(allocation_tangent, answers.status.ndim)
    found: tuple[PerType, PerServer] = rule(workloads, answers, moved)
    return found


@functools.partial(jax.jit, static_argnames="solver")
def _solve_lanes(lanes: Lanes, solver: Solver) -> Allocation:
    """All lanes in one computation."""

    def one(workload: Workload, initial: Any) -> Allocation:
        return solve(workload, solver, initial)

    answers: Allocation = over_lanes(one, lanes[0].arrival_rate.ndim)(*lanes)
    return answers
