"""The maximum of the likelihood within its bounds: good starts, then damped Newton steps.

A step solves (H + μ diag F) δ = g for the coordinates that are free, with H the observed and F the
expected information; F takes the place of H where that is not positive definite. It is projected on
the bounds and taken if the likelihood does not fall; if it does, μ grows. A coordinate is held
while it sits at a bound and its gradient points outwards. The answer is certified by the Newton
decrement gᵀH⁻¹g of the free coordinates, twice the log-likelihood that is left to gain: being in
units of a log-likelihood it needs no scale.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxalloc.calibration.likelihood import (
    Counts,
    Evaluation,
    Scalar,
    Vector,
    evaluate,
)

Flags = Bool[Array, "3"]

MAX_STEPS = 200
_WINDOWS, _STARTS_EACH = 4, 6  # of the starts, evenly over ln b
_PROMISING = 10.0  # log-likelihood below the best start from which another is still tried
_TOLERANCE = {"float64": 1e-10, "float32": 1e-4}  # of the decrement
_ROUNDING = 64.0  # eps of the log-likelihood that a step may lose
_FIRST_DAMPING = 1e-6
_DAMPING_GROWTH = 16.0
_DAMPING_DECAY = 0.1
_LEAST_DAMPING = 1e-9
_MOST_DAMPING = 1e12
_NO_GAIN = 1e-9  # a gain that ends the search: what is left is a constant
_KEEP = 0.1  # of the gain, and of a floor that data forbid to be 0, after one step
_LEAST_PIVOT = 1e-10  # relative: below it a matrix counts as singular
_FLATTEST, _STEEPEST = 1e-4, 40.0  # the bounds of b l at the largest and the smallest budget
_STARTS = 0.05, 5.0  # b l there for the outermost starts


class Box(NamedTuple):
    """Bounds of (D, v, ln b); equal ones hold a coordinate.

    Attributes:
      low: [3] lower bounds.
      high: [3] upper bounds.
      kappa: 1 where v is the ceiling, 0 where it is the gain.
    """

    low: Vector
    high: Vector
    kappa: Scalar


class Maximum(NamedTuple):
    """Where the likelihood is largest.

    Attributes:
      point: [3] (D, v, ln b).
      value: log-likelihood.
      decrement: twice the log-likelihood that a Newton step would still gain.
      steps: int32.
    """

    point: Vector
    value: Scalar
    decrement: Scalar
    steps: Int[Array, ""]


class _Progress(NamedTuple):
    point: Vector
    at: Evaluation
    damping: Scalar
    steps: Int[Array, ""]


def tolerance(dtype: jnp.dtype) -> float:
    """The largest decrement that counts as converged."""
    return _TOLERANCE[str(dtype)]


def whole_box(counts: Counts) -> Box:
    """0 <= D, U <= 1, and b from nearly straight to over before the smallest budget."""
    dtype = counts.tokens.dtype
    low = jnp.log(_FLATTEST / _largest(counts))
    high = jnp.log(_STEEPEST / _smallest(counts))
    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    return Box(jnp.stack([zero, zero, low]), jnp.stack([one, one, high]), one)


def _largest(counts: Counts) -> Scalar:
    most = jnp.max(jnp.where(counts.trials > 0, counts.tokens, 0))
    return jnp.where(most > 0, most, 1)


def _smallest(counts: Counts) -> Scalar:
    """The smallest budget above 0 that was measured."""
    measured = (counts.trials > 0) & (counts.tokens > 0)
    least = jnp.min(jnp.where(measured, counts.tokens, jnp.inf))
    return jnp.where(jnp.isfinite(least), least, 1)


def search(counts: Counts) -> Maximum:
    """The highest of the maxima that are reached from the best start in each window of rates."""
    box = whole_box(counts)
    windows = jnp.arange(_WINDOWS, dtype=jnp.int32)
    points, values = jax.lax.map(lambda window: _best_start(counts, window), windows)
    promising = values >= jnp.max(values) - _PROMISING

    def climb(window: Int[Array, ""], best: Maximum) -> Maximum:
        top = maximize(counts, points[window], box, promising[window])
        higher = promising[window] & (top.value > best.value)
        return jax.tree.map(lambda new, old: jnp.where(higher, new, old), top, best)

    none = jnp.full_like(values[0], jnp.inf)
    nothing = Maximum(points[0], -none, none, jnp.int32(0))
    return jax.lax.fori_loop(0, _WINDOWS, climb, nothing)


def _best_start(counts: Counts, window: Int[Array, ""]) -> tuple[Vector, Scalar]:
    """The best of some rates b in a window, each with the (D, U) of least squares, and its value.

    Every other start has the ceiling at 1, where the likelihood of a nearly straight rise ends.
    """
    low = jnp.log(_STARTS[0] / _largest(counts))
    high = jnp.log(_STARTS[1] / _smallest(counts))
    weight = counts.trials
    share = counts.correct / jnp.where(weight > 0, weight, 1)
    total = jnp.sum(weight)
    mean = jnp.sum(counts.correct) / total
    margin = 0.5 / (total + 1)

    def consider(index: Int[Array, ""], best: tuple[Vector, Scalar]) -> tuple[Vector, Scalar]:
        at_one = index % 2 == 1
        place = window * _STARTS_EACH + index // 2
        along = place.astype(low.dtype) / (_WINDOWS * _STARTS_EACH - 1)
        rate = low + (high - low) * along
        rest = jnp.exp(-jnp.exp(rate) * counts.tokens)
        middle = jnp.sum(weight * rest) / total
        spread = jnp.sum(weight * jnp.square(rest - middle))
        squares = jnp.sum(weight * jnp.square(rest))
        slope = jnp.sum(weight * (rest - middle) * share) / jnp.where(spread > 0, spread, 1)  # -A
        alone = jnp.sum(weight * rest * (1 - share)) / jnp.where(squares > 0, squares, 1)  # 1 - D
        ceiling = jnp.where(at_one, 1, jnp.clip(mean - slope * middle, 2 * margin, 1 - margin))
        floor = jnp.where(at_one, 1 - alone, mean + slope * (1 - middle))
        floor = jnp.clip(floor, margin, ceiling - margin / 2)
        point = jnp.stack([floor, ceiling, rate])
        value = evaluate(counts, point, jnp.ones_like(floor)).value
        better = value > best[1]
        return jnp.where(better, point, best[0]), jnp.where(better, value, best[1])

    none = jnp.stack([mean / 2, (1 + mean) / 2, (low + high) / 2]), -jnp.inf * jnp.ones_like(mean)
    return jax.lax.fori_loop(0, 2 * _STARTS_EACH, consider, none)


def maximize(
    counts: Counts, start: Vector, box: Box, wanted: Bool[Array, ""] | bool = True
) -> Maximum:
    """Steps from `start` until the decrement is within tolerance, or nothing gains any more."""
    # A level 0 with a correct answer keeps the floor above 0.
    positive = jnp.any((counts.tokens == 0) & (counts.correct > 0))
    limit = tolerance(counts.tokens.dtype)

    def unfinished(progress: _Progress) -> Bool[Array, ""]:
        _, decrement = _direction(
            progress.point, progress.at, box, jnp.zeros_like(progress.damping)
        )
        going = (progress.steps < MAX_STEPS) & (progress.damping < _MOST_DAMPING)
        going &= progress.point[1] - box.kappa * progress.point[0] > _NO_GAIN
        return wanted & going & ~(decrement <= limit)

    def advance(progress: _Progress) -> _Progress:
        step, _ = _direction(progress.point, progress.at, box, progress.damping)
        point = _move(progress.point, step, box, positive)
        at = evaluate(counts, point, box.kappa)
        slack = _ROUNDING * jnp.finfo(point.dtype).eps * jnp.abs(progress.at.value)
        accepted = at.value >= progress.at.value - slack
        less = progress.damping * _DAMPING_DECAY
        less = jnp.where(less < _LEAST_DAMPING, 0, less)
        more = jnp.maximum(progress.damping * _DAMPING_GROWTH, _FIRST_DAMPING)
        point, at = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old),
            (point, at),
            (progress.point, progress.at),
        )
        return _Progress(point, at, jnp.where(accepted, less, more), progress.steps + 1)

    first = _Progress(
        start, evaluate(counts, start, box.kappa), jnp.zeros_like(start[0]), jnp.int32(0)
    )
    last = jax.lax.while_loop(unfinished, advance, first)
    _, decrement = _direction(last.point, last.at, box, jnp.zeros_like(last.damping))
    return Maximum(last.point, last.at.value, decrement, last.steps)


def held(point: Vector, gradient: Vector, box: Box) -> Flags:
    """Which coordinates sit at a bound and are pushed against it."""
    at_low, at_high = point <= box.low, point >= box.high
    return (at_low & (gradient <= 0)) | (at_high & (gradient >= 0)) | (box.low >= box.high)


def _direction(point: Vector, at: Evaluation, box: Box, damping: Scalar) -> tuple[Vector, Scalar]:
    """The damped Newton step of the free coordinates, and its product with the gradient."""
    gradient = jnp.stack(at.gradient)
    free = ~held(point, gradient, box)
    gradient = jnp.where(free, gradient, 0)
    damped = tuple(
        entry + damping * own for entry, own in zip(at.observed[:3], at.expected[:3], strict=True)
    )
    newton, positive = _solve((*damped, *at.observed[3:]), gradient, free)
    enlarged = tuple(entry * (1 + damping) for entry in at.expected[:3])
    scoring, _ = _solve((*enlarged, *at.expected[3:]), gradient, free)
    step = jnp.where(positive, newton, scoring)
    return step, jnp.sum(gradient * step)


def _solve(
    matrix: tuple[Scalar, ...], right: Vector, free: Flags
) -> tuple[Vector, Bool[Array, ""]]:
    """Solve a symmetric 3 x 3 system on the free coordinates; and whether it is definite.

    L D Lᵀ without pivoting; where a pivot is not positive, a tiny one takes its place.
    """
    a, b, c = (jnp.where(free[i], matrix[i], 1) for i in range(3))
    d = jnp.where(free[0] & free[1], matrix[3], 0)
    e = jnp.where(free[0] & free[2], matrix[4], 0)
    f = jnp.where(free[1] & free[2], matrix[5], 0)
    first, ok_first = _pivot(a, a)
    l10, l20 = d / first, e / first
    second, ok_second = _pivot(b - l10 * d, b)
    l21 = (f - l20 * d) / second
    third, ok_third = _pivot(c - l20 * e - l21 * l21 * second, c)
    y0 = right[0]
    y1 = right[1] - l10 * y0
    y2 = right[2] - l20 * y0 - l21 * y1
    x2 = y2 / third
    x1 = y1 / second - l21 * x2
    x0 = y0 / first - l10 * x1 - l20 * x2
    return jnp.stack([x0, x1, x2]), ok_first & ok_second & ok_third


def _pivot(value: Scalar, scale: Scalar) -> tuple[Scalar, Bool[Array, ""]]:
    least = _LEAST_PIVOT * jnp.abs(scale)
    positive = value > least
    tiny = jnp.maximum(least, jnp.finfo(value.dtype).tiny * 1e10)
    return jnp.where(positive, value, tiny), positive


def _move(point: Vector, step: Vector, box: Box, positive: Bool[Array, ""]) -> Vector:
    """`point + step` within the bounds; the gain keeps a tenth of itself."""
    gain = point[1] - box.kappa * point[0]
    loss = -(step[1] - box.kappa * step[0])
    most = (1 - _KEEP) * gain
    share = jnp.where(loss > most, most / jnp.where(loss > most, loss, 1), 1)
    target = jnp.clip(point + share * step, box.low, box.high)
    floor = jnp.where(positive, jnp.maximum(target[0], _KEEP * point[0]), target[0])
    floor = jnp.where(box.low[0] >= box.high[0], box.low[0], floor)
    # Projection can close the gap again.
    ceiling = jnp.where(box.kappa > 0, jnp.maximum(target[1], floor + _KEEP * gain), target[1])
    return jnp.stack([floor, jnp.clip(ceiling, box.low[1], box.high[1]), target[2]])
