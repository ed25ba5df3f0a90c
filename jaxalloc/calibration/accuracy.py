"""Accuracy curves from counts of correct answers: estimates, covariances, honest statuses."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxalloc.backend import dispatch, platform_of
from jaxalloc.calibration.clusters import (
    one_sided_error,
    outer_products,
    sum_by_question,
    with_scatter,
)
from jaxalloc.calibration.lack_of_fit import LackOfFit
from jaxalloc.calibration.likelihood import (
    Counts,
    Matrix,
    Scalar,
    Vector,
    evaluate,
    log_likelihood,
)
from jaxalloc.calibration.matrices import full, invert_free
from jaxalloc.calibration.maximum import Maximum, held, search, whole_box
from jaxalloc.calibration.misfit import curve_lack
from jaxalloc.calibration.rows import as_floats, as_labels, check_rows, require
from jaxalloc.calibration.status import FitStatus
from jaxalloc.calibration.verdict import Rows, curve_of, degenerate, flat_ratio, judge

MOST_LEVELS_IN_A_KERNEL = 1024
_PARAMETERS = 3


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


@jax.custom_jvp
def climb(counts: Counts) -> Maximum:
    """The highest maximum, found in the form that the platform runs best.

    Its derivative is that of the equations of the maximum, H dθ = d(gradient), on the coordinates
    that are free (implicit function theorem), not of the iterations.
    """
    kernel = counts.tokens.shape[-1] <= MOST_LEVELS_IN_A_KERNEL
    return dispatch(search, counts, kernel=kernel)


@climb.defjvp
def _climb_jvp(primals: tuple[Counts], tangents: tuple[Counts]) -> tuple[Maximum, Maximum]:
    (counts,), (moved,) = primals, tangents
    top = climb(counts)
    one = jnp.ones_like(top.value)

    def at(own: Counts) -> tuple[Scalar, Vector]:
        there = evaluate(own, top.point, one)
        return there.value, jnp.stack(there.gradient)

    _, (value, push) = jax.jvp(at, (counts,), (moved,))
    there = evaluate(counts, top.point, one)
    free = jnp.where(held(top.point, jnp.stack(there.gradient), whole_box(counts)), 0, 1)
    point = invert_free(full(there.observed), free) @ push
    none: Any = np.zeros(top.steps.shape, jax.dtypes.float0)  # an integer has no tangent
    return top, Maximum(point, value, jnp.zeros_like(top.decrement), none)


@jax.jit
def fit_counts(levels: Counts, rows: Rows | None = None) -> AccuracyFit:
    """`fit_accuracy` of rows that were counted already.

    Args:
      levels: [L] what was counted at each budget.
      rows: the same by question, for the covariance; None: every answer is independent.
    """
    scale = scale_of(levels)
    scaled = levels._replace(tokens=levels.tokens / scale)
    if rows is not None:
        rows = rows._replace(counts=rows.counts._replace(tokens=rows.counts.tokens / scale))
    lack = degenerate(levels)
    top = _at_least_constant(scaled, climb(_stand_in(scaled, lack != FitStatus.CONVERGED)))
    gain, decay, floor = unscaled(top.point, scale)
    plain, robust, dof, seen = _covariances(scaled, top, rows)
    ratio = flat_ratio(scaled, top, rows)
    lack_of_fit, later = curve_lack(scaled, top, rows)
    status = judge(scaled, top, plain, robust, ratio, lack_of_fit, later)
    status = jnp.where(lack == FitStatus.CONVERGED, status, lack)
    usable = (status <= FitStatus.AT_BOUND) | (status == FitStatus.LACK_OF_FIT)
    status = jnp.where(usable & ~seen, FitStatus.FEW_QUESTIONS, status).astype(jnp.int32)
    missed = status == FitStatus.LACK_OF_FIT
    robust = robust * jnp.where(missed, jnp.maximum(lack_of_fit.ratio, 1), 1)
    found = jnp.where(lack == FitStatus.CONVERGED, 1, jnp.nan).astype(gain.dtype)
    known = jnp.where(usable & seen, 1, jnp.nan).astype(gain.dtype)
    units = jnp.stack([jnp.ones_like(decay), decay, jnp.ones_like(decay)])
    return AccuracyFit(
        gain=gain * found,
        decay=decay * found,
        floor=floor * found,
        covariance=robust * units[:, None] * units[None, :] * known,
        design_effect=jnp.diagonal(robust) / jnp.diagonal(plain) * known,
        dof=dof,
        log_likelihood=top.value * found,
        flat_ratio=ratio * found,
        lack_of_fit=jax.tree.map(lambda number: number * found, lack_of_fit),
        decrement=top.decrement * found,
        steps=top.steps,
        status=status,
    )


def _at_least_constant(counts: Counts, top: Maximum) -> Maximum:
    """The constant where nothing that rises is more likely."""
    mean = jnp.sum(counts.correct) / jnp.sum(counts.trials)
    flat = log_likelihood(counts, mean * jnp.ones_like(counts.tokens))
    constant = Maximum(jnp.stack([mean, mean, top.point[2]]), flat, jnp.zeros_like(flat), top.steps)
    return jax.tree.map(lambda own, other: jnp.where(top.value > flat, own, other), top, constant)


def unscaled(point: Vector, scale: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """(A, b, D) of a point (D, U, ln b) whose budgets were divided by `scale`."""
    floor, ceiling, rate = point
    return ceiling - floor, jnp.exp(rate) / scale, floor


def scale_of(counts: Counts) -> Scalar:
    """The largest budget, so that b is of order 1 in every unit."""
    most = jnp.max(jnp.where(counts.trials > 0, counts.tokens, 0), initial=0)
    return jnp.where((most > 0) & jnp.isfinite(most), most, 1)


def _stand_in(counts: Counts, replace: Bool[Array, ""]) -> Counts:
    """Harmless counts in the place of what has no maximum."""
    safe = Counts(counts.tokens * 0 + 1, counts.tokens * 0 + 0.5, jnp.ones_like(counts.tokens))
    return jax.tree.map(lambda own, other: jnp.where(replace, other, own), counts, safe)


def _covariances(
    counts: Counts, top: Maximum, rows: Rows | None
) -> tuple[Matrix, Matrix, Scalar, Bool[Array, ""]]:
    """Plain and robust covariance of (gain, ln b, floor), their dof, and whether scatter is seen.

    On the free coordinates the plain one is the inverse of the observed information, C, the robust
    one C M C with M the sum over questions of the outer products of their scores, times G / (G - 1)
    (the sandwich of clusters: Liang & Zeger, 1986, Biometrika 73). A coordinate at a bound has a
    one-sided standard error, and the free ones follow it along -C H (derived here). Of fewer
    different questions than parameters M would say that some of them are known exactly.
    """
    one = jnp.ones_like(top.value)
    at = evaluate(counts, top.point, one)
    gradient = jnp.stack(at.gradient)
    fixed = held(top.point, gradient, whole_box(counts))
    information = full(at.observed)
    free = (~fixed).astype(information.dtype)
    inverse = invert_free(information, free)
    follow = jnp.eye(3, dtype=inverse.dtype) - inverse @ information
    curvature = jnp.diagonal(information @ follow)
    error = jnp.where(fixed, one_sided_error(jnp.abs(gradient), curvature), 0)
    of_held = (follow * jnp.square(error)[None, :]) @ follow.T
    meat, dof = _meat(top, rows)
    robust = inverse if meat is None else inverse @ meat @ inverse
    # (D, U, ln b) -> (A, ln b, D)
    turn = jnp.asarray(np.array([[-1.0, 1, 0], [0, 0, 1], [1, 0, 0]]), inverse.dtype)
    plain, robust, of_held = (turn @ m @ turn.T for m in (inverse, robust, of_held))
    seen = jnp.array(True)
    if meat is not None:
        robust, seen = with_scatter(robust, plain)
        seen &= dof >= _PARAMETERS
    return plain + of_held, robust + of_held, dof, seen


def _meat(top: Maximum, rows: Rows | None) -> tuple[Matrix | None, Scalar]:
    """The covariance of the score by questions, and their number less one."""
    if rows is None:
        return None, jnp.asarray(jnp.inf, top.value.dtype)
    counts = rows.counts
    floor, ceiling, rate = top.point
    x = jnp.exp(rate) * counts.tokens
    rest = jnp.exp(-x)
    slopes = jnp.stack([rest, 1 - rest, (ceiling - floor) * x * rest], axis=-1)
    p = curve_of(counts, top)
    inside = (p > 0) & (p < 1)
    pull = (counts.correct - counts.trials * p) / jnp.where(inside, p * (1 - p), 1)
    scores = slopes * jnp.where(inside, pull, 0)[:, None]
    sums, number = sum_by_question(scores, counts.trials, rows.question)
    return outer_products(sums, number), jnp.maximum(number - 1, 1)
