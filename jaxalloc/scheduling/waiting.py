"""The waiting requests: which of them is first in the policy's order.

Every request has one place. Places hold packed keys, or NEVER where no one waits; the minimum of
every block of about √N places is kept, so that a change reads one block and the row of minima.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxalloc.scheduling.kvcache import NEVER, tree_reduce

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
    before = _alone(lambda: lax.dynamic_slice(waiting.minima, (block,), (1,)), block)
    return Waiting(
        lax.dynamic_update_slice(waiting.keys, key.reshape(1), (place,)),
        lax.dynamic_update_slice(waiting.minima, jnp.minimum(before, key), (block,)),
        jnp.minimum(waiting.head, key),
    )


def remove(waiting: Waiting, place: Scalar) -> Waiting:
    """Let a request wait no more."""
    size = waiting.keys.shape[0] // waiting.minima.shape[0]
    block = place // size
    keys = lax.dynamic_update_slice(waiting.keys, jnp.full(1, NEVER, jnp.int32), (place,))

    def smallest_of_block() -> Array:
        return tree_reduce(jnp.minimum, lax.dynamic_slice(keys, (block * size,), (size,)))

    smallest = _alone(smallest_of_block, block)
    minima = lax.dynamic_update_slice(waiting.minima, smallest.reshape(1), (block,))
    head = _alone(lambda: tree_reduce(jnp.minimum, minima), block)
    return Waiting(keys, minima, head)


def _alone(read: Callable[[], Array], index: Scalar) -> Array:
    """`read()`, which uses an index ≥ 0, as a step of its own.

    XLA would else fuse it with the update of the array that it reads, and copy the array for that.
    """
    shape = jax.eval_shape(read)
    found: Array = lax.cond(index >= 0, read, lambda: jnp.zeros(shape.shape, shape.dtype))
    return found
