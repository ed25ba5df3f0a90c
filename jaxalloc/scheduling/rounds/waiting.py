"""The waiting requests: which of them is first in the policy's order.

`keys` holds every request's key while it waits, and NEVER otherwise. The minimum of every block of
about √N of them is kept, so that a change reads one block and the row of minima.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.scheduling.rounds.arrays import NEVER, Scalar, alone, at, put, smallest


class Waiting(NamedTuple):
    """Attributes: `keys` [blocks · block], `minima` [blocks], and `head`, the smallest key."""

    keys: Int[Array, " requests"]
    minima: Int[Array, " blocks"]
    head: Scalar


def create(keys: Int[Array, " N"]) -> Waiting:
    """The queue that holds `keys`, request by request; NEVER where no one waits."""
    bits = max(keys.shape[0] - 1, 1).bit_length()
    padded = jnp.full(1 << bits, NEVER, jnp.int32).at[: keys.shape[0]].set(keys)
    minima = jnp.min(padded.reshape(-1, 1 << (bits + 1) // 2), axis=1)
    return Waiting(padded, minima, jnp.min(minima))


def insert(waiting: Waiting, request: Scalar, key: Scalar) -> Waiting:
    """Let a request wait."""
    block = request // (waiting.keys.shape[0] // waiting.minima.shape[0])
    before = alone(lambda: at(waiting.minima, block), block)
    return Waiting(
        put(waiting.keys, request, key),
        put(waiting.minima, block, jnp.minimum(before, key)),
        jnp.minimum(waiting.head, key),
    )


def remove(waiting: Waiting, request: Scalar) -> Waiting:
    """Let a request wait no more."""
    size = waiting.keys.shape[0] // waiting.minima.shape[0]
    block = request // size
    keys = put(waiting.keys, request, jnp.int32(NEVER))
    of_block = alone(lambda: smallest(keys, block * size, size), block)
    minima = put(waiting.minima, block, of_block)
    return Waiting(keys, minima, alone(lambda: smallest(minima, 0, minima.shape[0]), block))
