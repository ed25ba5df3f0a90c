"""Many workloads at once."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalloc.allocation.newton import Newton
from jaxalloc.allocation.optimum import Allocation, Status, solve
from jaxalloc.allocation.solver import Solver
from jaxalloc.allocation.workload import PER_SERVER, PerType, Workload
from jaxalloc.backend import in_chunks, platform_of

Lanes = tuple[Workload, Any]  # workloads, and tokens to start from or None

_CPU_LANES, _ACCELERATOR_LANES = 1 << 14, 1 << 22  # the most in a chunk


def solve_batch(
    workloads: Workload, solver: Solver = Newton(), initial: PerType | None = None
) -> Allocation:
    """Optimal token budgets of many workloads: `solve` over any leading axes.

    The same answer as `jax.vmap(solve)`, in chunks that keep the memory bounded and all cores of a
    CPU busy; under tracing (`jax.jit`, `jax.grad`, `jax.vmap`) it is one computation.

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
    shapes = (
        np.shape(leaf) if name in PER_SERVER else np.shape(leaf)[:-1]
        for name, leaf in vars(workloads).items()
    )
    shape = np.broadcast_shapes(*shapes)
    platform = platform_of((workloads, initial))
    lanes = _flatten(workloads, initial, shape, np if platform == "cpu" else jnp)
    work = functools.partial(_solve_lanes, solver=solver)
    if platform is None:
        answer = work(lanes)
    else:
        answer = in_chunks(work, lanes, cpu=_CPU_LANES, accelerator=_ACCELERATOR_LANES)
    if answer.status.shape == shape:
        return answer
    return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), answer)


def status_fractions(allocation: Allocation) -> dict[str, Any]:
    """Share of the lanes that ended with each status, by name; under tracing, traced shares.

    All shares of a batch without lanes are 0.
    """
    xp = jnp if isinstance(allocation.status, jax.core.Tracer) else np
    ended = xp.asarray(allocation.status)
    return {status.name: xp.sum(ended == status) / max(ended.size, 1) for status in Status}


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


@functools.partial(jax.jit, static_argnames="solver")
def _solve_lanes(lanes: Lanes, solver: Solver) -> Allocation:
    """All lanes in one computation."""
    return jax.vmap(lambda workload, initial: solve(workload, solver, initial))(*lanes)
