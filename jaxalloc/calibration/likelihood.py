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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Axis letter: L budgets ("levels") at which accuracy was counted.
PerLevel = Float[Array, "L"]
Scalar = Float[Array, ""]
Vector = Float[Array, "3"]
Matrix = Float[Array, "3 3"]
Symmetric = tuple[Scalar, ...]  # the six numbers of a 3 x 3 matrix, in the order of `PAIRS`

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


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


def curve(tokens: PerLevel, point: Vector, kappa: Any = 1) -> tuple[PerLevel, list[PerLevel]]:
    """p at every level and its derivatives in (D, v, ln b)."""
    floor, second, rate = point
    x = jnp.exp(rate) * tokens
    rest = jnp.exp(-x)
    gain = second - kappa * floor
    return floor + gain * (1 - rest), [1 - kappa * (1 - rest), 1 - rest, gain * x * rest]


def log_likelihood(counts: Counts, p: PerLevel) -> Scalar:
    """Σ y ln p + (n - y) ln(1 - p); -inf where the data are impossible."""
    return jnp.sum(_terms(counts, p))


def _terms(counts: Counts, p: PerLevel) -> PerLevel:
    wrong = counts.trials - counts.correct
    right = jnp.where(counts.correct > 0, p, 1)  # selected first: a derivative stays finite
    left = jnp.where(wrong > 0, p, 0)
    return counts.correct * jnp.log(right) + wrong * jnp.log1p(-left)


def over(above: Any, below: Any) -> Any:
    """A quotient, 0 where nothing positive is below."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)


def evaluate(counts: Counts, point: Vector, kappa: Any = 1) -> Evaluation:
    """Everything a step needs.

    Args:
      counts: the data.
      point: [3] (D, v, ln b).
      kappa: 1 where v is the ceiling, 0 where it is the gain.
    """
    p, slopes = curve(counts.tokens, point, kappa)
    x = jnp.exp(point[2]) * counts.tokens
    turn = x * jnp.exp(-x)
    wrong = counts.trials - counts.correct
    right = jnp.where(counts.correct > 0, p, 1)
    left = jnp.where(wrong > 0, 1 - p, 1)
    pull = counts.correct / right - wrong / left
    seen = counts.correct / right**2 + wrong / left**2
    meant = over(counts.trials, p * (1 - p))
    bends = {(0, 2): -kappa * turn, (1, 2): turn, (2, 2): slopes[2] * (1 - x)}
    products = {(i, j): slopes[i] * slopes[j] for i, j in PAIRS}
    sums = _sums(
        _terms(counts, p),
        *(pull * slope for slope in slopes),
        *(seen * products[pair] - pull * bends.get(pair, 0) for pair in PAIRS),
        *(meant * products[pair] for pair in PAIRS),
    )
    return Evaluation(sums[0], sums[1:4], sums[4:10], sums[10:])


@jax.custom_jvp
def _sums(*terms: PerLevel) -> tuple[Scalar, ...]:
    """The sums over levels of several vectors, in one pass: five times as fast as one by one."""

    def add(a: tuple[Scalar, ...], b: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    return tuple(jax.lax.reduce(terms, tuple(jnp.zeros((), x.dtype) for x in terms), add, (0,)))


@_sums.defjvp
def _sums_jvp(terms: tuple[PerLevel, ...], moved: tuple[PerLevel, ...]) -> Any:
    return _sums(*terms), tuple(jnp.sum(term) for term in moved)


def full(entries: Symmetric) -> Matrix:
    """The matrix of the six numbers 00, 11, 22, 01, 02, 12."""
    a, b, c, d, e, f = entries
    return jnp.stack([jnp.stack([a, d, e]), jnp.stack([d, b, f]), jnp.stack([e, f, c])])


def inverse_of(matrix: Any, free: Any) -> Any:
    """The inverse on the coordinates that are free, 0 elsewhere; NaN if not positive definite."""
    free = free.astype(matrix.dtype)
    both = free[:, None] * free[None, :]
    own = jnp.diagonal(matrix) * free
    root = jnp.sqrt(jnp.where(own > 0, own, 1))
    scale = root[:, None] * root[None, :]
    factor = jax.lax.linalg.cholesky(matrix * both / scale + jnp.diag(1 - free))
    half = jax.lax.linalg.triangular_solve(
        factor, jnp.eye(len(matrix), dtype=matrix.dtype), left_side=True, lower=True
    )
    return half.T @ half / scale * both
