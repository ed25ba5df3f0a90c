"""What accuracy costs in time: the optima of one workload along the accuracy weight."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from jaxalloc.allocation.model.checks import one_workload
from jaxalloc.allocation.model.mg1 import mean_system_time, utilization
from jaxalloc.allocation.model.objective import mean_accuracy
from jaxalloc.allocation.model.workload import PerType, Workload, as_array
from jaxalloc.allocation.optimum.batch import solve_batch
from jaxalloc.allocation.optimum.solve import Allocation
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver
from jaxalloc.numerics import cast

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

    No other budgets are both quicker and more accurate. Where tokens have a price μ, that is said
    of E[T] + μ Σ π_k l_k in place of E[T], and α is the slope of that. Works under `jax.jit`,
    `jax.vmap` and differentiation.

    Args:
      workload: one workload; its own accuracy weight plays no part.
      weights: [W] accuracy weights α, s.
      solver: as for `solve`.

    >>> import jaxalloc
    >>> curve = jaxalloc.frontier(jaxalloc.load("qwen3-8b").workload, [4.0, 30.0])
    >>> print([f"{accuracy:.2f}" for accuracy in curve.mean_accuracy])
    ['0.27', '0.39']
    """
    workload = one_workload(workload)
    weights = cast(as_array("weights", weights), workload.dtype)
    if weights.ndim != 1:
        raise ValueError(f"weights has shape {weights.shape}: give accuracy weights (W,)")
    best = solve_batch(dataclasses.replace(workload, accuracy_weight=weights), solver)
    time, correct, load = _measure(workload, best.tokens)
    return Frontier(weights, time, correct, load, best)


@jax.jit
def _measure(workload: Workload, tokens: PerType) -> tuple[PerWeight, ...]:
    """Mean system time, mean accuracy and utilization at each of [W, K] tokens."""
    functions = mean_system_time, mean_accuracy, utilization
    return tuple(jax.vmap(function, (None, 0))(workload, tokens) for function in functions)
