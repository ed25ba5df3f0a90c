"""What accuracy costs in time: the optima of one workload along the accuracy weight."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.allocation.batch import solve_batch
from jaxalloc.allocation.mg1 import mean_system_time, utilization
from jaxalloc.allocation.newton import Newton
from jaxalloc.allocation.objective import mean_accuracy
from jaxalloc.allocation.optimum import Allocation
from jaxalloc.allocation.solver import Solver
from jaxalloc.allocation.workload import Workload

PerWeight = Float[Array, "W"]


class Frontier(NamedTuple):
    """Points of the Pareto frontier of accuracy and time; W of them.

    Attributes:
      weight: [W] α, the accuracy weight, s; also the exact slope of the frontier, what one more
        unit of accuracy costs in mean system time: dE[T] / d(accuracy) = α (derived here, from
        α ∂(accuracy)/∂l = ∂E[T]/∂l for every type that is free to move).
      mean_system_time: [W] s.
      mean_accuracy: [W].
      utilization: [W].
      allocation: the optima, [W] and [W, K]; look at its status.
    """

    weight: PerWeight
    mean_system_time: PerWeight
    mean_accuracy: PerWeight
    utilization: PerWeight
    allocation: Allocation

    @property
    def accuracy_per_second(self) -> PerWeight:
        """d(accuracy) / dE[T] = 1 / α, the slope of accuracy over time."""
        return 1 / self.weight


def frontier(workload: Workload, weights: Any, solver: Solver = Newton()) -> Frontier:
    """The optima of one workload at the given accuracy weights.

    No other budgets are both quicker and more accurate. Works under `jax.jit`, `jax.vmap` and
    differentiation.

    Args:
      workload: one workload; its own accuracy weight plays no part.
      weights: [W] accuracy weights α, s.
      solver: as for `solve`.

    >>> import jax.numpy as jnp, jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> curve = jaxalloc.frontier(workload, jnp.array([4.0, 8.0]))
    >>> print([f"{accuracy:.2f}" for accuracy in curve.mean_accuracy])
    ['0.36', '0.46']
    """
    weights = jnp.asarray(weights, workload.dtype)
    many = dataclasses.replace(
        jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (*weights.shape, *jnp.shape(leaf))), workload
        ),
        accuracy_weight=weights,
    )
    best = solve_batch(many, solver)
    return Frontier(
        weight=weights,
        mean_system_time=jax.vmap(mean_system_time)(many, best.tokens),
        mean_accuracy=jax.vmap(mean_accuracy)(many, best.tokens),
        utilization=jax.vmap(utilization)(many, best.tokens),
        allocation=best,
    )
