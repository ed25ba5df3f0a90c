"""jaxalloc: thinking-token budgets and KV-cache schedules for LLM servers, exact and batched."""

from jaxalloc.allocation.batch import solve_batch, status_fractions
from jaxalloc.allocation.fixed_point import FixedPoint, contraction_bound
from jaxalloc.allocation.mg1 import mean_system_time, mean_wait, utilization
from jaxalloc.allocation.newton import Newton
from jaxalloc.allocation.objective import mean_accuracy, objective
from jaxalloc.allocation.optimum import Allocation, Status, solve
from jaxalloc.allocation.projected_gradient import ProjectedGradient, lipschitz_bound
from jaxalloc.allocation.rounding import Rounding, round_tokens
from jaxalloc.allocation.workload import Workload

__all__ = [
    "Allocation",
    "FixedPoint",
    "Newton",
    "ProjectedGradient",
    "Rounding",
    "Status",
    "Workload",
    "contraction_bound",
    "lipschitz_bound",
    "mean_accuracy",
    "mean_system_time",
    "mean_wait",
    "objective",
    "round_tokens",
    "solve",
    "solve_batch",
    "status_fractions",
    "utilization",
]
