"""Service times from measurements: an affine law, its covariance, and the scatter around it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalloc.backend.chunks import platform_of
from jaxalloc.calibration.lack_of_fit import LackOfFit
from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.line import (
    Times,
    fit_line,
    lack_of_line,
    reweight,
    scatter,
    slope_error,
    spread_of_line,
    without_scale,
)
from jaxalloc.calibration.quantiles import student_quantile
from jaxalloc.calibration.rows import as_floats, as_labels, check_level, check_rows
from jaxalloc.calibration.status import FitStatus, first_of, has_covariance
from jaxalloc.numerics import without_derivative

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
        whole questions where those were given. NaN unless the status is LACK_OF_FIT or usable.
      service_cv_se: its standard error.
      dof: degrees of freedom: at most rows - 2, or questions - 1.
      lack_of_fit: whether groups of neighbouring budgets depart from the line.
      steps: int32, rounds of reweighting; 0 for least squares.
      status: int32, a `FitStatus`.
    """

    base_time: Scalar
    time_per_token: Scalar
    service_cv: Scalar
    covariance: Float[Array, "2 2"]
    service_cv_se: Scalar
    dof: Scalar
    lack_of_fit: LackOfFit
    steps: Int[Array, ""]
    status: Int[Array, ""]

    @property
    def standard_error(self) -> Float[Array, "2"]:
        """[2] of (base_time, time_per_token)."""
        return jnp.sqrt(jnp.diagonal(self.covariance, axis1=-2, axis2=-1))


def fit_service_time(
    tokens: Any, seconds: Any, weight: Any = None, question: Any = None, robust: bool = False
) -> ServiceFit:
    """The affine service time t0 + c l by least squares, or robustly; t0 >= 0.

    Written for one task; works under `jax.jit` and `jax.vmap`. Where the best t0 is negative it is
    held at 0 and the line goes through the origin (AT_BOUND). A slope that is not above 0 beyond
    chance is refused: NEGATIVE_SLOPE, or FLAT; so are times that are on no line, LACK_OF_FIT: mean
    residuals of groups of neighbouring budgets differ from 0 by more than they scatter within the
    groups, and by at least 1 % of the mean time.

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
    rows = Times(*as_floats(*given.values()))
    question = as_labels(question, rows.tokens.shape)
    if not robust:
        return _fit(rows, question, False)
    return without_derivative(lambda rows: _fit(rows, question, True), rows, _NO_DERIVATIVE)


def service_intervals(fit: ServiceFit, level: float = 0.95) -> Float[Array, "2 2"]:
    """[2, 2] lower and upper ends (last axis) for base_time and time_per_token, at least 0.

    >>> fit = fit_service_time([0, 1000, 2000, 3000], [0.1, 1.1, 2.3, 3.1])
    >>> low, high = service_intervals(fit)[1]
    >>> print(f"{1e3 * low:.2f} to {1e3 * high:.2f} ms / token")
    0.00 to 2.10 ms / token
    """
    check_level(level)
    reach = student_quantile((1 + level) / 2, fit.dof) * fit.standard_error
    middle = jnp.stack([fit.base_time, fit.time_per_token])
    return jnp.maximum(jnp.stack([middle - reach, middle + reach], axis=-1), 0)


@functools.partial(jax.jit, static_argnames="robust")
def _fit(rows: Times, question: Any, robust: bool) -> ServiceFit:
    valid = jnp.all(jnp.isfinite(jnp.stack(rows)) & (jnp.stack(rows) >= 0))
    rows = jax.tree.map(lambda leaf: jnp.where(valid, leaf, 1), rows)
    used = rows.weight > 0
    least, most = (
        jnp.min(jnp.where(used, rows.tokens, jnp.inf), initial=jnp.inf),
        jnp.max(jnp.where(used, rows.tokens, 0), initial=0),
    )
    scale = jnp.where(most > 0, most, 1)
    scaled = rows._replace(tokens=rows.tokens / scale)
    loss, steps, settled = rows.weight, jnp.int32(0), jnp.array(True)
    if robust:
        loss, steps, settled = reweight(scaled)
    own = fit_line(scaled, loss, robust)
    cv, cv_error = scatter(scaled, own, robust)
    spread = spread_of_line(scaled, own, cv, question)
    # A bound that chance makes active is no lack of fit.
    lack, missed = lack_of_line(scaled, fit_line(scaled, loss, robust, bounded=False), question)
    slope = own.line[1]
    few = (jnp.sum(used) < 3) | ~(least < most)
    finite = jnp.all(jnp.isfinite(jnp.append(spread.robust, jnp.stack([*own.line, cv, cv_error]))))
    flat = slope <= _SLOPE_ERRORS * slope_error(scaled, own, spread, question)
    status = first_of(
        (FitStatus.INVALID, ~valid),
        (FitStatus.FEW_LEVELS, few),
        (FitStatus.NO_SCATTER, without_scale(scaled, own.line) if robust else False),
        (FitStatus.NEGATIVE_SLOPE, slope < 0),
        (FitStatus.FLAT, flat),
        (FitStatus.MAX_STEPS, ~(settled & finite)),
        (FitStatus.FEW_QUESTIONS, ~spread.seen),
        (FitStatus.LACK_OF_FIT, missed),
        (FitStatus.AT_BOUND, own.at_bound),
    )
    found = jnp.where(few | ~valid, jnp.nan, jnp.ones_like(scale))
    known = jnp.where(has_covariance(status), found, jnp.nan)
    units = jnp.stack([jnp.ones_like(scale), 1 / scale])
    return ServiceFit(
        base_time=own.line[0] * found,
        time_per_token=slope / scale * found,
        service_cv=cv * known,
        covariance=spread.robust * units[:, None] * units[None, :] * known,
        service_cv_se=cv_error * known,
        dof=spread.dof,
        lack_of_fit=jax.tree.map(lambda number: number * found, lack),
        steps=steps,
        status=status,
    )
