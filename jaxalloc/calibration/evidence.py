"""What the data say of a fitted accuracy curve: how well it is known, and what is to be doubted."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxalloc.calibration.lack_of_fit import (
    LackOfFit,
    compare,
    count_levels,
    group_of,
    influences,
    one_hot,
    spread_of_groups,
)
from jaxalloc.calibration.likelihood import (
    Counts,
    Evaluation,
    Scalar,
    curve,
    full,
    inverse_of,
    over,
)
from jaxalloc.calibration.maximum import Maximum, constant_of, whole_box
from jaxalloc.calibration.rows import Labels
from jaxalloc.calibration.sandwich import (
    Spread,
    at_bounds,
    outer_products,
    spread_of,
    sum_by_question,
)
from jaxalloc.calibration.status import FitStatus

Cases = list[tuple[FitStatus, Any]]

_CONVERGED = {"float64": 1e-6, "float32": 1e-2}  # the largest decrement
# Beyond these an interval of 95 % is known to hold what it says (benchmarks/calibration_coverage).
_WEAK_RATE_ERROR = 0.3  # standard error of ln b
_WEAK_MARGIN = 0.03  # of the floor to 0, and of the ceiling to 1
_UNKNOWN_RATE_ERROR = 1.0  # standard error of ln b: a factor of seven either way
# A constant is rejected above this ratio of likelihoods T: by chance with probability e^{-T/2}/2,
# five times in a million (as counted in 40,000 flat data sets, where the exponent fits).
_FLAT_RATIO = 23.0
# A rise before the smallest budget is rejected above this one: by chance one time in 10^4.
_STEP_RATIO = 13.8
_BETTER = 3.72  # standard errors above the first group: by chance one time in 10^4
_TO_PARAMETERS = np.array([[-1.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # (D, U, ln b) to (A, ln b, D)


class Rows(NamedTuple):
    """The counts of single questions, of which those of the levels are the sums.

    Attributes:
      counts: [N] each.
      question: [N] integers that name the questions.
    """

    counts: Counts
    question: Labels


def _scores(counts: Counts, top: Maximum) -> tuple[Any, Float[Array, "N 3"], Float[Array, "N 3"]]:
    """p of every row, its derivatives in (D, U, ln b), and these over the variance p (1 - p).

    Where the curve is a constant, only that moves.
    """
    p, columns = curve(counts.tokens, top.point)
    constant = top.point[1] <= top.point[0]
    alone = (jnp.arange(3) == 0).astype(p.dtype)
    slopes = jnp.where(constant, alone[None, :], jnp.stack(columns, axis=-1))
    return p, slopes, slopes * over(jnp.ones_like(p), p * (1 - p))[:, None]


def covariances(at: Evaluation, fixed: Any, top: Maximum, rows: Rows | None) -> Spread:
    """How well (gain, ln b, floor) are known: plainly the inverse of the observed information."""
    information = full(at.observed)
    inverse = inverse_of(information, ~fixed)
    held = at_bounds(information, inverse, jnp.stack(at.gradient), fixed)
    turn = jnp.asarray(_TO_PARAMETERS, inverse.dtype)
    plain, held = (turn @ part @ turn.T for part in (inverse, held))
    if rows is None:
        spread = spread_of(plain, plain, plain[0], None)
    else:
        counts = rows.counts
        p, _, design = _scores(counts, top)
        influence = design * (counts.correct - counts.trials * p)[:, None] @ inverse @ turn.T
        spread = spread_of(plain, influence, counts.trials, rows.question)
    return spread._replace(plain=spread.plain + held, robust=spread.robust + held)


def flat_ratio(counts: Counts, top: Maximum, rows: Rows | None) -> Scalar:
    """Twice the log-likelihood over that of a constant, over the design effect of the contrast.

    The contrast is the score of the gain beside a constant, Σ (y - n p) (r - r̄), with r the rise
    1 - e^{-b l}: its variance by questions over its binomial variance (derived here).
    """
    ratio = 2 * (top.value - constant_of(counts)[1])
    if rows is None:
        return ratio
    counts = rows.counts
    rise = -jnp.expm1(-jnp.exp(top.point[2]) * counts.tokens)
    rise = rise - jnp.sum(counts.trials * rise) / jnp.sum(counts.trials)
    p, _ = curve(counts.tokens, top.point)
    contrast = (counts.correct - counts.trials * p) * rise
    robust = outer_products(*sum_by_question(contrast[:, None], counts.trials, rows.question))[0, 0]
    plain = jnp.sum(counts.trials * p * (1 - p) * jnp.square(rise))
    return jnp.where(plain > 0, ratio * plain / jnp.where(robust > 0, robust, plain), 0)


def lack_of_curve(
    levels: Counts, top: Maximum, rows: Rows | None, fixed: Any
) -> tuple[LackOfFit, Bool[Array, ""]]:
    """Whether a curve fits, and whether a later group is clearly better than the first.

    T is the deviance by group. Of independent answers S is binomial, of questions it is what they
    say, around the groups' own shares; both in units of the groups' binomial variance.
    """
    constant = top.point[1] <= top.point[0]
    p, slopes, design = _scores(levels, top)
    free = jnp.where(constant, jnp.arange(3) == 0, ~fixed).astype(p.dtype)
    takes = slopes * levels.trials[:, None]
    expected = takes.T @ design
    inverse = inverse_of(expected, free)

    def hot_of(tokens: Any) -> Float[Array, "N G"]:
        return one_hot(group_of(tokens, levels.tokens, levels.trials), p.dtype)

    hot, question = hot_of(levels.tokens), None
    binomial = levels.trials * p * (1 - p)
    columns = levels.trials, levels.correct, levels.trials * p, binomial
    trials, correct, fitted, variance = (hot.T @ column for column in columns)
    project = hot.T @ takes @ inverse
    residual = jnp.sqrt(binomial)
    if rows is not None:
        own, question = rows
        p, _, design = _scores(own, top)
        hot = hot_of(own.tokens)
        residual = own.correct - own.trials * (p + hot @ over(correct - fitted, trials))
    unit = over(jnp.ones_like(variance), jnp.sqrt(variance))
    values = influences(residual, hot, design, project) * unit[None, :]
    weight = levels.trials if rows is None else rows.counts.trials
    spread, scatter = spread_of_groups(values, weight, question)
    left = jnp.sum((variance > 0).astype(p.dtype)) - jnp.sum(free)

    def part(observed: Any, expected: Any) -> Any:
        seen = observed > 0
        return observed * jnp.log(jnp.where(seen, observed, 1) / jnp.where(seen, expected, 1))

    deviance = 2 * jnp.sum(part(correct, fitted) + part(trials - correct, trials - fitted))
    share, error = over(correct, trials), over(variance, jnp.square(trials))
    effect = jnp.maximum(jnp.trace(spread) / jnp.maximum(left, 1), 1)
    rise = share - share[0]
    later = (rise > 0) & (jnp.square(rise) > _BETTER**2 * (error + error[0]) * effect)
    return compare(deviance, spread, scatter, left), jnp.any(later)


def without_maximum(counts: Counts) -> Cases:
    """What data have no maximum to look for."""
    hits, total = jnp.sum(counts.correct), jnp.sum(counts.trials)
    valid = jnp.isfinite(counts.tokens) & jnp.isfinite(counts.trials) & (counts.tokens >= 0)
    valid &= (counts.correct >= 0) & (counts.correct <= counts.trials)
    return [
        (FitStatus.INVALID, ~jnp.all(valid)),
        (FitStatus.ALL_CORRECT, (hits == total) & (total > 0)),
        (FitStatus.ALL_WRONG, (hits == 0) & (total > 0)),
        (FitStatus.FEW_LEVELS, count_levels(counts.tokens, counts.trials) < 3),
    ]


def doubts(
    counts: Counts,
    top: Maximum,
    spread: Spread,
    ratio: Scalar,
    lack_of_fit: LackOfFit,
    later: Bool[Array, ""],
) -> Cases:
    """What may be wrong with a maximum, the worst first.

    Args:
      counts: the data.
      top: the maximum.
      spread: of (gain, ln b, floor).
      ratio: of the likelihoods of the curve and of a constant.
      lack_of_fit: of the curve.
      later: whether a later group is clearly better than the first: what is FLAT is at its best at
        its smallest budget, so that this is no constant but another law.
    """
    box = whole_box(counts)
    # Of two estimates the larger: choosing fits by a small one chooses those that are too small.
    plain, robust = spread.plain[1, 1], spread.robust[1, 1]
    error = jnp.sqrt(jnp.maximum(plain, robust))
    converged = top.decrement <= _CONVERGED[str(top.value.dtype)]
    finite = jnp.all(jnp.isfinite(spread.plain)) & jnp.all(jnp.isfinite(spread.robust))
    flat = ~(ratio >= _FLAT_RATIO)
    missed = lack_of_fit.significant & jnp.where(flat, later, converged)
    # A curve that has risen before the smallest budget: b without end.
    at_0 = (counts.tokens == 0).astype(counts.tokens.dtype)
    step = sum(
        constant_of(counts._replace(correct=counts.correct * part, trials=counts.trials * part))[1]
        for part in (at_0, 1 - at_0)
    )
    risen = ~(2 * (top.value - step) >= _STEP_RATIO * jnp.maximum(robust / plain, 1))
    near = (top.point[0] < _WEAK_MARGIN) | (top.point[1] > 1 - _WEAK_MARGIN)
    return [
        (FitStatus.FEW_QUESTIONS, missed & ~spread.seen),
        (FitStatus.LACK_OF_FIT, missed),
        (FitStatus.FLAT, flat),
        (FitStatus.DECAY_UNKNOWN, risen | ~(error <= _UNKNOWN_RATE_ERROR)),
        (FitStatus.MAX_STEPS, ~converged | ~finite),
        (FitStatus.FEW_QUESTIONS, ~spread.seen),
        (FitStatus.AT_BOUND, jnp.any((top.point <= box.low) | (top.point >= box.high))),
        (FitStatus.WEAK, near | ~(error <= _WEAK_RATE_ERROR)),
    ]
