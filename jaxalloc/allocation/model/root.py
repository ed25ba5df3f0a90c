"""The root of an increasing function of one variable, found safely and differentiated exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.allocation.model.workload import Flag, Scalar

Function = Callable[[Scalar], Scalar]

_MOST_EVALUATIONS = 200
_ROUNDINGS = 4.0  # in units of eps: a bracket or a step this small ends the search


class _Search(NamedTuple):
    """The loop's carry."""

    low: Scalar  # the root is at least this
    high: Scalar  # and at most this; inf until an upper end is found
    probe: Scalar  # where to look next
    last: Scalar  # the last change of `probe`
    step: Scalar  # Newton's step at the last probe; infinite where the function is flat
    reach: Scalar  # how far to go up while there is no upper end
    best: Scalar  # the argument of the smallest |value| so far
    least: Scalar  # that |value|
    evaluations: Int[Array, ""]


def increasing_root(function: Function, low: Scalar, high: Scalar) -> Scalar:
    """x in [low, high] with function(x) = 0, for a continuous function that never falls.

    Newton's method with the function's own derivative, kept inside a bracket that every evaluation
    cuts; where a step leaves the bracket or does not halve the one before, the middle of the
    bracket is next. Where it is flat at 0 the least argument is wanted. With `high` = inf an upper
    end is looked for first, in steps that double. The derivative of x is that of the implicit
    function, at any order. After 200 evaluations the best argument so far is returned: check what
    the function is there.
    """
    return jax.lax.custom_root(
        function, low, lambda f, guess: _search(f, guess, high), _solve_tangent
    )


def _solve_tangent(slope: Function, value: Scalar) -> Scalar:
    return value / slope(jnp.ones_like(value))


def _search(function: Function, low: Scalar, high: Scalar) -> Scalar:
    eps = jnp.finfo(low.dtype).eps

    def unfinished(search: _Search) -> Flag:
        size = jnp.maximum(jnp.abs(search.low), jnp.abs(search.probe))
        least = _ROUNDINGS * eps * jnp.maximum(size, eps)
        wide = (search.high - search.low > least) & ~(jnp.abs(search.step) <= least)
        return wide & (search.evaluations < _MOST_EVALUATIONS)

    def evaluate(search: _Search) -> _Search:
        x = search.probe
        value, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
        # A value that is not a number comes from beyond what can be solved: from the high side.
        below = value < 0
        at_low, at_high = jnp.where(below, x, search.low), jnp.where(below, search.high, x)
        step = jnp.where(slope > 0, value / slope, jnp.inf)
        newton = x - step
        quick = jnp.abs(newton - x) < jnp.abs(search.last) / 2
        inside = (newton > at_low) & (newton < at_high) & quick
        middle = jnp.where(at_high < jnp.inf, at_low / 2 + at_high / 2, at_low + search.reach)
        target = jnp.where(inside, newton, middle)
        size = jnp.where(jnp.isnan(value), jnp.inf, jnp.abs(value))
        return _Search(
            low=at_low,
            high=at_high,
            probe=target,
            last=target - x,
            step=jnp.where(value == 0, jnp.where(slope > 0, 0, jnp.inf), step),
            reach=jnp.where(at_high < jnp.inf, search.reach, 2 * search.reach),
            best=jnp.where(size <= search.least, x, search.best),
            least=jnp.minimum(size, search.least),
            evaluations=search.evaluations + 1,
        )

    infinite = jnp.full_like(low, jnp.inf)
    first = _Search(
        low=low,
        high=jnp.asarray(high, low.dtype),
        probe=low,
        last=infinite,
        step=infinite,
        reach=jnp.ones_like(low),
        best=low,
        least=infinite,
        evaluations=jnp.int32(0),
    )
    return jax.lax.while_loop(unfinished, evaluate, first).best
