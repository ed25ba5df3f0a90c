"""From runs and arrivals to a workload: what `jaxalloc fit` does, for Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalloc.measurements.fits import TaskFit, fit_tasks
from jaxalloc.measurements.runs import Arrivals, Runs
from jaxalloc.measurements.traffic import check_tasks, left_out, one_at_a_time, traffic_of
from jaxalloc.workloads.files import WorkloadFile, validate

ACCURACY_WEIGHT = 30.0


@dataclasses.dataclass(frozen=True)
class RunsFit:
    """What runs and arrivals say.

    Attributes:
      tasks: the fits of all tasks.
      kept: those of the workload.
      traffic: arrival rate and mix, with what is known of them.
      file: the workload with its standard errors; None where the data do not give one.
      notes: what to be careful with, one line each.
    """

    tasks: list[TaskFit]
    kept: list[TaskFit]
    traffic: dict[str, Any]
    file: WorkloadFile | None
    notes: list[str]


def fit_runs(
    runs: Runs,
    arrivals: Arrivals | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    arrival_rate: float | None = None,
    accuracy_weight: float = ACCURACY_WEIGHT,
    min_tokens: float | None = None,
    max_tokens: float | None = None,
    concurrency: float | None = None,
    partial: bool = False,
    robust: bool = False,
    name: str = "fitted",
    source: str = "runs",
) -> RunsFit:
    """A workload fitted to runs, and to a log of arrivals or with the traffic that is given.

    Args:
      runs: what `read_runs` gives.
      arrivals: what `read_arrivals` gives; None: `arrival_rate` and `mix`.
      mix: shares by task; None: equal ones.
      arrival_rate: queries / s; None: 0.1.
      accuracy_weight: worth of one unit of accuracy, s.
      min_tokens, max_tokens: bounds of the budgets; None: 0 (for tasks without a rise the smallest
        that was measured) and the largest that was measured.
      concurrency: queries in service at once while the runs were measured: divides their times.
      partial: keep tasks without a rise at their smallest budget, and those with LACK_OF_FIT as
        they are; leave out what the data do not determine. Else one such task means no workload.
      robust: service times by Huber's loss instead of squares.
      name: of the workload.
      source: what the runs are called in messages.

    Raises:
      ValueError: the arrivals have no rate, no task of the workload a share, a number is out of its
        domain, or the times are latencies in a batch; one line that names it and the fix.

    >>> import numpy as np
    >>> tokens = np.repeat([0.0, 256, 1024, 4096], 100)
    >>> correct = np.concatenate([np.arange(100) < hits for hits in (30, 58, 82, 90)]) * 1.0
    >>> seconds = (0.1 + 1e-3 * tokens) * np.tile([0.9, 1.0, 1.1, 1.0], 100)
    >>> runs = Runs(("a",), np.zeros(400, int), tokens, correct, seconds, None)
    >>> found = fit_runs(runs, arrival_rate=0.2)
    >>> f"{found.file.task[0].gain:.2f} {found.file.arrival_rate}"
    '0.59 0.2'
    """
    for given, value in (("mix", mix), ("arrival_rate", arrival_rate)):
        if arrivals is not None and value:
            raise ValueError(f"{given} and arrivals say the same: drop one")
    if min_tokens is not None and max_tokens is not None and min_tokens > max_tokens:
        raise ValueError(f"min_tokens = {min_tokens:g} must not exceed max_tokens = {max_tokens:g}")
    if concurrency is not None and not 1 <= concurrency < float("inf"):
        raise ValueError(f"concurrency = {concurrency:g} must be at least 1: give a number")
    shares = dict(mix or {})
    notes = check_tasks(runs.tasks, shares, arrivals)
    runs, said = one_at_a_time(runs, arrivals, shares, arrival_rate, concurrency, source)
    notes += said
    tasks = fit_tasks(runs, robust=robust)
    kept = [task for task in tasks if task.usable or (partial and task.writable)]
    notes = [line for task in tasks for line in (*task.complaints, *task.doubts)] + notes
    if not kept or (len(kept) < len(tasks) and not partial):
        return RunsFit(tasks, kept, {}, None, [*notes, _no_workload(tasks)])
    traffic = traffic_of([task.name for task in kept], arrivals, shares, arrival_rate)
    notes += [
        f"{task.name}: written as constant: its smallest measured budget, {task.min_tokens:,.0f} "
        "tokens, is its best"
        for task in kept
        if task.constant
    ]
    notes += [traffic["warning"]] if "warning" in traffic else []
    notes += left_out([task.name for task in tasks if task not in kept], traffic)
    weak = [task.name for task in kept if task.complaints]
    document: dict[str, Any] = {
        "name": name,
        "source": f"fitted to {source}",
        "arrival_rate": traffic["arrival_rate"],
        "accuracy_weight": accuracy_weight,
        "task": [
            _task(task, min_tokens, max_tokens)
            | {key: traffic[key][k] for key in ("mix", "mix_se") if key in traffic}
            for k, task in enumerate(kept)
        ],
    }
    if weak:
        document["note"] = f"known only roughly: {', '.join(weak)}"
    if "arrival_rate_se" in traffic:
        document["arrival_rate_se"] = traffic["arrival_rate_se"]
    return RunsFit(tasks, kept, traffic, validate(document, f"workload fitted to {source}"), notes)


def extrapolations(
    fit: RunsFit, tokens: Sequence[float], min_tokens: float | None, max_tokens: float | None
) -> list[str | None]:
    """What to say of each task's budget that lies where nothing was measured.

    Args:
      fit: what `fit_runs` gives.
      tokens: budgets of the kept tasks.
      min_tokens, max_tokens: the bounds that were asked for, None where only the default sets them.
    """
    said = []
    for value, task in zip(tokens, fit.kept, strict=True):
        least, most, slack = task.min_tokens, task.max_tokens, 1e-6 * max(task.max_tokens, 1)
        where = None
        if value < least - slack:
            where = f"below the smallest measured budget, {least:,.0f}: an extrapolation"
            if min_tokens is None and value <= slack:
                where += ", to a bound that only the default set: measure 0, or set --min-tokens"
            else:
                where += ": measure smaller budgets, or raise --min-tokens"
        elif value > most + slack:
            where = (
                f"above the largest measured budget, {most:,.0f}: an extrapolation: "
                "measure larger budgets, or lower --max-tokens"
            )
        elif max_tokens is None and most - slack <= value > slack:
            where = (
                "the largest that was measured, a bound that only the default set: "
                "measure larger budgets, or set --max-tokens"
            )
        said.append(where)
    return said


def _task(task: TaskFit, least: float | None, most: float | None) -> dict[str, Any]:
    """The entries of one task but its share."""
    most = task.max_tokens if most is None else most
    if least is None:
        least = min(task.min_tokens, most) if task.constant else 0.0
    service = task.service
    entries = {
        "name": task.name,
        "min_tokens": least,
        "max_tokens": most,
        "service_cv": float(service.service_cv),
        "service_cv_se": float(service.service_cv_se),
        "service_covariance": _symmetric(service.covariance),
    } | _law(service, ("base_time", "time_per_token"))
    if not task.constant:
        law = _law(task.curve, ("gain", "decay", "floor"))
        return entries | law | {"covariance": _symmetric(task.curve.covariance)}
    share, error = task.first_share  # what does not rise is known where it was measured
    any_decay = 1 / max(task.max_tokens, 1.0)
    return entries | {"gain": 0.0, "decay": any_decay, "floor": share, "floor_se": error}


def _law(fit: Any, fields: tuple[str, ...]) -> dict[str, float]:
    """The parameters of one fit, with their standard errors."""
    errors = np.sqrt(np.diagonal(fit.covariance))
    values = {field: float(getattr(fit, field)) for field in fields}
    return values | {f"{field}_se": float(errors[i]) for i, field in enumerate(fields)}


def _symmetric(matrix: Any) -> list[list[float]]:
    mean: list[list[float]] = ((matrix + matrix.T) / 2).tolist()
    return mean


def _no_workload(tasks: list[TaskFit]) -> str:
    """Why there is none."""
    missed = ", ".join(task.name for task in tasks if task.writable and not task.constant)
    others = ", ".join(task.name for task in tasks if not task.writable or task.constant)
    why = [f"the data do not determine {others}"] * bool(others)
    why += [f"the laws miss those of {missed}"] * bool(missed)
    return f"no workload: {', and '.join(why)}: measure more, or write what there is with --partial"
