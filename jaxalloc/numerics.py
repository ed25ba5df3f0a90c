"""Numeric helpers of every room: one dtype, one kind of random key, no derivative where none is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")


def floating_dtype(*values: Any) -> np.dtype[Any]:
    """The dtype to compute in: float64 if an array among the values is, else float32.

    Narrower floats would not reach any tolerance and are widened. Python numbers, integers and
    weakly typed arrays follow the others; where there are no others it is JAX's default.

    >>> str(floating_dtype(np.zeros(2, np.float16), 3, np.arange(2)))
    'float32'
    """
    dtypes = [
        value.dtype
        for value in values
        if isinstance(value, jax.Array | np.ndarray | np.floating)
        and jnp.issubdtype(value.dtype, jnp.floating)
        and not getattr(value, "weak_type", False)
    ]
    narrow = bool(dtypes) and all(dtype.itemsize <= 4 for dtype in dtypes)
    return jax.dtypes.canonicalize_dtype(np.float32 if narrow else np.float64)


def cast(value: Any, dtype: Any) -> jax.Array:
    """A JAX array of that dtype; the value itself if it is one."""
    if isinstance(value, jax.Array):
        right = value.dtype == dtype and not getattr(value, "weak_type", False)
        return value if right else lax.convert_element_type(value, dtype)
    return jnp.asarray(np.asarray(value, dtype))  # on the host, where nothing is compiled


def alike(*values: Any) -> tuple[jax.Array, ...]:
    """JAX arrays of the dtype to compute in."""
    dtype = floating_dtype(*values)
    return tuple(cast(value, dtype) for value in values)


class Sum(NamedTuple):
    """A compensated sum (Kahan, 1965): `total` with what rounding has added to it in `excess`."""

    total: jax.Array
    excess: jax.Array

    def add(self, term: jax.Array) -> Sum:
        """The sum with one more term."""
        small = term - self.excess
        total = self.total + small
        return Sum(total, (total - self.total) - small)


def require(valid: Any, name: str, value: Any, rule: str) -> None:
    """Raise a ValueError that names the first entry of `value` where `valid` is False.

    >>> require(np.array([True, False]), "gain", np.array([0.5, -2.0]), "must not be negative")
    Traceback (most recent call last):
    ValueError: gain[1] = -2 must not be negative
    """
    if np.all(valid):
        return
    valid, value = np.broadcast_arrays(valid, value)
    index = tuple(int(i) for i in np.argwhere(~valid)[0])
    place = f"[{', '.join(map(str, index))}]" if index else ""
    short = f"{value[index]:g}"
    raise ValueError(
        f"{name}{place} = {short if float(short) == value[index] else value[index]} {rule}"
    )


def as_key(key: Any) -> jax.Array:
    """A typed random key, whatever kind of key was given.

    Raises:
      TypeError: it is none.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        typed: jax.Array = key
        return typed
    if dtype != np.uint32 or not np.shape(key):
        fix = f"jax.random.key({key})" if isinstance(key, int) else "jax.random.key(0)"
        raise TypeError(f"key = {key!r} is not a random key: give {fix}")
    return jax.random.wrap_key_data(key)


def without_derivative(
    function: Callable[[Inputs], Outputs], inputs: Inputs, sentence: str
) -> Outputs:
    """`function(inputs)`; whoever uses its derivative gets a TypeError with that sentence.

    Only who uses it: as an auxiliary output, under `stop_gradient` or by way of integers there is
    none to use.

    Args:
      function: of one pytree of arrays.
      inputs: the pytree.
      sentence: what has no derivative, and what to do.
    """
    moved = [leaf for leaf in jax.tree.leaves(inputs) if _moves(leaf)]

    def tie(leaf: Any) -> Any:
        floating = bool(moved) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return _tied(leaf, moved, sentence) if floating else leaf

    still = jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if _moves(leaf) else leaf, inputs)
    outputs: Outputs = jax.tree.map(tie, function(still))
    return outputs


def _moves(leaf: Any) -> bool:
    """Whether a leaf may have a tangent."""
    return isinstance(leaf, jax.core.Tracer) and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _tied(leaf: jax.Array, moved: list[jax.Array], sentence: str) -> jax.Array:
    """`leaf`, which depends on what moved in a way that has no derivative."""
    return leaf


@_tied.defjvp
def _tied_jvp(sentence: str, primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    leaf = primals[0]
    aval = jax.core.ShapedArray(leaf.shape, leaf.dtype)
    return leaf, _unknown_p.bind(*jax.tree.leaves(tangents), aval=aval, sentence=sentence)


def _refuse(*_: Any, sentence: str, **__: Any) -> Any:
    raise TypeError(sentence)


# A tangent that nobody may look at: it is linear, and refuses to be computed or transposed.
_unknown_p = Primitive("no_derivative")
_unknown_p.def_impl(_refuse)
_unknown_p.def_abstract_eval(lambda *_, aval, sentence: aval)
ad.deflinear2(_unknown_p, _refuse)
mlir.register_lowering(_unknown_p, _refuse)
batching.primitive_batchers[_unknown_p] = lambda moved, _, **params: (
    _unknown_p.bind(*moved, **params),
    None,
)
