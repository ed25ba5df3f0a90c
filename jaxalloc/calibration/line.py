"""The line of service times: least squares or Huber's loss, its scatter, what is known of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalloc.calibration.lack_of_fit import (
    MOST_GROUPS,
    LackOfFit,
    compare,
    count_levels,
    group_of,
    influences,
    one_hot,
    spread_of_groups,
)
from jaxalloc.calibration.likelihood import Scalar, inverse_of, over
from jaxalloc.calibration.rows import Labels, PerRow
from jaxalloc.calibration.sandwich import Spread, at_bounds, spread_of

Line = Float[Array, "2"]  # (t0, c)

_HUBER = 1.345  # scales: 95 % of the efficiency of least squares on normal residuals
_MAD_TO_SCALE = 1.4826  # median absolute residual to standard deviation, of normal residuals
_MEDIAN_ERROR = 1.17  # of the scale from a median, over √N: its efficiency is 37 % (normal law)
_MAX_ROUNDS = 200
_LEAST_TIME = 1e-3  # of the mean, below which residuals are not made relative
_LEAST_CHANGE = {"float64": 1e-10, "float32": 1e-5}  # relative, of the fitted times
_ROUNDING = 1e3  # eps of a relative residual that is 0
_LEAST_REST = 1e-6  # 1 - leverage of a row whose residual says nothing
_ROWS_A_GROUP = 3  # at least, where budgets are not repeated
_LEAST_SHARE = 0.1  # of the mean time, below which a departure is not made relative
_MATERIAL = 0.01  # a departure, of the mean time, that is worth a word


class Times(NamedTuple):
    """Measured times.

    Attributes:
      tokens: [N] in units of the largest.
      seconds: [N].
      weight: [N] rows with 0 play no part.
    """

    tokens: PerRow
    seconds: PerRow
    weight: PerRow


class Fitted(NamedTuple):
    """A line, and the equations Σ loss x (y - x'β) = 0 that it solves, with x = (1, tokens).

    Attributes:
      line: [2] (t0, c).
      at_bound: whether base_time is held at 0.
      loss: [N] weight of a row, 0 to 1 times what it weighs by itself if Huber's.
      curved: [N] derivative of a row's score.
      design: [N, 2] x.
      residual: [N] s.
      times: [N] fitted ones, s, kept away from 0.
      bread: [2, 2] Σ curved x x'.
      inverse: [2, 2] of the bread, on the coordinates that are free.
    """

    line: Line
    at_bound: Bool[Array, ""]
    loss: PerRow
    curved: PerRow
    design: Float[Array, "N 2"]
    residual: PerRow
    times: PerRow
    bread: Float[Array, "2 2"]
    inverse: Float[Array, "2 2"]


def fit_line(rows: Times, loss: PerRow, robust: bool, bounded: bool = True) -> Fitted:
    """The line of least weighted squares, with t0 >= 0 or without that bound."""
    line, at_bound = _straight(rows, loss, bounded)
    residual, times = _residuals(rows, line)
    design = jnp.stack([jnp.ones_like(rows.tokens), rows.tokens], axis=-1)
    curved = rows.weight
    if robust:
        unclipped = rows.weight / jnp.square(times)
        curved = jnp.where(loss >= unclipped * (1 - 1e-6), unclipped, 0)
    bread = design.T @ (design * curved[:, None])
    inverse = inverse_of(bread, jnp.stack([~at_bound, jnp.array(True)]))
    return Fitted(line, at_bound, loss, curved, design, residual, times, bread, inverse)


def _straight(rows: Times, loss: PerRow, bounded: bool = True) -> tuple[Line, Bool[Array, ""]]:
    """(t0, c) of least weighted squares, and whether a bound holds t0 at 0."""
    total = jnp.sum(loss)
    middle, height = jnp.sum(loss * rows.tokens) / total, jnp.sum(loss * rows.seconds) / total
    away = rows.tokens - middle
    slope = over(jnp.sum(loss * away * (rows.seconds - height)), jnp.sum(loss * jnp.square(away)))
    start = height - slope * middle
    through = over(jnp.sum(loss * rows.tokens * rows.seconds), jnp.sum(loss * rows.tokens**2))
    at_bound = (start < 0) & (slope > 0) & bounded
    held = jnp.stack([jnp.zeros_like(start), through])
    return jnp.where(at_bound, held, jnp.stack([start, slope])), at_bound


def _residuals(rows: Times, line: Line) -> tuple[PerRow, PerRow]:
    """Measured less fitted times, and fitted ones kept away from 0, s."""
    fitted = line[0] + line[1] * rows.tokens
    mean = jnp.sum(rows.weight * rows.seconds) / jnp.sum(rows.weight)
    return rows.seconds - fitted, jnp.maximum(fitted, _LEAST_TIME * mean)


def _scale(rows: Times, line: Line) -> tuple[Scalar, PerRow]:
    """The standard deviation of the relative residuals as their median size tells it; the sizes."""
    residual, times = _residuals(rows, line)
    sizes = jnp.where(rows.weight > 0, jnp.abs(residual) / times, jnp.nan)
    return _MAD_TO_SCALE * jnp.nanmedian(sizes), jnp.nan_to_num(sizes)


def reweight(rows: Times) -> tuple[PerRow, Int[Array, ""], Bool[Array, ""]]:
    """Huber's weights on relative residuals, the rounds they took, and whether they settled."""
    limit = _LEAST_CHANGE[str(rows.seconds.dtype)]

    def weights(line: Line) -> PerRow:
        scale, sizes = _scale(rows, line)
        clip = _HUBER * scale
        huber = jnp.where(sizes > clip, clip / jnp.maximum(sizes, 1e-30), 1)
        return rows.weight * huber / jnp.square(_residuals(rows, line)[1])

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        _, change, count = carry
        return (change > limit) & (count < _MAX_ROUNDS)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        line, _, count = carry
        new, _ = _straight(rows, weights(line))
        change = jnp.sum(jnp.abs(new - line)) / jnp.maximum(jnp.sum(jnp.abs(new)), 1e-30)
        return new, change, count + 1

    first, _ = _straight(rows, rows.weight)
    start = first, jnp.full_like(first[0], jnp.inf), jnp.int32(0)
    line, change, count = jax.lax.while_loop(unfinished, advance, start)
    return weights(line), count, change <= limit


def without_scale(rows: Times, line: Line) -> Bool[Array, ""]:
    """Whether most times lie on the line exactly and others do not: Huber's loss has no scale."""
    none = _ROUNDING * jnp.finfo(rows.seconds.dtype).eps
    scale, sizes = _scale(rows, line)
    return (scale <= none) & (jnp.max(sizes, initial=0) > none)


def scatter(rows: Times, own: Fitted, robust: bool) -> tuple[Scalar, Scalar]:
    """The coefficient of variation of the service time, and its standard error."""
    number = jnp.sum(rows.weight)
    if robust:
        scale, _ = _scale(rows, own.line)
        return scale, _MEDIAN_ERROR * scale / jnp.sqrt(number)
    time, residual = jnp.square(own.times), jnp.square(own.residual)
    second = jnp.sum(rows.weight * time)
    square = jnp.sum(rows.weight * residual) / second * number / jnp.maximum(number - 2, 1)
    error = jnp.sqrt(jnp.sum(jnp.square(rows.weight * (residual - square * time)))) / second
    cv = jnp.sqrt(square)
    return cv, over(error, 2 * cv)


def spread_of_line(rows: Times, own: Fitted, cv: Scalar, question: Labels | None) -> Spread:
    """The sandwich covariance of (t0, c), its degrees of freedom, and whether scatter is seen.

    B⁻¹ M B⁻¹ with B = Σ ψ′ x xᵀ and M that of the scores ψ x, by rows or by questions. A row's
    residual is divided by 1 - its leverage h (HC3: MacKinnon & White, 1985), and the degrees of
    freedom are those of as many equal rows as weigh as much as these, less one: of the shares
    a²/(1 - h) that rows have in the variance of a coefficient Σ a y, (Σ share)² / Σ share² - 1
    (after Bell and McCaffrey, 2002, Survey Methodology 28). Without both, intervals of a few rows
    are too short.
    """
    leverage = own.curved * jnp.einsum("ni,ij,nj->n", own.design, own.inverse, own.design)
    rest = 1 - leverage
    says = rest > _LEAST_REST
    # A row alone at its end of the line: its residual is 0 whatever its scatter is.
    size = jnp.where(says, own.residual / jnp.where(says, rest, 1), cv * own.times)
    alone = own.design @ own.inverse * own.loss[:, None]
    by_rows = alone * size[:, None]
    spread = spread_of(by_rows.T @ by_rows, alone * own.residual[:, None], rows.weight, question)
    held = jnp.stack([own.at_bound, jnp.array(False)])
    number = spread.dof + 1
    if question is None:
        number = jnp.sum(rows.weight > 0).astype(cv.dtype)
        share = jnp.square(own.design @ own.inverse * own.curved[:, None])
        share = share / jnp.maximum(rest, _LEAST_REST)[:, None]
        many = over(jnp.square(jnp.sum(share, axis=0)), jnp.sum(jnp.square(share), axis=0)) - 1
        dof = jnp.clip(jnp.min(jnp.where(held, jnp.inf, many)), 1, jnp.maximum(number - 2, 1))
        spread = spread._replace(dof=dof)
    tiny = jnp.finfo(cv.dtype).tiny
    exact = (spread.dof >= len(held)) & (jnp.max(jnp.abs(size * own.loss)) <= tiny)
    # The score of t0 and its curvature in units of the variance of the residuals.
    variance = jnp.sum(own.loss * jnp.square(own.residual)) / jnp.maximum(number - 1, 1)
    variance = jnp.maximum(variance, tiny**0.5)
    gradient = own.design.T @ (own.loss * own.residual) / variance
    of_held = at_bounds(own.bread / variance, own.inverse * variance, gradient, held)
    return spread._replace(robust=spread.robust + of_held, seen=spread.seen | exact)


def slope_error(rows: Times, own: Fitted, spread: Spread, question: Labels | None) -> Scalar:
    """The standard error with which a slope is told from 0.

    By questions that of the covariance. By rows one without its caution about leverage, which would
    see no slope in three rows on a line.
    """
    if question is not None:
        return jnp.sqrt(spread.robust[1, 1])
    number = jnp.sum(rows.weight > 0).astype(own.line.dtype)
    score = (own.design @ own.inverse[1]) * own.loss * own.residual
    return jnp.sqrt(jnp.sum(jnp.square(score)) * number / jnp.maximum(number - 2, 1))


def lack_of_line(
    rows: Times, own: Fitted, question: Labels | None
) -> tuple[LackOfFit, Bool[Array, ""]]:
    """Whether times lie on a line, and if they miss it by what is worth a word.

    Groups are budgets where these are repeated (a test of pure error), else neighbours; T is
    Σ n (mean residual / fitted time)². S is that of the residuals around the means of their groups.
    """
    used = (rows.weight > 0).astype(rows.seconds.dtype)
    number, levels = jnp.sum(used).astype(int), count_levels(rows.tokens, rows.weight)
    repeated = (levels <= MOST_GROUPS) & (number >= 2 * levels)
    most = jnp.clip(number // _ROWS_A_GROUP, 1, MOST_GROUPS)
    most = jnp.where(repeated, MOST_GROUPS, most)
    hot = one_hot(group_of(rows.tokens, rows.tokens, rows.weight, most), used.dtype)
    columns = used, rows.weight, own.loss, own.loss * own.residual, rows.weight * own.times
    count, total, strength, sums, times = (hot.T @ column for column in columns)
    centre, mean = over(sums, strength), jnp.sum(rows.weight * rows.seconds) / jnp.sum(rows.weight)
    level = jnp.maximum(over(times, total), _LEAST_SHARE * mean)
    unit = over(jnp.sqrt(total), strength) / level

    residual = own.loss * (own.residual - hot @ centre)
    if question is None:  # of rows that are alone in their group nothing is taken away
        free = hot @ jnp.where(count > 1, jnp.sqrt(over(count, count - 1)), 0)
        residual = jnp.where(free > 0, residual * free, own.loss * own.residual)
    project = hot.T @ (own.design * own.curved[:, None]) @ own.inverse
    values = influences(residual, hot, own.design, project) * unit[None]
    spread, known = spread_of_groups(values, rows.weight, question)
    if question is None:
        squares = hot.T @ jnp.sum(jnp.square(values), axis=1)
        each = jnp.sum(jnp.square(squares) / jnp.maximum(count - 1, 1))
        known = over(jnp.square(jnp.sum(squares)), each)
    left = jnp.sum((count > 0) & (strength > 0)) - 2
    lack = compare(jnp.sum(jnp.square(unit * sums)), spread, known, left)
    departure = jnp.sqrt(jnp.sum(total * jnp.square(centre)) / jnp.sum(total))
    return lack, lack.significant & (departure >= _MATERIAL * mean)
