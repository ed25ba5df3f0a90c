"""The few ways in which the rules reach their arrays: one entry, a row of columns, a minimum.

An array is a value, and a change makes a new one. XLA makes the change in place where nothing reads
the array in the same step, or what it was before later on: so what is read is read a step ahead.
`gpu_kernel` keeps arrays elsewhere, and registers how the same is done there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

NEVER = (1 << 31) - 1
Scalar = Int[Array, ""]

_NARROW = 8  # width at which a reduction by halves hands over to an ordinary one


@functools.singledispatch
def at(values: Any, index: Scalar) -> Array:
    """`values[index]` for an index within bounds."""
    return lax.dynamic_slice(values, (index,), (1,)).reshape(())


@functools.singledispatch
def put(values: Any, index: Scalar, value: Array) -> Any:
    """`values` with one entry changed, for an index within bounds."""
    return lax.dynamic_update_slice(values, value.astype(values.dtype).reshape(1), (index,))


@functools.singledispatch
def row_at(table: Any, index: Scalar) -> Any:
    """`table[:, index]`, for a named tuple to give names to."""
    height = table.shape[0]
    return lax.dynamic_slice(table, (jnp.int32(0), index), (height, 1)).reshape(height)


@functools.singledispatch
def put_row(table: Any, index: Scalar, row: Any) -> Any:
    """`table` with `table[:, index]` changed."""
    return lax.dynamic_update_slice(table, jnp.asarray(row)[:, None], (jnp.int32(0), index))


@functools.singledispatch
def smallest(values: Any, first: Scalar | int, width: int) -> Array:
    """The smallest of a range whose width is a power of two."""
    return by_halves(lax.min, lax.dynamic_slice(values, (first,), (width,)))


def by_halves(combine: Callable[[Array, Array], Array], values: Array) -> Array:
    """Reduce a vector of a power of two; XLA's CPU code for an ordinary reduction takes 4 times."""
    while values.shape[0] > _NARROW:
        half = values.shape[0] // 2
        values = combine(values[:half], values[half:])
    return REDUCE[combine](values)


REDUCE: dict[Any, Callable[[Array], Array]] = {
    lax.add: lambda values: values.sum(dtype=values.dtype),
    lax.min: lambda values: values.min(),
    lax.max: lambda values: values.max(),
}


def alone(read: Callable[[], Array], index: Scalar) -> Array:
    """`read()`, which uses an index ≥ 0, as a step of its own.

    XLA would else fuse it with the update of the array that it reads, and copy the array for that.
    """
    found: Array = lax.cond(index >= 0, read, lambda: index)
    return found


def when(wanted: Array, look: Callable[[Any], Any], state: Any, **otherwise: Scalar) -> Any:
    """`look(state)`, integers, if wanted; else `otherwise`, and any numbers in other fields."""
    shapes = jax.eval_shape(look, state)

    def skip(state: Any) -> Any:
        nothing = jax.tree.map(lambda one: jnp.broadcast_to(state.time, one.shape), shapes)
        return nothing._replace(**otherwise)

    return lax.cond(wanted, look, skip, state)
