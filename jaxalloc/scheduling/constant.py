"""A function without a derivative, that may stand beside one that has one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def without_derivative(inputs: Any, sentence: str) -> tuple[Any, Callable[[Any], Any]]:
    """The inputs of a function that has no derivative, and what its outputs must go through.

    Only who uses a derivative of them gets a TypeError with that sentence: as an auxiliary output,
    under `stop_gradient` or by way of integers there is none to use.
    """
    moved = [leaf for leaf in jax.tree.leaves(inputs) if _moves(leaf)]

    def tie(leaf: Any) -> Any:
        floating = bool(moved) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return _tied(leaf, moved, sentence) if floating else leaf

    still = jax.tree.map(lambda x: lax.stop_gradient(x) if _moves(x) else x, inputs)
    return still, lambda outputs: jax.tree.map(tie, outputs)


def _moves(leaf: Any) -> bool:
    """Whether a leaf may have a tangent."""
    return isinstance(leaf, jax.core.Tracer) and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _tied(leaf: jax.Array, moved: list[jax.Array], sentence: str) -> jax.Array:
    return leaf


@_tied.defjvp
def _tied_jvp(sentence: str, primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    leaf = primals[0]
    aval = jax.core.ShapedArray(leaf.shape, leaf.dtype)
    return leaf, _tangent_p.bind(*jax.tree.leaves(tangents), aval=aval, sentence=sentence)


def _refuse(*_: Any, sentence: str, **__: Any) -> Any:
    raise TypeError(sentence)


# A tangent that is linear in the inputs' and refuses to be computed or transposed.
_tangent_p = Primitive("jaxalloc_no_derivative")
_tangent_p.def_impl(_refuse)
_tangent_p.def_abstract_eval(lambda *_, aval, sentence: aval)
ad.deflinear2(_tangent_p, _refuse)
mlir.register_lowering(_tangent_p, _refuse)
batching.primitive_batchers[_tangent_p] = lambda moved, _, **params: (
    _tangent_p.bind(*moved, **params),
    None,
)
