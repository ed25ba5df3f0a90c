"""The likelihood of an accuracy curve, given counts of correct answers at some token budgets.

The probability of a correct answer is p(l) = D + A (1 - e^{-b l}). It is evaluated in coordinates
(D, v, ln b) in which every constraint is a bound. With κ = 1 the second is the ceiling U = A + D,
bounded by 1; with κ = 0 it is the gain A itself, for profiles along A, where D is bounded by 1 - A
(derived here):

    A = v - κ D,  x = b l,  p = D + A (1 - e^{-x}),
    ∂p/∂D = 1 - κ (1 - e^{-x}),  ∂p/∂v = 1 - e^{-x},  ∂p/∂ln b = A x e^{-x}.

For a fixed b the likelihood is concave in (D, v), since p is affine in them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Axis letter: L budgets ("levels") at which accuracy was counted.
PerLevel = Float[Array, "L"]
Scalar = Float[Array, ""]
Vector = Float[Array, "3"]
Matrix = Float[Array, "3 3"]
# The six numbers of a symmetric 3 x 3 matrix: 00, 11, 22, 01, 02, 12.
Symmetric = tuple[Scalar, ...]


class Counts(NamedTuple):
    """What was measured at each level.

    Attributes:
      tokens: [L] budgets.
      correct: [L] correct answers.
      trials: [L] answers; levels with 0 play no part.
    """

    tokens: PerLevel
    correct: PerLevel
    trials: PerLevel


class Evaluation(NamedTuple):
    """The log-likelihood at a point and its first two derivatives.

    Attributes:
      value: log-likelihood, without the binomial coefficients.
      gradient: its derivative in (D, v, ln b).
      observed: minus its second derivative.
      expected: the expectation of `observed` (Fisher's information).
    """

    value: Scalar
    gradient: tuple[Scalar, ...]
    observed: Symmetric
    expected: Symmetric


def probability(tokens: PerLevel, gain: Scalar, decay: Scalar, floor: Scalar) -> PerLevel:
    """p = D + A (1 - e^{-b l})."""
    return floor - gain * jnp.expm1(-decay * tokens)


def log_likelihood(counts: Counts, p: PerLevel) -> Scalar:
    """Σ y ln p + (n - y) ln(1 - p); -inf where the data are impossible."""
    return jnp.sum(_terms(counts, p))


def _terms(counts: Counts, p: PerLevel) -> PerLevel:
    wrong = counts.trials - counts.correct
    right = jnp.where(counts.correct > 0, p, 1)  # selected first: a derivative stays finite
    left = jnp.where(wrong > 0, p, 0)
    return counts.correct * jnp.log(right) + wrong * jnp.log1p(-left)


def evaluate(counts: Counts, point: Vector, kappa: Scalar) -> Evaluation:
    """Everything a step needs, in one pass over the levels.

    Args:
      counts: the data.
      point: [3] (D, v, ln b).
      kappa: 1 where v is the ceiling, 0 where it is the gain.
    """
    floor, second, rate = point
    x = jnp.exp(rate) * counts.tokens
    rest = jnp.exp(-x)
    rise, turn = 1 - rest, x * rest
    gain = second - kappa * floor
    p = floor + gain * rise
    by_floor, by_rate = 1 - kappa * rise, gain * turn
    wrong = counts.trials - counts.correct
    right = jnp.where(counts.correct > 0, p, 1)  # selected first, as in the likelihood
    left = jnp.where(wrong > 0, 1 - p, 1)
    hit, miss = counts.correct / right, wrong / left
    slope = hit - miss
    seen = hit / right + miss / left
    inside = (p > 0) & (p < 1)
    meant = jnp.where(inside, counts.trials / jnp.where(inside, p * (1 - p), 1), 0)
    products = (
        by_floor * by_floor,
        rise * rise,
        by_rate * by_rate,
        by_floor * rise,
        by_floor * by_rate,
        rise * by_rate,
    )
    none = jnp.zeros_like(x)
    bends = (none, none, by_rate * (1 - x), none, -kappa * turn, turn)
    sums = _sums(
        _terms(counts, p),
        slope * by_floor,
        slope * rise,
        slope * by_rate,
        *(seen * product - slope * bend for product, bend in zip(products, bends, strict=True)),
        *(meant * product for product in products),
    )
    return Evaluation(sums[0], sums[1:4], sums[4:10], sums[10:16])


@jax.custom_jvp
def _sums(*terms: PerLevel) -> tuple[Scalar, ...]:
    """The sums over levels of several vectors, in one pass."""
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    return tuple(
        jax.lax.reduce(
            terms, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (0,)
        )
    )


@_sums.defjvp
def _sums_jvp(
    terms: tuple[PerLevel, ...], moved: tuple[PerLevel, ...]
) -> tuple[tuple[Scalar, ...], tuple[Scalar, ...]]:
    return _sums(*terms), tuple(jnp.sum(term) for term in moved)
