"""Integer token budgets: nearest, floor, and the best neighbour, with what each of them loses.

The loss is told by the formulas, bounded by a certificate, and, if asked for, seen on sample paths.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxalloc.allocation.model.checks import one_workload, vector
from jaxalloc.allocation.model.mg1 import variability
from jaxalloc.allocation.model.objective import (
    Point,
    accuracy,
    difference,
    evaluate,
    increase,
    total_increase,
)
from jaxalloc.allocation.model.workload import Mask, Scalar, Tokens, Workload
from jaxalloc.allocation.optimum.solve import Allocation, solve
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.allocation.queue.estimates import paired_difference
from jaxalloc.allocation.queue.fifo import simulate_fifo
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver
from jaxalloc.numerics import without_derivative

_MOST_TYPES_ENUMERATED = 12  # 2^12 neighbours
_FLIPS = 4  # for every type, at most, on the climb among more types
_NO_DERIVATIVE = (
    "{} has no derivative, since it rounds: differentiate what `solve` returns, or put the call "
    "under jax.lax.stop_gradient"
)


class Rounding(NamedTuple):
    """Integer tokens around the optimum of the integer box [ceil(l_min), floor(l_max)].

    Attributes:
      nearest: [K] the nearest integers; the queue may be unstable there.
      floor: [K] the integers below, always stable.
      best: [K] the floor/ceil neighbour of largest J, always stable, never worse than `floor`, or
        than `nearest` where that is stable. Exact for K <= 12; beyond, the best that no change of a
        single type improves.
      gap: J at the continuous optimum minus J at `best`, s.
      gap_bound: what the gap cannot exceed, from the curvature alone (derived here), s.
      status: int32 `Status` of the continuous optimum in the integer box: INVALID where a type has
        no integer between its bounds, INFEASIBLE where the queue is unstable at the least integers.
        Where it is not CONVERGED, tokens and gaps are NaN.
    """

    nearest: Tokens
    floor: Tokens
    best: Tokens
    gap: Scalar
    gap_bound: Scalar
    status: Int[Array, ""]


class Loss(NamedTuple):
    """What one way of rounding loses against the continuous optimum."""

    tokens: Tokens  # whole ones
    loss: Scalar  # J at the optimum minus J at the tokens, s; inf where the queue is unstable there
    bound: Scalar  # what the loss cannot exceed (`round_tokens` derives it), s
    simulated: Scalar  # the same loss on sample paths with common random numbers, s, or NaN
    low: Scalar  # lower end of its interval
    high: Scalar  # and the upper


class RoundingLoss(NamedTuple):
    """What `rounding_loss` returns; numbers are NaN where the status is not CONVERGED."""

    tokens: Tokens  # the continuous optimum between whole bounds (`round_tokens`)
    objective: Scalar  # J there, s
    nearest: Loss  # of the nearest integers
    floor: Loss  # of the integers below
    best: Loss  # of the best neighbours
    status: Int[Array, ""]  # int32 `Status`


def round_tokens(workload: Workload, allocation: Allocation, solver: Solver = Newton()) -> Rounding:
    """Integer token budgets of one workload, near its optimum.

    The box is first shrunk to integers and solved again from `allocation`, so that at the optimum
    every type is free or sits at an integer bound; then
    `0 <= J(l*) - J(l) <= L |l - l*|² / 2` (derived here) with the curvature L at the smaller idle
    fraction of the two.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> rounding = jaxalloc.round_tokens(workload, jaxalloc.solve(workload))
    >>> rounding.best.tolist(), bool(0 <= rounding.gap <= rounding.gap_bound)
    ([4072.0, 4702.0, 704.0, 2245.0, 1393.0], True)
    """
    workload = one_workload(workload)
    if not isinstance(allocation, Allocation):
        raise TypeError(
            f"allocation is of type {type(allocation).__name__}: give what solve(workload) returns"
        )
    initial = vector("allocation.tokens", allocation.tokens, workload)
    lost, bound = without_derivative(
        lambda given: _round(*given, solver),
        (workload, initial),
        _NO_DERIVATIVE.format("round_tokens"),
    )
    tokens = lost.nearest.tokens, lost.floor.tokens, lost.best.tokens
    return Rounding(*tokens, lost.best.loss, bound, lost.status)


def rounding_loss(
    workload: Workload,
    key: Array | None = None,
    num_queries: int = 1_000_000,
    *,
    confidence: float = 0.99,
) -> RoundingLoss:
    """The loss of nearest, floor and best-neighbour rounding: analytic, bounded and simulated.

    The simulated loss is α (accuracy at the optimum - rounded) - (mean system time at the optimum -
    rounded), on the same arrivals and types: its interval is that of the 32 paired differences, a
    small part of what either path alone would leave. The accuracy is that of the types that came;
    single answers would tell nothing, since a token more or less changes one in a million of them.

    Args:
      workload: one workload; solved here.
      key: of the sample paths; None leaves them out.
      num_queries: of each of the four sample paths.
      confidence: of the intervals.

    >>> import jaxalloc
    >>> lost = jaxalloc.rounding_loss(jaxalloc.load("qwen3-8b").workload)
    >>> bool(0 <= lost.best.loss <= lost.nearest.loss <= lost.nearest.bound < 1e-4)
    True
    """
    workload = one_workload(workload)
    lost, _ = without_derivative(
        lambda workload: _round(workload, solve(workload).tokens, Newton()),
        workload,
        _NO_DERIVATIVE.format("rounding_loss"),
    )

    # NumPy's: an array of JAX's that is NaN raises under `jax.debug_nans`.
    unknown: Any = np.full((), np.nan, workload.dtype)

    def path(tokens: Tokens) -> Any:
        if key is None:
            return None
        result = simulate_fifo(key, workload, tokens, num_queries, confidence=confidence)
        correct = (result.group_types * accuracy(workload, tokens)[None, :]).sum(axis=1)
        return workload.accuracy_weight * correct - result.group_means[:, 0]

    def seen(loss: Loss) -> Loss:
        if optimum is None:
            return loss._replace(simulated=unknown, low=unknown, high=unknown)
        interval = paired_difference(optimum, path(loss.tokens), confidence)
        middle, low, high = (jnp.where(loss.loss < jnp.inf, x, x + jnp.inf) for x in interval)
        return loss._replace(simulated=middle, low=low, high=high)

    optimum = path(lost.tokens)
    return lost._replace(
        **{name: seen(getattr(lost, name)) for name in ("nearest", "floor", "best")}
    )


@functools.partial(jax.jit, static_argnames="solver")
def _round(workload: Workload, initial: Tokens, solver: Solver) -> tuple[RoundingLoss, Scalar]:
    """Everything but the sample paths, and the least bound of the three."""
    workload = integer_box(workload)
    optimum = solve(workload, solver, initial)
    start = evaluate(workload, optimum.tokens)
    near = jnp.clip(jnp.round(start.tokens), workload.min_tokens, workload.max_tokens)
    find = _enumerate if workload.num_types <= _MOST_TYPES_ENUMERATED else _improve
    found = optimum.status == Status.CONVERGED
    valid = jnp.where(found, 1.0, jnp.nan).astype(workload.dtype)

    def lost(tokens: Tokens) -> Loss:
        loss, bound = -total_increase(workload, start, tokens), gap_bound(workload, start, tokens)
        unseen: Any = None
        return Loss(tokens * valid, loss * valid, bound * valid, unseen, unseen, unseen)

    ways = near, jnp.floor(start.tokens), find(workload, start, near)
    nearest, floor, best = (lost(tokens) for tokens in ways)
    bound = jnp.minimum(jnp.minimum(nearest.bound, floor.bound), best.bound)
    tokens, value = optimum.tokens * valid, optimum.objective * valid
    return RoundingLoss(tokens, value, nearest, floor, best, optimum.status), bound


def integer_box(workload: Workload) -> Workload:
    """The same workload with the token box shrunk to integers."""
    return dataclasses.replace(
        workload,
        min_tokens=jnp.ceil(workload.min_tokens),
        max_tokens=jnp.floor(workload.max_tokens),
    )


def gap_bound(workload: Workload, start: Point, tokens: Tokens) -> Scalar:
    """`-∇Jᵀδ + L |δ|² / 2 >= J(start) - J(tokens)`, δ = tokens - start; inf if unstable there.

    L bounds the curvature on the segment between the two:
    `L = max π α A b² e^{-b min(l, l')} + g (1 + g √V)² max π κ c²` with the larger g and V (derived
    here). The first term is what is left of the gradient at a numerical optimum.
    """
    end = evaluate(workload, tokens)
    step = tokens - start.tokens
    slope = workload.mix * workload.time_per_token * start.price * start.excess
    least = jnp.minimum(start.tokens, tokens)
    steepest = workload.mix * workload.accuracy_weight * workload.gain
    steepest *= jnp.square(workload.decay) * jnp.exp(-workload.decay * least)
    g = jnp.maximum(start.load_price, end.load_price)
    second_moment = jnp.maximum(start.second_moment, end.second_moment)
    seconds = workload.mix * variability(workload) * jnp.square(workload.time_per_token)
    system_time = g * jnp.square(1 + g * jnp.sqrt(second_moment)) * jnp.max(seconds)
    bound = (jnp.max(steepest) + system_time) * jnp.sum(jnp.square(step)) / 2
    return jnp.where(end.idle > 0, bound - jnp.sum(slope * step), jnp.inf)


def _other_neighbour(workload: Workload, start: Point, nearest: Tokens) -> Tokens:
    """The second nearest integer of every type, where the box has it."""
    other = nearest + jnp.where(nearest <= start.tokens, 1, -1)
    other = jnp.where(start.tokens == nearest, nearest, other)
    return jnp.clip(other, workload.min_tokens, workload.max_tokens)


def _enumerate(workload: Workload, start: Point, nearest: Tokens) -> Tokens:
    """The best of all 2^K neighbours; `nearest` comes first and wins ties."""
    other = _other_neighbour(workload, start, nearest)
    choices = np.array(list(itertools.product([False, True], repeat=workload.num_types)))

    def gained(choice: Mask) -> Scalar:
        return total_increase(workload, start, jnp.where(choice, other, nearest))

    gains = jax.lax.map(gained, jnp.asarray(choices), batch_size=min(64, len(choices)))
    return jnp.where(jnp.asarray(choices)[jnp.argmax(gains)], other, nearest)


def _improve(workload: Workload, start: Point, nearest: Tokens) -> Tokens:
    """Change one type at a time, the one that raises J most, from floor and from nearest."""
    other = _other_neighbour(workload, start, nearest)

    def climbed(tokens: Tokens) -> tuple[Scalar, Tokens]:
        def flip(_: Any, tokens: Tokens) -> Tokens:
            flipped, point = (
                jnp.where(tokens == nearest, other, nearest),
                evaluate(workload, tokens),
            )
            gains = increase(workload, point, difference(workload, point, flipped))
            chosen = jnp.arange(workload.num_types) == jnp.argmax(gains)
            return jnp.where(chosen & (gains > 0), flipped, tokens)

        tokens = jax.lax.fori_loop(0, _FLIPS * workload.num_types, flip, tokens)
        return total_increase(workload, start, tokens), tokens

    floor = jnp.floor(start.tokens)
    stable = total_increase(workload, start, nearest) > -jnp.inf
    (one, low), (two, near) = climbed(floor), climbed(jnp.where(stable, nearest, floor))
    return jnp.where(two >= one, near, low)
