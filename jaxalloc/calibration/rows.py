"""Rows of measurements: what every fit takes, as arrays of one dtype, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalloc.numerics import cast, floating_dtype

# Axis letter: N rows, one an answer (or several that were counted together).
PerRow = Float[Array, "N"]
Labels = Int[Array, "N"]


def as_floats(*values: Any) -> list[Any]:
    """The arrays of one shape and of the widest floating dtype among them."""
    dtype = floating_dtype(*values)
    return jnp.broadcast_arrays(*(cast(value, dtype) for value in values))


def check_rows(given: Mapping[str, Any]) -> None:
    """Raise ValueError unless all are finite, at least 0 and of the shape (N,) of the first."""
    first = next(iter(given))
    shape = np.shape(given[first])
    if len(shape) != 1:
        raise ValueError(f"{first} has shape {shape}: give one row an answer, (N,), or jax.vmap")
    for name, value in given.items():
        array = np.asarray(value, dtype=float)
        if array.shape not in (shape, ()):
            raise ValueError(f"{name} has shape {array.shape}, {first} {shape}: give one each")
        require(np.isfinite(array) & (array >= 0), name, array, "must be finite and at least 0")


def require(valid: Any, name: str, array: Any, rule: str) -> None:
    """Raise a ValueError that names the first entry of `array` that is not valid."""
    if not np.all(valid):
        row = int(np.argmin(np.atleast_1d(valid)))
        raise ValueError(f"{name}[{row}] = {np.atleast_1d(array)[row]:g} {rule}: correct it")
