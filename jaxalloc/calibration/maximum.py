"""The maximum of the likelihood within its bounds: good starts, then damped Newton steps.

A step solves (H + μ diag F) δ = g for the coordinates that are free, with H the observed and F the
expected information; F takes the place of H where that is not positive definite. It is projected on
the bounds and taken if the likelihood does not fall; if it does, μ grows. A coordinate is held
while it sits at a bound and its gradient points outwards. The answer is certified by the Newton
decrement gᵀH⁻¹g of the free coordinates, twice the log-likelihood that is left to gain: being in
units of a log-likelihood it needs no scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxalloc.backend.dispatch import dispatch
from jaxalloc.calibration.likelihood import (
    PAIRS,
    Counts,
    Evaluation,
    Scalar,
    Symmetric,
    Vector,
    curve,
    evaluate,
    full,
    inverse_of,
    log_likelihood,
    over,
)

Flags = Bool[Array, "3"]

_MAX_STEPS = 200
_WINDOWS, _STARTS_EACH = 4, 6  # of the starts, evenly over ln b
_PROMISING = 10.0  # log-likelihood below the best start from which another is still tried
_TOLERANCE = {"float64": 1e-10, "float32": 1e-4}  # of the decrement
_ROUNDING = 64.0  # eps of the log-likelihood that a step may lose
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-6, 1e-9, 1e12
_DAMPING_GROWTH, _DAMPING_DECAY = 16.0, 0.1
_LEAST_PIVOT = 1e-10  # relative: below it a matrix counts as singular
_NO_GAIN = 1e-9  # a gain that ends the search: what is left is a constant
_KEEP = 0.1  # of the gain, and of a floor that data forbid to be 0, after one step
_FLATTEST, _STEEPEST = 1e-4, 40.0  # the bounds of b l at the largest and the smallest budget
_STARTS = 0.05, 5.0  # b l there for the outermost starts


class Box(NamedTuple):
    """Bounds of (D, v, ln b); equal ones hold a coordinate.

    Attributes:
      low, high: [3] bounds.
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


def whole_box(counts: Counts) -> Box:
    """0 <= D, U <= 1, and b from nearly straight to over before the smallest budget."""
    low, high = _rates(counts, _FLATTEST, _STEEPEST)
    zero, one = jnp.zeros_like(low), jnp.ones_like(low)
    return Box(jnp.stack([zero, zero, low]), jnp.stack([one, one, high]), one)


def _rates(counts: Counts, at_largest: float, at_smallest: float) -> tuple[Scalar, Scalar]:
    """ln b where b l has these values at the largest and at the smallest budget above 0."""
    measured = (counts.trials > 0) & (counts.tokens > 0)
    most = jnp.max(jnp.where(measured, counts.tokens, 0))
    least = jnp.min(jnp.where(measured, counts.tokens, jnp.inf))
    some = most > 0
    return (
        jnp.log(at_largest / jnp.where(some, most, 1)),
        jnp.log(at_smallest / jnp.where(some, least, 1)),
    )


def climb(counts: Counts) -> Maximum:
    """The highest maximum, or the constant where nothing that rises is more likely."""
    top = _highest(counts)
    mean, flat = constant_of(counts)
    constant = Maximum(jnp.stack([mean, mean, top.point[2]]), flat, jnp.zeros_like(flat), top.steps)
    return jax.tree.map(lambda own, other: jnp.where(top.value > flat, own, other), top, constant)


@jax.custom_jvp
def _highest(counts: Counts) -> Maximum:
    """The highest maximum of curves that rise, found in the form that the platform runs best.

    Its derivative is that of the equations of the maximum, H dθ = d(gradient), on the coordinates
    that are free (implicit function theorem), not of the iterations.
    """
    return dispatch(_search, counts)


@_highest.defjvp
def _highest_jvp(primals: tuple[Counts], tangents: tuple[Counts]) -> tuple[Maximum, Maximum]:
    (counts,), (moved,) = primals, tangents
    top = _highest(counts)

    def at(own: Counts) -> tuple[Scalar, Vector]:
        there = evaluate(own, top.point)
        return there.value, jnp.stack(there.gradient)

    _, (value, push) = jax.jvp(at, (counts,), (moved,))
    there = evaluate(counts, top.point)
    fixed = held(top.point, jnp.stack(there.gradient), whole_box(counts))
    point = inverse_of(full(there.observed), ~fixed) @ push
    none: Any = np.zeros(top.steps.shape, jax.dtypes.float0)  # an integer has no tangent
    return top, Maximum(point, value, jnp.zeros_like(top.decrement), none)


def constant_of(counts: Counts) -> tuple[Scalar, Scalar]:
    """The share of correct answers, and the log-likelihood of it at every budget."""
    mean = over(jnp.sum(counts.correct), jnp.sum(counts.trials))
    return mean, log_likelihood(counts, mean * jnp.ones_like(counts.tokens))


def _search(counts: Counts) -> Maximum:
    """The highest of the maxima that are reached from the best start in each window of rates."""
    box = whole_box(counts)
    low, high = _rates(counts, *_STARTS)
    along = jnp.linspace(0, 1, _WINDOWS * _STARTS_EACH, dtype=low.dtype)
    rates = low + (high - low) * along
    points, values = jax.lax.map(lambda rate: _best_start(counts, rate), rates)

    def climb(window: tuple[Vector, Scalar]) -> Maximum:
        starts, own = window
        best = jnp.argmax(own)
        promising = own[best] >= jnp.max(values) - _PROMISING
        top = maximize(counts, starts[best], box, promising)
        return top._replace(value=jnp.where(promising, top.value, -jnp.inf))

    windows = points.reshape(_WINDOWS, _STARTS_EACH, 3), values.reshape(_WINDOWS, _STARTS_EACH)
    tops = jax.lax.map(climb, windows)
    highest = jnp.argmax(tops.value)
    return jax.tree.map(lambda leaf: leaf[highest], tops)


def _best_start(counts: Counts, rate: Scalar) -> tuple[Vector, Scalar]:
    """The better of two starts at one rate, and its value: (D, U) of least squares, or U = 1.

    At U = 1 the likelihood of a nearly straight rise ends.
    """
    weight = counts.trials
    share = counts.correct / jnp.where(weight > 0, weight, 1)
    total = jnp.sum(weight)
    mean = jnp.sum(counts.correct) / total
    margin = 0.5 / (total + 1)
    rest = jnp.exp(-jnp.exp(rate) * counts.tokens)
    middle = jnp.sum(weight * rest) / total
    spread = jnp.sum(weight * jnp.square(rest - middle))
    squares = jnp.sum(weight * jnp.square(rest))
    slope = jnp.sum(weight * (rest - middle) * share) / jnp.where(spread > 0, spread, 1)  # -A
    alone = jnp.sum(weight * rest * (1 - share)) / jnp.where(squares > 0, squares, 1)  # 1 - D
    ceiling = jnp.clip(mean - slope * middle, 2 * margin, 1 - margin)

    def start(floor: Scalar, ceiling: Scalar) -> tuple[Vector, Scalar]:
        point = jnp.stack([jnp.clip(floor, margin, ceiling - margin / 2), ceiling, rate])
        return point, log_likelihood(counts, curve(counts.tokens, point)[0])

    one = start(mean + slope * (1 - middle), ceiling)
    other = start(1 - alone, jnp.ones_like(ceiling))
    return jax.tree.map(lambda a, b: jnp.where(one[1] >= other[1], a, b), one, other)


def maximize(
    counts: Counts, start: Vector, box: Box, wanted: Bool[Array, ""] | bool = True
) -> Maximum:
    """Steps from `start` until the decrement is within tolerance, or nothing gains any more."""
    # A level 0 with a correct answer keeps the floor above 0.
    positive = jnp.any((counts.tokens == 0) & (counts.correct > 0))
    limit = _TOLERANCE[str(counts.tokens.dtype)]

    def decrement(progress: _Progress) -> Scalar:
        return _direction(progress.point, progress.at, box, 0)[1]

    def unfinished(progress: _Progress) -> Bool[Array, ""]:
        going = (progress.steps < _MAX_STEPS) & (progress.damping < _MOST_DAMPING)
        going &= progress.point[1] - box.kappa * progress.point[0] > _NO_GAIN
        return wanted & going & ~(decrement(progress) <= limit)

    def advance(progress: _Progress) -> _Progress:
        step, _ = _direction(progress.point, progress.at, box, progress.damping)
        point = _move(progress.point, step, box, positive)
        at = evaluate(counts, point, box.kappa)
        slack = _ROUNDING * jnp.finfo(point.dtype).eps * jnp.abs(progress.at.value)
        accepted = at.value >= progress.at.value - slack
        less = progress.damping * _DAMPING_DECAY
        less = jnp.where(less < _LEAST_DAMPING, 0, less)
        more = jnp.maximum(progress.damping * _DAMPING_GROWTH, _FIRST_DAMPING)
        new, old = (point, at), (progress.point, progress.at)
        point, at = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)
        return _Progress(point, at, jnp.where(accepted, less, more), progress.steps + 1)

    at = evaluate(counts, start, box.kappa)
    first = _Progress(start, at, jnp.zeros_like(start[0]), jnp.int32(0))
    last = jax.lax.while_loop(unfinished, advance, first)
    return Maximum(last.point, last.at.value, decrement(last), last.steps)


def held(point: Vector, gradient: Vector, box: Box) -> Flags:
    """Which coordinates sit at a bound and are pushed against it."""
    at_low, at_high = point <= box.low, point >= box.high
    return (at_low & (gradient <= 0)) | (at_high & (gradient >= 0)) | (box.low >= box.high)


def _direction(
    point: Vector, at: Evaluation, box: Box, damping: Scalar | int
) -> tuple[Vector, Scalar]:
    """The damped Newton step of the free coordinates, and its product with the gradient."""
    gradient = jnp.stack(at.gradient)
    own = at.expected[:3]
    free = ~held(point, gradient, box) & (jnp.stack(own) > 0)
    gradient = jnp.where(free, gradient, 0)

    def of_free(matrix: Symmetric, damping: Scalar | float) -> Symmetric:
        diagonal = [x + damping * unit for x, unit in zip(matrix[:3], own, strict=True)]
        return tuple(
            jnp.where(free[i] & free[j], entry, float(i == j))
            for (i, j), entry in zip(PAIRS, (*diagonal, *matrix[3:]), strict=True)
        )

    newton = of_free(at.observed, damping)
    a, b, c, d, e, f = newton
    minor = a * b - d * d
    determinant = c * minor - b * e * e - a * f * f + 2 * d * e * f
    definite = (a > 0) & (minor > _LEAST_PIVOT * a * b) & (determinant > _LEAST_PIVOT * c * minor)
    scoring = of_free(at.expected, damping + _LEAST_DAMPING)
    a, b, c, d, e, f = (jnp.where(definite, *pair) for pair in zip(newton, scoring, strict=True))
    cofactors = full(
        (b * c - f * f, a * c - e * e, a * b - d * d, e * f - d * c, d * f - b * e, d * e - a * f)
    )
    determinant = a * cofactors[0, 0] + d * cofactors[0, 1] + e * cofactors[0, 2]
    # Where rounding leaves no positive determinant, a NaN for a step is refused: damping grows.
    step = jnp.sum(cofactors * gradient[None, :], axis=1) / jnp.where(
        determinant > 0, determinant, jnp.nan
    )
    return step, jnp.sum(gradient * step)


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
