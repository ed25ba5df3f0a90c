"""How many small problems are laid out on a machine; both wings stand on this.

A solver or a simulator is a loop whose turn takes a few hundred nanoseconds. On a CPU that is less
than XLA's runtime spends on starting one operation, and lanes in lockstep would all wait for the
slowest: so the whole loop is compiled into one native function (a "small call" of XLA), a batch
runs its lanes one after another in it, with real branches, and chunks of lanes are dealt to the
cores. On a GPU a batch is one kernel, where there is one for it; elsewhere, and on other
accelerators, the lanes of a chunk run side by side.

The call metadata are internals of XLA: a release that ignores them costs speed and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata

Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")

_LEAST_CAPABILITY = 8.0  # of an NVIDIA GPU, for the kernels


def dispatch(run: Callable[[Inputs], Outputs], inputs: Inputs, *, kernel: bool = True) -> Outputs:
    """`run(inputs)`, which `jax.vmap` batches in the form that the platform runs best.

    Args:
      run: a function of one lane.
      inputs: its one argument, a pytree of arrays.
      kernel: whether its loops fit into one native function; if not, a CPU runs the lanes one after
        another in the ordinary runtime.
    """
    outputs: Outputs = lax.platform_dependent(inputs, cpu=_sequential(run, kernel), default=run)
    return outputs


def with_kernel(
    plain: Callable[[Inputs], Outputs], kernel: Callable[..., Outputs], inputs: Inputs
) -> Outputs:
    """`plain(inputs)`, or on a GPU what a kernel makes of the whole batch.

    Args:
      plain: a function of one lane.
      kernel: the same of many, every array with a leading axis; with `interpret=True` it runs
        anywhere, slowly.
      inputs: a pytree of arrays.
    """
    form = kernel_form()
    if form is None:
        return plain(inputs)
    many = functools.partial(kernel, interpret=form == "interpret")

    def single(inputs: Inputs) -> Outputs:
        outputs: Outputs = jax.tree.map(
            lambda x: x[0], many(jax.tree.map(lambda x: jnp.asarray(x)[None], inputs))
        )
        return outputs

    in_kernel = _by_batch(single, many)
    if form == "interpret":
        return in_kernel(inputs)
    outputs: Outputs = lax.platform_dependent(inputs, cuda=in_kernel, default=plain)
    return outputs


def kernel_form() -> str | None:
    """How kernels run: "gpu", or None where there is no GPU for them; "interpret" in tests.

    The environment variable JAXALLOC_GPU_KERNELS = 0 turns them off.
    """
    if os.environ.get("JAXALLOC_GPU_KERNELS", "1") == "0":
        return None
    return "gpu" if _has_gpu() else None


@functools.cache
def _has_gpu() -> bool:
    """Whether there is a GPU that Triton, which compiles the kernels, has code for."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:  # how JAX says that there is none
        return False
    return all(float(device.compute_capability) >= _LEAST_CAPABILITY for device in devices)


def _sequential(run: Callable[[Inputs], Outputs], kernel: bool) -> Callable[[Inputs], Outputs]:
    """`run`, whose batches (of any rank) are mapped one lane after another."""

    def each(inputs: Inputs) -> Outputs:
        outputs: Outputs = lax.map(run, inputs)
        return outputs

    return _by_batch(_as_one_kernel(run), _as_one_kernel(each)) if kernel else _by_batch(run, each)


def _by_batch(
    one: Callable[[Inputs], Outputs], many: Callable[[Inputs], Outputs]
) -> Callable[[Inputs], Outputs]:
    """`one`, which `jax.vmap` (nested, too) turns into `many` over one leading axis."""

    @custom_vmap
    def batched(inputs: Inputs) -> Outputs:
        return many(inputs)

    @batched.def_vmap
    def flatten(size: int, is_batched: Inputs, inputs: Inputs) -> tuple[Outputs, Outputs]:
        inputs = _spread(size, is_batched, inputs)
        flat = jax.tree.map(lambda x: x.reshape(size * x.shape[1], *x.shape[2:]), inputs)
        outputs = jax.tree.map(
            lambda x: x.reshape(size, x.shape[0] // max(size, 1), *x.shape[1:]), batched(flat)
        )
        return outputs, jax.tree.map(lambda _: True, outputs)

    @custom_vmap
    def single(inputs: Inputs) -> Outputs:
        return one(inputs)

    @single.def_vmap
    def spread(size: int, is_batched: Inputs, inputs: Inputs) -> tuple[Outputs, Outputs]:
        outputs = batched(_spread(size, is_batched, inputs))
        return outputs, jax.tree.map(lambda _: True, outputs)

    chosen: Callable[[Inputs], Outputs] = single
    return chosen


def _spread(size: int, is_batched: Inputs, inputs: Inputs) -> Inputs:
    """Every leaf with the leading axis that some of them have."""
    leaves, structure = jax.tree.flatten(inputs)
    wide = [
        leaf if mapped else jnp.broadcast_to(leaf, (size, *jnp.shape(leaf)))
        for leaf, mapped in zip(leaves, jax.tree.leaves(is_batched), strict=True)
    ]
    spread: Inputs = jax.tree.unflatten(structure, wide)
    return spread


def _as_one_kernel(run: Callable[[Inputs], Outputs]) -> Callable[[Inputs], Outputs]:
    """`run`, compiled as one native function on a CPU."""

    @jax.jit
    def body(inputs: Inputs) -> tuple[Outputs, Any]:
        with _marked(None, None):
            # XLA aborts on an argument that the function does not read: read a bit of each.
            return run(inputs), jnp.stack([_a_bit_of(x) for x in jax.tree.leaves(inputs)])

    def call(inputs: Inputs) -> Outputs:
        # A large constant among the operands makes XLA's emitter abort: the barrier hides it.
        inputs = lax.optimization_barrier(inputs)
        with _marked("true", "false"):
            outputs: Outputs = body(inputs)[0]
        return outputs

    return call


def _a_bit_of(leaf: Any) -> Any:
    """Something that only reading an array can tell."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return jnp.sum(leaf.reshape(-1)[:1].astype(jnp.float32))


_metadata: Callable[..., contextlib.AbstractContextManager[None]] = set_xla_metadata


@contextlib.contextmanager
def _marked(small_call: str | None, inlineable: str | None) -> Iterator[None]:
    """Mark the calls made here for XLA's CPU compiler, or unmark what is traced here."""
    with _metadata(xla_cpu_small_call=small_call, inlineable=inlineable):
        yield


def platform_of(inputs: Any) -> str | None:
    """Where concrete arrays are, or would be put; None under tracing."""
    leaves = jax.tree.leaves(inputs)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            return next(iter(leaf.devices())).platform
    return jax.default_backend()


def num_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_chunks(
    work: Callable[[Inputs], Outputs], inputs: Inputs, *, cpu: int, accelerator: int
) -> Outputs:
    """`work(inputs)` over one leading axis, in chunks of one shape, all cores of a CPU at work.

    Args:
      work: a function of arrays with a leading axis, compiled once for all chunks.
      inputs: concrete arrays; the last chunk is filled up with copies of their last row.
      cpu: the most rows of a chunk on a CPU.
      accelerator: the same elsewhere.
    """
    size = jax.tree.leaves(inputs)[0].shape[0]
    on_cpu = platform_of(inputs) == "cpu"
    workers = num_cores() if on_cpu else 1
    rows = max(1, min(-(-size // workers), cpu if on_cpu else accelerator))
    if size <= rows:
        return work(inputs)
    xp: Any = np if on_cpu else jnp
    host = jax.tree.map(xp.asarray, inputs)

    def one(first: int) -> Outputs:  # cut when its turn comes, so that few pieces are there at once
        return work(_cut(host, first, rows, xp))

    # The first call compiles, once for all threads, and returns while its rows are being worked on.
    parts = [one(0), *_on_threads(one, range(rows, size, rows), workers)]
    whole = jax.tree.map(lambda *xs: xp.concatenate(xs)[:size], *parts)
    outputs: Outputs = jax.device_put(whole)
    return outputs


def _cut(inputs: Inputs, first: int, rows: int, xp: Any) -> Inputs:
    """`rows` rows from `first` on; past the end the last row repeats."""

    def cut(leaf: Any) -> Any:
        part = leaf[first : first + rows]
        short = rows - part.shape[0]
        return xp.concatenate([part, xp.repeat(part[-1:], short, axis=0)]) if short else part

    return jax.tree.map(cut, inputs)


def _on_threads(
    work: Callable[[int], Outputs], starts: Iterable[int], workers: int
) -> list[Outputs]:
    """`[work(start) for start in starts]`, on threads where there is more than one core."""
    if workers == 1:
        return [work(start) for start in starts]
    float64 = jax.config.values["jax_enable_x64"]

    def waited(start: int) -> Outputs:
        with jax.enable_x64(float64):  # a thread does not inherit its caller's scope
            return jax.block_until_ready(work(start))

    return list(_threads(workers).map(waited, starts))


@functools.cache
def _threads(workers: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them would cost as much as solving a thousand workloads."""
    return ThreadPoolExecutor(workers, thread_name_prefix="jaxalloc")
