"""Lack of fit: do groups of neighbouring budgets depart from a fitted law by more than chance?

With r the sums of the residuals of G groups, the statistic T is a weighted sum of their squares.
If the law holds it is distributed as Σ λ_i χ²_1, λ the eigenvalues of the weighted covariance S of
r, from which the fit has taken its parameters. T / tr S is compared with F of tr(S)² / tr(S²) and
the scatter's degrees of freedom (the statistic of Brunner, Dette and Munk, 1997, JASA 92; of
questions, the correction of second order of Rao and Scott, 1984, Annals of Statistics 12). For a
binomial likelihood with as many groups as budgets that is the deviance and χ² of G - 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaincc
from jaxtyping import Array, Bool, Float, Int

from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.rows import Labels, PerRow
from jaxalloc.calibration.sandwich import outer_products, sum_by_question

MOST_GROUPS = 10
SIGNIFICANT = 1e-3  # the largest p-value of a law that is called LACK_OF_FIT


class LackOfFit(NamedTuple):
    """Whether a law fits.

    Attributes:
      ratio: the misfit over what chance makes it on average.
      dof: its degrees of freedom; 0 where none is left, so that nothing can be said.
      p_value: the probability of so large a misfit if the law holds; 1 where nothing can be said.
    """

    ratio: Scalar
    dof: Scalar
    p_value: Scalar

    @property
    def significant(self) -> Bool[Array, ""]:
        """Whether the misfit is beyond chance."""
        return self.p_value < SIGNIFICANT


def count_levels(tokens: PerRow, weight: PerRow) -> Int[Array, ""]:
    """How many different budgets have a positive weight."""
    in_order = jnp.sort(jnp.where(weight > 0, tokens, jnp.inf))
    new = jnp.isfinite(in_order[1:]) & (in_order[1:] > in_order[:-1])
    return jnp.sum(new) + jnp.any(weight > 0).astype(int)


def group_of(tokens: Any, levels: Any, weight: Any, most: Any = MOST_GROUPS, xp: Any = jnp) -> Any:
    """[N] the group of each budget: one a level if there are few, else of about equal weight.

    Args:
      tokens: [N] budgets, all of them among the levels.
      levels: [L] measured budgets, in any order, some perhaps several times.
      weight: [L] what each weighs; those of 0 play no part.
      most: groups, at most `MOST_GROUPS`.
      xp: `jax.numpy` or `numpy`.
    """
    at = xp.where(weight > 0, levels, xp.inf)
    order = xp.argsort(at)
    at = at[order]
    new = (at[1:] > at[:-1]) & xp.isfinite(at[1:])
    rank = xp.concatenate([xp.zeros(1, int), xp.cumsum(new)])
    below = xp.concatenate([xp.zeros(1, weight.dtype), xp.cumsum(weight[order])])
    left, right = (xp.searchsorted(at, tokens, side=side) for side in ("left", "right"))
    share = (below[left] + below[right]) / xp.where(below[-1] > 0, 2 * below[-1], 1)
    of_share = xp.clip((share * xp.asarray(most, share.dtype)).astype(int), 0, most - 1)
    return xp.where(rank[-1] < most, rank[xp.minimum(left, len(at) - 1)], of_share)


def one_hot(group: Any, dtype: Any) -> Float[Array, "N G"]:
    """[N, G] 1 where a row is in a group."""
    return jax.nn.one_hot(group, MOST_GROUPS, dtype=dtype)


def influences(
    residual: PerRow, hot: Float[Array, "N G"], design: Float[Array, "N M"], project: Any
) -> Float[Array, "N G"]:
    """[N, G] what each row does to the sums r of the groups, through the fit too.

    Args:
      residual: [N] what a row adds to the sum of its group.
      hot: [N, G] the groups.
      design: [N, M] over `residual`, what a row adds to the equations of the M parameters.
      project: [G, M] what these equations take from the sums.
    """
    return residual[:, None] * (hot - design @ project.T)


def spread_of_groups(
    values: Float[Array, "N G"], weight: PerRow, question: Labels | None
) -> tuple[Float[Array, "G G"], Scalar]:
    """S and its degrees of freedom from influences, which are independent by row or by question."""
    if question is None:
        return values.T @ values, jnp.full_like(values[0, 0], jnp.inf)
    sums, number = sum_by_question(values, weight, question)
    return outer_products(sums, number), number - 1


def compare(
    statistic: Scalar, spread: Float[Array, "G G"], scatter: Scalar, free: Scalar
) -> LackOfFit:
    """T against its distribution under the law.

    Args:
      statistic: T.
      spread: [G, G] S, in the units of T.
      scatter: degrees of freedom with which S is known.
      free: groups less parameters: below 1 nothing is said.
    """
    mean, square = jnp.trace(spread), jnp.sum(jnp.square(spread))
    dof = jnp.where(square > 0, jnp.square(mean) / jnp.where(square > 0, square, 1), 1)
    # Questions without any scatter: whatever departs is no chance.
    ratio = statistic / jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)
    p_value = _p_value(ratio, dof, jnp.maximum(scatter, 1))
    some = free >= 1
    return LackOfFit(
        *map(lambda x, none: jnp.where(some, x, none), (ratio, dof, p_value), (0, 0, 1))
    )


@jax.custom_jvp
def _p_value(ratio: Scalar, dof: Scalar, scatter: Scalar) -> Scalar:
    """P(F > ratio) for F of (dof, scatter) degrees of freedom; its derivative is NaN."""
    exactly = jnp.isinf(scatter)
    scatter = jnp.where(exactly, jnp.ones_like(scatter), scatter)
    of_f = betainc(scatter / 2, dof / 2, scatter / (scatter + dof * ratio))
    return jnp.where(exactly, gammaincc(dof / 2, dof * ratio / 2), of_f)


@_p_value.defjvp
def _p_value_jvp(primals: Any, tangents: Any) -> tuple[Scalar, Scalar]:
    p_value = _p_value(*primals)  # JAX has no derivative of these functions in their parameters
    return p_value, jnp.full_like(p_value, jnp.nan) * sum(tangents)
