"""What no schedule can beat, and what the policies are proven to reach."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.scheduling.integers import LARGEST, as_int32
from jaxalloc.scheduling.requests import Requests


def latency_bound(requests: Requests, capacity: Any) -> Float[Array, "*B"]:
    """Lower bound on the total end-to-end latency of any schedule, in rounds.

    A request needs vol_i = s_i o_i + o_i (o_i + 1) / 2 token-rounds of the cache, of which there
    are M a round. With volumes and outputs each sorted ascending and every arrival at 0,
    `TEL ≥ Σ_j max(o_(j), ⌈Σ_{i≤j} vol_(i) / M⌉)`. Later arrivals can only delay completions, so
    counted from the first arrival a₀ the same sum, less Σ (a_i − a₀), bounds TEL; so does Σ o_i
    (derived here). The larger of the two is returned.

    Args:
      requests: [*B, N] requests whose arrivals are rounds.
      capacity: [*B] M, tokens.

    Returns:
      [*B] the bound.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=1, output=[2, 4, 3])
    >>> float(jaxalloc.latency_bound(requests, 8))  # H-SF reaches 10
    9.0
    """
    requests = requests.as_int32()
    real = requests.output > 0
    output, prompt = (jnp.asarray(x).astype(float) for x in (requests.output, requests.prompt))
    volume = output * prompt + output * (output + 1) / 2
    tokens = jnp.asarray(as_int32("capacity", capacity)).astype(float)
    room = jnp.broadcast_to(tokens, requests.batch_shape)[..., None]
    needed = jnp.cumsum(jnp.sort(volume, axis=-1), axis=-1)
    rounds = jnp.where(needed > 0, needed / room, 0)
    # Rounding errors of the sum must not lift it above a whole number.
    slack = requests.num_requests * float(jnp.finfo(rounds.dtype).eps)
    rounds = jnp.ceil(rounds * (1 - slack))
    together = jnp.sum(jnp.maximum(jnp.sort(output, axis=-1), rounds), axis=-1)
    arrival = jnp.asarray(requests.arrival)
    late = arrival - jnp.min(arrival, axis=-1, keepdims=True, initial=LARGEST, where=real)
    delay = jnp.where(real, late.astype(float), 0)
    return jnp.maximum(together - jnp.sum(delay, axis=-1), jnp.sum(output, axis=-1))


def a_max_ratio(interval_ratio: Any) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Proven range of A_max's competitive ratio to H-SF, as M grows (arXiv 2508.14544).

    With α = lower / upper the worst case lies between `α⁻¹ (1 + α^(−1/2)) / 2` and
    `α⁻¹ (1 + α⁻¹) / 2`; A_min's is O(log 1/α).

    Args:
      interval_ratio: [...] α in (0, 1].

    >>> [float(bound) for bound in a_max_ratio(0.25)]
    [6.0, 10.0]
    """
    alpha = jnp.asarray(interval_ratio, float)
    return (1 + alpha**-0.5) / (2 * alpha), (1 + 1 / alpha) / (2 * alpha)
