"""jaxalloc: thinking-token budgets and KV-cache schedules for LLM servers, exact and batched.

The map of the public names. Each is imported when it is first used, so that a command which needs
no JAX (`jaxalloc --help`) does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _HOMES, for type checkers and editors
    from jaxalloc import sweep
    from jaxalloc.allocation.decisions.frontier import Frontier, frontier
    from jaxalloc.allocation.decisions.rounding import Rounding, round_tokens
    from jaxalloc.allocation.decisions.rounding_loss import RoundingLoss, rounding_loss
    from jaxalloc.allocation.decisions.sensitivity import Outputs, Sensitivity, sensitivity
    from jaxalloc.allocation.decisions.targets import (
        solve_for_accuracy,
        solve_for_mean_tokens,
        solve_for_system_time,
    )
    from jaxalloc.allocation.model.mg1 import mean_system_time, mean_wait, utilization
    from jaxalloc.allocation.model.objective import mean_accuracy, objective
    from jaxalloc.allocation.model.workload import Workload
    from jaxalloc.allocation.optimum.batch import solve_batch, status_fractions
    from jaxalloc.allocation.optimum.masking import mask_failed
    from jaxalloc.allocation.optimum.optimum import Allocation, Status, solve
    from jaxalloc.allocation.queue import arrivals
    from jaxalloc.allocation.queue.fifo import FifoResult, simulate_fifo
    from jaxalloc.allocation.queue.quantiles import (
        largest_arrival_rate,
        largest_rates_along,
        system_time_quantile,
        type_system_time_quantiles,
        wait_quantile,
    )
    from jaxalloc.allocation.queue.tails import system_time_cdf, wait_cdf
    from jaxalloc.allocation.queue.trust import Trust, trust
    from jaxalloc.allocation.solvers.fixed_point import FixedPoint, contraction_bound
    from jaxalloc.allocation.solvers.newton import Newton
    from jaxalloc.allocation.solvers.projected_gradient import ProjectedGradient, lipschitz_bound
    from jaxalloc.calibration.accuracy import AccuracyFit, fit_accuracy
    from jaxalloc.calibration.arrivals import ArrivalFit, MixFit, fit_arrivals, fit_mix
    from jaxalloc.calibration.bootstrap import (
        Replicates,
        bootstrap_accuracy,
        bootstrap_intervals,
    )
    from jaxalloc.calibration.decision import (
        Covariances,
        Decision,
        exactly_known,
        solve_uncertain,
    )
    from jaxalloc.calibration.intervals import Intervals, accuracy_intervals
    from jaxalloc.calibration.service import ServiceFit, fit_service_time, service_intervals
    from jaxalloc.calibration.status import FitStatus
    from jaxalloc.scheduling import policies
    from jaxalloc.scheduling.batch_time import BatchTime
    from jaxalloc.scheduling.bounds import latency_bound
    from jaxalloc.scheduling.requests import Requests
    from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus
    from jaxalloc.scheduling.simulation import simulate, simulate_batch

_HOMES = {
    "": ("sweep",),
    "allocation.optimum.batch": ("solve_batch", "status_fractions"),
    "allocation.queue": ("arrivals",),
    "allocation.queue.fifo": ("FifoResult", "simulate_fifo"),
    "allocation.solvers.fixed_point": ("FixedPoint", "contraction_bound"),
    "allocation.decisions.frontier": ("Frontier", "frontier"),
    "allocation.optimum.masking": ("mask_failed",),
    "allocation.model.mg1": ("mean_system_time", "mean_wait", "utilization"),
    "allocation.solvers.newton": ("Newton",),
    "allocation.model.objective": ("mean_accuracy", "objective"),
    "allocation.optimum.optimum": ("Allocation", "Status", "solve"),
    "allocation.solvers.projected_gradient": ("ProjectedGradient", "lipschitz_bound"),
    "allocation.decisions.rounding": ("Rounding", "round_tokens"),
    "allocation.decisions.sensitivity": ("Outputs", "Sensitivity", "sensitivity"),
    "allocation.decisions.targets": (
        "solve_for_accuracy",
        "solve_for_mean_tokens",
        "solve_for_system_time",
    ),
    "allocation.queue.quantiles": (
        "largest_arrival_rate",
        "largest_rates_along",
        "system_time_quantile",
        "type_system_time_quantiles",
        "wait_quantile",
    ),
    "allocation.queue.tails": (
        "system_time_cdf",
        "wait_cdf",
    ),
    "allocation.decisions.rounding_loss": ("RoundingLoss", "rounding_loss"),
    "allocation.queue.trust": ("Trust", "trust"),
    "allocation.model.workload": ("Workload",),
    "calibration.accuracy": ("AccuracyFit", "fit_accuracy"),
    "calibration.arrivals": ("ArrivalFit", "MixFit", "fit_arrivals", "fit_mix"),
    "calibration.bootstrap": ("Replicates", "bootstrap_accuracy", "bootstrap_intervals"),
    "calibration.decision": ("Covariances", "Decision", "exactly_known", "solve_uncertain"),
    "calibration.intervals": ("Intervals", "accuracy_intervals"),
    "calibration.service": ("ServiceFit", "fit_service_time", "service_intervals"),
    "calibration.status": ("FitStatus",),
    "scheduling": ("policies",),
    "scheduling.batch_time": ("BatchTime",),
    "scheduling.bounds": ("latency_bound",),
    "scheduling.requests": ("Requests",),
    "scheduling.schedule": ("Schedule", "ScheduleStatus"),
    "scheduling.simulation": ("simulate", "simulate_batch"),
}
_HOME = {
    name: f"jaxalloc.{module}".rstrip(".") for module, names in _HOMES.items() for name in names
}

__all__ = [
    "AccuracyFit",
    "Allocation",
    "ArrivalFit",
    "BatchTime",
    "Covariances",
    "Decision",
    "FifoResult",
    "FitStatus",
    "FixedPoint",
    "Frontier",
    "Intervals",
    "MixFit",
    "Newton",
    "Outputs",
    "ProjectedGradient",
    "Replicates",
    "Requests",
    "Rounding",
    "RoundingLoss",
    "Schedule",
    "ScheduleStatus",
    "Sensitivity",
    "ServiceFit",
    "Status",
    "Trust",
    "Workload",
    "accuracy_intervals",
    "arrivals",
    "bootstrap_accuracy",
    "bootstrap_intervals",
    "contraction_bound",
    "exactly_known",
    "fit_accuracy",
    "fit_arrivals",
    "fit_mix",
    "fit_service_time",
    "frontier",
    "largest_arrival_rate",
    "largest_rates_along",
    "latency_bound",
    "lipschitz_bound",
    "mask_failed",
    "mean_accuracy",
    "mean_system_time",
    "mean_wait",
    "objective",
    "policies",
    "round_tokens",
    "rounding_loss",
    "sensitivity",
    "service_intervals",
    "simulate",
    "simulate_batch",
    "simulate_fifo",
    "solve",
    "solve_batch",
    "solve_for_accuracy",
    "solve_for_mean_tokens",
    "solve_for_system_time",
    "solve_uncertain",
    "status_fractions",
    "sweep",
    "system_time_cdf",
    "system_time_quantile",
    "trust",
    "type_system_time_quantiles",
    "utilization",
    "wait_cdf",
    "wait_quantile",
]

if not TYPE_CHECKING:  # which would take it for a promise of any name

    def __getattr__(name: str) -> Any:
        """Import a public name from its home."""
        if name not in _HOME:
            raise AttributeError(f"module 'jaxalloc' has no attribute {name!r}")
        if _HOME[name] == __name__:  # a room whose names are not on the map themselves
            return importlib.import_module(f"{__name__}.{name}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
