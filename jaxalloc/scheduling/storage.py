"""Where a simulation keeps its arrays, and the few ways in which the rules reach them.

Almost everywhere an array is a value, and a change makes a new one. A GPU kernel has two more
places. `InMemory` is device memory, changed in place: so the rules never read an array again after
they have changed it, only what the change returned. `OnChip` is the registers of the threads that
run an instance together; these have no addresses, so an entry is found and changed by comparing
every index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

Scalar = Int[Array, ""]
# An array, `InMemory` or `OnChip`: what a function takes it also returns.
Stored = Any

NARROW = 8  # width at which a tree reduction hands over to an ordinary one


class InMemory:
    """An array in device memory, behind a reference that a kernel was given.

    Attributes:
      ref: the reference.
      settle: called before and after a change, for all threads must have read what was there, and
        then see what is.
    """

    def __init__(self, ref: Any, settle: Callable[[], None]) -> None:
        self.ref, self.settle = ref, settle

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        shape: tuple[int, ...] = self.ref.shape
        return shape

    def write(self, changes: Sequence[tuple[Any, Any]]) -> InMemory:
        """Change entries, given as pairs of an index and a value."""
        self.settle()
        for index, value in changes:
            self.ref[index] = jnp.asarray(value).astype(self.ref.dtype)
        self.settle()
        return self


class OnChip:
    """Rows of one width in registers.

    Attributes:
      rows: the rows, [R] each.
    """

    def __init__(self, *rows: Array) -> None:
        self.rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self.rows[0].shape

    def column(self, index: Scalar) -> list[Array]:
        """One entry of every row."""
        here = lax.iota(jnp.int32, self.shape[0]) == index
        return [jnp.sum(jnp.where(here, row, 0), dtype=row.dtype) for row in self.rows]

    def with_column(self, index: Scalar, column: Sequence[Any]) -> OnChip:
        """The same with one entry of every row changed."""
        here = lax.iota(jnp.int32, self.shape[0]) == index
        return OnChip(*(jnp.where(here, x, r) for x, r in zip(column, self.rows, strict=True)))


# A reference is no value that a loop could carry: it is part of the structure of what carries it.
jax.tree_util.register_pytree_node(InMemory, lambda memory: ((), memory), lambda memory, _: memory)
jax.tree_util.register_pytree_node(
    OnChip, lambda chip: (chip.rows, None), lambda _, rows: OnChip(*rows)
)


def zero() -> Scalar:
    """0 as the outcome of an operation: Triton takes no bare number from a branch or a loop."""
    return lax.add(jnp.int32(0), jnp.int32(0))


def nothing_like(read: Callable[[Any], Any], argument: Any) -> Any:
    """Zeros in the shape of what `read(argument)` would return, for the branch not taken."""
    shapes = jax.eval_shape(read, argument)
    return jax.tree.map(lambda s: jnp.broadcast_to(zero().astype(s.dtype), s.shape), shapes)


def at(values: Stored, index: Scalar) -> Array:
    """`values[index]` for an index within bounds."""
    if isinstance(values, InMemory):
        entry: Array = values.ref[index]
        return entry
    if isinstance(values, OnChip):
        return values.column(index)[0]
    return lax.dynamic_slice(values, (index,), (1,)).reshape(())


def put(values: Stored, index: Scalar, value: Array) -> Stored:
    """`values` with one entry changed, for an index within bounds."""
    if isinstance(values, InMemory):
        return values.write([(index, value)])
    if isinstance(values, OnChip):
        return values.with_column(index, [value])
    return lax.dynamic_update_slice(values, value.astype(values.dtype).reshape(1), (index,))


def part(values: Stored, first: Scalar | int, width: int) -> Array:
    """`values[first : first + width]`; on a chip the whole row, there is no less."""
    if isinstance(values, OnChip):
        return values.rows[0]
    return lax.dynamic_slice(values, (first,), (width,))


def put_part(values: Stored, first: Scalar | int, new: Array) -> Stored:
    """`values` with what `part` has read changed."""
    if isinstance(values, OnChip):
        return OnChip(new)
    return lax.dynamic_update_slice(values, new, (first,))


def row_of(values: Stored, index: Scalar) -> Any:
    """`values[index]` of a matrix, for an index within bounds: anything that has its entries."""
    if isinstance(values, InMemory):
        return [values.ref[index, column] for column in range(values.shape[1])]
    return lax.dynamic_slice(values, (index, jnp.int32(0)), (1, values.shape[1])).reshape(-1)


def put_row(values: Stored, index: Scalar, row: Any, changes: dict[int, Array]) -> Stored:
    """`values` with one row changed: `row`, but for the columns in `changes`."""
    if isinstance(values, InMemory):
        return values.write([((index, column), value) for column, value in changes.items()])
    entries = [changes.get(i, row[i]) for i in range(values.shape[1])]
    new = jnp.stack(entries).reshape(1, -1)
    return lax.dynamic_update_slice(values, new, (index, jnp.int32(0)))


def put_entry(values: Stored, row: Scalar, column: int, value: Array) -> Stored:
    """A matrix with one entry changed."""
    if isinstance(values, InMemory):
        return values.write([((row, column), value)])
    return lax.dynamic_update_slice(values, value.reshape(1, 1), (row, jnp.int32(column)))


def parts_of_rows(table: Stored, first: Scalar | int, width: int, *rows: int) -> list[Array]:
    """Some rows of a matrix over a range of columns; on a chip over all of them."""
    if isinstance(table, OnChip):
        return [table.rows[row] for row in rows]
    return [
        lax.dynamic_slice(table, (jnp.int32(row), jnp.int32(first)), (1, width)).reshape(width)
        for row in rows
    ]


def column_of(table: Stored, index: Scalar) -> Any:
    """One column of a matrix: anything that has its entries."""
    if isinstance(table, OnChip):
        return table.column(index)
    height = table.shape[0]
    return lax.dynamic_slice(table, (jnp.int32(0), index), (height, 1)).reshape(height)


def put_column(table: Stored, index: Scalar, column: Any) -> Stored:
    """A matrix with one column changed; `column` is a list or what `column_of` returns."""
    if isinstance(table, OnChip):
        return table.with_column(index, column)
    new = (jnp.stack(column) if isinstance(column, list) else column).reshape(-1, 1)
    return lax.dynamic_update_slice(table, new, (jnp.int32(0), index))


def is_on_chip(values: Stored) -> bool:
    """Whether it has no addresses, so that a pass takes all of it at once."""
    return isinstance(values, OnChip)


def fold(combine: Callable[[Array, Array], Array], values: Array, like: Stored) -> Array:
    """Reduce a vector of a power of two read from `like`, by adding, by minimum or by maximum."""
    if not isinstance(like, InMemory | OnChip):
        # By halves: XLA's CPU code for it is four times faster.
        while values.shape[0] > NARROW:
            half = values.shape[0] // 2
            values = combine(values[:half], values[half:])
    if combine is jnp.add:
        return jnp.sum(values, dtype=values.dtype)
    return jnp.min(values) if combine is jnp.minimum else jnp.max(values)


def smallest(values: Stored, first: Scalar | int, width: int) -> Array:
    """The smallest of a range whose width is a power of two."""
    if isinstance(values, InMemory):
        from jax.experimental import pallas as pl

        return fold(jnp.minimum, values.ref[pl.ds(first, width)], values)
    return fold(jnp.minimum, part(values, first, width), values)


def alone(read: Callable[[], Array], index: Scalar, values: Stored) -> Array:
    """`read()`, which uses an index ≥ 0 and reads `values`, as a step of its own.

    XLA would else fuse it with the update of the array that it reads, and copy the array for that.
    """
    if isinstance(values, InMemory):
        return read()
    shape = jax.eval_shape(read)
    found: Array = lax.cond(index >= 0, read, lambda: jnp.zeros(shape.shape, shape.dtype))
    return found
