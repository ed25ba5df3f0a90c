"""The optimum: the one loop around every solver, and the one place that decides "converged"."""

from __future__ import annotations

import enum
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.allocation.model.checks import one_workload, vector
from jaxalloc.allocation.model.mg1 import queue, variability
from jaxalloc.allocation.model.objective import SMALLEST_IMBALANCE, Point, evaluate, objective
from jaxalloc.allocation.model.validity import rules
from jaxalloc.allocation.model.workload import (
    Flag,
    PerServer,
    PerType,
    Scalar,
    Tokens,
    Workload,
)
from jaxalloc.allocation.optimum import gpu_kernel
from jaxalloc.allocation.optimum.certificate import certified_residual
from jaxalloc.allocation.optimum.implicit import tangents
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver, move
from jaxalloc.backend.dispatch import dispatch, with_kernel
from jaxalloc.backend.sharding import mesh_of, no_tangent

_TOLERANCE = {"float64": 1e-8, "float32": 1e-5}
_ROUNDING_FLOOR = 16.0  # in units of eps: below it a residual cannot halve any more
_LEAST_IDLE_TO_START = 1e-3  # of what is idle at min_tokens, for `initial` to be used


class Status(enum.IntEnum):
    """How a lane ended."""

    CONVERGED = 0  # the certified residual is within tolerance
    MAX_STEPS = 1  # it is not: the cap on steps was reached, or rounding left no step to take
    INFEASIBLE = 2  # the queue is unstable even at min_tokens
    NON_FINITE = 3  # a field is NaN or inf
    INVALID = 4  # a field is outside its domain or the dtype's, or min_tokens > max_tokens


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


class Progress(NamedTuple):
    """The loop's carry."""

    state: Any
    tokens: Tokens  # the best so far
    distance: Scalar  # its distance
    halved: Flag  # whether the last step halved the least distance
    steps: Int[Array, ""]


def classify(workload: Workload) -> Int[Array, ""]:
    """The status that a lane has before any step; CONVERGED stands for "can be solved"."""
    finite = [jnp.all(jnp.isfinite(field)) for field in jax.tree.leaves(workload)]
    kept = [jnp.all(rule.kept) for rule in rules(vars(workload))]
    feasible = jnp.where(_most_idle(workload) > 0, Status.CONVERGED, Status.INFEASIBLE)
    invalid = jnp.where(_all(kept), feasible, Status.INVALID)
    return jnp.where(_all(finite), invalid, Status.NON_FINITE).astype(jnp.int32)


def _all(flags: list[Flag]) -> Flag:
    return functools.reduce(jnp.logical_and, flags)


def _most_idle(workload: Workload) -> Scalar:
    """d at min_tokens."""
    return queue(workload, workload.min_tokens).idle


def first_point(
    workload: Workload, initial: Tokens | None, most_idle: Scalar | None = None
) -> Point:
    """Where to start: `initial` if it is of use, else every type's own optimum at the least prices.

    That guess overestimates, since prices rise with the load; it is shortened to keep the queue
    stable. `initial` is of use where it leaves some of d, `most_idle` at min_tokens, and for each
    type where its thinking is worth something.
    """
    lowest = evaluate(workload, workload.min_tokens, most_idle)
    most_idle = lowest.most_idle
    own = lowest.load_price * variability(workload) * workload.time_per_token / lowest.price
    rise = jnp.maximum(lowest.imbalance, 0) / (workload.decay + own)
    target = jnp.minimum(workload.min_tokens + rise, workload.max_tokens)
    guess = move(workload, lowest, target)
    if initial is not None:
        wanted = jnp.where(jnp.isfinite(initial), initial, workload.min_tokens)
        wanted = jnp.clip(wanted, workload.min_tokens, workload.max_tokens)
        there = evaluate(workload, wanted, most_idle)
        stable = there.idle > _LEAST_IDLE_TO_START * most_idle
        # So far beyond its optimum that the imbalance is cut off, a type finds its way back slowly.
        lost = there.imbalance <= SMALLEST_IMBALANCE
        wanted = jnp.where(lost, jnp.minimum(wanted, guess), wanted)
        guess = jnp.where(stable, wanted, guess)
    return evaluate(workload, guess, most_idle)


def run(workload: Workload, start: Point, solver: Solver) -> tuple[Tokens, Int[Array, ""]]:
    """Step until the residual is within tolerance and no longer halves, or the solver must stop.

    What is watched is the distance, of which the residual is tanh(distance / 2). No step is taken
    where nothing is idle at min_tokens.

    Returns:
      The tokens of least residual, and the number of steps.
    """
    tolerance = tolerance_of(solver, workload)
    enough = 2 * math.atanh(tolerance) if tolerance < 1 else math.inf
    floor = 2 * _ROUNDING_FLOOR * jnp.finfo(workload.dtype).eps
    solvable = start.most_idle > 0

    def unfinished(progress: Progress) -> Flag:
        wanting = (progress.distance > enough) | progress.halved
        able = (progress.steps < solver.max_steps) & ~progress.state.stalled
        return solvable & wanting & able & (progress.distance > floor)

    def advance(progress: Progress) -> Progress:
        state = solver.step(workload, progress.state)
        better = state.distance < progress.distance
        return Progress(
            state=state,
            tokens=jnp.where(better, state.point.tokens, progress.tokens),
            distance=jnp.minimum(state.distance, progress.distance),
            halved=state.distance <= progress.distance / 2,
            steps=progress.steps + 1,
        )

    state = solver.init(workload, start)
    first = Progress(
        state=state,
        tokens=state.point.tokens,
        distance=state.distance,
        halved=jnp.array(True),
        steps=jnp.int32(0),
    )
    last = jax.lax.while_loop(unfinished, advance, first)
    return last.tokens, last.steps


def tolerance_of(solver: Solver, workload: Workload) -> float:
    """The solver's tolerance, or the one that the dtype can reach."""
    if solver.tolerance is not None:
        return solver.tolerance
    return _TOLERANCE[str(workload.dtype)]


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
    failed = jnp.where(infeasible, workload.min_tokens, jnp.nan)
    return Allocation(
        tokens=jnp.where(solvable, tokens, failed),
        objective=jnp.where(
            solvable,
            objective(workload, tokens),
            jnp.where(infeasible, -jnp.inf, jnp.nan),
        ),
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

    lane = workload, initial, most_idle
    if not gpu_kernel.takes(workload):
        return plain(lane)
    from_start = functools.partial(_run_from_start, solver=solver)
    return with_kernel(plain, functools.partial(gpu_kernel.in_blocks, from_start), lane)


def _run_from_start(
    workload: Workload, initial: Tokens | None, most_idle: Scalar, solver: Solver
) -> tuple[Tokens, Int[Array, ""]]:
    return run(workload, first_point(workload, initial, most_idle), solver)


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
