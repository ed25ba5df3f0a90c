"""Sums over types in one pass, and sums and products with their rounding errors.

XLA turns one sum over a short axis into a library call on a thread pool; several sums in one pass
become a plain loop. A number in double words is the sum of two floats, what an operation rounds to
and its error (Dekker, 1971; Knuth, 1969), which holds as long as no product overflows.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxalloc.allocation.model.workload import Scalar, Tokens

Words = tuple[Float[Array, "..."], Float[Array, "..."]]  # a value as the sum of two floats


@jax.custom_jvp
def sums(*terms: Tokens) -> tuple[Scalar, ...]:
    """The sums over types of several vectors, in one pass."""
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    return tuple(lax.reduce(terms, zeros, _add, (0,)))


@sums.defjvp
def _sums_jvp(primals: Any, tangents: Any) -> Any:
    return sums(*primals), tuple(jnp.sum(tangent) for tangent in tangents)


def largest(*terms: Tokens) -> Scalar:
    """The largest entry of several vectors, in one pass; NaN if one is NaN."""
    least = tuple(jnp.full((), -jnp.inf, term.dtype) for term in terms)
    return functools.reduce(jnp.maximum, lax.reduce(terms, least, _larger, (0,)))


def total(a: Words, b: Tokens) -> tuple[Words, Scalar]:
    """The sum of a vector of double words and that of a vector of floats, in one pass.

    The errors of the leading sum are summed beside it (Ogita, Rump & Oishi, 2005), off its path.
    """
    zero = jnp.zeros((), b.dtype)
    high, low, plain = lax.reduce((*a, b), (zero, zero, zero), _add_words, (0,))
    return (high, low), plain


# Functions with names, not lambdas: JAX caches what it compiled for them.
def _add(a: tuple[Scalar, ...], b: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return tuple(map(jnp.add, a, b))


def _larger(a: tuple[Scalar, ...], b: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return tuple(map(jnp.maximum, a, b))


def _add_words(x: tuple[Scalar, ...], y: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    high, error = exact_sum(x[0], y[0])
    return high, (x[1] + y[1]) + error, x[2] + y[2]


def exact_sum(a: Float[Array, "..."], b: Float[Array, "..."]) -> Words:
    """a + b as the rounded sum and its error."""
    rounded = a + b
    part = rounded - a
    return rounded, (a - (rounded - part)) + (b - part)


def exact_product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Words:
    """a b as the rounded product and its error."""
    rounded = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return rounded, ((a1 * b1 - rounded) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a: Float[Array, "..."]) -> Words:
    """The leading half of the significand, so that products of halves are exact, and the rest.

    A mask of bits, which no fused operation can spoil.
    """
    wide = np.dtype(a.dtype).itemsize == 8
    integer, dropped = (jnp.int64, 27) if wide else (jnp.int32, 12)
    bits = lax.bitcast_convert_type(a, integer)
    leading = lax.bitcast_convert_type(bits & integer(-(1 << dropped)), a.dtype)
    return leading, a - leading


def add(a: Words, b: Float[Array, "..."]) -> Words:
    """A number in double words plus a float."""
    rounded, error = exact_sum(a[0], b)
    return rounded, error + a[1]


def scale(a: Words, factor: Float[Array, "..."]) -> Words:
    """A number in double words times a float."""
    rounded, error = exact_product(a[0], factor)
    return rounded, error + a[1] * factor
