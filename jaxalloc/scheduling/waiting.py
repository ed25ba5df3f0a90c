"""The waiting requests: which of them is first in the policy's order.

Every request has one place. Places hold packed keys, or NEVER where no one waits; the minimum of
every block of about √N places is kept, so that a change reads one block and the row of minima.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.scheduling.kvcache import NEVER
from jaxalloc.scheduling.storage import alone, at, put, smallest

Scalar = Int[Array, ""]


class Waiting(NamedTuple):
    """Attributes: `keys` [blocks · block], `minima` [blocks], and `head`, the smallest key."""

    keys: Int[Array, " places"]
    minima: Int[Array, " blocks"]
    head: Scalar


def create(keys: Int[Array, " N"]) -> Waiting:
    """The queue that holds `keys`, request by request; NEVER where no one waits."""
    places = 1 << max(keys.shape[0] - 1, 0).bit_length()
    block = 1 << (places.bit_length() // 2)
    padded = jnp.full(max(places, block), NEVER, jnp.int32).at[: keys.shape[0]].set(keys)
    minima = jnp.min(padded.reshape(-1, block), axis=1)
    return Waiting(padded, minima, jnp.min(minima))


def insert(waiting: Waiting, place: Scalar, key: Scalar) -> Waiting:
    """Let a request wait."""
    block = place // (waiting.keys.shape[0] // waiting.minima.shape[0])
    before = alone(lambda: at(waiting.minima, block), block, waiting.minima)
    return Waiting(
        put(waiting.keys, place, key),
        put(waiting.minima, block, jnp.minimum(before, key)),
        jnp.minimum(waiting.head, key),
    )


def remove(waiting: Waiting, place: Scalar) -> Waiting:
    """Let a request wait no more."""
    size = waiting.keys.shape[0] // waiting.minima.shape[0]
    block = place // size
    keys = put(waiting.keys, place, jnp.int32(NEVER))
    of_block = alone(lambda: smallest(keys, block * size, size), block, keys)
    minima = put(waiting.minima, block, of_block)
    head = alone(lambda: smallest(minima, 0, minima.shape[0]), block, minima)
    return Waiting(keys, minima, head)
