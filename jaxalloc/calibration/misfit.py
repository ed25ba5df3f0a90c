"""Where an accuracy curve misses: groups of budgets with another share of correct answers."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalloc.calibration.lack_of_fit import (
    LackOfFit,
    compare,
    group_of,
    influences,
    one_hot,
    spread_by_question,
)
from jaxalloc.calibration.likelihood import Counts, PerLevel, Scalar, evaluate
from jaxalloc.calibration.matrices import invert_free
from jaxalloc.calibration.maximum import Maximum, held, whole_box
from jaxalloc.calibration.verdict import Rows, curve_of

PerGroup = Float[Array, " G"]

_BETTER = 3.72  # standard errors above the first group: by chance one time in 10^4


def curve_lack(
    counts: Counts, top: Maximum, rows: Rows | None
) -> tuple[LackOfFit, Bool[Array, ""]]:
    """Whether a curve fits, and whether a later group is clearly better than the first.

    T is the deviance by group. Of independent answers S is binomial, V - B C B' in units of V, with
    B what a parameter adds to a group and C the inverse of the expected information; of questions
    it is what they say.
    """
    one = jnp.ones_like(top.value)
    fixed = held(top.point, jnp.stack(evaluate(counts, top.point, one).gradient), whole_box(counts))
    constant = top.point[1] <= top.point[0]
    first = jnp.arange(3) == 0
    free = jnp.where(constant, first, ~fixed).astype(one.dtype)

    p = curve_of(counts, top)
    slopes = _slopes(counts.tokens, top, constant)
    binomial = counts.trials * p * (1 - p)
    weighted = slopes * (counts.trials * _over(jnp.ones_like(p), p * (1 - p)))[:, None]
    inverse = invert_free(slopes.T @ weighted, free)
    hot = one_hot(group_of(counts.tokens, counts.tokens, counts.trials), one.dtype)
    sums = counts.trials, counts.correct, counts.trials * p, binomial
    trials, correct, fitted, variance = (hot.T @ column for column in sums)
    takes = hot.T @ (slopes * counts.trials[:, None])
    scatter = None
    if rows is None:
        spread = jnp.diag(variance) - takes @ inverse @ takes.T
    else:
        centre = _over(correct - fitted, trials)
        spread, scatter = _by_question(counts, top, rows, centre, takes @ inverse, constant)
    units = _over(jnp.ones_like(variance), jnp.sqrt(variance))
    spread = spread * units[:, None] * units[None, :]
    left = jnp.sum((variance > 0).astype(free.dtype)) - jnp.sum(free)
    lack = compare(_deviance(correct, trials, fitted), spread, scatter, left)

    share, error = _over(correct, trials), _over(variance, jnp.square(trials))
    effect = jnp.maximum(jnp.trace(spread) / jnp.maximum(left, 1), 1)
    rise = share - share[0]
    better = (rise > 0) & (jnp.square(rise) > _BETTER**2 * (error + error[0]) * effect)
    return lack, jnp.any(better)


def _over(above: PerLevel, below: PerLevel) -> PerLevel:
    """A quotient, 0 where there is none."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)


def _slopes(tokens: PerLevel, top: Maximum, constant: Bool[Array, ""]) -> Float[Array, "L 3"]:
    """Derivatives of p in (D, U, ln b); of a constant in itself alone."""
    floor, ceiling, rate = top.point
    x = jnp.exp(rate) * tokens
    rest = jnp.exp(-x)
    slopes = jnp.stack([rest, 1 - rest, (ceiling - floor) * x * rest], axis=-1)
    return jnp.where(constant, (jnp.arange(3) == 0).astype(slopes.dtype), slopes)


def _by_question(
    counts: Counts,
    top: Maximum,
    rows: Rows,
    centre: PerGroup,
    project: Float[Array, "G 3"],
    constant: Bool[Array, ""],
) -> tuple[Float[Array, "G G"], Scalar]:
    """The covariance of the sums of groups, around the groups' own shares."""
    own = rows.counts
    p = curve_of(own, top)
    group = group_of(own.tokens, counts.tokens, counts.trials)
    residual = own.correct - own.trials * (p + centre[group])
    design = _slopes(own.tokens, top, constant) * _over(jnp.ones_like(p), p * (1 - p))[:, None]
    values = influences(residual, one_hot(group, p.dtype), design, project)
    return spread_by_question(values, own.trials, rows.question)


def _deviance(correct: PerGroup, trials: PerGroup, fitted: PerGroup) -> Scalar:
    """Twice the log-likelihood that the curve is short of the observed shares."""

    def part(observed: PerGroup, expected: PerGroup) -> PerGroup:
        seen = observed > 0
        return observed * jnp.log(jnp.where(seen, observed, 1) / jnp.where(seen, expected, 1))

    return 2 * jnp.sum(part(correct, fitted) + part(trials - correct, trials - fitted))
