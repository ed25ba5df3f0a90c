"""What every public function of one workload takes: checked by shape, in one dtype, as JAX arrays.

Nothing here looks at a value, so it costs nothing under tracing, where `jax.vmap` has already taken
the batch axes away.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxalloc.allocation.model.domain import PER_SERVER
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload, aligned, as_array
from jaxalloc.numerics import cast, floating_dtype


def one_workload(workload: Workload) -> Workload:
    """The workload in the widest floating dtype among its fields, float32 at least.

    Raises:
      TypeError: it is no `Workload`.
      ValueError: it has batch axes, or its fields have different numbers of types; names the field.
    """
    return _in_dtype(workload, _dtype(workload))


def workload_and_tokens(workload: Workload, tokens: Any) -> tuple[Workload, Tokens]:
    """Both in the widest floating dtype among them.

    Raises:
      TypeError, ValueError: as above, or the tokens are not of the shape (K,).
    """
    dtype = _dtype(workload, tokens)
    workload = _in_dtype(workload, dtype)
    return workload, vector("tokens", tokens, workload)


def vector(name: str, value: Any, workload: Workload) -> Tokens:
    """One number a type, [K] in the workload's dtype; ValueError for any other shape."""
    array = as_array(name, value)
    if array.shape != workload.mix.shape:
        raise ValueError(
            f"{name} has shape {array.shape} where the workload has {workload.num_types} types: "
            f"give one number a type, {workload.mix.shape}, or use jax.vmap"
        )
    return cast(array, workload.dtype)


def number(name: str, value: Any, workload: Workload) -> Scalar:
    """One number, [] in the workload's dtype; ValueError for any other shape."""
    array = as_array(name, value)
    if array.shape:
        raise ValueError(f"{name} has shape {array.shape}: give one number, or use jax.vmap")
    return cast(array, workload.dtype)


def share(name: str, value: Any, workload: Workload) -> Scalar:
    """A `number` from 0 to 1; ValueError for any other, unless it is traced."""
    q = number(name, value, workload)
    if not isinstance(value, jax.core.Tracer) and not 0 <= value <= 1:
        fix = f"give {value / 100:g}" if 1 < value <= 100 else "give a share"
        raise ValueError(f"{name} = {value:g} must be between 0 and 1: {fix}")
    return q


def _dtype(workload: Workload, *others: Any) -> Any:
    check_kind(workload)
    return floating_dtype(*vars(workload).values(), *others)


def check_kind(workload: Any) -> None:
    """Raise a TypeError unless it is a `Workload`."""
    if not isinstance(workload, Workload):
        raise TypeError(
            f"workload is of type {type(workload).__name__}: give a jaxalloc.Workload, such as "
            "Workload.create makes"
        )


def _in_dtype(workload: Workload, dtype: Any) -> Workload:
    """Scalars over types, every field in the dtype."""
    fields = {name: as_array(name, value) for name, value in vars(workload).items()}
    for name, value in fields.items():
        own = "()" if name in PER_SERVER else "(K,)"
        if value.ndim > (name not in PER_SERVER):
            raise ValueError(
                f"{name} has shape {value.shape}, but this is a function of one workload, whose "
                f"{name} is {own}: use jax.vmap or solve_batch"
            )
    sizes = [value.size for value in (fields["mix"], *fields.values()) if value.ndim]
    cast_fields = {name: cast(value, dtype) for name, value in fields.items()}
    return Workload(**aligned(cast_fields, (), sizes[0] if sizes else 1))
