"""What a dtype can hold of a workload: beyond, a status is INVALID and `Workload.create` refuses.

With ε the dtype's relative precision and τ its smallest normal number (derived here):

- λ, α, A, b, c and the bounds are 0 or at least τ. Compiled code takes a subnormal for 0, and a
  workload that is taken for another must not be called solved. (In the other fields, which are only
  added to larger numbers, a subnormal weighs nothing and may stand: a softmax makes such mixes.)
- c is at least τ / ε, for what a token costs and what it brings are told apart to ε of c.
- λ √κ <= ε / √τ, 1e138 / s in float64 and 1e12 / s in float32, κ = 1 + cv². What is below τ of
  κ t² vanishes. Where d > 1/2 that takes at most λ κ t / d <= 2 ε of that type's own time t from
  E[T], and less from a price; where d <= 1/2, V >= m1² >= 1 / (4 λ²), of which τ is less than ε.
- α b_k is 0 or at least τ. What a token brings, α b_k A_k e^{-b l}, then vanishes only below
  τ <= c_k, which is less than what it costs: it errs on no side.
- 1 + cv² and its product with the square of each service time at min_tokens are finite. Beyond, an
  overflow needs no rule: it ends as inf or NaN, which no certificate passes.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

NORMAL = (
    "arrival_rate",
    "gain",
    "decay",
    "time_per_token",
    "min_tokens",
    "max_tokens",
    "accuracy_weight",
)
_UNSIGNED = {4: jnp.uint32, 8: jnp.uint64}


def largest_rate(dtype: Any) -> float:
    """ε / √τ, the largest arrival rate, queries / s."""
    return float(jnp.finfo(dtype).eps) / math.sqrt(float(jnp.finfo(dtype).tiny))


def least_normal(name: str, dtype: Any) -> float:
    """What a field that is not 0 must reach."""
    info = jnp.finfo(dtype)
    return float(info.tiny) / (float(info.eps) if name == "time_per_token" else 1.0)


def is_normal(value: Array) -> Bool[Array, "..."]:
    """Whether a number is 0 or no subnormal, told by its bits: comparisons may take both for 0."""
    unsigned = _UNSIGNED[value.dtype.itemsize]
    least = unsigned(np.asarray(jnp.finfo(value.dtype).tiny, value.dtype).view(unsigned))
    return jax.lax.bitcast_convert_type(jnp.abs(value), unsigned) - unsigned(1) >= least - 1


def in_range(workload: Any) -> Bool[Array, ""]:
    """Whether the dtype can hold a workload whose fields are finite and of the right sign."""
    kappa = 1 + jnp.square(workload.service_cv)
    valid = jnp.all(workload.arrival_rate * jnp.sqrt(kappa) <= largest_rate(workload.dtype))
    valid &= jnp.all(workload.time_per_token >= least_normal("time_per_token", workload.dtype))
    for name in NORMAL:
        valid &= jnp.all(is_normal(getattr(workload, name)))
    reward = workload.accuracy_weight * workload.decay
    tiny = jnp.finfo(workload.dtype).tiny
    valid &= (workload.accuracy_weight == 0) | jnp.all(reward >= tiny)
    least = workload.base_time + workload.time_per_token * workload.min_tokens
    return valid & jnp.all(jnp.isfinite(kappa * jnp.square(least)))
