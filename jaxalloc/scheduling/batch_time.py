"""How long a round lasts: an affine model of one batch iteration."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchTime:
    """Seconds of one round: base + per_request · batch + per_token · held + per_prefill · prefill.

    `held` are the tokens in the cache after the round, `prefill` the prompt tokens of the requests
    that start in it (with what first-come resumes).

    Attributes:
      base: [*B] seconds of any round, τ0.
      per_request: [*B] seconds a running request.
      per_token: [*B] seconds a token held.
      per_prefill: [*B] seconds a token prefilled.

    Fields below 0 or not finite, or all of the first three 0, make an instance INVALID.

    >>> model = BatchTime.llama2_70b()
    >>> round(float(model.seconds(batch=10, held=5000, prefill=100)), 4)
    0.1011
    """

    base: Float[Array, "*B"] | float
    per_request: Float[Array, "*B"] | float = 0.0
    per_token: Float[Array, "*B"] | float = 0.0
    per_prefill: Float[Array, "*B"] | float = 0.0

    @classmethod
    def llama2_70b(cls) -> BatchTime:
        """Llama2-70B on two A100, as measured by arXiv 2502.07115's simulator (M = 16,492)."""
        return cls(base=44.6e-3, per_request=0.52e-3, per_token=0.0027e-3, per_prefill=0.378e-3)

    @property
    def shortest(self) -> Array:
        """The least seconds of a round that runs one request."""
        return jnp.asarray(self.base + self.per_request + self.per_token)

    def seconds(self, *, batch: Any, held: Any, prefill: Any) -> Array:
        """The length of one round, s."""
        base = jnp.asarray(self.base)
        base = base if jnp.issubdtype(base.dtype, jnp.floating) else base.astype(float)
        amounts = (self.per_request, batch), (self.per_token, held), (self.per_prefill, prefill)
        for factor, amount in amounts:
            base = base + jnp.asarray(factor).astype(base.dtype) * jnp.asarray(amount).astype(
                base.dtype
            )
        return base
