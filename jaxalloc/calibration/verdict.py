"""What to say of a fit: data without a maximum, and maxima that the data do not determine."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxalloc.calibration.clusters import outer_products, sum_by_question
from jaxalloc.calibration.lack_of_fit import LackOfFit, count_levels, significant
from jaxalloc.calibration.likelihood import (
    Counts,
    Matrix,
    PerLevel,
    Scalar,
    log_likelihood,
    probability,
)
from jaxalloc.calibration.maximum import Maximum, whole_box
from jaxalloc.calibration.rows import Labels
from jaxalloc.calibration.status import (
    UNKNOWN_RATE_ERROR,
    WEAK_MARGIN,
    WEAK_RATE_ERROR,
    FitStatus,
)

Flags = Bool[Array, "L"]

_CONVERGED = {"float64": 1e-6, "float32": 1e-2}  # the largest decrement
# A constant is rejected above this ratio of likelihoods T: by chance with probability e^{-T/2}/2,
# five times in a million (as counted in 40,000 flat data sets, where the exponent fits).
_FLAT_RATIO = 23.0
# A rise before the smallest budget is rejected above this one: by chance one time in 10^4.
_STEP_RATIO = 13.8


class Rows(NamedTuple):
    """The counts of single questions, of which those of the levels are the sums.

    Attributes:
      counts: [N] each.
      question: [N] integers that name the questions.
    """

    counts: Counts
    question: Labels


def curve_of(counts: Counts, top: Maximum) -> PerLevel:
    """p at every level."""
    floor, ceiling, rate = top.point
    return probability(counts.tokens, ceiling - floor, jnp.exp(rate), floor)


def degenerate(counts: Counts) -> Int[Array, ""]:
    """The status of data without a maximum; CONVERGED stands for "go on"."""
    levels = count_levels(counts.tokens, counts.trials)
    hits, total = jnp.sum(counts.correct), jnp.sum(counts.trials)
    status = jnp.where(levels < 3, FitStatus.FEW_LEVELS, FitStatus.CONVERGED)
    status = jnp.where((hits == 0) & (total > 0), FitStatus.ALL_WRONG, status)
    status = jnp.where((hits == total) & (total > 0), FitStatus.ALL_CORRECT, status)
    valid = jnp.isfinite(counts.tokens) & jnp.isfinite(counts.trials)
    valid &= (counts.tokens >= 0) & (counts.correct >= 0) & (counts.correct <= counts.trials)
    return jnp.where(jnp.all(valid), status, FitStatus.INVALID).astype(jnp.int32)


def judge(
    counts: Counts,
    top: Maximum,
    plain: Matrix,
    robust: Matrix,
    ratio: Scalar,
    lack_of_fit: LackOfFit,
    later: Bool[Array, ""],
) -> Int[Array, ""]:
    """The status of a maximum.

    Args:
      counts: the data.
      top: the maximum.
      plain, robust: covariances of (gain, ln b, floor).
      ratio: of the likelihoods of the curve and of a constant.
      lack_of_fit: of the curve.
      later: whether a later group is clearly better than the first: what is FLAT is at its best at
        its smallest budget, so that this is no constant but another law.
    """
    box = whole_box(counts)
    # Of two estimates the larger: choosing fits by a small one chooses those that are too small.
    error = jnp.sqrt(jnp.maximum(plain[1, 1], robust[1, 1]))
    at_bound = jnp.any((top.point <= box.low) | (top.point >= box.high))
    near = (top.point[0] < WEAK_MARGIN) | (top.point[1] > 1 - WEAK_MARGIN)
    weak = near | ~(error <= WEAK_RATE_ERROR)
    status = jnp.where(weak, FitStatus.WEAK, FitStatus.CONVERGED)
    status = jnp.where(at_bound, FitStatus.AT_BOUND, status)
    converged = top.decrement <= _CONVERGED[str(top.value.dtype)]
    status = jnp.where(converged, status, FitStatus.MAX_STEPS)
    effect = jnp.maximum(robust[1, 1] / plain[1, 1], 1)
    seen = 2 * (top.value - _of_step(counts)) >= _STEP_RATIO * effect
    status = jnp.where(seen & (error <= UNKNOWN_RATE_ERROR), status, FitStatus.DECAY_UNKNOWN)
    flat = ~(ratio >= _FLAT_RATIO)
    status = jnp.where(flat, FitStatus.FLAT, status)
    missed = significant(lack_of_fit) & jnp.where(flat, later, converged)
    status = jnp.where(missed, FitStatus.LACK_OF_FIT, status)
    finite = jnp.all(jnp.isfinite(robust)) & jnp.all(jnp.isfinite(plain))
    nothing = ~finite & (status <= FitStatus.AT_BOUND)
    return jnp.where(nothing, FitStatus.MAX_STEPS, status).astype(jnp.int32)


def _of_step(counts: Counts) -> Scalar:
    """The log-likelihood of a curve that has risen before the smallest budget: b without end."""

    def best(where: Flags) -> Scalar:
        some = jax.tree.map(lambda leaf: jnp.where(where, leaf, 0), counts)
        share = jnp.sum(some.correct) / jnp.maximum(jnp.sum(some.trials), 1e-30)
        return log_likelihood(some, share * jnp.ones_like(counts.tokens))

    return best(counts.tokens == 0) + best(counts.tokens > 0)


def flat_ratio(counts: Counts, top: Maximum, rows: Rows | None) -> Scalar:
    """Twice the log-likelihood over that of a constant, over the design effect of the contrast.

    The contrast is the score of the gain beside a constant, Σ (y - n p) (r - r̄), with r the rise
    1 - e^{-b l}: its variance by questions over its binomial variance (derived here).
    """
    mean = jnp.sum(counts.correct) / jnp.sum(counts.trials)
    flat = log_likelihood(counts, mean * jnp.ones_like(counts.tokens))
    ratio = 2 * (top.value - flat)
    if rows is None:
        return ratio
    counts = rows.counts
    rise = -jnp.expm1(-jnp.exp(top.point[2]) * counts.tokens)
    rise = rise - jnp.sum(counts.trials * rise) / jnp.sum(counts.trials)
    p = curve_of(counts, top)
    contrast = (counts.correct - counts.trials * p) * rise
    robust = outer_products(*sum_by_question(contrast[:, None], counts.trials, rows.question))[0, 0]
    plain = jnp.sum(counts.trials * p * (1 - p) * jnp.square(rise))
    return jnp.where(plain > 0, ratio * plain / jnp.where(robust > 0, robust, plain), 0)
