"""How well a line of service times is known, and whether the times lie on one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalloc.calibration.clusters import (
    one_sided_error,
    outer_products,
    sum_by_question,
    with_scatter,
)
from jaxalloc.calibration.lack_of_fit import (
    MOST_GROUPS,
    LackOfFit,
    compare,
    count_levels,
    group_of,
    influences,
    one_hot,
    significant,
    spread_by_question,
)
from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.line import Rows, fitted_times, residuals
from jaxalloc.calibration.rows import PerRow

_LEAST_REST = 1e-6  # 1 - leverage of a row whose residual says nothing
_ROWS_A_GROUP = 3  # at least, where budgets are not repeated
_LEAST_SHARE = 0.1  # of the mean time, below which a departure is not made relative
_MATERIAL = 0.01  # a departure, of the mean time, that is worth a word

Matrix2 = Float[Array, "2 2"]


class Equations(NamedTuple):
    """The equations Σ loss x (y - x'β) = 0 of a line, at their solution.

    Attributes:
      design: [N, 2] x = (1, tokens).
      loss: [N] weight of a row, 0 to 1 times what it weighs by itself if Huber's.
      curved: [N] derivative of a row's score.
      residual: [N] s.
      fitted: [N] s, kept away from 0.
      bread: [2, 2] Σ curved x x'.
      inverse: [2, 2] of the bread, on the coordinates that are free.
      at_bound: whether base_time is held at 0.
    """

    design: Float[Array, "N 2"]
    loss: PerRow
    curved: PerRow
    residual: PerRow
    fitted: PerRow
    bread: Matrix2
    inverse: Matrix2
    at_bound: Bool[Array, ""]


def equations(
    rows: Rows, line: Float[Array, "2"], loss: PerRow, at_bound: Bool[Array, ""], robust: bool
) -> Equations:
    """What covariance and lack of fit are made of."""
    design = jnp.stack([jnp.ones_like(rows.tokens), rows.tokens], axis=-1)
    fitted = fitted_times(rows, line)
    curved = rows.weight
    if robust:
        unclipped = rows.weight / jnp.square(fitted)
        curved = jnp.where(loss >= unclipped * (1 - 1e-6), unclipped, 0)
    bread = design.T @ (design * curved[:, None])
    inverse = _invert(bread, at_bound)
    return Equations(design, loss, curved, residuals(rows, line), fitted, bread, inverse, at_bound)


def _invert(matrix: Matrix2, at_bound: Bool[Array, ""]) -> Matrix2:
    """The inverse; of the second coordinate alone where the first is held."""
    a, b, d = matrix[0, 0], matrix[0, 1], matrix[1, 1]
    determinant = a * d - b * b
    whole = jnp.stack([jnp.stack([d, -b]), jnp.stack([-b, a])])
    whole = whole / jnp.where(determinant > 0, determinant, jnp.nan)
    alone = jnp.zeros_like(matrix).at[1, 1].set(1 / d)
    return jnp.where(at_bound, alone, whole)


def covariance_of(
    rows: Rows, own: Equations, cv: Scalar, question: Any
) -> tuple[Matrix2, Scalar, Bool[Array, ""]]:
    """The sandwich covariance of (t0, c), its degrees of freedom, and whether scatter is seen.

    B⁻¹ M B⁻¹ with B = Σ ψ′ x xᵀ and M that of the scores ψ x, by rows or by questions. A row's
    residual is divided by 1 - its leverage (HC3: MacKinnon & White, 1985), and the degrees of
    freedom are those of Bell and McCaffrey (2002, Survey Methodology 28): without both, intervals
    of a few rows are too short. With t0 held at 0 only c is free; t0 has a one-sided error, and c
    follows it (derived here).
    """
    free = jnp.stack([1 - own.at_bound.astype(cv.dtype), jnp.ones_like(cv)])
    leverage = own.curved * jnp.einsum("ni,ij,nj->n", own.design, own.inverse, own.design)
    rest = 1 - leverage
    says = rest > _LEAST_REST
    residual = own.residual / jnp.where(says, rest, 1)
    # A row alone at its end of the line: its residual is 0 whatever its scatter is.
    size = jnp.where(says, jnp.abs(own.loss * residual), own.loss * cv * own.fitted)
    by_rows = own.design.T @ (own.design * jnp.square(size)[:, None])
    number = jnp.sum(rows.weight > 0).astype(cv.dtype)
    if question is None:
        meat, seen = by_rows, jnp.array(True)
        factor = jnp.where(says, 1 / jnp.square(jnp.where(says, rest, 1)), 1)
        dof = jnp.clip(_satterthwaite(own, rest, factor, free), 1, jnp.maximum(number - 2, 1))
    else:
        scores = own.design * (own.loss * own.residual)[:, None]
        sums, number = sum_by_question(scores, rows.weight, question)
        meat, dof = outer_products(sums, number), jnp.maximum(number - 1, 1)
        seen = dof >= len(free)
    robust, plain = (own.inverse @ m @ own.inverse for m in (meat, by_rows))
    if question is not None:
        robust, some = with_scatter(robust, plain)
        exact = jnp.trace(by_rows) <= jnp.finfo(cv.dtype).tiny
        seen &= some | exact
    return robust + jnp.where(own.at_bound, _of_bound(own, number), 0), dof, seen


def slope_error(rows: Rows, own: Equations, covariance: Matrix2, question: Any) -> Scalar:
    """The standard error with which a slope is told from 0.

    By questions that of the covariance. By rows one without its caution about leverage, which would
    see no slope in three rows on a line.
    """
    if question is not None:
        return jnp.sqrt(covariance[1, 1])
    number = jnp.sum(rows.weight > 0).astype(covariance.dtype)
    score = (own.design @ own.inverse[1]) * own.loss * own.residual
    return jnp.sqrt(jnp.sum(jnp.square(score)) * number / jnp.maximum(number - 2, 1))


def _satterthwaite(own: Equations, rest: PerRow, factor: PerRow, free: Any) -> Scalar:
    """tr(Q)² / tr(Q²) of the variances as quadratic forms Q of independent residuals: the smaller.

    Q = P D P with P = 1 - √w x C xᵀ √w, so that with S = Σ D w x xᵀ tr(Q²) is
    Σ D² (1 - 2 h) + tr(C S C S) (derived here).
    """
    many = []
    for k in range(2):
        weight = jnp.square(own.curved * (own.design @ own.inverse[k])) * factor
        weight = weight / jnp.maximum(jnp.max(weight, initial=0), jnp.finfo(weight.dtype).tiny)
        shared = own.inverse @ (own.design.T @ (own.design * (weight * own.curved)[:, None]))
        square = jnp.sum(jnp.square(weight) * (2 * rest - 1)) + jnp.trace(shared @ shared)
        trace = jnp.sum(weight * jnp.maximum(rest, 0))
        many.append(jnp.square(trace) / jnp.where(square > 0, square, jnp.inf))
    return jnp.min(jnp.where(free > 0, jnp.stack(many), jnp.inf))


def _of_bound(own: Equations, number: Scalar) -> Matrix2:
    """What t0, held at 0, and c with it may still move."""
    bread = own.bread
    follow = jnp.stack([jnp.ones_like(number), -bread[0, 1] / bread[1, 1]])
    # The score of t0 and its curvature in units of the variance of the residuals.
    variance = jnp.sum(own.loss * jnp.square(own.residual)) / jnp.maximum(number - 1, 1)
    variance = jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)
    push = jnp.maximum(-jnp.sum(own.loss * own.residual), 0) / variance
    determinant = bread[0, 0] * bread[1, 1] - bread[0, 1] ** 2
    error = one_sided_error(push, determinant / bread[1, 1] / variance)
    return jnp.outer(follow, follow) * jnp.square(error)


def line_lack(rows: Rows, own: Equations, question: Any) -> tuple[LackOfFit, Bool[Array, ""]]:
    """Whether times lie on a line, t0 >= 0 or not, and if they miss it by what is worth a word.

    Groups are budgets where these are repeated (a test of pure error), else neighbours; T is
    Σ n (mean residual / fitted time)². S is that of the residuals around the means of their groups.
    """
    used = (rows.weight > 0).astype(rows.seconds.dtype)
    number, levels = jnp.sum(used).astype(int), count_levels(rows.tokens, rows.weight)
    repeated = (levels <= MOST_GROUPS) & (number >= 2 * levels)
    most = jnp.clip(number // _ROWS_A_GROUP, 1, MOST_GROUPS)
    most = jnp.where(repeated, MOST_GROUPS, most)
    group = group_of(rows.tokens, rows.tokens, rows.weight, most)
    hot = one_hot(group, used.dtype)
    columns = used, rows.weight, own.loss, own.loss * own.residual, rows.weight * own.fitted
    count, total, strength, sums, times = (hot.T @ column for column in columns)
    there = (count > 0) & (strength > 0)
    strength, total = jnp.where(there, strength, 1), jnp.where(there, total, 1)
    centre = sums / strength
    mean = jnp.sum(rows.weight * rows.seconds) / jnp.sum(rows.weight)
    unit = jnp.sqrt(total) / strength / jnp.maximum(times / total, _LEAST_SHARE * mean)
    unit = jnp.where(there, unit, 0)

    project = (hot.T @ (own.design * own.curved[:, None])) @ own.inverse
    residual = own.loss * (own.residual - centre[group])
    if question is None:
        alone = count[group] <= 1
        residual = residual * jnp.sqrt(count / jnp.maximum(count - 1, 1))[group]
        residual = jnp.where(alone, own.loss * own.residual, residual)
        values = influences(residual, hot, own.design, project) * unit[None]
        spread = values.T @ values
        squares = hot.T @ jnp.sum(jnp.square(values), axis=1)
        known = jnp.sum(jnp.square(squares) / jnp.maximum(count - 1, 1))
        scatter = jnp.square(jnp.sum(squares)) / jnp.where(known > 0, known, 1)
    else:
        values = influences(residual, hot, own.design, project) * unit[None]
        spread, scatter = spread_by_question(values, rows.weight, question)
    left = jnp.sum(there) - 2
    lack = compare(jnp.sum(jnp.square(unit * sums)), spread, scatter, left)
    departure = jnp.sqrt(jnp.sum(jnp.where(there, total * jnp.square(centre), 0)) / jnp.sum(total))
    return lack, significant(lack) & (departure >= _MATERIAL * mean)
