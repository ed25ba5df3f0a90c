"""Predictions of the output made from the output itself, good or bad, and how good they are."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.tables import Integers
from jaxalloc.traces.generators import stream
from jaxalloc.traces.trace import MOST_TOKENS

_MOST_BINS = 10**6


class Predictions(NamedTuple):
    """Attributes: [N] `lower` and `upper` bounds and the point prediction `predicted`, tokens."""

    lower: Integers
    upper: Integers
    predicted: Integers


def one_interval(output: Integers, least: int = 1, most: int | None = None) -> Predictions:
    """The same interval for all, [least, most]; None: up to the longest output."""
    longest = int(output.max()) if most is None else most
    if not 1 <= least <= longest <= MOST_TOKENS:
        raise ValueError(f"from {least} to {longest} must rise, from 1 to at most {MOST_TOKENS}")
    low, high = np.full_like(output, least), np.full_like(output, longest)
    return Predictions(low, high, (low + high) // 2)


def bins(output: Integers, count: int, most: int | None = None) -> Predictions:
    """The bin of the output, of `count` bins of one width over [1, most]."""
    if not 1 <= count <= _MOST_BINS:
        raise ValueError(f"bins = {count} must be from 1 to {_MOST_BINS}")
    longest = int(output.max()) if most is None else most
    edges = np.floor(np.linspace(0, longest, count + 1)).astype(output.dtype)
    place = np.clip(np.searchsorted(edges, output, side="left") - 1, 0, count - 1)
    low, high = edges[place] + 1, np.maximum(edges[place + 1], output)
    return Predictions(low, high, (low + high) // 2)


def relative(output: Integers, width: float) -> Predictions:
    """[(1 − x) o, (1 + x) o] with x = `width`: A_max and A_min learn the order, not the length."""
    if not width >= 0:
        raise ValueError(f"width = {width} must not be negative")
    low, high = np.floor(output * (1 - width)), np.ceil(output * (1 + width))
    return Predictions(_tokens(low), _tokens(high), output.copy())


def noisy(output: Integers, sigma: float, seed: int, index: int = 0) -> Predictions:
    """A point prediction o · exp(σ ξ), ξ standard normal, and ± 2 σ around it as the interval.

    The interval need not hold the output; the upper bound is lifted to it, as A_max needs it.
    `index` tells replications of one seed apart.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma = {sigma} must not be negative")
    with np.errstate(over="ignore"):
        factor = np.exp(sigma * stream(seed, "noise", index).standard_normal(output.shape))
        guess = _tokens(np.rint(output * factor))
        low, high = (
            _tokens(np.floor(guess * np.exp(-2 * sigma))),
            _tokens(np.ceil(guess * np.exp(2 * sigma))),
        )
    return Predictions(low, np.maximum(high, output), guess)


def _tokens(values: Any) -> Integers:
    """Whole numbers from 1 to the largest count."""
    return np.clip(values, 1, MOST_TOKENS).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How good predictions are.

    Attributes:
      coverage: share of the outputs inside their interval.
      mean_width: of the intervals, tokens.
      mean_ratio: of lower / upper, the α of the proven ratios.
      rank_correlation: Spearman's, of the point predictions with the outputs; NaN if either is
        the same for all.
    """

    coverage: float
    mean_width: float
    mean_ratio: float
    rank_correlation: float


def calibration(output: Integers, predictions: Predictions) -> Calibration:
    """Compare predictions with what happened.

    >>> output = np.array([3, 5, 9])
    >>> calibration(output, one_interval(output)).coverage
    1.0
    """
    from scipy import stats

    low, high = np.maximum(predictions.lower, 1), np.maximum(predictions.upper, 1)
    varied = np.ptp(output) and np.ptp(predictions.predicted)
    ranks = stats.spearmanr(output, predictions.predicted).statistic if varied else np.nan
    return Calibration(
        coverage=float(np.mean((low <= output) & (output <= high))),
        mean_width=float(np.mean(high - low)),
        mean_ratio=float(np.mean(low / high)),
        rank_correlation=float(ranks),
    )
