"""Service times from measurements: an affine law, its covariance, and the scatter around it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalloc.backend.chunks import platform_of
from jaxalloc.calibration.clusters import one_sided_error, outer_products, sum_by_question
from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.quantiles import student_quantile
from jaxalloc.calibration.rows import PerRow, as_floats, check_rows
from jaxalloc.calibration.status import FitStatus
from jaxalloc.numerics import without_derivative

_HUBER = 1.345  # scales: 95 % of the efficiency of least squares on normal residuals
_MAD_TO_SCALE = 1.4826  # median absolute residual to standard deviation, of normal residuals
_MEDIAN_ERROR = 1.17  # of the scale from a median, over √N: its efficiency is 37 % (normal law)
_MAX_ROUNDS = 200
_LEAST_TIME = 1e-3  # of the mean, below which residuals are not made relative
_LEAST_CHANGE = {"float64": 1e-10, "float32": 1e-5}  # relative, of the fitted times
_NO_DERIVATIVE = (
    "fit_service_time with robust = True has no derivative, since it iterates: use robust = False, "
    "or put the call under jax.lax.stop_gradient"
)
_SLOPE_ERRORS = 3.72  # standard errors above 0 that a slope must be: by chance one time in 10^4


class ServiceFit(NamedTuple):
    """A service time t(l) = t0 + c l and how well it is known.

    Attributes:
      base_time: t0, s.
      time_per_token: c, s / token.
      service_cv: root of Σ residual² / Σ t(l)²: the coefficient of variation that gives the queue
        the second moment of what was measured; robustly, the scale of the relative residuals.
      covariance: [2, 2] of (base_time, time_per_token), whatever the law of the residuals, and of
        whole questions where those were given. NaN unless the status is usable.
      service_cv_se: its standard error.
      dof: degrees of freedom: rows - 2, or questions - 1.
      steps: int32, rounds of reweighting; 0 for least squares.
      status: int32, a `FitStatus`.
    """

    base_time: Scalar
    time_per_token: Scalar
    service_cv: Scalar
    covariance: Float[Array, "2 2"]
    service_cv_se: Scalar
    dof: Scalar
    steps: Int[Array, ""]
    status: Int[Array, ""]

    @property
    def standard_error(self) -> Float[Array, "2"]:
        """[2] of (base_time, time_per_token)."""
        return jnp.sqrt(jnp.diagonal(self.covariance, axis1=-2, axis2=-1))


class _Rows(NamedTuple):
    tokens: PerRow  # in units of the largest
    seconds: PerRow
    weight: PerRow


def fit_service_time(
    tokens: Any, seconds: Any, weight: Any = None, question: Any = None, robust: bool = False
) -> ServiceFit:
    """The affine service time t0 + c l by least squares, or robustly; t0 >= 0.

    Written for one task; works under `jax.jit` and `jax.vmap`. Where the best t0 is negative it is
    held at 0 and the line goes through the origin (AT_BOUND). A slope that is not above 0 beyond
    chance is refused: NEGATIVE_SLOPE, or FLAT.

    Args:
      tokens: [N] thinking tokens of every answer.
      seconds: [N] its service time, s.
      weight: [N] rows with 0 play no part; None: 1 each.
      question: [N] integers that name the questions: the covariance is then that of whole
        questions drawn anew.
      robust: Huber's loss of relative residuals instead of squares, by iteratively reweighted
        least squares (Huber, 1964; scale from the median size of the residuals). Outliers then
        count as mistakes of the log, not as service, also in `service_cv`; a skewed law is pulled
        towards its median.

    Raises:
      ValueError: a shape or a value is wrong; traced values end as INVALID instead.

    >>> fit = fit_service_time([0, 1000, 2000, 3000], [0.1, 1.1, 2.3, 3.1])
    >>> print(f"{fit.base_time:.3f} s + {1e3 * fit.time_per_token:.3f} ms / token")
    0.120 s + 1.020 ms / token
    """
    given = {"tokens": tokens, "seconds": seconds, "weight": 1.0 if weight is None else weight}
    if platform_of(list(given.values())) is not None:
        check_rows(given)
    rows = _Rows(*as_floats(*given.values()))
    question = None if question is None else jnp.asarray(question)
    if not robust:
        return _fit(rows, question, False)
    return without_derivative(lambda rows: _fit(rows, question, True), rows, _NO_DERIVATIVE)


def service_intervals(fit: ServiceFit, level: float = 0.95) -> Float[Array, "2 2"]:
    """[2, 2] lower and upper ends (last axis) for base_time and time_per_token, at least 0.

    >>> fit = fit_service_time([0, 1000, 2000, 3000], [0.1, 1.1, 2.3, 3.1])
    >>> low, high = service_intervals(fit)[1]
    >>> print(f"{1e3 * low:.2f} to {1e3 * high:.2f} ms / token")
    0.85 to 1.19 ms / token
    """
    reach = student_quantile((1 + level) / 2, fit.dof) * fit.standard_error
    middle = jnp.stack([fit.base_time, fit.time_per_token])
    return jnp.maximum(jnp.stack([middle - reach, middle + reach], axis=-1), 0)


@functools.partial(jax.jit, static_argnames="robust")
def _fit(rows: _Rows, question: Any, robust: bool) -> ServiceFit:
    valid = jnp.all(jnp.isfinite(jnp.stack(rows)) & (jnp.stack(rows) >= 0))
    rows = jax.tree.map(lambda leaf: jnp.where(valid, leaf, 1), rows)
    used = rows.weight > 0
    scale = jnp.max(jnp.where(used, rows.tokens, 0), initial=0)
    scale = jnp.where(scale > 0, scale, 1)
    scaled = rows._replace(tokens=rows.tokens / scale)
    loss, steps, settled = rows.weight, jnp.int32(0), jnp.array(True)
    if robust:
        loss, steps, settled = _reweight(scaled)
    line, at_bound = _line(scaled, loss)
    cv, cv_error = _scatter(scaled, line, robust)
    covariance, dof = _covariance(scaled, line, loss, at_bound, question, robust)
    error = jnp.sqrt(covariance[1, 1])
    status = jnp.where(at_bound, FitStatus.AT_BOUND, FitStatus.CONVERGED)
    status = jnp.where(settled, status, FitStatus.MAX_STEPS)
    status = jnp.where(line[1] <= _SLOPE_ERRORS * error, FitStatus.FLAT, status)
    status = jnp.where(line[1] < 0, FitStatus.NEGATIVE_SLOPE, status)
    if question is not None:  # whose scores have a covariance of rank dof
        unseen = (status <= FitStatus.AT_BOUND) & (dof < len(line))
        status = jnp.where(unseen, FitStatus.FEW_QUESTIONS, status)
    low = jnp.min(jnp.where(used, scaled.tokens, jnp.inf), initial=jnp.inf)
    few = (jnp.sum(used) < 3) | ~(low < jnp.max(jnp.where(used, scaled.tokens, 0), initial=0))
    status = jnp.where(few, FitStatus.FEW_LEVELS, status)
    status = jnp.where(valid, status, FitStatus.INVALID).astype(jnp.int32)
    found = jnp.where(few | ~valid, jnp.nan, 1)
    usable = jnp.where(status <= FitStatus.AT_BOUND, 1, jnp.nan)
    units = jnp.stack([jnp.ones_like(scale), 1 / scale])
    return ServiceFit(
        base_time=line[0] * found,
        time_per_token=line[1] / scale * found,
        service_cv=cv * usable,
        covariance=covariance * units[:, None] * units[None, :] * usable,
        service_cv_se=cv_error * usable,
        dof=dof,
        steps=steps,
        status=status,
    )


def _line(rows: _Rows, loss: PerRow) -> tuple[Float[Array, "2"], Bool[Array, ""]]:
    """(t0, c) of least weighted squares with t0 >= 0, and whether that bound holds it."""
    total = jnp.sum(loss)
    middle, height = jnp.sum(loss * rows.tokens) / total, jnp.sum(loss * rows.seconds) / total
    away = rows.tokens - middle
    spread = jnp.sum(loss * jnp.square(away))
    slope = jnp.sum(loss * away * (rows.seconds - height)) / jnp.where(spread > 0, spread, 1)
    start = height - slope * middle
    square = jnp.sum(loss * jnp.square(rows.tokens))
    through = jnp.sum(loss * rows.tokens * rows.seconds) / jnp.where(square > 0, square, 1)
    at_bound = (start < 0) & (slope > 0)
    line = jnp.where(
        at_bound, jnp.stack([jnp.zeros_like(start), through]), jnp.stack([start, slope])
    )
    return line, at_bound


def _residuals(rows: _Rows, line: Float[Array, "2"]) -> PerRow:
    return rows.seconds - line[0] - line[1] * rows.tokens


def _fitted(rows: _Rows, line: Float[Array, "2"]) -> PerRow:
    """t0 + c l, kept away from 0."""
    mean = jnp.sum(rows.weight * rows.seconds) / jnp.sum(rows.weight)
    return jnp.maximum(line[0] + line[1] * rows.tokens, _LEAST_TIME * mean)


def _scale_of(rows: _Rows, line: Float[Array, "2"]) -> Scalar:
    """The standard deviation of the relative residuals as their median size tells it."""
    sizes = jnp.abs(_residuals(rows, line)) / _fitted(rows, line)
    return _MAD_TO_SCALE * jnp.nanmedian(jnp.where(rows.weight > 0, sizes, jnp.nan))


def _reweight(rows: _Rows) -> tuple[PerRow, Int[Array, ""], Bool[Array, ""]]:
    """Huber's weights on relative residuals, the rounds they took, and whether they settled."""
    limit = _LEAST_CHANGE[str(rows.seconds.dtype)]

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        _, change, count = carry
        return (change > limit) & (count < _MAX_ROUNDS)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        line, _, count = carry
        new, _ = _line(rows, _weights(rows, line))
        change = jnp.sum(jnp.abs(new - line)) / jnp.maximum(jnp.sum(jnp.abs(new)), 1e-30)
        return new, change, count + 1

    first, _ = _line(rows, rows.weight)
    start = first, jnp.full_like(first[0], jnp.inf), jnp.int32(0)
    line, change, count = jax.lax.while_loop(unfinished, advance, start)
    return _weights(rows, line), count, change <= limit


def _weights(rows: _Rows, line: Float[Array, "2"]) -> PerRow:
    """What a row weighs in the next round of least squares."""
    fitted = _fitted(rows, line)
    size = jnp.abs(_residuals(rows, line)) / fitted
    limit = _HUBER * _scale_of(rows, line)
    huber = jnp.where(size > limit, limit / jnp.maximum(size, 1e-30), 1)
    return rows.weight * huber / jnp.square(fitted)


def _scatter(rows: _Rows, line: Float[Array, "2"], robust: bool) -> tuple[Scalar, Scalar]:
    """The coefficient of variation of the service time, and its standard error."""
    number = jnp.sum(rows.weight)
    if robust:
        scale = _scale_of(rows, line)
        return scale, _MEDIAN_ERROR * scale / jnp.sqrt(number)
    time = jnp.square(_fitted(rows, line))
    residual = jnp.square(_residuals(rows, line))
    second = jnp.sum(rows.weight * time)
    square = jnp.sum(rows.weight * residual) / second * number / jnp.maximum(number - 2, 1)
    influence = rows.weight * (residual - square * time)
    error = jnp.sqrt(jnp.sum(jnp.square(influence))) / second
    cv = jnp.sqrt(square)
    return cv, jnp.where(cv > 0, error / jnp.where(cv > 0, 2 * cv, 1), 0)


def _covariance(
    rows: _Rows,
    line: Float[Array, "2"],
    loss: PerRow,
    at_bound: Bool[Array, ""],
    question: Any,
    robust: bool,
) -> tuple[Float[Array, "2 2"], Scalar]:
    """The sandwich covariance of (t0, c), and its degrees of freedom.

    B⁻¹ M B⁻¹ with B = Σ ψ′ x xᵀ and M that of the scores ψ x, by rows (White, 1980, with
    N / (N - 2)) or by questions. With t0 held at 0 only c is free; t0 has a one-sided error, and c
    follows it (derived here).
    """
    design = jnp.stack([jnp.ones_like(rows.tokens), rows.tokens], axis=-1)
    curved = rows.weight
    if robust:
        unclipped = rows.weight / jnp.square(_fitted(rows, line))
        curved = jnp.where(loss >= unclipped * (1 - 1e-6), unclipped, 0)
    bread = design.T @ (design * curved[:, None])
    scores = design * (loss * _residuals(rows, line))[:, None]
    number = jnp.sum(rows.weight > 0).astype(scores.dtype)
    if question is None:
        dof = jnp.maximum(number - 2, 1)
        meat = scores.T @ scores * number / dof
    else:
        sums, number = sum_by_question(scores, rows.weight, question)
        meat, dof = outer_products(sums, number), jnp.maximum(number - 1, 1)
    determinant = bread[0, 0] * bread[1, 1] - bread[0, 1] ** 2
    cofactors = jnp.stack(
        [jnp.stack([bread[1, 1], -bread[0, 1]]), jnp.stack([-bread[0, 1], bread[0, 0]])]
    )
    inverse = cofactors / jnp.where(determinant > 0, determinant, jnp.nan)
    free = inverse @ meat @ inverse

    follow = jnp.stack([jnp.ones_like(determinant), -bread[0, 1] / bread[1, 1]])
    # The score of t0 and its curvature in units of the variance of the residuals.
    squares = jnp.sum(loss * jnp.square(_residuals(rows, line)))
    variance = squares / jnp.maximum(number - 1, 1)
    variance = jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)
    push = jnp.maximum(-jnp.sum(scores[:, 0]), 0) / variance
    curvature = determinant / bread[1, 1] / variance
    error = one_sided_error(push, curvature)
    alone = jnp.zeros_like(free).at[1, 1].set(meat[1, 1] / bread[1, 1] ** 2)
    bounded = alone + jnp.outer(follow, follow) * jnp.square(error)
    return jnp.where(at_bound, bounded, free), dof
