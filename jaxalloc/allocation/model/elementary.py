"""The logarithm and sums over types, in forms that XLA's CPU compiler turns into fast code.

XLA has vector forms of exp and of the float32 log, but its float64 log calls a scalar library
function element by element, several times the price of exp; and it turns one sum over a short axis
into a library call on a thread pool, while several sums in one pass become a plain loop.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxalloc.allocation.model.workload import Scalar, Tokens

_HALF_ROOT_BITS = 0x3FE6A09E667F3BCD  # of √½ as a float64
_SIGNIFICAND_BITS = 52
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # e times high is exact
_SERIES_TERMS = 10  # s² <= 0.0295: the next is below 1e-16 of the first


@jax.custom_jvp
def log(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """ln x of positive normal numbers, in float64 to 2 ulp; there -inf of anything below.

    x = 2^e m with m in [√½, √2); with f = m - 1, s = f / (2 + f) and
    R = Σ_{n>=1} 2 s^{2n} / (2n + 1), ln m = 2 artanh(s) = f - s (f - R).
    """
    if x.dtype != jnp.float64:
        return jnp.log(x)
    bits = lax.bitcast_convert_type(x, jnp.int64)
    exponent = (bits - jnp.int64(_HALF_ROOT_BITS)) >> _SIGNIFICAND_BITS
    f = lax.bitcast_convert_type(bits - (exponent << _SIGNIFICAND_BITS), x.dtype) - 1
    s = f / (2 + f)
    square = s * s
    series = jnp.zeros_like(s)
    for n in range(_SERIES_TERMS, 0, -1):
        series = (series + 2 / (2 * n + 1)) * square
    e = exponent.astype(x.dtype)
    return jnp.where(x > 0, e * _LN2_HIGH + (f - s * (f - series) + e * _LN2_LOW), -jnp.inf)


@log.defjvp
def _log_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log(*primals), tangents[0] / primals[0]


@jax.custom_jvp
def sums(*terms: Tokens) -> tuple[Scalar, ...]:
    """The sums over types of several vectors, in one pass."""
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    return tuple(lax.reduce(terms, zeros, _add, (0,)))


def largest(*terms: Tokens) -> Scalar:
    """The largest entry of several vectors, in one pass; NaN if one is NaN."""
    least = tuple(jnp.full((), -jnp.inf, term.dtype) for term in terms)
    return functools.reduce(jnp.maximum, lax.reduce(terms, least, _larger, (0,)))


# Functions with names, not lambdas: JAX caches what it compiled for them.
def _add(a: tuple[Scalar, ...], b: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return tuple(map(jnp.add, a, b))


def _larger(a: tuple[Scalar, ...], b: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return tuple(map(jnp.maximum, a, b))


@sums.defjvp
def _sums_jvp(
    primals: tuple[Tokens, ...], tangents: tuple[Tokens, ...]
) -> tuple[tuple[Scalar, ...], tuple[Scalar, ...]]:
    return sums(*primals), tuple(jnp.sum(tangent) for tangent in tangents)
