"""Arrival rate and mix from a log, with intervals, and whether the arrivals look like Poisson's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.quantiles import student_quantile
from jaxalloc.numerics import cast, floating_dtype

PerTask = Float[Array, "K"]

_BATCHES = 20
_LEAST_GAPS_FOR_BATCHES = 10 * _BATCHES


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
      times: [N] s, in any order.
      level: the probability that the interval holds the rate.

    >>> fit = fit_arrivals([0.0, 2.0, 3.0, 7.0, 8.0])
    >>> print(f"{fit.arrival_rate:.2f} / s, CV {fit.cv:.2f}")
    0.50 / s, CV 0.71
    """
    gaps = jnp.diff(jnp.sort(cast(times, floating_dtype(times))))
    number = gaps.shape[0]
    mean = jnp.mean(gaps) if number else jnp.asarray(jnp.nan)
    mean = jnp.where(mean > 0, mean, jnp.nan)
    cv = jnp.std(gaps, ddof=1) / mean if number > 1 else jnp.nan * mean
    relative, dof = cv / max(number, 1) ** 0.5, max(number - 1, 1)
    if number >= _LEAST_GAPS_FOR_BATCHES:
        means = jnp.mean(gaps[: number // _BATCHES * _BATCHES].reshape(_BATCHES, -1), axis=1)
        relative, dof = jnp.std(means, ddof=1) / mean / _BATCHES**0.5, _BATCHES - 1
    reach = student_quantile((1 + level) / 2, float(dof)) * relative
    ends = jnp.exp(jnp.stack([-reach, reach])) / mean
    return ArrivalFit(1 / mean, relative / mean, ends, cv)


def fit_mix(counts: Any, level: float = 0.95) -> MixFit:
    """The shares of K tasks among arrivals.

    Args:
      counts: [K] arrivals of each task.
      level: the probability that an interval holds its share.

    >>> low, high = fit_mix([30, 70]).interval[0]
    >>> print(f"{low:.3f} to {high:.3f}")
    0.219 to 0.396
    """
    counts = cast(counts, floating_dtype(counts))
    total = jnp.sum(counts)
    mix = counts / total
    error = jnp.sqrt(mix * (1 - mix) / total)
    square = jnp.square(ndtri((1 + level) / 2)).astype(mix.dtype)
    middle = (mix + square / (2 * total)) / (1 + square / total)
    reach = jnp.sqrt(square * mix * (1 - mix) / total + jnp.square(square / (2 * total)))
    reach = reach / (1 + square / total)
    return MixFit(mix, error, jnp.stack([middle - reach, middle + reach], axis=-1))
