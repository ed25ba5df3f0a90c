"""Running one function over many instances: one after another on a CPU, together elsewhere.

The loop of a simulation takes a few hundred nanoseconds a turn. On a CPU that is less than what
XLA's runtime spends on starting one operation, so the whole loop is compiled into one native
function (a "small call"), and a batch runs its instances one after another in it: branches are then
real, and no lane waits for another. On an accelerator the lanes of a batch run together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata

Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")


_metadata: Callable[..., contextlib.AbstractContextManager[None]] = set_xla_metadata


@contextlib.contextmanager
def _one_kernel() -> Iterator[None]:
    """Calls made here are compiled as one kernel each (read by XLA's CPU compiler)."""
    with _metadata(xla_cpu_small_call="true", inlineable="false"):
        yield


@contextlib.contextmanager
def _ordinary() -> Iterator[None]:
    """Undo `_one_kernel` for what is traced here."""
    with _metadata(xla_cpu_small_call=None, inlineable=None):
        yield


def _as_one_kernel(run: Callable[[Inputs], Outputs]) -> Callable[[Inputs], Outputs]:
    """`run`, compiled as one native function on a CPU."""

    @jax.jit
    def body(inputs: Inputs) -> Outputs:
        with _ordinary():
            return run(inputs)

    def call(inputs: Inputs) -> Outputs:
        with _one_kernel():
            outputs: Outputs = body(inputs)
        return outputs

    return call


def _sequential(run: Callable[[Inputs], Outputs]) -> Callable[[Inputs], Outputs]:
    """`run` as one kernel, whose batches (of any rank) are mapped one instance after another."""

    @custom_vmap
    def batched(inputs: Inputs) -> Outputs:
        def each(inputs: Inputs) -> Outputs:
            outputs: Outputs = lax.map(run, inputs)
            return outputs

        return _as_one_kernel(each)(inputs)

    @batched.def_vmap
    def flatten(size: int, is_batched: Inputs, inputs: Inputs) -> tuple[Outputs, Outputs]:
        inputs = _broadcast(size, is_batched, inputs)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs)
        outputs = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), batched(flat))
        return outputs, jax.tree.map(lambda _: True, outputs)

    @custom_vmap
    def single(inputs: Inputs) -> Outputs:
        return _as_one_kernel(run)(inputs)

    @single.def_vmap
    def spread(size: int, is_batched: Inputs, inputs: Inputs) -> tuple[Outputs, Outputs]:
        outputs = batched(_broadcast(size, is_batched, inputs))
        return outputs, jax.tree.map(lambda _: True, outputs)

    chosen: Callable[[Inputs], Outputs] = single
    return chosen


def _broadcast(size: int, is_batched: Inputs, inputs: Inputs) -> Inputs:
    """Every leaf with the leading axis that some of them have."""
    leaves, structure = jax.tree.flatten(inputs)
    wide = [
        leaf if mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))
        for leaf, mapped in zip(leaves, jax.tree.leaves(is_batched), strict=True)
    ]
    spread: Inputs = jax.tree.unflatten(structure, wide)
    return spread


def dispatch(run: Callable[[Inputs], Outputs], inputs: Inputs) -> Outputs:
    """`run(inputs)` in the form that the platform it is lowered for runs best."""
    outputs: Outputs = lax.platform_dependent(inputs, cpu=_sequential(run), default=run)
    return outputs
