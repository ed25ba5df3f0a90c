"""The workload that `jaxalloc fit` writes, and its optimum with what is unknown carried through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalloc.workloads.files import WorkloadFile, validate

if TYPE_CHECKING:
    from jaxalloc.measurements.fits import TaskFit
    from jaxalloc.measurements.runs import Arrivals

ARRIVAL_RATE = 0.1
SAMPLES = 4000
# A coefficient of variation of the gaps outside of these is not that of a Poisson process.
_POISSON = 0.8, 1.25


def build(
    tasks: list[TaskFit],
    log: Arrivals | None,
    shares: dict[str, float],
    settings: dict[str, Any],
    name: str,
    source: str,
) -> tuple[WorkloadFile, dict[str, Any]]:
    """The workload file of fitted tasks, and what is known of the arrivals.

    Raises:
      ValueError: the arrivals have no rate, no task of the file a share, or a number is out of its
        domain; names the fix.
    """
    traffic = _traffic(tasks, log, shares, settings["arrival_rate"])
    entries = []
    for task, mix, mix_se in zip(tasks, traffic["mix"], traffic["mix_se"], strict=True):
        entries.append(
            _task(task)
            | _budgets(task, settings)
            | {"mix": mix}
            | ({"mix_se": mix_se} if log is not None and log.task is not None else {})
        )
    weak = [task.name for task in tasks if task.complaints]
    document: dict[str, Any] = {
        "name": name,
        "source": f"fitted to {source}",
        "arrival_rate": traffic["arrival_rate"],
        "accuracy_weight": settings["accuracy_weight"],
        "task": entries,
    }
    if weak:
        document["note"] = f"known only roughly: {', '.join(weak)}"
    if log is not None:
        document["arrival_rate_se"] = traffic["arrival_rate_se"]
    return validate(document, f"workload fitted to {source}"), traffic


def _budgets(task: TaskFit, settings: dict[str, Any]) -> dict[str, float]:
    """Its smallest and largest budget, as told, else from 0 to the largest that was measured.

    A task that is constant starts at the smallest that was measured.
    """
    least, most = settings["min_tokens"], settings["max_tokens"]
    most = task.max_tokens if most is None else most
    if least is None:
        least = min(task.min_tokens, most) if task.constant else 0.0
    return {"min_tokens": least, "max_tokens": most}


def _task(task: TaskFit) -> dict[str, Any]:
    """The numbers of one task."""
    service = task.service
    curve = _constant(task) if task.constant else _law(task.curve, ("gain", "decay", "floor"))
    return (
        curve
        | ({} if task.constant else {"covariance": _symmetric(task.curve.covariance)})
        | _law(service, ("base_time", "time_per_token"))
        | {
            "name": task.name,
            "service_cv": float(service.service_cv),
            "service_cv_se": float(service.service_cv_se),
            "service_covariance": _symmetric(service.covariance),
        }
    )


def _law(fit: Any, fields: tuple[str, ...]) -> dict[str, float]:
    """The parameters of one fit, with their standard errors."""
    errors = np.sqrt(np.diagonal(fit.covariance))
    values = {field: float(getattr(fit, field)) for field in fields}
    return values | {
        f"{field}_se": float(error) for field, error in zip(fields, errors, strict=True)
    }


def _constant(task: TaskFit) -> dict[str, float]:
    """A curve that does not rise: what was measured at the smallest budget."""
    share, error = task.first_share
    return {
        "gain": 0.0,
        "decay": 1 / max(task.max_tokens, 1.0),  # any: it has nothing to saturate
        "floor": share,
        "floor_se": error,
    }


def _symmetric(matrix: Any) -> list[list[float]]:
    mean: list[list[float]] = ((matrix + matrix.T) / 2).tolist()
    return mean


def _traffic(
    tasks: list[TaskFit], log: Arrivals | None, shares: dict[str, float], rate: float | None
) -> dict[str, Any]:
    """Arrival rate and mix: of a log, as given, or by default."""
    equal = 1 / len(tasks)
    found: dict[str, Any] = {
        "source": "given" if rate is not None or shares else "default",
        "arrival_rate": ARRIVAL_RATE if rate is None else rate,
        "mix": [equal] * len(tasks),
        "mix_se": [0.0] * len(tasks),
    }
    if shares:
        own = np.array([shares.get(task.name, 0.0) for task in tasks])
        if own.sum() <= 0:
            raise ValueError("--mix gives no share to a task that could be fitted: add one")
        kept = float(own.sum()) / sum(shares.values())
        found |= {"mix": (own / own.sum()).tolist(), "left_out": 1 - kept}
        found["arrival_rate"] *= kept
    return found if log is None else found | _of_log(tasks, log)


def _of_log(tasks: list[TaskFit], log: Arrivals) -> dict[str, Any]:
    from jaxalloc.calibration.arrivals import fit_arrivals, fit_mix

    fit = fit_arrivals(log.time)
    rate, cv = float(fit.arrival_rate), float(fit.cv)
    if not (np.isfinite(rate) and np.isfinite(cv)):
        raise ValueError(
            f"--arrivals: {len(log.time)} arrivals have no rate: give a log of at least three, "
            "not all at once"
        )
    found: dict[str, Any] = {
        "source": "log",
        "time_unit": log.time_unit,
        "arrivals": len(log.time),
        "arrival_rate": rate,
        "arrival_rate_se": float(fit.arrival_rate_se),
        "arrival_rate_interval": np.asarray(fit.interval).tolist(),
        "cv": cv,
    }
    if not _POISSON[0] <= cv <= _POISSON[1]:
        found["warning"] = (
            f"the times between arrivals have CV {cv:.2f}, a Poisson process has 1: waits of an "
            "M/G/1 queue are then not to be trusted"
        )
    if log.task is None:
        return found
    counts = np.bincount(log.task, minlength=len(log.tasks))
    own = np.array([counts[log.tasks.index(t.name)] if t.name in log.tasks else 0 for t in tasks])
    if own.sum() == 0:
        raise ValueError("--arrivals names no task that could be fitted: measure those that arrive")
    shares = fit_mix(own)
    left_out = 1 - own.sum() / counts.sum()
    return found | {
        # A task that is left out takes its arrivals with it.
        "left_out": float(left_out),
        "arrival_rate": rate * (1 - left_out),
        "arrival_rate_se": found["arrival_rate_se"] * (1 - left_out),
        "arrival_rate_interval": [end * (1 - left_out) for end in found["arrival_rate_interval"]],
        "mix": (own / own.sum()).tolist(),
        "mix_se": np.asarray(shares.mix_se).tolist(),
        "mix_interval": np.asarray(shares.interval).tolist(),
    }


def extrapolations(
    document: dict[str, Any], tasks: list[TaskFit], settings: dict[str, Any]
) -> list[str]:
    """What to say of budgets that lie where nothing was measured; noted in the document too.

    Args:
      document: what `decision` gave.
      tasks: those of the file, in its order.
      settings: `min_tokens` and `max_tokens`, None where only the default sets them.
    """
    said = []
    for entry, task in zip(document["tasks"], tasks, strict=True):
        value, slack = entry["tokens"]["value"], 1e-6 * max(task.max_tokens, 1)
        where = None
        if value < task.min_tokens - slack:
            where = f"below the smallest measured budget, {task.min_tokens:,.0f}: an extrapolation"
            if settings["min_tokens"] is None and value <= slack:
                where += ", to a bound that only the default set: measure 0, or set --min-tokens"
            else:
                where += ": measure smaller budgets, or raise --min-tokens"
        elif value > task.max_tokens + slack:
            where = (
                f"above the largest measured budget, {task.max_tokens:,.0f}: an extrapolation: "
                "measure larger budgets, or lower --max-tokens"
            )
        elif settings["max_tokens"] is None and task.max_tokens - slack <= value > slack:
            where = (
                "the largest that was measured, a bound that only the default set: "
                "measure larger budgets, or set --max-tokens"
            )
        entry["extrapolation"] = where
        if where is not None:
            said.append(f"{task.name}: the optimum, {value:,.0f} tokens, is {where}")
    return said


def decision(file: WorkloadFile, seed: int) -> dict[str, Any]:
    """The optimum with intervals, its regret, and what to measure next."""
    import jax

    from jaxalloc.allocation.optimum.status import Status
    from jaxalloc.calibration.decision import solve_uncertain
    from jaxalloc.workloads.uncertainty import to_covariances

    answer = jax.tree.map(
        np.asarray,
        solve_uncertain(jax.random.key(seed), file.workload, to_covariances(file), SAMPLES),
    )
    names = file.names

    def known(output: str, place: Any = ()) -> dict[str, float]:
        parts = (answer.values, answer.standard_error, answer.low, answer.high)
        keys = ("value", "standard_error", "low", "high")
        return {
            key: float(getattr(part, output)[place]) for key, part in zip(keys, parts, strict=True)
        }

    alone = answer.regret_by_parameter
    single = {
        f"{field}.{name}": float(getattr(alone, field)[k])
        for field in ("gain", "decay", "floor", "base_time", "time_per_token", "service_cv", "mix")
        for k, name in enumerate(names)
    } | {"arrival_rate": float(alone.arrival_rate)}
    totals = ("mean_accuracy", "mean_system_time", "utilization", "objective")
    return {
        "status": Status(int(answer.allocation.status)).name,
        "tasks": [
            {
                "name": name,
                "mix": file.task[k].mix,
                "tokens": known("tokens", k),
                "regret": float(answer.regret_by_task[k]),
            }
            for k, name in enumerate(names)
        ],
        **{name: known(name) for name in totals},
        "chosen": {
            "mean_accuracy": answer.chosen_accuracy.tolist(),
            "mean_system_time": answer.chosen_system_time.tolist(),
        },
        "regret": {"mean": float(answer.regret), "high": float(answer.regret_high)},
        "regret_by_parameter": dict(sorted(single.items(), key=lambda item: -item[1])),
        "measure_next": names[int(np.nanargmax(answer.regret_by_task))]
        if np.any(answer.regret_by_task > 0)
        else None,
        "solved": float(answer.solved),
        "samples": SAMPLES,
    }
