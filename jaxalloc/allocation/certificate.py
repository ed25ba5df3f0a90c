"""The residual of a point beyond doubt: what rounding could hide is computed in double words.

Near saturation d = 1 - ρ loses its digits, and with many thinking tokens so does e^{-b l}. Here
both come from error-free sums and products (Dekker, 1971; Knuth, 1969), so that a lane is called
converged only if its residual, for the inputs as they are stored, is within tolerance.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalloc.allocation.elementary import largest
from jaxalloc.allocation.mg1 import variability
from jaxalloc.allocation.workload import Scalar, Tokens, Workload, token_cost

Words = tuple[Float[Array, "..."], Float[Array, "..."]]  # a value as the sum of two floats

# Keeps the leading half of the significand, so that products of halves are exact.
_LEADING = {
    np.dtype("float32"): (jnp.int32, -(1 << 12)),
    np.dtype("float64"): (jnp.int64, -(1 << 27)),
}
_ROUNDINGS = 8.0  # in units of eps: what the remaining operations may add to a residual


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


def add(a: Words, b: Words) -> Words:
    """The sum of two double words."""
    total, error = exact_sum(a[0], b[0])
    return exact_sum(total, error + (a[1] + b[1]))


def scale(a: Words, factor: Float[Array, "..."]) -> Words:
    """A double word times a float."""
    product, error = exact_product(a[0], factor)
    return exact_sum(product, error + a[1] * factor)


def total(a: Words, b: Tokens) -> tuple[Words, Scalar]:
    """The sum of a vector of double words and that of a vector of floats, in one pass."""
    zero = jnp.zeros((), b.dtype)
    high, low, plain = jax.lax.reduce((*a, b), (zero, zero, zero), _add_each, (0,))
    return (high, low), plain


def _add_each(x: tuple[Scalar, ...], y: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return (*add((x[0], x[1]), (y[0], y[1])), x[2] + y[2])


def idle_and_second_moment(workload: Workload, tokens: Tokens) -> tuple[Scalar, Scalar]:
    """d = 1 - λ Σ π_k (t0_k + c_k l_k) to full relative precision, and V."""
    zero = jnp.zeros_like(tokens)
    time = add(exact_product(workload.time_per_token, tokens), (workload.base_time, zero))
    square = variability(workload) * jnp.square(time[0])
    mean, second_moment = total(scale(time, workload.mix), workload.mix * square)
    load = scale(mean, workload.arrival_rate)
    one = (jnp.ones_like(load[0]), jnp.zeros_like(load[0]))
    return add(one, (-load[0], -load[1]))[0], second_moment


def certified_residual(workload: Workload, tokens: Tokens) -> Scalar:
    """Largest violated |up - down| / (up + down), what rounding may add to it included.

    `up = α A b e^{-b l}` and `down = c m` are the two terms that balance in ∂J/∂l_k; a type at a
    bound violates only if J rises into the box. The result is in [0, 1] or a few eps above; inf
    where the queue is unstable or a number is not finite.
    """
    idle, second_moment = idle_and_second_moment(workload, tokens)
    time = workload.base_time + workload.time_per_token * tokens
    kappa = variability(workload)
    g = workload.arrival_rate / idle
    price = 1 + jnp.square(g) * second_moment / 2 + g * kappa * time + token_cost(workload)
    exponent, error = exact_product(workload.decay, tokens)
    root = jnp.exp(-exponent / 2)  # in two halves, so that it underflows later
    up = workload.accuracy_weight * workload.gain * workload.decay * root * root * (1 - error)
    down = workload.time_per_token * price
    relative = (up - down) / (up + down)
    # A type that its bound holds is exactly at rest; rounding can hide the unrest of the others.
    rounding = (_ROUNDINGS + math.log2(tokens.shape[-1])) * jnp.finfo(tokens.dtype).eps
    at_min, at_max = tokens <= workload.min_tokens, tokens >= workload.max_tokens
    unrest = largest(jnp.where(at_max, -1, relative), jnp.where(at_min, -1, -relative))
    bound = jnp.where(unrest >= 0, unrest + rounding, 0)
    return jnp.where((idle > 0) & ~jnp.isnan(unrest), bound, jnp.inf)
