"""The line of service times: least squares, Huber's loss, and the scatter around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.rows import PerRow

_HUBER = 1.345  # scales: 95 % of the efficiency of least squares on normal residuals
_MAD_TO_SCALE = 1.4826  # median absolute residual to standard deviation, of normal residuals
_MEDIAN_ERROR = 1.17  # of the scale from a median, over √N: its efficiency is 37 % (normal law)
_MAX_ROUNDS = 200
_LEAST_TIME = 1e-3  # of the mean, below which residuals are not made relative
_LEAST_CHANGE = {"float64": 1e-10, "float32": 1e-5}  # relative, of the fitted times
_ROUNDING = 1e3  # eps of a relative residual that is 0


class Rows(NamedTuple):
    """Measured times.

    Attributes:
      tokens: [N] in units of the largest.
      seconds: [N].
      weight: [N] rows with 0 play no part.
    """

    tokens: PerRow
    seconds: PerRow
    weight: PerRow


class Lines(NamedTuple):
    """(t0, c) of least weighted squares.

    Attributes:
      line: [2] that with t0 >= 0.
      at_bound: whether that bound holds it.
      unbounded: [2] without the bound.
    """

    line: Float[Array, "2"]
    at_bound: Bool[Array, ""]
    unbounded: Float[Array, "2"]


def straight(rows: Rows, loss: PerRow) -> Lines:
    """The line of least weighted squares."""
    total = jnp.sum(loss)
    middle, height = jnp.sum(loss * rows.tokens) / total, jnp.sum(loss * rows.seconds) / total
    away = rows.tokens - middle
    spread = jnp.sum(loss * jnp.square(away))
    slope = jnp.sum(loss * away * (rows.seconds - height)) / jnp.where(spread > 0, spread, 1)
    start = height - slope * middle
    square = jnp.sum(loss * jnp.square(rows.tokens))
    through = jnp.sum(loss * rows.tokens * rows.seconds) / jnp.where(square > 0, square, 1)
    at_bound = (start < 0) & (slope > 0)
    unbounded = jnp.stack([start, slope])
    held = jnp.stack([jnp.zeros_like(start), through])
    return Lines(jnp.where(at_bound, held, unbounded), at_bound, unbounded)


def residuals(rows: Rows, line: Float[Array, "2"]) -> PerRow:
    """Measured less fitted times, s."""
    return rows.seconds - line[0] - line[1] * rows.tokens


def fitted_times(rows: Rows, line: Float[Array, "2"]) -> PerRow:
    """t0 + c l, kept away from 0."""
    mean = jnp.sum(rows.weight * rows.seconds) / jnp.sum(rows.weight)
    return jnp.maximum(line[0] + line[1] * rows.tokens, _LEAST_TIME * mean)


def scale_of(rows: Rows, line: Float[Array, "2"]) -> Scalar:
    """The standard deviation of the relative residuals as their median size tells it."""
    sizes = jnp.abs(residuals(rows, line)) / fitted_times(rows, line)
    return _MAD_TO_SCALE * jnp.nanmedian(jnp.where(rows.weight > 0, sizes, jnp.nan))


def reweight(rows: Rows) -> tuple[PerRow, Int[Array, ""], Bool[Array, ""]]:
    """Huber's weights on relative residuals, the rounds they took, and whether they settled."""
    limit = _LEAST_CHANGE[str(rows.seconds.dtype)]

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        _, change, count = carry
        return (change > limit) & (count < _MAX_ROUNDS)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        line, _, count = carry
        new = straight(rows, weights(rows, line)).line
        change = jnp.sum(jnp.abs(new - line)) / jnp.maximum(jnp.sum(jnp.abs(new)), 1e-30)
        return new, change, count + 1

    first = straight(rows, rows.weight).line
    start = first, jnp.full_like(first[0], jnp.inf), jnp.int32(0)
    line, change, count = jax.lax.while_loop(unfinished, advance, start)
    return weights(rows, line), count, change <= limit


def weights(rows: Rows, line: Float[Array, "2"]) -> PerRow:
    """What a row weighs in the next round of least squares."""
    fitted = fitted_times(rows, line)
    size = jnp.abs(residuals(rows, line)) / fitted
    limit = _HUBER * scale_of(rows, line)
    huber = jnp.where(size > limit, limit / jnp.maximum(size, 1e-30), 1)
    return rows.weight * huber / jnp.square(fitted)


def scatter(rows: Rows, line: Float[Array, "2"], robust: bool) -> tuple[Scalar, Scalar]:
    """The coefficient of variation of the service time, and its standard error."""
    number = jnp.sum(rows.weight)
    if robust:
        scale = scale_of(rows, line)
        return scale, _MEDIAN_ERROR * scale / jnp.sqrt(number)
    time = jnp.square(fitted_times(rows, line))
    residual = jnp.square(residuals(rows, line))
    second = jnp.sum(rows.weight * time)
    square = jnp.sum(rows.weight * residual) / second * number / jnp.maximum(number - 2, 1)
    influence = rows.weight * (residual - square * time)
    error = jnp.sqrt(jnp.sum(jnp.square(influence))) / second
    cv = jnp.sqrt(square)
    return cv, jnp.where(cv > 0, error / jnp.where(cv > 0, 2 * cv, 1), 0)


def without_scale(rows: Rows, line: Float[Array, "2"]) -> Bool[Array, ""]:
    """Whether most times lie on the line exactly and others do not: Huber's loss has no scale."""
    none = _ROUNDING * jnp.finfo(rows.seconds.dtype).eps
    sizes = jnp.abs(residuals(rows, line)) / fitted_times(rows, line)
    largest = jnp.max(jnp.where(rows.weight > 0, sizes, 0), initial=0)
    return (scale_of(rows, line) <= none) & (largest > none)
