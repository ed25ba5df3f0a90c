"""The traffic of fitted tasks: arrival rate and mix of a log, as given, or by default."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxalloc.calibration.arrivals import fit_arrivals, fit_mix
from jaxalloc.measurements.runs import Arrivals, Runs

ARRIVAL_RATE = 0.1  # queries / s, where nothing tells it
# A coefficient of variation of the gaps outside of these is not that of a Poisson process.
_POISSON = 0.8, 1.25
_MOST_IN_SERVICE = 0.8  # queries, on average, that a server of one at a time is believed to hold
_WHOLE = 1e-9  # slack of shares that sum to 1


def check_tasks(tasks: Sequence[str], shares: dict[str, float], log: Arrivals | None) -> list[str]:
    """Refuse traffic of unknown tasks and shares that leave one out; what to say of shares."""
    for kind, names in (("mix", shares), ("arrivals", log.tasks if log else ())):
        unknown = [task for task in names if task not in tasks]
        if unknown:
            raise ValueError(
                f"{kind}: task {unknown[0]!r} has no runs: measure it, or drop it (runs are of "
                f"{', '.join(tasks)})"
            )
    left, total = [task for task in tasks if task not in shares], sum(shares.values())
    if shares and total <= 0:
        raise ValueError("mix sums to 0: give a task a share above 0")
    if shares and left and total < 1 - _WHOLE:
        raise ValueError(
            f"mix sums to {total:g} without {', '.join(left)}: give every task its share, 0 for "
            "none"
        )
    return [f"--mix names no {', '.join(left)}: a share of 0"] if shares and left else []


def one_at_a_time(
    runs: Runs,
    log: Arrivals | None,
    shares: dict[str, float],
    rate: float | None,
    concurrency: float | None,
    source: str,
) -> tuple[Runs, list[str]]:
    """The runs with times that a server of one query at a time would take, and what to say.

    By Little's law λ E[seconds] queries are in service on average: where that is near 1 or above,
    the times are latencies in a batch, and without a concurrency they are refused.
    """
    if concurrency is not None:
        divided = dataclasses.replace(runs, seconds=runs.seconds / concurrency)
        said = (
            f"--concurrency {concurrency:g}: times are those measured / {concurrency:g}, as if the "
            "server took one query at a time: waits and system times are those of that queue, not "
            "of a batch"
        )
        return divided, [said] * (concurrency != 1)
    weight = np.array([shares.get(task, 0.0) for task in runs.tasks])
    if log is not None and len(log.time) > 1 and np.ptp(log.time) > 0:
        rate = (len(log.time) - 1) / float(np.ptp(log.time))
        weight = _counts(runs.tasks, log)
    if rate is None:
        return runs, []
    mean = float(runs.seconds.mean())
    if weight.sum() > 0:
        rows = np.bincount(runs.task, minlength=len(runs.tasks))
        means = np.bincount(runs.task, runs.seconds, len(runs.tasks)) / rows
        mean = float(weight @ means / weight.sum())
    if rate * mean < _MOST_IN_SERVICE:
        return runs, []
    raise ValueError(
        f"{source}: {rate:.3g} queries / s of {mean:.3g} s each are {rate * mean:.3g} in service "
        "at once, so that these are no service times of a server that takes one at a time: give "
        f"--concurrency {max(math.ceil(rate * mean), 2)} (queries in a batch) to divide them by, "
        "or 1 if each was measured alone"
    )


def _counts(names: Sequence[str], log: Arrivals) -> Any:
    """[K] how often each task arrives; 0 where the log does not say."""
    if log.task is None:
        return np.zeros(len(names))
    counts = dict(zip(log.tasks, np.bincount(log.task, minlength=len(log.tasks)), strict=True))
    return np.array([float(counts.get(name, 0)) for name in names])


def traffic_of(
    names: Sequence[str], log: Arrivals | None, shares: dict[str, float], rate: float | None
) -> dict[str, Any]:
    """Arrival rate and mix: of a log, as given, or by default."""
    found: dict[str, Any] = {
        "source": "given" if rate is not None or shares else "default",
        "arrival_rate": ARRIVAL_RATE if rate is None else rate,
        "mix": [1 / len(names)] * len(names),
    }
    if shares:
        own = np.array([shares.get(name, 0.0) for name in names])
        if own.sum() <= 0:
            raise ValueError("mix gives no share to a task that could be fitted: add one")
        kept = float(own.sum()) / sum(shares.values())
        found |= {"mix": (own / own.sum()).tolist(), "left_out": 1 - kept}
        found["arrival_rate"] *= kept
    if log is None:
        return found
    fit = fit_arrivals(log.time)
    cv, ends = float(fit.cv), np.asarray(fit.interval)
    if not np.all(np.isfinite([cv, *ends])):
        raise ValueError(
            f"arrivals: {len(log.time)} of them have no rate: give a log of at least three, not "
            "all at once"
        )
    kept = 1.0
    if log.task is not None:
        own, everyone = _counts(names, log), len(log.task)
        if own.sum() == 0:
            raise ValueError("arrivals name no task that could be fitted: measure those that do")
        known, kept = fit_mix(own), float(own.sum()) / everyone
        found |= {
            "left_out": 1 - kept,
            "mix": (own / own.sum()).tolist(),
            "mix_se": np.asarray(known.mix_se).tolist(),
            "mix_interval": np.asarray(known.interval).tolist(),
        }
    if not _POISSON[0] <= cv <= _POISSON[1]:
        found["warning"] = (
            f"the times between arrivals have CV {cv:.2f}, a Poisson process has 1: waits of an "
            "M/G/1 queue are then not to be trusted"
        )
    return found | {  # a task that is left out takes its arrivals with it
        "source": "log",
        "time_unit": log.time_unit,
        "arrivals": len(log.time),
        "arrival_rate": float(fit.arrival_rate) * kept,
        "arrival_rate_se": float(fit.arrival_rate_se) * kept,
        "arrival_rate_interval": (ends * kept).tolist(),
        "cv": cv,
    }


def left_out(names: list[str], traffic: dict[str, Any]) -> list[str]:
    """What the workload lacks with the tasks that are left out."""
    which = f"{', '.join(names)} left out"
    if not names:
        return []
    if "left_out" not in traffic:
        return [f"{which}: the workload has nothing of their arrivals, whose share is not known"]
    share, rate = traffic["left_out"], traffic["arrival_rate"]
    return [
        f"{which} with {share:.1%} of the arrivals: {rate:.4g} / s of {rate / (1 - share):.4g} / s "
        "are in the workload, and a real server has the others too"
    ]
