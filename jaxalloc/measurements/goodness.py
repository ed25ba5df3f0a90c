"""How well a curve fits: observed and fitted accuracy by token bin."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from jaxalloc.calibration.lack_of_fit import group_of
from jaxalloc.measurements.runs import Counted
from jaxalloc.tables import Floats

NORMAL = 1.959964


@dataclass(frozen=True)
class Bins:
    """Answers grouped by budget, M groups.

    Attributes:
      tokens: [M] mean budget.
      trials: [M] answers.
      observed: [M] share of correct ones.
      low, high: [M] its 95 % interval (Wilson), of as many answers as the design effect leaves.
      fitted: [M] share that the curve says.
      deviance: [M] twice the log-likelihood that the curve is short of the observed share.
    """

    tokens: Floats
    trials: Floats
    observed: Floats
    low: Floats
    high: Floats
    fitted: Floats
    deviance: Floats

    def rows(self) -> list[dict[str, float]]:
        """The groups as plain Python."""
        columns = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def group(counted: Counted, gain: float, decay: float, floor: float) -> Bins:
    """Observed and fitted accuracy of one task in at most ten groups of neighbouring budgets."""
    group = group_of(counted.tokens, counted.tokens, counted.trials, xp=np)
    _, place = np.unique(group, return_inverse=True)
    trials = np.bincount(place, counted.trials).astype(np.float64)
    correct = np.bincount(place, counted.correct)
    p = floor - gain * np.expm1(-decay * counted.tokens)
    fitted = np.bincount(place, counted.trials * p) / trials
    observed = correct / trials
    low, high = _wilson(observed, trials / _design_effect(counted, place, observed))
    return Bins(
        tokens=np.bincount(place, counted.trials * counted.tokens) / trials,
        trials=trials,
        observed=observed,
        low=low,
        high=high,
        fitted=fitted,
        deviance=2
        * trials
        * (_divergence(observed, fitted) + _divergence(1 - observed, 1 - fitted)),
    )


def _divergence(observed: Floats, fitted: Floats) -> Floats:
    """y ln(y / p), 0 where y is."""
    ratio = np.where(observed > 0, observed, 1) / np.where(observed > 0, fitted, 1)
    with np.errstate(divide="ignore"):
        return observed * np.log(ratio)


def _wilson(share: Floats, trials: Floats) -> tuple[Floats, Floats]:
    square = NORMAL**2 / trials
    middle = (share + square / 2) / (1 + square)
    reach = np.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return middle - reach, middle + reach


def _design_effect(counted: Counted, place: Any, observed: Floats) -> Floats:
    """Variance of each share by questions over its binomial variance; 1 without questions."""
    size = len(observed)
    if counted.question is None:
        return np.ones(size)
    _, question = np.unique(counted.question, return_inverse=True)
    number = question.max() + 1
    residual = counted.correct - counted.trials * observed[place]
    sums = np.bincount(question * size + place, residual, number * size).reshape(number, size)
    trials = np.bincount(place, counted.trials)
    plain = trials * observed * (1 - observed)
    robust = (sums**2).sum(axis=0) * number / max(number - 1, 1)
    return np.where((plain > 0) & (robust > 0), robust / np.where(plain > 0, plain, 1), 1.0)
