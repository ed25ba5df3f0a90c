"""A batch in chunks of few sizes, dealt to the cores of a CPU."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")

_SIZES_AN_OCTAVE = 4  # of chunks
_GUARDS = (
    "jax_transfer_guard",
    "jax_transfer_guard_host_to_device",
    "jax_transfer_guard_device_to_host",
)


class Placement(NamedTuple):
    """Where arrays are.

    Attributes:
      platform: of their devices, or of the default one; None under tracing.
      device: the one that they are committed to, if they are.
      spread: whether some are on several devices.
    """

    platform: str | None
    device: Any
    spread: bool


def placement_of(inputs: Any) -> Placement:
    """Where some arrays are, or would be put."""
    leaves = jax.tree.leaves(inputs)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return Placement(None, None, False)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    first = next((next(iter(leaf.devices())) for leaf in arrays), None)
    return Placement(
        _default_platform() if first is None else first.platform,
        next((next(iter(leaf.devices())) for leaf in arrays if leaf.committed), None),
        any(len(leaf.devices()) > 1 for leaf in arrays),
    )


def platform_of(inputs: Any) -> str | None:
    """Where concrete arrays are, or would be put; None under tracing."""
    return placement_of(inputs).platform


def _default_platform() -> str:
    """Where arrays are made that are not told where."""
    device = jax.config.values["jax_default_device"]
    if device is None:
        return jax.default_backend()
    platform: str = getattr(device, "platform", device)
    return platform


def num_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_chunks(
    work: Callable[[Inputs], Outputs],
    inputs: Inputs,
    *,
    cpu: int,
    accelerator: int,
    idle: Any = None,
) -> Outputs:
    """`work(inputs)` over one leading axis, in chunks of one shape, all cores of a CPU at work.

    The chunks are of few sizes, so that batches of many sizes compile few programs, and as many as
    the cores can share evenly. What is missing to whole chunks is filled up.

    Args:
      work: a function of arrays with a leading axis, compiled once for all chunks.
      inputs: concrete arrays. If they are spread over several devices, these work on them as one
        chunk; else the answer is on the device that they are committed to, if they are.
      cpu: the most rows of a chunk on a CPU.
      accelerator: the same elsewhere.
      idle: numbers, in the structure of `inputs`, to fill rows with that cost little; None: copies
        of the last row.
    """
    platform, device, spread = placement_of(inputs)
    if spread:
        return work(inputs)
    size = jax.tree.leaves(inputs)[0].shape[0]
    on_cpu = platform == "cpu"
    workers = num_cores() if on_cpu else 1
    rows = _rows(size, workers, cpu if on_cpu else accelerator)
    if size == rows:
        return work(inputs)
    xp: Any = np if on_cpu else jnp
    guarded = any(getattr(jax.config, name) not in (None, "allow") for name in _GUARDS)
    host = _to_host(inputs, guarded) if on_cpu else inputs

    def one(first: int) -> Outputs:  # cut when its turn comes, so that few pieces are there at once
        part = _cut(host, first, rows, xp, idle)
        return work(jax.device_put(part, device) if guarded or device else part)

    # The first call compiles, once for all threads, and returns while its rows are being worked on.
    parts = [one(0), *_on_threads(one, range(rows, size, rows), workers)]
    parts = _to_host(parts, guarded) if on_cpu else parts
    whole = jax.tree.map(lambda *xs: xp.concatenate(xs)[:size], *parts)
    outputs: Outputs = jax.device_put(whole, device)
    return outputs


def _to_host(arrays: Outputs, guarded: bool) -> Outputs:
    """NumPy's view of arrays; asked for by name, which is slower, where a transfer is guarded."""
    host: Outputs = jax.device_get(arrays) if guarded else jax.tree.map(np.asarray, arrays)
    return host


def _rows(size: int, workers: int, most: int) -> int:
    """The rows of a chunk: of a few sizes the one that leaves the busiest core the fewest rows."""
    size = max(size, 1)
    share = _parts(size, _parts(_parts(size, most), workers) * workers)

    def busiest(rows: int) -> tuple[int, int]:
        return _parts(_parts(size, rows), workers) * rows, -rows

    # Down to half a share: whole chunks may deal more evenly than a share rounded up does.
    return min({min(_few(_parts(share * k, 8)), most) for k in range(4, 9)}, key=busiest)


def _few(rows: int) -> int:
    """A size rounded up to one of few."""
    step = max(1, (1 << (rows - 1).bit_length()) // (2 * _SIZES_AN_OCTAVE))
    return _parts(rows, step) * step


def _parts(size: int, rows: int) -> int:
    """How many parts of so many rows there are, the last not always full."""
    return -(-size // rows)


def _cut(inputs: Inputs, first: int, rows: int, xp: Any, idle: Any) -> Inputs:
    """`rows` rows from `first` on, filled up past the end."""

    def cut(leaf: Any, number: Any = None) -> Any:
        part = leaf[first : first + rows]
        short = rows - part.shape[0]
        if not short:
            return part
        last = part[-1:] if number is None else xp.full_like(part[-1:], number)
        return xp.concatenate([part, xp.repeat(last, short, axis=0)])

    return jax.tree.map(cut, inputs) if idle is None else jax.tree.map(cut, inputs, idle)


def _on_threads(
    work: Callable[[int], Outputs], starts: Iterable[int], workers: int
) -> list[Outputs]:
    """`[work(start) for start in starts]`, on threads where there is more than one core."""
    if workers == 1:
        return [work(start) for start in starts]
    settings = jax.config.values  # all of them, made anew at every look

    def waited(start: int) -> Outputs:
        there = jax.config.values
        with contextlib.ExitStack() as scope:  # a thread does not inherit its caller's scopes
            for name in _scopes():
                if there[name] != (value := settings[name]):
                    scope.enter_context(_scopes()[name](value))
            return jax.block_until_ready(work(start))

    return list(_threads(workers).map(waited, starts))


@functools.cache
def _scopes() -> dict[str, Callable[[Any], contextlib.AbstractContextManager[Any]]]:
    """JAX's settings that can be set in a scope, as `jax.enable_x64` can, by name."""
    public = vars(jax)
    names = {name: public.get(name.removeprefix("jax_")) for name in jax.config.values}
    names.pop("jax_thread_guard", None)  # which is about the threads themselves
    return {name: scope for name, scope in names.items() if callable(scope)}


@functools.cache
def _threads(workers: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them would cost as much as solving a thousand workloads."""
    return ThreadPoolExecutor(workers, thread_name_prefix="jaxalloc")
