"""Many workloads at once, in the form that each backend runs best.

Under `jax.vmap` a while-loop steps every lane until the slowest has finished. On a GPU that is the
price of parallelism. On a CPU it costs several times the work, so there each lane runs alone, with
real branches, inside one native kernel: `lax.map` in a function that XLA is asked to compile as a
single call. Outside of tracing the lanes are dealt to the CPU's cores in chunks.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

from jaxalloc.allocation.newton import Newton
from jaxalloc.allocation.optimum import Allocation, Status, solve
from jaxalloc.allocation.solver import Solver
from jaxalloc.allocation.workload import PerType, Workload

_MOST_LANES_A_CHUNK = {"cpu": 1 << 14, "gpu": 1 << 22, "tpu": 1 << 20}
_PER_SERVER = ("arrival_rate", "accuracy_weight")


def solve_batch(
    workloads: Workload, solver: Solver = Newton(), initial: PerType | None = None
) -> Allocation:
    """Optimal token budgets of many workloads: `solve` over any leading axes.

    The same answer as `jax.vmap(solve)`, lane by lane within tolerance and status for status, and
    faster: see the module. Under tracing (`jax.jit`, `jax.vmap`) it is one computation; outside,
    chunks keep the memory bounded and all cores of a CPU busy.

    Args:
      workloads: fields of shape [*B] and [*B, K].
      solver: as for `solve`.
      initial: [*B, K] tokens to start from; entries that are not finite are ignored.

    Returns:
      An `Allocation` with the leading axes *B.

    >>> import jax.numpy as jnp, jaxalloc
    >>> workloads = jaxalloc.Workload.create(
    ...     arrival_rate=jnp.array([0.1, 1.0, 20.0]), mix=[1.0], gain=0.5, decay=1e-3, floor=0.2,
    ...     base_time=0.1, time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> fractions = jaxalloc.status_fractions(jaxalloc.solve_batch(workloads))
    >>> print(f"{fractions['INFEASIBLE']:.2f}")
    0.33
    """
    shape = np.broadcast_shapes(
        *(
            np.shape(leaf) if name in _PER_SERVER else np.shape(leaf)[:-1]
            for name, leaf in vars(workloads).items()
        )
    )
    flat = _flatten(workloads, shape)
    start = None
    if initial is not None:
        start = jnp.broadcast_to(initial, (*shape, workloads.num_types))
        start = start.reshape(-1, workloads.num_types)
    answer = _solve_flat(flat, start, solver)
    return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), answer)


def status_fractions(allocation: Allocation) -> dict[str, Any]:
    """Share of the lanes that ended with each status, by name; under tracing, traced shares."""
    xp = jnp if isinstance(allocation.status, jax.core.Tracer) else np
    return {status.name: xp.mean(xp.asarray(allocation.status) == status) for status in Status}


def _flatten(workloads: Workload, shape: tuple[int, ...]) -> Workload:
    """Every field with one leading axis of lanes, in the widest dtype."""
    lanes = int(np.prod(shape))

    def flatten(name: str, leaf: Any) -> jax.Array:
        own = () if name in _PER_SERVER else (workloads.num_types,)
        leaf = jnp.asarray(leaf, workloads.dtype)
        return jnp.broadcast_to(leaf, (*shape, *own)).reshape(lanes, *own)

    return Workload(**{name: flatten(name, leaf) for name, leaf in vars(workloads).items()})


def _solve_flat(flat: Workload, start: jax.Array | None, solver: Solver) -> Allocation:
    """Lanes on one axis: traced as they are, else in chunks on the threads of the backend."""
    leaves = jax.tree.leaves((flat, start))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return _solve_lanes(flat, start, solver)
    lanes = flat.arrival_rate.shape[0]
    platform = next(iter(flat.arrival_rate.devices())).platform
    threads = len(os.sched_getaffinity(0)) if platform == "cpu" else 1
    most = _MOST_LANES_A_CHUNK.get(platform, _MOST_LANES_A_CHUNK["gpu"])
    chunk = max(1, min(most, -(-lanes // threads)))
    if lanes <= chunk:
        return _solve_lanes(flat, start, solver)
    pieces = [_piece((flat, start), first, chunk) for first in range(0, lanes, chunk)]
    first = jax.block_until_ready(_solve_lanes(*pieces[0], solver))  # compiles once, on one thread
    run = functools.partial(
        _solve_piece, solver=solver, float64=jax.config.values["jax_enable_x64"]
    )
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        answers = [first, *pool.map(run, pieces[1:])]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:lanes], *answers)


def _solve_piece(
    piece: tuple[Workload, jax.Array | None], solver: Solver, float64: bool
) -> Allocation:
    """One chunk on a thread of its own, which does not inherit the caller's scope of float64."""
    with jax.enable_x64(float64):
        return jax.block_until_ready(_solve_lanes(*piece, solver))


def _piece(lanes: Any, first: int, size: int) -> Any:
    """`size` lanes from `first` on; past the end the last lane repeats, so that shapes agree."""

    def cut(leaf: jax.Array) -> jax.Array:
        part = leaf[first : first + size]
        short = size - part.shape[0]
        return jnp.concatenate([part, jnp.repeat(part[-1:], short, axis=0)]) if short else part

    return jax.tree.map(cut, lanes)


@functools.partial(jax.jit, static_argnames="solver")
def _solve_lanes(flat: Workload, start: jax.Array | None, solver: Solver) -> Allocation:
    """All lanes in one computation: lane after lane on a CPU, side by side elsewhere."""

    def together(lanes: tuple[Workload, jax.Array | None]) -> Allocation:
        return jax.vmap(lambda lane: solve(lane[0], solver, lane[1]))(lanes)

    def alone(lanes: tuple[Workload, jax.Array | None]) -> Allocation:
        return _as_native_kernel(lambda lane: solve(lane[0], solver, lane[1]), lanes)

    return jax.lax.platform_dependent((flat, start), cpu=alone, default=together)


def _as_native_kernel(function: Any, lanes: Any) -> Any:
    """`lax.map(function, lanes)` as one native kernel of XLA's CPU backend.

    The call metadata asks for it; being internals of XLA they may one day be ignored, which costs
    speed and nothing else.
    """

    def unmarked(lane: Any) -> Any:
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):
            return function(lane)

    mapped = jax.jit(lambda lanes: jax.lax.map(unmarked, lanes))
    with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
        return mapped(lanes)
