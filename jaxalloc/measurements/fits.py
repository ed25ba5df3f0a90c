"""Every task of a table of runs fitted: curves, service times, intervals, goodness."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalloc.calibration.accuracy import AccuracyFit, fit_counts, gather
from jaxalloc.calibration.intervals import Intervals, count_intervals
from jaxalloc.calibration.likelihood import Counts
from jaxalloc.calibration.service import ServiceFit, fit_service_time, service_intervals
from jaxalloc.calibration.status import CONSTANT, MEANING, USABLE, FitStatus
from jaxalloc.calibration.verdict import Rows
from jaxalloc.measurements.goodness import NORMAL, Bins, group
from jaxalloc.measurements.runs import Counted, Runs
from jaxalloc.tables import Floats


@dataclasses.dataclass(frozen=True)
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
    def usable(self) -> bool:
        """Whether the data determine both laws."""
        return all(FitStatus(int(f.status)) in USABLE for f in (self.curve, self.service))

    @property
    def constant(self) -> bool:
        """Whether more tokens do not raise accuracy: such a task belongs at its smallest budget."""
        return int(self.curve.status) in CONSTANT

    @property
    def writable(self) -> bool:
        """Whether there are numbers for a workload, be it of a law that misses the data."""
        laws = (self.service,) if self.constant else (self.service, self.curve)
        return all(
            int(law.status) in (*USABLE, FitStatus.LACK_OF_FIT)
            and bool(np.all(np.isfinite(law.covariance)))
            for law in laws
        )

    @property
    def complaints(self) -> list[str]:
        """What is to be said of the two laws, none where all is well."""
        lines = []
        for law, fit in (("accuracy", self.curve), ("service time", self.service)):
            status = FitStatus(int(fit.status))
            chance = ""
            if status == FitStatus.LACK_OF_FIT:
                chance = f" (p = {float(fit.lack_of_fit.p_value):.1g})"
            if status != FitStatus.CONVERGED:
                lines.append(f"{law} {status.name}{chance}: {MEANING[status]}")
        return lines


def fit_runs(runs: Runs, *, robust: bool = False, level: float = 0.95) -> list[TaskFit]:
    """Fit every task of a table, in the dtype of JAX's default.

    Args:
      runs: the table.
      robust: service times by Huber's loss instead of squares.
      level: of the intervals.
    """
    return [_fit_task(runs.of_task(k), robust, level) for k in range(len(runs.tasks))]


def _fit_task(runs: Runs, robust: bool, level: float) -> TaskFit:
    counted = runs.count()
    levels = gather(Counts(*map(jnp.asarray, (counted.tokens, counted.correct, counted.trials))))
    curve = fit_counts(levels, _rows(counted))
    intervals = count_intervals(curve, levels, level)
    tokens, seconds, weight, question = _padded(
        runs.tokens, runs.seconds, np.ones_like(runs.tokens), _labels(runs.question)
    )
    service = fit_service_time(
        tokens, seconds, weight, None if runs.question is None else question, robust
    )
    there = np.isfinite(float(curve.gain))
    mean = counted.correct.sum() / counted.trials.sum()
    first = group(counted, 0.0, 1.0, mean)
    reach = (first.high[0] - first.low[0]) / 2
    numbers = [float(x) for x in (curve.gain, curve.decay, curve.floor)]
    return TaskFit(
        name=runs.tasks[0],
        answers=len(runs.tokens),
        questions=None if runs.question is None else len(np.unique(runs.question)),
        min_tokens=float(runs.tokens.min()),
        max_tokens=float(runs.tokens.max()),
        mean_seconds=float(runs.seconds.mean()),
        curve=jax.tree.map(np.asarray, curve),
        intervals=jax.tree.map(np.asarray, intervals),
        service=jax.tree.map(np.asarray, service),
        service_ends=np.asarray(service_intervals(service, level)),
        bins=group(counted, *numbers) if there else None,
        first_share=(float(first.observed[0]), float(reach / NORMAL)),
    )


def _labels(question: Any) -> Any:
    """Questions numbered from 0, so that they fit into any integer."""
    return None if question is None else np.unique(question, return_inverse=True)[1]


def _rows(counted: Counted) -> Rows | None:
    """The counts by question, filled up; None without questions."""
    if counted.question is None:
        return None
    tokens, correct, trials, question = _padded(
        counted.tokens, counted.correct, counted.trials, _labels(counted.question)
    )
    return Rows(Counts(*map(jnp.asarray, (tokens, correct, trials))), jnp.asarray(question))


def _padded(tokens: Any, value: Any, weight: Any, question: Any) -> list[Any]:
    """Columns filled up to a power of two with rows of weight 0."""

    def pad(column: Any, filler: Any) -> Any:
        size = 1 << max(3, (len(column) - 1).bit_length())
        return np.pad(column, (0, size - len(column)), constant_values=filler)

    columns = [pad(tokens, tokens[0]), pad(value, 0), pad(weight, 0)]
    return [*columns, None if question is None else pad(question, question[0])]
