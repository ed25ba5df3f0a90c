"""Arrival rate and mix from a log, with intervals, and whether the arrivals look like Poisson's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from jaxalloc.backend.chunks import platform_of
from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.quantiles import student_quantile
from jaxalloc.calibration.rows import as_floats, check_level, check_rows, require
from jaxalloc.numerics import floating_dtype

PerTask = Float[Array, "K"]

_BATCHES = 20
_LEAST_GAPS_FOR_BATCHES = 10 * _BATCHES
_COARSEST = 0.1  # of a mean gap, to which times may be rounded


class ArrivalFit(NamedTuple):
    """A rate of arrivals.

    Attributes:
      arrival_rate: λ, arrivals / s; NaN below two arrivals or where all come at once.
      arrival_rate_se: its standard error.
      interval: [2] lower and upper end.
      cv: coefficient of variation of the times between arrivals: 1 for a Poisson process. Far from
        it no M/G/1 answer should be trusted.
    """

    arrival_rate: Scalar
    arrival_rate_se: Scalar
    interval: Float[Array, "2"]
    cv: Scalar


class MixFit(NamedTuple):
    """Shares of the tasks.

    Attributes:
      mix: [K] shares.
      mix_se: [K] their standard errors.
      interval: [K, 2] lower and upper ends (Wilson, 1927).
    """

    mix: PerTask
    mix_se: PerTask
    interval: Float[Array, "K 2"]


def fit_arrivals(times: Any, level: float = 0.95) -> ArrivalFit:
    """The rate of arrivals at the given times.

    From 200 gaps on the error is that of the means of 20 batches of consecutive gaps, so that
    bursts widen it; below, that of independent gaps. The interval is even in ln λ.

    Args:
      times: [N] s, in any order; concrete ones of any size, as seconds since an epoch are in
        float64.
      level: the probability that the interval holds the rate.

    Raises:
      ValueError: a time is not finite, or the times are rounded too coarsely for their gaps (traced
        ones have a rate of NaN then).

    >>> fit = fit_arrivals([0.0, 2.0, 3.0, 7.0, 8.0])
    >>> print(f"{fit.arrival_rate:.2f} / s, CV {fit.cv:.2f}")
    0.50 / s, CV 0.71
    """
    check_level(level)
    gaps = _gaps(times)
    number = gaps.shape[0]
    mean = jnp.mean(gaps) if number else jnp.full((), jnp.nan, gaps.dtype)
    mean = jnp.where(mean > 0, mean, jnp.nan)
    cv = jnp.std(gaps, ddof=1) / mean if number > 1 else jnp.nan * mean
    relative, dof = cv / max(number, 1) ** 0.5, max(number - 1, 1)
    if number >= _LEAST_GAPS_FOR_BATCHES:
        means = jnp.mean(gaps[: number // _BATCHES * _BATCHES].reshape(_BATCHES, -1), axis=1)
        relative, dof = jnp.std(means, ddof=1) / mean / _BATCHES**0.5, _BATCHES - 1
    reach = student_quantile((1 + level) / 2, jnp.asarray(dof, gaps.dtype)) * relative
    ends = jnp.exp(jnp.stack([-reach, reach])) / mean
    return ArrivalFit(1 / mean, relative / mean, ends, cv)


def _gaps(times: Any) -> Float[Array, " N"]:
    """The times between arrivals, s, of numbers that may be large beside them."""
    concrete = platform_of(times) is not None
    given = np.asarray(times) if concrete else times
    if np.ndim(given) != 1:
        raise ValueError(f"times has shape {np.shape(given)}: give one row an arrival, (N,)")
    floating = jnp.issubdtype(given.dtype, jnp.floating)
    dtype = floating_dtype(times)
    if not concrete:
        ordered = jnp.sort(given.astype(dtype))
        gaps = jnp.diff(ordered)
        return jnp.where(_is_fine(ordered, gaps, floating), gaps, jnp.nan) if len(gaps) else gaps
    require(np.isfinite(given), "times", given, "must be finite")
    known = np.sort(given)
    between = np.diff(known.astype(np.float64) if floating else known - known[:1])
    if len(between) and not _is_fine(known, between, floating):
        raise ValueError(
            f"times near {known[-1]:g} are rounded to {np.spacing(known[-1]):g} s in "
            f"{given.dtype}, gaps are {between.mean():g} s: give float64, or seconds since the "
            "first"
        )
    return jnp.asarray(between, dtype)


def _is_fine(ordered: Any, gaps: Any, floating: bool) -> Any:
    """Whether the rounding of the times is small beside the gaps, or they are all at once."""
    if not floating:
        return True
    rounding = (abs(ordered[0]) + abs(ordered[-1])) * float(jnp.finfo(ordered.dtype).eps) / 2
    return (rounding <= _COARSEST * gaps.mean()) | (gaps.max() <= 0)


def fit_mix(counts: Any, level: float = 0.95) -> MixFit:
    """The shares of K tasks among arrivals.

    Args:
      counts: [K] arrivals of each task.
      level: the probability that an interval holds its share.

    Raises:
      ValueError: a count is negative or not finite, or there is none (traced: NaN).

    >>> low, high = fit_mix([30, 70]).interval[0]
    >>> print(f"{low:.3f} to {high:.3f}")
    0.219 to 0.396
    """
    check_level(level)
    if platform_of(counts) is not None:
        check_rows({"counts": counts})
        if not np.sum(np.asarray(counts, float)) > 0:
            raise ValueError("counts sums to 0: give at least one arrival")
    (counts,) = as_floats(counts)
    counts = jnp.where(jnp.all(counts >= 0), counts, jnp.nan)
    total = jnp.sum(counts)
    mix = counts / total
    square = jnp.square(ndtri(jnp.asarray((1 + level) / 2, mix.dtype))) / total
    reach = jnp.sqrt(square * mix * (1 - mix) + jnp.square(square / 2))
    ends = jnp.stack([mix + square / 2 - reach, mix + square / 2 + reach], axis=-1) / (1 + square)
    return MixFit(mix, jnp.sqrt(mix * (1 - mix) / total), ends)
