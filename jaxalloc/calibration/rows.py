"""Rows of measurements: what every fit takes, as arrays of one dtype, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalloc.backend import platform_of

# Axis letter: N rows, one an answer (or several that were counted together).
PerRow = Float[Array, "N"]
Labels = Int[Array, "N"]

_LEAST_BYTES = 4  # of a float that is computed with


def floating_dtype(*values: Any) -> Any:
    """The widest floating dtype among arrays, at least float32; without one JAX's default."""
    given = [jnp.asarray(value).dtype for value in values if hasattr(value, "dtype")]
    floating = [dtype for dtype in given if jnp.issubdtype(dtype, jnp.floating)]
    default = jax.dtypes.canonicalize_dtype(float)
    widest = max(floating or [default], key=lambda dtype: dtype.itemsize)
    return widest if widest.itemsize >= _LEAST_BYTES else jnp.dtype("float32")


def as_floats(*values: Any) -> list[Any]:
    """The arrays of one shape and of the widest floating dtype among them."""
    dtype = floating_dtype(*values)
    return jnp.broadcast_arrays(*(jnp.asarray(value).astype(dtype) for value in values))


def as_labels(question: Any, shape: tuple[int, ...]) -> Labels | None:
    """Questions numbered from 0, so that any names fit; traced ones must be integers.

    Raises:
      ValueError: not one a row, or one is no name.
      TypeError: traced numbers that are not integers.
    """
    if question is None:
        return None
    if np.shape(question) != shape:
        raise ValueError(f"question has shape {np.shape(question)}, tokens {shape}: give one each")
    if platform_of(question) is None:
        if not jnp.issubdtype(jnp.asarray(question).dtype, jnp.integer):
            raise TypeError(f"question has dtype {question.dtype}: give integers")
        return jnp.asarray(question)
    names = np.asarray(question)
    nothing = np.array([name is None or name != name for name in names.ravel().tolist()], bool)
    if nothing.any():
        row = int(np.argmax(nothing))
        raise ValueError(f"question[{row}] = {names[row]} names no question: number it")
    return jnp.asarray(np.unique(names, return_inverse=True)[1].reshape(shape), jnp.int32)


def check_level(level: Any) -> None:
    """Raise ValueError unless a concrete level is a probability."""
    if platform_of(level) is not None and not 0 < float(level) < 1:
        raise ValueError(f"level = {float(level):g} must be between 0 and 1: try 0.95")


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
