"""Many workloads at once, in the form that each backend runs best.

Under `jax.vmap` a while-loop steps every lane until the slowest has finished. On a GPU that is the
price of parallelism. On a CPU it costs several times the work, so there each lane runs alone, with
real branches, inside one native kernel: `lax.map` in a function that XLA is asked to compile as a
single call. Outside of tracing the lanes are dealt to the CPU's cores in chunks.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

from jaxalloc.allocation.newton import Newton
from jaxalloc.allocation.optimum import Allocation, Status, allocation_tangent, solve
from jaxalloc.allocation.solver import Solver
from jaxalloc.allocation.workload import PER_SERVER, PerType, Workload

Lanes = tuple[Workload, Any]  # workloads, and tokens to start from or None

# Beyond, XLA splits its loops over types into parts that such a kernel cannot hold.
_MOST_TYPES_IN_A_KERNEL = 1024
_MOST_LANES_A_CHUNK = {"cpu": 1 << 14, "gpu": 1 << 22, "tpu": 1 << 20}


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
    shape = _batch_shape(workloads)
    leaves = jax.tree.leaves((workloads, initial))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        answer = _solve_lanes(*_flatten(workloads, initial, shape, jnp), solver)
    elif (platform := _platform(leaves)) == "cpu":
        answer = _solve_on_cores(*_flatten(workloads, initial, shape, np), solver)
    else:
        answer = _solve_in_turn(*_flatten(workloads, initial, shape, jnp), solver, platform)
    if shape == answer.status.shape:
        return answer
    return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), answer)


def status_fractions(allocation: Allocation) -> dict[str, Any]:
    """Share of the lanes that ended with each status, by name; under tracing, traced shares."""
    xp = jnp if isinstance(allocation.status, jax.core.Tracer) else np
    return {status.name: xp.mean(xp.asarray(allocation.status) == status) for status in Status}


def _batch_shape(workloads: Workload) -> tuple[int, ...]:
    """*B, the shape that the leading axes of all fields broadcast to."""
    shapes = (
        np.shape(leaf) if name in PER_SERVER else np.shape(leaf)[:-1]
        for name, leaf in vars(workloads).items()
    )
    return np.broadcast_shapes(*shapes)


def _platform(leaves: list[Any]) -> str:
    """Where the lanes are, or would be put."""
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            return next(iter(leaf.devices())).platform
    return jax.default_backend()


def _flatten(workloads: Workload, initial: Any, shape: tuple[int, ...], xp: Any) -> Lanes:
    """Every array with one leading axis of lanes, in the widest dtype; views where possible."""
    num_types, dtype = workloads.num_types, workloads.dtype

    def flatten(leaf: Any, own: tuple[int, ...]) -> Any:
        leaf = xp.asarray(leaf, dtype)
        return xp.broadcast_to(leaf, (*shape, *own)).reshape(math.prod(shape), *own)

    fields = {
        name: flatten(leaf, () if name in PER_SERVER else (num_types,))
        for name, leaf in vars(workloads).items()
    }
    return Workload(**fields), None if initial is None else flatten(initial, (num_types,))


def _solve_on_cores(flat: Workload, start: Any, solver: Solver) -> Allocation:
    """Deal chunks of lanes to the cores, one thread each."""
    lanes = flat.arrival_rate.shape[0]
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    size = max(1, min(_MOST_LANES_A_CHUNK["cpu"], -(-lanes // (threads or 1))))
    if lanes <= size:
        return _solve_lanes(flat, start, solver)
    pieces = [_cut((flat, start), first, size, np) for first in range(0, lanes, size)]
    # The first call compiles, once for all threads, and returns while its lanes are being solved.
    answers = [_solve_lanes(*pieces[0], solver)]
    float64 = jax.config.values["jax_enable_x64"]

    def work(piece: Lanes) -> Allocation:
        with jax.enable_x64(float64):  # a thread does not inherit its caller's scope
            return jax.block_until_ready(_solve_lanes(*piece, solver))

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        answers += pool.map(work, pieces[1:])
    parts = jax.tree.map(lambda *parts: np.concatenate(parts)[:lanes], *answers)
    return jax.tree.map(jnp.asarray, parts)


def _solve_in_turn(flat: Workload, start: Any, solver: Solver, platform: str) -> Allocation:
    """One chunk after the other, each as large as the device takes well."""
    lanes = flat.arrival_rate.shape[0]
    size = max(1, min(_MOST_LANES_A_CHUNK.get(platform, 1 << 20), lanes))
    if lanes <= size:
        return _solve_lanes(flat, start, solver)
    pieces = (_cut((flat, start), first, size, jnp) for first in range(0, lanes, size))
    answers = [_solve_lanes(*piece, solver) for piece in pieces]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:lanes], *answers)


def _cut(lanes: Lanes, first: int, size: int, xp: Any) -> Lanes:
    """`size` lanes from `first` on; past the end the last lane repeats, so that shapes agree."""

    def cut(leaf: Any) -> Any:
        part = leaf[first : first + size]
        short = size - part.shape[0]
        return xp.concatenate([part, xp.repeat(part[-1:], short, axis=0)]) if short else part

    return jax.tree.map(cut, lanes)


@functools.partial(jax.jit, static_argnames="solver")
def _solve_lanes(flat: Workload, start: Any, solver: Solver) -> Allocation:
    return _optima(flat, start, solver)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _optima(flat: Workload, start: Any, solver: Solver) -> Allocation:
    """All lanes in one computation: lane after lane on a CPU, side by side elsewhere."""

    def solve_lane(lane: Lanes) -> Allocation:
        return solve(lane[0], solver, lane[1])

    small = flat.num_types <= _MOST_TYPES_IN_A_KERNEL
    one_by_one = _map_in_a_kernel if small else jax.lax.map
    return jax.lax.platform_dependent(
        (flat, start),
        cpu=functools.partial(one_by_one, solve_lane),
        default=jax.vmap(solve_lane),
    )


@_optima.defjvp
def _optima_jvp(solver: Solver, primals: Lanes, moved: Lanes) -> tuple[Allocation, Allocation]:
    answers = _optima(*primals, solver)
    return answers, jax.vmap(allocation_tangent)(primals[0], answers, moved[0])


def _map_in_a_kernel(function: Any, lanes: Any) -> Any:
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
