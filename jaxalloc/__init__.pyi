"""The map: every public name and its home. Type checkers read it, and so does the loader."""

from jaxalloc import sweep as sweep
from jaxalloc.allocation.decisions.frontier import Frontier as Frontier, frontier as frontier
from jaxalloc.allocation.decisions.rounding import (
    Rounding as Rounding,
    RoundingLoss as RoundingLoss,
    round_tokens as round_tokens,
    rounding_loss as rounding_loss,
)
from jaxalloc.allocation.decisions.sensitivity import (
    Outputs as Outputs,
    Sensitivity as Sensitivity,
    sensitivity as sensitivity,
)
from jaxalloc.allocation.decisions.targets import (
    solve_for_accuracy as solve_for_accuracy,
    solve_for_mean_tokens as solve_for_mean_tokens,
    solve_for_system_time as solve_for_system_time,
)
from jaxalloc.allocation.model.mg1 import (
    mean_system_time as mean_system_time,
    mean_wait as mean_wait,
    utilization as utilization,
)
from jaxalloc.allocation.model.objective import (
    mean_accuracy as mean_accuracy,
    objective as objective,
)
from jaxalloc.allocation.model.workload import Workload as Workload
from jaxalloc.allocation.optimum.batch import (
    solve_batch as solve_batch,
    status_fractions as status_fractions,
)
from jaxalloc.allocation.optimum.masking import mask_failed as mask_failed
from jaxalloc.allocation.optimum.solve import Allocation as Allocation, solve as solve
from jaxalloc.allocation.optimum.status import Status as Status
from jaxalloc.allocation.queue import arrivals as arrivals
from jaxalloc.allocation.queue.fifo import FifoResult as FifoResult, simulate_fifo as simulate_fifo
from jaxalloc.allocation.queue.quantiles import (
    system_time_quantile as system_time_quantile,
    type_system_time_quantiles as type_system_time_quantiles,
    wait_quantile as wait_quantile,
)
from jaxalloc.allocation.queue.rates import (
    largest_arrival_rate as largest_arrival_rate,
    largest_rates_along as largest_rates_along,
)
from jaxalloc.allocation.queue.tails import system_time_cdf as system_time_cdf, wait_cdf as wait_cdf
from jaxalloc.allocation.queue.trust import Trust as Trust, trust as trust
from jaxalloc.allocation.solvers.fixed_point import (
    FixedPoint as FixedPoint,
    contraction_bound as contraction_bound,
)
from jaxalloc.allocation.solvers.newton import Newton as Newton
from jaxalloc.allocation.solvers.projected_gradient import (
    ProjectedGradient as ProjectedGradient,
    lipschitz_bound as lipschitz_bound,
)
from jaxalloc.calibration.accuracy import AccuracyFit as AccuracyFit, fit_accuracy as fit_accuracy
from jaxalloc.calibration.arrivals import (
    ArrivalFit as ArrivalFit,
    MixFit as MixFit,
    fit_arrivals as fit_arrivals,
    fit_mix as fit_mix,
)
from jaxalloc.calibration.covariances import (
    Covariances as Covariances,
    exactly_known as exactly_known,
)
from jaxalloc.calibration.decision import (
    Decision as Decision,
    solve_uncertain as solve_uncertain,
)
from jaxalloc.calibration.intervals import (
    Intervals as Intervals,
    accuracy_intervals as accuracy_intervals,
)
from jaxalloc.calibration.service import (
    ServiceFit as ServiceFit,
    fit_service_time as fit_service_time,
    service_intervals as service_intervals,
)
from jaxalloc.calibration.status import FitStatus as FitStatus
from jaxalloc.measurements.runs import read_arrivals as read_arrivals, read_runs as read_runs
from jaxalloc.measurements.workload import RunsFit as RunsFit, fit_runs as fit_runs
from jaxalloc.scheduling import policies as policies
from jaxalloc.scheduling.batch_time import BatchTime as BatchTime
from jaxalloc.scheduling.bounds import latency_bound as latency_bound
from jaxalloc.scheduling.requests import Requests as Requests
from jaxalloc.scheduling.schedule import Schedule as Schedule, ScheduleStatus as ScheduleStatus
from jaxalloc.scheduling.simulation import simulate as simulate, simulate_batch as simulate_batch
from jaxalloc.traces.readers import read_trace as read_trace
from jaxalloc.workloads.files import WorkloadFile as WorkloadFile, load as load, save as save

__version__: str
