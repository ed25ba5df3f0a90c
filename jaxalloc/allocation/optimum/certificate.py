"""The residual of a point beyond doubt: what rounding could hide is computed in double words.

Near saturation d = 1 - ρ loses its digits, and with many thinking tokens so does e^{-b l}. Here
both come from error-free sums and products (Dekker, 1971; Knuth, 1969), so that a lane is called
converged only if its residual, for the inputs as they are stored, is within tolerance.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxalloc.allocation.model.mg1 import idle_error, queue, variability
from jaxalloc.allocation.model.sums import exact_product, largest
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload

_ROUNDINGS = 8.0  # in units of eps: what the remaining operations may add to a residual


def certified_residual(workload: Workload, tokens: Tokens) -> Scalar:
    """Largest violated |up - down| / (up + down), what rounding may add to it included.

    `up = α A b e^{-b l}` and `down = c m` are the two terms that balance in ∂J/∂l_k; a type at a
    bound violates only if J rises into the box. The result is in [0, 1] or a few eps above; inf
    where the queue is unstable or a number is not finite.
    """
    _, second_moment, _, idle = queue(workload, tokens)
    time = workload.base_time + workload.time_per_token * tokens
    kappa = variability(workload)
    g = workload.arrival_rate / idle
    cost = workload.token_price / workload.time_per_token
    price = 1 + g * (g * second_moment) / 2 + g * kappa * time + cost
    exponent, error = exact_product(workload.decay, tokens)
    root = jnp.exp(-exponent / 2)  # in two halves, so that it underflows later
    up = workload.accuracy_weight * workload.decay * workload.gain * root * root * (1 - error)
    down = workload.time_per_token * price
    relative = (up - down) / (up + down)
    # A type that its bound holds is exactly at rest; rounding can hide the unrest of the others.
    eps = float(jnp.finfo(tokens.dtype).eps)
    rounding = (_ROUNDINGS + math.log2(tokens.shape[-1])) * eps + 2 * idle_error(tokens) / idle
    at_min, at_max = tokens <= workload.min_tokens, tokens >= workload.max_tokens
    unrest = largest(jnp.where(at_max, -1, relative), jnp.where(at_min, -1, -relative))
    bound = jnp.where(unrest >= 0, unrest + rounding, 0)
    return jnp.where((idle > 0) & ~jnp.isnan(unrest), bound, jnp.inf)
