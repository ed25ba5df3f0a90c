"""What `jaxalloc fit` refuses and warns of: numbers that mean something else than is asked."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalloc.cli.errors import BadInput

if TYPE_CHECKING:
    from jaxalloc.measurements.fits import TaskFit
    from jaxalloc.measurements.runs import Arrivals, Runs

MOST_IN_SERVICE = 0.8  # queries, on average, that a server of one at a time is believed to hold
_SLOWEST, _FASTEST = 1.0, 1e-7  # s a token: beyond these another unit is meant
_LONGEST = 3600.0  # s, of a query without thinking
_FEW_SOLVED = 0.99  # of the draws of the parameters
_WHOLE = 1e-9  # slack of shares that sum to 1


def check_mix(path: Path, tasks: tuple[str, ...], shares: dict[str, float]) -> list[str]:
    """Complain about shares of `--mix` that leave a task out; what to say of those given none."""
    for task in shares:
        if task not in tasks:
            raise BadInput(f"--mix: {path} has no task {task!r}: give {', '.join(tasks)}")
    left = [task for task in tasks if task not in shares] if shares else []
    total = sum(shares.values())
    if left and total < 1 - _WHOLE:
        raise BadInput(
            f"--mix sums to {total:g} without {', '.join(left)}: give every task its share, 0 for "
            "none"
        )
    return [f"--mix names no {', '.join(left)}: a share of 0"] if left else []


def one_at_a_time(
    path: Path,
    runs: Runs,
    log: Arrivals | None,
    shares: dict[str, float],
    rate: float | None,
    concurrency: float | None,
) -> tuple[Runs, list[str]]:
    """The runs with times that a server of one query at a time would take, and what to say.

    By Little's law λ E[seconds] queries are in service on average: where that is near 1 or above,
    the times are latencies in a batch.

    Raises:
      BadInput: they are, and no concurrency was given.
    """
    if concurrency is not None:
        divided = dataclasses.replace(runs, seconds=runs.seconds / concurrency)
        if concurrency == 1:
            return divided, []
        return divided, [
            f"--concurrency {concurrency:g}: times are those measured / {concurrency:g}, as if the "
            "server took one query at a time: waits and system times are those of that queue, not "
            "of a batch"
        ]
    if log is not None and len(log.time) > 1 and np.ptp(log.time) > 0:
        rate = (len(log.time) - 1) / float(np.ptp(log.time))
    if rate is None:
        return runs, []
    mean = _mean_seconds(runs, log, shares)
    if rate * mean < MOST_IN_SERVICE:
        return runs, []
    raise BadInput(
        f"{path}: {rate:.3g} queries / s of {mean:.3g} s each are {rate * mean:.3g} in service at "
        "once, so that these are no service times of a server that takes one at a time: give "
        f"--concurrency {max(math.ceil(rate * mean), 2)} (queries in a batch) to divide them by, "
        "or 1 if each was measured alone"
    )


def _mean_seconds(runs: Runs, log: Arrivals | None, shares: dict[str, float]) -> float:
    """Of a query, by the shares of the tasks where they are known, else of all rows."""
    weight = np.array([shares.get(task, 0.0) for task in runs.tasks])
    if log is not None and log.task is not None:
        counts = np.bincount(log.task, minlength=len(log.tasks))
        found = dict(zip(log.tasks, counts.tolist(), strict=True))
        weight = np.array([float(found.get(task, 0)) for task in runs.tasks])
    if weight.sum() <= 0:
        return float(runs.seconds.mean())
    rows = np.bincount(runs.task, minlength=len(runs.tasks))
    means = np.bincount(runs.task, runs.seconds, len(runs.tasks)) / rows
    return float(weight @ means / weight.sum())


def is_solved(decision: dict[str, Any]) -> bool:
    """Whether there is an optimum, and intervals around it."""
    numbers = [*decision["regret"].values(), decision["solved"]]
    for task in decision["tasks"]:
        numbers += list(task["tokens"].values())
    return decision["status"] == "CONVERGED" and bool(np.all(np.isfinite(numbers)))


def complaints(tasks: list[TaskFit], kept: list[TaskFit], document: dict[str, Any]) -> list[str]:
    """What is wrong, or to be careful with."""
    lines = []
    for task in tasks:
        lines += [f"{task.name}: {complaint}" for complaint in task.complaints]
        lines += [f"{task.name}: {doubt}" for doubt in _doubts(task)]
        if task.constant and any(task is other for other in kept):
            lines.append(
                f"{task.name}: written as constant: its smallest measured budget, "
                f"{task.min_tokens:,.0f} tokens, is its best"
            )
    found, optimum = document.get("arrivals") or {}, document.get("decision")
    if "warning" in found:
        lines.append(found["warning"])
    if optimum is None:
        return [*lines, _no_workload([task for task in tasks if not task.usable])]
    lines += _left_out([t.name for t in tasks if not any(t is k for k in kept)], found)
    return lines + _of_optimum(optimum, found, document["solved"])


def _no_workload(tasks: list[TaskFit]) -> str:
    """Why there is none."""
    missed = ", ".join(task.name for task in tasks if task.writable and not task.constant)
    others = ", ".join(task.name for task in tasks if not task.writable or task.constant)
    why = [f"the data do not determine {others}"] * bool(others)
    why += [f"the laws miss those of {missed}"] * bool(missed)
    return f"no workload: {', and '.join(why)}: measure more, or write what there is with --partial"


def _doubts(task: TaskFit) -> list[str]:
    """Times that are hardly seconds."""
    slope, start = float(task.service.time_per_token), float(task.service.base_time)
    shown = None
    if slope > _SLOWEST or 0 < slope < _FASTEST:
        shown = f"{slope:.3g} s a token"
    elif start > _LONGEST:
        shown = f"{start:.3g} s without thinking"
    if shown is None:
        return []
    return [
        f"{shown} is implausible: check the unit of the times, which the name of their column "
        "(latency_ms) or --time-unit tells"
    ]


def _left_out(names: list[str], found: dict[str, Any]) -> list[str]:
    """What the workload lacks with the tasks that are left out."""
    if not names:
        return []
    which = f"{', '.join(names)} left out"
    if "left_out" not in found:
        return [f"{which}: the workload has nothing of their arrivals, whose share is not known"]
    share, rate = found["left_out"], found["arrival_rate"]
    whole = rate / (1 - share)
    return [
        f"{which} with {share:.1%} of the arrivals: {rate:.4g} / s of {whole:.4g} / s are in the "
        "workload, and a real server has the others too"
    ]


def _of_optimum(optimum: dict[str, Any], found: dict[str, Any], solved: bool) -> list[str]:
    if optimum["status"] == "INFEASIBLE":
        return [
            f"no workload: {found['arrival_rate']:.4g} queries / s overload the server even at the "
            "smallest budgets: lower --arrival-rate or --min-tokens, or check the times"
        ]
    if not solved:
        return [f"no workload: its optimum is {optimum['status']}, and its intervals have no end"]
    if optimum["solved"] < _FEW_SOLVED:
        return [
            f"{1 - optimum['solved']:.1%} of the workloads that the data allow are overloaded at "
            "any budgets: intervals and regret are of the others"
        ]
    return []
