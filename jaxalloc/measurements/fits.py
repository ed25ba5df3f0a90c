"""Every task of a table of runs fitted: curves, service times, intervals, goodness."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalloc.calibration.accuracy import AccuracyFit, fit_counts
from jaxalloc.calibration.evidence import Rows
from jaxalloc.calibration.intervals import Intervals, count_intervals
from jaxalloc.calibration.likelihood import Counts
from jaxalloc.calibration.service import ServiceFit, fit_service_time, service_intervals
from jaxalloc.calibration.status import FitStatus
from jaxalloc.measurements.goodness import NORMAL, Bins, group
from jaxalloc.measurements.runs import Runs
from jaxalloc.tables import Floats

_SLOWEST, _FASTEST = 1.0, 1e-7  # s a token: beyond these another unit is meant
_LONGEST = 3600.0  # s, of a query without thinking
_LEAST_ROWS = 8  # of a padded table


@dataclasses.dataclass(frozen=True, eq=False)
class TaskFit:
    """What the runs of one task say.

    Attributes:
      name: of the task.
      answers: rows.
      questions: different ones, or None where the table does not say.
      min_tokens, max_tokens: the smallest and the largest budget.
      mean_seconds: s.
      curve: the accuracy curve; its numbers are NumPy's.
      intervals: of the curve.
      service: the service time.
      service_ends: [2, 2] intervals of (base_time, time_per_token).
      bins: observed and fitted accuracy; None where there is no curve.
      first_share: of correct answers at the smallest budget (or the tenth of answers at the
        smallest budgets) and its standard error.
    """

    name: str
    answers: int
    questions: int | None
    min_tokens: float
    max_tokens: float
    mean_seconds: float
    curve: AccuracyFit
    intervals: Intervals
    service: ServiceFit
    service_ends: Floats
    bins: Bins | None
    first_share: tuple[float, float]

    @property
    def statuses(self) -> tuple[FitStatus, FitStatus]:
        """Of the curve and of the service time."""
        return FitStatus(int(self.curve.status)), FitStatus(int(self.service.status))

    @property
    def usable(self) -> bool:
        """Whether the data determine both laws."""
        return all(status.usable for status in self.statuses)

    @property
    def constant(self) -> bool:
        """Whether more tokens do not raise accuracy: such a task belongs at its smallest budget."""
        return self.statuses[0].constant

    @property
    def writable(self) -> bool:
        """Whether there are numbers for a workload, be it of a law that misses the data."""
        laws = (self.service,) if self.constant else (self.service, self.curve)
        return all(np.all(np.isfinite(law.covariance)) for law in laws)

    @property
    def complaints(self) -> list[str]:
        """What is to be said of the two laws, none where all is well."""
        lines = []
        lacks = self.curve.lack_of_fit, self.service.lack_of_fit
        laws = zip(("accuracy", "service time"), self.statuses, lacks, strict=True)
        for law, status, lack in laws:
            missed = status == FitStatus.LACK_OF_FIT
            chance = f" (p = {float(lack.p_value):.1g})" if missed else ""
            if status != FitStatus.CONVERGED:
                lines.append(f"{self.name}: {law} {status.name}{chance}: {status.meaning}")
        return lines

    @property
    def doubts(self) -> list[str]:
        """What is to be said of times that are hardly seconds."""
        slope, start = float(self.service.time_per_token), float(self.service.base_time)
        if slope > _SLOWEST or 0 < slope < _FASTEST:
            shown = f"{slope:.3g} s a token"
        elif start > _LONGEST:
            shown = f"{start:.3g} s without thinking"
        else:
            return []
        return [
            f"{self.name}: {shown} is implausible: check the unit of the times, which the name of "
            "their column (latency_ms) or --time-unit tells"
        ]


def fit_tasks(runs: Runs, *, robust: bool = False, level: float = 0.95) -> list[TaskFit]:
    """Fit every task of a table, in the dtype of JAX's default, by one compiled program.

    Args:
      runs: the table.
      robust: service times by Huber's loss instead of squares.
      level: of the intervals.
    """
    own = [runs.of_task(k) for k in range(len(runs.tasks))]
    tables = [*map(_columns, own)]
    sizes = jax.tree.map(_common_size, *tables)
    results = []
    for task, table in zip(own, tables, strict=True):
        rows = task.count()
        found = _fit(jax.tree.map(_padded, table, sizes), robust, level)
        curve, intervals, service, ends = jax.tree.map(np.asarray, found)
        numbers = [float(x) for x in (curve.gain, curve.decay, curve.floor)]
        first = group(rows, 0.0, 1.0, rows.correct.sum() / rows.trials.sum())
        reach = float(first.high[0] - first.low[0]) / 2
        results.append(
            TaskFit(
                name=task.tasks[0],
                answers=len(task.tokens),
                questions=None if task.question is None else len(np.unique(task.question)),
                min_tokens=float(task.tokens.min()),
                max_tokens=float(task.tokens.max()),
                mean_seconds=float(task.seconds.mean()),
                curve=curve,
                intervals=intervals,
                service=service,
                service_ends=ends,
                bins=group(rows, *numbers) if np.isfinite(numbers[0]) else None,
                first_share=(float(first.observed[0]), reach / NORMAL),
            )
        )
    return results


def _columns(task: Runs) -> tuple[Counts, Rows | None, tuple[Any, ...]]:
    """What is fitted of one task: counts by budget, the same by question, times."""
    rows: Any = task.count()
    tokens, place = np.unique(rows.tokens, return_inverse=True)
    levels: Any = [tokens, np.bincount(place, rows.correct), np.bincount(place, rows.trials)]
    times = task.tokens, task.seconds, np.ones_like(task.tokens)
    if task.question is None:
        return Counts(*levels), None, (*times, None)
    counts = Counts(rows.tokens, rows.correct, rows.trials)
    _, question = np.unique(task.question, return_inverse=True)
    return Counts(*levels), Rows(counts, rows.question), (*times, question)


def _common_size(*columns: Any) -> int:
    """The power of two that the columns of all tasks fit into."""
    return 1 << (max(_LEAST_ROWS, *map(len, columns)) - 1).bit_length()


def _padded(column: Any, size: int) -> Any:
    """A column filled up with zeros, which are rows of no weight."""
    return jnp.asarray(np.pad(column, (0, size - len(column))))


@functools.partial(jax.jit, static_argnames=("robust", "level"))
def _fit(columns: Any, robust: bool, level: float) -> Any:
    """The curve, its intervals, the service time and its intervals, of one task."""
    levels, rows, times = columns
    curve = fit_counts(levels, rows)
    tokens, seconds, weight, question = times
    service = fit_service_time(tokens, seconds, weight, question, robust)
    return curve, count_intervals(curve, levels, level), service, service_intervals(service, level)
