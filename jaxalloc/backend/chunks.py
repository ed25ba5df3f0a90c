"""A batch in chunks of few sizes, dealt to the cores of a CPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")


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
