"""Error-free sums and products: a value as the sum of two floats, its rounding and the rest.

Dekker (1971), Knuth (1969). They hold as long as no product overflows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalloc.allocation.model.workload import Scalar, Tokens

Words = tuple[Float[Array, "..."], Float[Array, "..."]]  # a value as the sum of two floats

# Keeps the leading half of the significand, so that products of halves are exact.
_LEADING = {
    np.dtype("float32"): (jnp.int32, -(1 << 12)),
    np.dtype("float64"): (jnp.int64, -(1 << 27)),
}


def exact_sum(a: Float[Array, "..."], b: Float[Array, "..."]) -> Words:
    """a + b as the rounded sum and its error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def exact_product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Words:
    """a b as the rounded product and its error."""
    product = a * b
    a1, a2 = halves(a)
    b1, b2 = halves(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def halves(a: Float[Array, "..."]) -> Words:
    """The leading half of the significand and the rest; the mask is safe from fused operations."""
    integer, mask = _LEADING[np.dtype(a.dtype)]
    bits = jax.lax.bitcast_convert_type(a, integer)
    leading = jax.lax.bitcast_convert_type(bits & integer(mask), a.dtype)
    return leading, a - leading


def add(a: Words, b: Float[Array, "..."]) -> Words:
    """A double word plus a float."""
    total, error = exact_sum(a[0], b)
    return total, error + a[1]


def scale(a: Words, factor: Float[Array, "..."]) -> Words:
    """A double word times a float."""
    product, error = exact_product(a[0], factor)
    return product, error + a[1] * factor


def total(a: Words, b: Tokens) -> tuple[Words, Scalar]:
    """The sum of a vector of double words and that of a vector of floats, in one pass.

    The errors of the leading sum are summed beside it (Ogita, Rump & Oishi, 2005), off its path.
    """
    zero = jnp.zeros((), b.dtype)
    high, low, plain = jax.lax.reduce((*a, b), (zero, zero, zero), _add_each, (0,))
    return (high, low), plain


def _add_each(x: tuple[Scalar, ...], y: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    high, error = exact_sum(x[0], y[0])
    return high, (x[1] + y[1]) + error, x[2] + y[2]
