"""Accuracy curves from counts of correct answers: estimates, covariances, honest statuses."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxalloc.backend.chunks import platform_of
from jaxalloc.calibration.evidence import (
    Rows,
    covariances,
    doubts,
    flat_ratio,
    lack_of_curve,
    without_maximum,
)
from jaxalloc.calibration.lack_of_fit import LackOfFit
from jaxalloc.calibration.likelihood import Counts, Matrix, Scalar, Vector, evaluate
from jaxalloc.calibration.maximum import climb, held, whole_box
from jaxalloc.calibration.rows import as_floats, as_labels, check_rows, require
from jaxalloc.calibration.status import FitStatus, first_of, has_covariance


class AccuracyFit(NamedTuple):
    """An accuracy curve p(l) = D + A (1 - e^{-b l}) and how well it is known.

    Attributes:
      gain: A.
      decay: b, 1 / token.
      floor: D.
      covariance: [3, 3] of (gain, decay, floor), from the observed information; robust to the
        clusters where questions were given, and times `lack_of_fit.ratio` where the status is
        LACK_OF_FIT. NaN unless the status is that or a usable one.
      design_effect: [3] that covariance of (gain, ln decay, floor) over the plain one; 1 without
        questions.
      dof: degrees of freedom of the covariance: questions - 1, inf without questions.
      log_likelihood: at the maximum, without the binomial coefficients.
      flat_ratio: twice the log-likelihood over that of a constant, over its design effect.
      lack_of_fit: whether groups of neighbouring budgets depart from the curve.
      decrement: twice the log-likelihood that a Newton step would still gain.
      steps: int32.
      status: int32, a `FitStatus`.
    """

    gain: Scalar
    decay: Scalar
    floor: Scalar
    covariance: Matrix
    design_effect: Vector
    dof: Scalar
    log_likelihood: Scalar
    flat_ratio: Scalar
    lack_of_fit: LackOfFit
    decrement: Scalar
    steps: Int[Array, ""]
    status: Int[Array, ""]

    @property
    def standard_error(self) -> Vector:
        """[3] of (gain, decay, floor)."""
        return jnp.sqrt(jnp.diagonal(self.covariance, axis1=-2, axis2=-1))


def fit_accuracy(
    tokens: Any, correct: Any, trials: Any = None, question: Any = None
) -> AccuracyFit:
    """The accuracy curve of largest likelihood for answers at different token budgets.

    A, D >= 0, A + D <= 1 and b > 0 hold by construction. Written for one task; works under
    `jax.jit`, `jax.vmap` and differentiation. Rows with 0 trials play no part, so that tasks can be
    filled up to one shape. Equal rows may be counted together, which is quicker.

    Args:
      tokens: [N] the budget of every row. What the model chose to spend is no substitute: it spends
        more on what is hard.
      correct: [N] 0 or 1, or how many of `trials` were correct.
      trials: [N] answers of the row; None: one each.
      question: [N] integers that name the question of the row. Answers to one question resemble
        each other: given these, the covariance is that of whole questions drawn anew.

    Raises:
      ValueError: a shape or a value is wrong; traced values end as INVALID instead.

    >>> fit = fit_accuracy([0, 256, 1024, 4096], [30, 58, 82, 90], [100, 100, 100, 100])
    >>> FitStatus(int(fit.status)).name, f"{fit.gain:.2f} {fit.decay:.4f} {fit.floor:.2f}"
    ('CONVERGED', '0.59 0.0022 0.31')
    """
    counts, concrete = as_counts(tokens, correct, trials)
    labels = as_labels(question, counts.tokens.shape)
    rows = None if labels is None else Rows(counts, labels)
    return fit_counts(gather(counts) if concrete else counts, rows)


def as_counts(tokens: Any, correct: Any, trials: Any) -> tuple[Counts, bool]:
    """The rows as counts of one floating dtype, checked unless traced; and whether they were."""
    given = {"tokens": tokens, "correct": correct, "trials": 1.0 if trials is None else trials}
    concrete = platform_of(list(given.values())) is not None
    if concrete:
        check_rows(given)
        many, most = (np.asarray(given[name], float) for name in ("correct", "trials"))
        require(many <= most, "correct", many, "must not exceed trials (1 unless given)")
    return Counts(*as_floats(*given.values())), concrete


def gather(counts: Counts) -> Counts:
    """Rows of one budget counted together, on the host; filled up to a power of two."""
    tokens, place = np.unique(np.asarray(counts.tokens), return_inverse=True)
    size = max(8, 1 << (len(tokens) - 1).bit_length())
    levels = np.zeros((3, size), tokens.dtype)
    levels[0, : len(tokens)] = tokens
    for row, values in zip(levels[1:], counts[1:], strict=True):
        row += np.bincount(place, np.asarray(values, float), size)
    return Counts(*map(jnp.asarray, levels))


@jax.jit
def fit_counts(levels: Counts, rows: Rows | None = None) -> AccuracyFit:
    """`fit_accuracy` of rows that were counted already.

    Args:
      levels: [L] what was counted at each budget.
      rows: the same by question, for the covariance; None: every answer is independent.
    """
    scale = scale_of(levels)
    levels = levels._replace(tokens=levels.tokens / scale)
    if rows is not None:
        rows = rows._replace(counts=rows.counts._replace(tokens=rows.counts.tokens / scale))
    nothing = without_maximum(levels)
    hopeless = jnp.any(jnp.stack([holds for _, holds in nothing]))
    top = climb(_stand_in(levels, hopeless))
    there = evaluate(levels, top.point)
    fixed = held(top.point, jnp.stack(there.gradient), whole_box(levels))
    spread = covariances(there, fixed, top, rows)
    ratio = flat_ratio(levels, top, rows)
    lack, later = lack_of_curve(levels, top, rows, fixed)
    status = first_of(*nothing, *doubts(levels, top, spread, ratio, lack, later))

    floor, ceiling, rate = top.point
    decay = jnp.exp(rate) / scale
    found = jnp.where(hopeless, jnp.nan, jnp.ones_like(decay))
    known = jnp.where(has_covariance(status), found, jnp.nan)
    missed = status == FitStatus.LACK_OF_FIT
    robust = spread.robust * jnp.where(missed, jnp.maximum(lack.ratio, 1), 1)
    units = jnp.stack([jnp.ones_like(decay), decay, jnp.ones_like(decay)])
    return AccuracyFit(
        gain=(ceiling - floor) * found,
        decay=decay * found,
        floor=floor * found,
        covariance=robust * units[:, None] * units[None, :] * known,
        design_effect=jnp.diagonal(robust) / jnp.diagonal(spread.plain) * known,
        dof=spread.dof,
        log_likelihood=top.value * found,
        flat_ratio=ratio * found,
        lack_of_fit=jax.tree.map(lambda number: number * found, lack),
        decrement=top.decrement * found,
        steps=top.steps,
        status=status,
    )


def scale_of(counts: Counts) -> Scalar:
    """The largest budget, so that b is of order 1 in every unit."""
    most = jnp.max(jnp.where(counts.trials > 0, counts.tokens, 0), initial=0)
    return jnp.where((most > 0) & jnp.isfinite(most), most, 1)


def _stand_in(counts: Counts, replace: Bool[Array, ""]) -> Counts:
    """Harmless counts in the place of what has no maximum."""
    safe = Counts(counts.tokens * 0 + 1, counts.tokens * 0 + 0.5, jnp.ones_like(counts.tokens))
    return jax.tree.map(lambda own, other: jnp.where(replace, other, own), counts, safe)
