"""One workload's optimum: what can be solved, what is solved, and the one place of "converged"."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.allocation.model.checks import one_workload, vector
from jaxalloc.allocation.model.mg1 import queue
from jaxalloc.allocation.model.objective import objective
from jaxalloc.allocation.model.validity import rules
from jaxalloc.allocation.model.workload import PerServer, PerType, Scalar, Tokens, Workload
from jaxalloc.allocation.optimum import gpu_kernel
from jaxalloc.allocation.optimum.certificate import certified_residual
from jaxalloc.allocation.optimum.implicit import tangents
from jaxalloc.allocation.optimum.loop import first_point, run, tolerance_of
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver
from jaxalloc.backend.dispatch import dispatch, with_kernel
from jaxalloc.backend.sharding import mesh_of, no_tangent


class Allocation(NamedTuple):
    """What `solve` returns; `solve_batch` adds leading axes.

    Attributes:
      tokens: [*B, K] token budgets; min_tokens where INFEASIBLE, NaN where NON_FINITE or INVALID.
      objective: [*B] J at the tokens, s; -inf where INFEASIBLE, NaN where NON_FINITE or INVALID.
      residual: [*B] largest violated |up - down| / (up + down), rounding included; inf where no
        step was taken because of the status.
      steps: [*B] int32, steps taken.
      status: [*B] int32, a `Status`.
    """

    tokens: PerType
    objective: PerServer
    residual: PerServer
    steps: Int[Array, "*B"]
    status: Int[Array, "*B"]


def solve(
    workload: Workload, solver: Solver = Newton(), initial: Tokens | None = None
) -> Allocation:
    """Optimal token budgets of one workload: the maximizer of J over the box, with d > 0.

    A lane is CONVERGED iff its certified residual is at most the solver's tolerance; steps go on
    while the residual still halves. Works under `jax.jit` and `jax.vmap`.

    Args:
      workload: one workload, without batch axes.
      solver: `Newton()`, `FixedPoint()` or `ProjectedGradient()`; static.
      initial: [K] tokens to start from; entries that are not finite are ignored.

    Raises:
      ValueError: a field or `initial` has another shape than that of one workload.

    >>> import jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.0, mix=[1.0], gain=0.5, decay=1e-3, floor=0.0, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> print(f"{jaxalloc.solve(workload).tokens[0]:.1f}")  # ln(20 · 0.5) / 1e-3
    2302.6
    """
    workload = one_workload(workload)
    if initial is not None:
        initial = vector("initial", initial, workload)
    with mesh_of(workload):
        return _solve(workload, initial, solver)


@functools.partial(jax.jit, static_argnames="solver")
def _solve(workload: Workload, initial: Tokens | None, solver: Solver) -> Allocation:
    return _optimum(workload, initial, solver)


def classify(workload: Workload) -> Int[Array, ""]:
    """The status that a lane has before any step; CONVERGED stands for "can be solved"."""
    finite = [jnp.all(jnp.isfinite(field)) for field in jax.tree.leaves(workload)]
    kept = [jnp.all(rule.kept) for rule in rules(vars(workload))]
    feasible = jnp.where(_most_idle(workload) > 0, Status.CONVERGED, Status.INFEASIBLE)
    valid = jnp.where(functools.reduce(jnp.logical_and, kept), feasible, Status.INVALID)
    every = functools.reduce(jnp.logical_and, finite)
    return jnp.where(every, valid, Status.NON_FINITE).astype(jnp.int32)


def _most_idle(workload: Workload) -> Scalar:
    """d at min_tokens."""
    return queue(workload, workload.min_tokens).idle


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _optimum(workload: Workload, initial: Tokens | None, solver: Solver) -> Allocation:
    """Classify, start, iterate, certify."""
    status = classify(workload)
    solvable = status == Status.CONVERGED
    most_idle = jnp.where(solvable, _most_idle(workload), 0)
    tokens, steps = _iterate(workload, initial, most_idle, solver)
    reached = certified_residual(workload, tokens)
    within = reached <= tolerance_of(solver, workload)
    ended = jnp.where(within, Status.CONVERGED, Status.MAX_STEPS).astype(jnp.int32)
    infeasible = status == Status.INFEASIBLE
    no_value = jnp.where(infeasible, -jnp.inf, jnp.nan)
    no_tokens = jnp.where(infeasible, workload.min_tokens, jnp.nan)
    return Allocation(
        tokens=jnp.where(solvable, tokens, no_tokens),
        objective=jnp.where(solvable, objective(workload, tokens), no_value),
        residual=jnp.where(solvable, reached, jnp.inf),
        steps=steps,
        status=jnp.where(solvable, ended, status),
    )


def _iterate(
    workload: Workload, initial: Tokens | None, most_idle: Scalar, solver: Solver
) -> tuple[Tokens, Int[Array, ""]]:
    """Start and loop, in the form that suits the platform; not at all where `most_idle` is 0."""

    def plain(lane: tuple[Workload, Any, Scalar]) -> tuple[Tokens, Int[Array, ""]]:
        started = lane[0], first_point(*lane)
        return dispatch(lambda started: run(*started, solver), started)

    def from_start(workload: Workload, *start: Any) -> tuple[Tokens, Int[Array, ""]]:
        return run(workload, first_point(workload, *start), solver)

    lane = workload, initial, most_idle
    if not gpu_kernel.takes(workload):
        return plain(lane)
    return with_kernel(plain, functools.partial(gpu_kernel.in_blocks, from_start), lane)


@_optimum.defjvp
def _optimum_jvp(
    solver: Solver, primals: tuple[Workload, Any], moved: tuple[Workload, Any]
) -> tuple[Allocation, Allocation]:
    """The implicit derivative; a residual, a number of steps and a status have none."""
    answer = _optimum(*primals, solver)
    return answer, as_tangent(answer, allocation_tangent(primals[0], answer, moved[0]))


def allocation_tangent(
    workload: Workload, answer: Allocation, moved: Workload
) -> tuple[Tokens, Scalar]:
    """The tangents of the tokens and the objective of one lane."""
    return tangents(workload, answer.tokens, answer.status == Status.CONVERGED, moved)


def as_tangent(answer: Allocation, moved: tuple[PerType, PerServer]) -> Allocation:
    """The tangent of an answer: what tokens and objective have, and what has none."""
    still = jnp.zeros_like(answer.residual), no_tangent(answer.steps), no_tangent(answer.status)
    return Allocation(*moved, *still)
