"""Covariances that hold for whole questions drawn anew, and for parameters at a bound."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalloc.calibration.likelihood import Scalar
from jaxalloc.calibration.rows import Labels, PerRow

# Axis letter: M parameters.
Square = Float[Array, "M M"]

_LEAST_EFFECT = 1e-6  # a design effect that is no scatter of questions
_ONE_SIDED = 1.96  # standard errors to the end of a one-sided interval of a parameter at its bound


class Spread(NamedTuple):
    """How well some parameters are known.

    Attributes:
      plain: [M, M] covariance if answers are independent.
      robust: [M, M] that of whole questions; the same without questions.
      dof: questions - 1; inf without questions.
      seen: whether questions differ, and are more than the parameters.
    """

    plain: Square
    robust: Square
    dof: Scalar
    seen: Bool[Array, ""]


def sum_by_question(
    values: Float[Array, "N M"], weight: PerRow, question: Labels
) -> tuple[Float[Array, "N M"], Scalar]:
    """The sums of the rows of each question, and the number of questions of positive weight."""
    size = values.shape[0]
    _, place = jnp.unique(question, return_inverse=True, size=size)
    place = place.reshape(size)
    sums = jax.ops.segment_sum(values, place, num_segments=size)
    seen = jax.ops.segment_sum(weight, place, num_segments=size) > 0
    return sums, jnp.sum(seen).astype(values.dtype)


def outer_products(sums: Float[Array, "N M"], number: Scalar) -> Square:
    """The covariance of a sum over `number` questions, Σ s sᵀ G / (G - 1)."""
    return sums.T @ sums * number / jnp.maximum(number - 1, 1)


def spread_of(
    plain: Square, influence: Float[Array, "N M"], weight: PerRow, question: Labels | None
) -> Spread:
    """The covariance by questions beside that by answers (Liang & Zeger, 1986, Biometrika 73).

    Questions that are alike in a parameter have no scatter there, and would say that it is known
    exactly: its variance is then that by answers. Of no more questions than parameters the
    covariance would say that some combinations are known exactly.

    Args:
      plain: [M, M] covariance by answers; 0 where a parameter is not free.
      influence: [N, M] what each row adds to the parameters.
      weight: [N] rows with 0 play no part.
      question: [N] or None.
    """
    if question is None:
        return Spread(plain, plain, jnp.full_like(plain[0, 0], jnp.inf), jnp.array(True))
    sums, number = sum_by_question(influence, weight, question)
    robust, own = outer_products(sums, number), jnp.diagonal(plain)
    alike = (own > 0) & ~(jnp.diagonal(robust) > _LEAST_EFFECT * own)
    robust = robust + jnp.diag(jnp.where(alike, own, 0))
    dof = jnp.maximum(number - 1, 1)
    return Spread(plain, robust, dof, jnp.any((own > 0) & ~alike) & (dof >= len(own)))


def at_bounds(information: Square, inverse: Square, gradient: Any, fixed: Any) -> Square:
    """The covariance that parameters at their bounds have, and the free ones following them.

    At a bound the likelihood is e^{-g x - h x²/2}. The x at which that falls to the end of a 95 %
    interval, g x + h x²/2 = 1.96²/2, over 1.96 is taken for a standard error: the usual 1/√h where
    g = 0. The free ones follow along -C H (derived here).

    Args:
      information: [M, M] H, minus the second derivative of the log-likelihood.
      inverse: [M, M] C, its inverse on the free parameters, 0 elsewhere.
      gradient: [M] of the log-likelihood.
      fixed: [M] which parameters are held.
    """
    follow = jnp.eye(len(inverse), dtype=inverse.dtype) - inverse @ information
    curvature = jnp.maximum(jnp.diagonal(information @ follow), 0)
    push = jnp.abs(gradient)
    steep = push + jnp.sqrt(jnp.square(push) + _ONE_SIDED**2 * curvature)
    error = _ONE_SIDED / jnp.maximum(steep, jnp.finfo(steep.dtype).tiny ** 0.25)
    return (follow * jnp.where(fixed, jnp.square(error), 0)[None, :]) @ follow.T
