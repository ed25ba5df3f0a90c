"""What moves the optimum: derivatives and elasticities with respect to every field of a workload.

All of them are those of the optimum as it adapts, from the implicit derivative: one solve, and one
O(K) pass for each of the K + 4 outputs.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalloc.allocation.model.checks import one_workload
from jaxalloc.allocation.model.mg1 import mean_system_time, utilization
from jaxalloc.allocation.model.objective import mean_accuracy
from jaxalloc.allocation.model.workload import Workload
from jaxalloc.allocation.optimum.solve import Allocation, solve
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.solver import Solver


class Outputs(NamedTuple):
    """What an operator looks at: values, or for each of them something about its derivatives.

    Attributes:
      tokens: [K] token budgets.
      mean_accuracy: probability of a correct answer.
      mean_system_time: s.
      utilization: ρ.
      objective: J, s.
    """

    tokens: Any
    mean_accuracy: Any
    mean_system_time: Any
    utilization: Any
    objective: Any


class Sensitivity(NamedTuple):
    """The optimum and how it answers to every field; NaN unless the lane is CONVERGED.

    A `Workload` of derivatives holds in each field the derivative with respect to that field, after
    a leading output axis: `tokens.decay` is [K, K], entry [i, j] is ∂l_i/∂b_j; for the scalar
    outputs there is no such axis.

    Attributes:
      allocation: the optimum.
      values: `Outputs` of numbers.
      derivatives: `Outputs` of `Workload`; those of `mix` are partial, off the simplex.
      elasticities: the same times parameter over output; NaN where the output is 0.
      along_simplex: `Outputs` of [..., K] derivatives along e_j - π: what happens per share of all
        queries that is replaced, whatever their type, by queries of type j.
    """

    allocation: Allocation
    values: Outputs
    derivatives: Outputs
    elasticities: Outputs
    along_simplex: Outputs

    @property
    def tokens(self) -> Workload:
        """∂l/∂θ, every field with a leading output axis [K]."""
        return self.derivatives.tokens

    @property
    def elasticity(self) -> Workload:
        """(θ / l) ∂l/∂θ, every field with a leading output axis [K]; NaN where l is 0."""
        return self.elasticities.tokens

    @property
    def bound_prices(self) -> tuple[Any, Any]:
        """([K], [K]) what raising min_tokens and max_tokens by a token adds to J, s / token.

        At most 0 and at least 0; 0 where the bound does not bind.
        """
        return self.derivatives.objective.min_tokens, self.derivatives.objective.max_tokens


def sensitivity(workload: Workload, solver: Solver = Newton()) -> Sensitivity:
    """Derivatives and elasticities of the optimum with respect to every field of one workload.

    Works under `jax.jit` and `jax.vmap`, and is differentiable itself. At a token bound with zero
    gradient derivatives are one-sided: the type counts as held.

    >>> import jaxalloc
    >>> report = jaxalloc.sensitivity(jaxalloc.load("qwen3-8b").workload)
    >>> print(f"{report.derivatives.mean_system_time.accuracy_weight:.4f} s a second")
    0.1249 s a second
    """
    return _sensitivity(one_workload(workload), solver)


@functools.partial(jax.jit, static_argnames="solver")
def _sensitivity(workload: Workload, solver: Solver) -> Sensitivity:
    def outputs(workload: Workload) -> tuple[Outputs, tuple[Outputs, Allocation]]:
        best = solve(workload, solver)
        values = Outputs(
            tokens=best.tokens,
            mean_accuracy=mean_accuracy(workload, best.tokens),
            mean_system_time=mean_system_time(workload, best.tokens),
            utilization=utilization(workload, best.tokens),
            objective=best.objective,
        )
        return values, (values, best)

    derivatives, (values, best) = jax.jacrev(outputs, has_aux=True)(workload)

    def relative(output: Any, slopes: Workload) -> Workload:
        """Derivatives times parameter over output."""
        # A product with NaN, so that a derivative of an elasticity of nothing is NaN too.
        defined = jnp.where(output == 0, jnp.nan, output)

        def scale(slope: Any, parameter: Any) -> Any:
            across = defined.reshape(defined.shape + (1,) * parameter.ndim)
            along = parameter.reshape((1,) * output.ndim + parameter.shape)
            return slope * along / across

        return jax.tree.map(scale, slopes, workload)

    def along(slopes: Workload) -> Any:
        mean = jnp.inner(slopes.mix, workload.mix, precision="highest")
        return slopes.mix - mean[..., None]

    return Sensitivity(
        allocation=best,
        values=values,
        derivatives=derivatives,
        elasticities=Outputs(*map(relative, values, derivatives)),
        along_simplex=Outputs(*map(along, derivatives)),
    )
