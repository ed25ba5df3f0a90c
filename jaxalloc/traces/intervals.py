"""Predictions of the output made from the output itself, good or bad, and how good they are."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxalloc.traces.streams import stream
from jaxalloc.traces.trace import MOST_TOKENS, Floats, Integers

_MOST_BINS = 10**6


@dataclasses.dataclass(frozen=True)
class Predictions:
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
    if count < 1:
        raise ValueError(f"bins = {count} must be at least 1")
    if count > _MOST_BINS:
        raise ValueError(f"bins = {count} must be at most {_MOST_BINS}")
    longest = int(output.max()) if most is None else most
    edges = np.floor(np.linspace(0, longest, count + 1)).astype(output.dtype)
    place = np.clip(np.searchsorted(edges, output, side="left") - 1, 0, count - 1)
    low, high = edges[place] + 1, np.maximum(edges[place + 1], output)
    return Predictions(low, high, (low + high) // 2)


def relative(output: Integers, width: float) -> Predictions:
    """[(1 − x) o, (1 + x) o] with x = `width`: A_max and A_min learn the order, not the length."""
    if not width >= 0:
        raise ValueError(f"width = {width} must not be negative")
    low = np.maximum(np.floor(output * (1 - width)), 1).astype(output.dtype)
    high = _tokens(np.ceil(output * (1 + width)))
    return Predictions(low, high, output.copy())


def noisy(output: Integers, sigma: float, seed: int, index: int = 0) -> Predictions:
    """A point prediction o · exp(σ ξ), ξ standard normal, and ± 2 σ around it as the interval.

    The interval need not hold the output; the upper bound is lifted to it, as A_max needs it.
    `index` tells replications of one seed apart.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma = {sigma} must not be negative")
    with np.errstate(over="ignore"):
        factor = np.exp(sigma * stream(seed, "noise", index).standard_normal(output.shape))
        guess = _tokens(np.maximum(np.rint(output * factor), 1))
        low = np.maximum(np.floor(guess * np.exp(-2 * sigma)), 1).astype(np.int64)
        high = np.maximum(_tokens(np.ceil(guess * np.exp(2 * sigma))), output)
    return Predictions(low, high, guess)


def _tokens(values: Floats) -> Integers:
    """Whole numbers, cut off where no token count lies."""
    return np.minimum(values, MOST_TOKENS).astype(np.int64)


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
    low, high = np.maximum(predictions.lower, 1), np.maximum(predictions.upper, 1)
    return Calibration(
        coverage=float(np.mean((low <= output) & (output <= high))),
        mean_width=float(np.mean(high - low)),
        mean_ratio=float(np.mean(low / high)),
        rank_correlation=_spearman(output, predictions.predicted),
    )


def _spearman(first: Integers, second: Integers) -> float:
    """Pearson's correlation of ranks, ties sharing their mean rank."""
    ranks = [_ranks(first), _ranks(second)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Integers) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = (ends - (counts - 1) / 2)[place]
    return mean
