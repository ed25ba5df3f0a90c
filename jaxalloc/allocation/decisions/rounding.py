"""Integer token budgets: nearest, floor, and the best neighbour, with a certified gap."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxalloc.allocation.model.checks import one_workload, vector
from jaxalloc.allocation.model.mg1 import variability
from jaxalloc.allocation.model.objective import (
    Point,
    difference,
    evaluate,
    increase,
    total_increase,
)
from jaxalloc.allocation.model.workload import Flag, Mask, Scalar, Tokens, Workload
from jaxalloc.allocation.optimum.solve import Allocation, solve
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver
from jaxalloc.numerics import without_derivative

_MOST_TYPES_ENUMERATED = 12  # 2^12 neighbours
_NO_DERIVATIVE = (
    "round_tokens has no derivative, since it rounds: differentiate what `solve` returns, or put "
    "the call under jax.lax.stop_gradient"
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


def round_tokens(workload: Workload, allocation: Allocation, solver: Solver = Newton()) -> Rounding:
    """Integer token budgets of one workload, near its optimum.

    The box is first shrunk to integers and solved again from `allocation`, so that at the optimum
    every type is free or sits at an integer bound; then
    `0 <= J(l*) - J(l) <= L |l - l*|² / 2` (derived here) with the curvature L at the smaller idle
    fraction of the two.

    >>> import jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.1, mix=[0.5, 0.5], gain=0.5, decay=[1e-3, 1e-2], floor=0.0,
    ...     base_time=0.1, time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> rounding = jaxalloc.round_tokens(workload, jaxalloc.solve(workload))
    >>> rounding.best.tolist(), bool(0 <= rounding.gap <= rounding.gap_bound)
    ([2066.0, 453.0], True)
    """
    workload = one_workload(workload)
    if not isinstance(allocation, Allocation):
        raise TypeError(
            f"allocation is of type {type(allocation).__name__}: give what solve(workload) returns"
        )
    initial = vector("allocation.tokens", allocation.tokens, workload)
    return without_derivative(
        lambda given: _round(*given, solver), (workload, initial), _NO_DERIVATIVE
    )


@functools.partial(jax.jit, static_argnames="solver")
def _round(workload: Workload, initial: Tokens, solver: Solver) -> Rounding:
    dtype = workload.dtype
    workload = integer_box(workload)
    optimum = solve(workload, solver, initial)
    start = evaluate(workload, optimum.tokens)
    nearest = jnp.clip(jnp.round(start.tokens), workload.min_tokens, workload.max_tokens)
    floor = jnp.floor(start.tokens)
    if workload.num_types <= _MOST_TYPES_ENUMERATED:
        best = _enumerate(workload, start, nearest)
    else:
        best = _improve(workload, start, nearest)
    found = optimum.status == Status.CONVERGED
    bounds = jnp.stack([gap_bound(workload, start, end) for end in (best, nearest, floor)])
    valid = jnp.where(found, 1.0, jnp.nan).astype(dtype)
    return Rounding(
        nearest=nearest * valid,
        floor=floor * valid,
        best=best * valid,
        gap=-total_increase(workload, start, best) * valid,
        gap_bound=jnp.min(bounds) * valid,
        status=optimum.status,
    )


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

    def value(tokens: Tokens) -> Scalar:
        return total_increase(workload, start, tokens)

    def flips(tokens: Tokens) -> tuple[Tokens, Tokens]:
        flipped = jnp.where(tokens == nearest, other, nearest)
        point = evaluate(workload, tokens)
        return flipped, increase(workload, point, difference(workload, point, flipped))

    def climb(tokens: Tokens) -> Tokens:
        def rises(carry: tuple[Tokens, Scalar, Int[Array, ""]]) -> Flag:
            return (carry[1] > 0) & (carry[2] < 4 * workload.num_types)

        def flip(
            carry: tuple[Tokens, Scalar, Int[Array, ""]],
        ) -> tuple[Tokens, Scalar, Int[Array, ""]]:
            tokens, _, count = carry
            flipped, gains = flips(tokens)
            best = jnp.argmax(gains)
            chosen = (jnp.arange(workload.num_types) == best) & (gains[best] > 0)
            return jnp.where(chosen, flipped, tokens), gains[best], count + 1

        first = (tokens, jnp.ones((), tokens.dtype), jnp.int32(0))
        return jax.lax.while_loop(rises, flip, first)[0]

    floor = jnp.floor(start.tokens)
    steady = jnp.where(value(nearest) > -jnp.inf, nearest, floor)
    one, two = climb(floor), climb(steady)
    return jnp.where(value(two) >= value(one), two, one)
