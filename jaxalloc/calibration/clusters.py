"""Sums by question: what a covariance of whole questions drawn anew is made of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalloc.calibration.likelihood import Matrix, Scalar
from jaxalloc.calibration.rows import Labels, PerRow

_LEAST_EFFECT = 1e-6  # a design effect that is no scatter of questions
ONE_SIDED = 1.96  # standard errors to the end of a one-sided interval of a parameter at its bound


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


def outer_products(sums: Float[Array, "N M"], number: Scalar) -> Matrix:
    """The covariance of a sum over `number` questions, Σ s sᵀ G / (G - 1)."""
    return sums.T @ sums * number / jnp.maximum(number - 1, 1)


def with_scatter(robust: Matrix, plain: Matrix) -> tuple[Matrix, Bool[Array, ""]]:
    """A covariance by questions, and whether questions differ at all.

    Questions that are alike in a parameter have no scatter there, and would say that it is known
    exactly: its variance is then that by answers.

    Args:
      robust: [M, M] covariance by questions.
      plain: [M, M] covariance by answers; 0 where a parameter is not free.
    """
    own = jnp.diagonal(plain)
    alike = (own > 0) & ~(jnp.diagonal(robust) > _LEAST_EFFECT * own)
    return robust + jnp.diag(jnp.where(alike, own, 0)), jnp.any((own > 0) & ~alike)


def one_sided_error(push: Any, curvature: Any) -> Any:
    """A standard error for a parameter at its bound, where the likelihood is e^{-g x - h x²/2}.

    The x at which that falls to the end of a 95 % interval, g x + h x²/2 = 1.96²/2, over 1.96: the
    usual 1/√h where g = 0 (derived here).
    """
    square = ONE_SIDED**2
    steep = push + jnp.sqrt(jnp.square(push) + square * jnp.maximum(curvature, 0))
    return ONE_SIDED / jnp.maximum(steep, jnp.finfo(steep.dtype).tiny ** 0.25)
