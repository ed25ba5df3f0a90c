"""What `jaxalloc fit` says: its document, and the tables made from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jaxalloc.cli.report import Column, Part, Table

if TYPE_CHECKING:
    from jaxalloc.calibration.decision import Decision
    from jaxalloc.measurements.fits import TaskFit
    from jaxalloc.measurements.workload import RunsFit

_FEW_SOLVED = 0.99  # of the draws of the parameters


def verdict(best: dict[str, Any], fitted: RunsFit) -> tuple[list[str], list[str]]:
    """Why the workload has no optimum, and what to be careful with where it has."""
    import numpy as np

    if best["status"] == "INFEASIBLE":
        return [
            f"no workload: {fitted.traffic['arrival_rate']:.4g} queries / s overload the server "
            "even at the smallest budgets: lower --arrival-rate or --min-tokens, or check the times"
        ], []
    numbers = [*best["regret"].values(), best["solved"]]
    numbers += [end for task in best["tasks"] for end in task["tokens"].values()]
    if best["status"] != "CONVERGED" or not np.all(np.isfinite(numbers)):
        return [f"no workload: its optimum is {best['status']}, and its intervals have no end"], []
    if best["solved"] >= _FEW_SOLVED:
        return [], []
    return [], [
        f"{1 - best['solved']:.1%} of the workloads that the data allow are overloaded at any "
        "budgets: intervals and regret are of the others"
    ]


def _known(values: Mapping[str, Any], errors: Any, ends: Any, **more: Any) -> dict[str, Any]:
    """Numbers with their standard errors and intervals, by name."""
    return {
        name: {
            "value": float(value),
            "standard_error": float(errors[i]),
            "interval": [float(end) for end in ends[i]],
            **{key: float(column[i]) for key, column in more.items()},
        }
        for i, (name, value) in enumerate(values.items())
    }


def describe_task(task: TaskFit) -> dict[str, Any]:
    """The fits of one task as plain Python."""
    curve, service = task.curve, task.service
    statuses = [{"status": s.name, "meaning": s.meaning} for s in task.statuses]
    p_values = [
        float(law.lack_of_fit.p_value) if law.lack_of_fit.dof > 0 else None
        for law in (curve, service)
    ]
    law = {name: getattr(curve, name) for name in ("gain", "decay", "floor")}
    times = {name: getattr(service, name) for name in ("base_time", "time_per_token")}
    errors = [curve.covariance.diagonal() ** 0.5, service.covariance.diagonal() ** 0.5]
    goodness = task.bins and {
        "deviance": float(task.bins.deviance.sum()),
        "dof": float(curve.lack_of_fit.dof),
        "p_value": p_values[0],
        "bins": task.bins.rows(),
    }
    return {
        **{key: getattr(task, key) for key in ("name", "answers", "questions", "min_tokens")},
        **{key: getattr(task, key) for key in ("max_tokens", "mean_seconds", "usable")},
        "accuracy": {
            **statuses[0],
            **_known(law, errors[0], task.intervals, design_effect=curve.design_effect),
            "covariance": curve.covariance.tolist(),
            "log_likelihood": float(curve.log_likelihood),
            "flat_ratio": float(curve.flat_ratio),
            "steps": int(curve.steps),
            "goodness": goodness,
        },
        "service": {
            **statuses[1],
            **_known(times, errors[1], task.service_ends),
            "covariance": service.covariance.tolist(),
            "p_value": p_values[1],
            "service_cv": {
                "value": float(service.service_cv),
                "standard_error": float(service.service_cv_se),
            },
        },
    }


def describe_decision(fitted: RunsFit, answer: Decision) -> dict[str, Any]:
    """The optimum with intervals, its regret, and what to measure next."""
    from jaxalloc.allocation.optimum.status import Status
    from jaxalloc.calibration.decision import PER_TASK

    names = [task.name for task in fitted.kept]

    def known(output: str, place: Any = ()) -> dict[str, float]:
        parts = (answer.values, answer.standard_error, answer.low, answer.high)
        columns = zip(("value", "standard_error", "low", "high"), parts, strict=True)
        return {key: float(getattr(part, output)[place]) for key, part in columns}

    alone = answer.regret_by_parameter
    single = {
        f"{field}.{name}": float(getattr(alone, field)[k])
        for field in PER_TASK
        for k, name in enumerate(names)
    } | {"arrival_rate": float(alone.arrival_rate)}
    totals = ("mean_accuracy", "mean_system_time", "utilization", "objective")
    by_task = dict(zip(names, answer.regret_by_task.tolist(), strict=True))
    return {
        "status": Status(int(answer.allocation.status)).name,
        "tasks": [
            {
                "name": name,
                "mix": fitted.traffic["mix"][k],
                "tokens": known("tokens", k),
                "regret": by_task[name],
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
        "measure_next": max(by_task, key=by_task.__getitem__)
        if any(regret > 0 for regret in by_task.values())
        else None,
        "solved": float(answer.solved),
    }


def _interval(law: str, name: str, factor: float = 1) -> Any:
    """The text of a number with its interval: 0.35 (0.31–0.40)."""

    def text(task: dict[str, Any]) -> str:
        known = task[law][name]
        low, high = (_digits(end * factor) for end in known["interval"])
        value = _digits(known["value"] * factor)
        return value if value == "–" or "–" in (low, high) else f"{value} ({low}–{high})"

    return text


def _digits(value: float) -> str:
    if value == 0 or value != value or value == float("inf"):
        return "0" if value == 0 else "–" if value != value else "∞"
    if value < 0.01:
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return f"{value:#.2g}".rstrip(".") if value < 99.5 else f"{value:,.0f}"


def _status(law: str) -> Any:
    return lambda task: task[law]["status"].replace("CONVERGED", "")


_ACCURACY = (
    Column("accuracy", "name"),
    Column("floor, %", _interval("accuracy", "floor", 100)),
    Column("gain, %", _interval("accuracy", "gain", 100), rank=1),
    Column("decay, 1 / 1000", _interval("accuracy", "decay", 1e3), rank=2),
    Column("", _status("accuracy")),
)
_SERVICE = (
    Column("service", "name"),
    Column("base, s", _interval("service", "base_time")),
    Column("per token, ms", _interval("service", "time_per_token", 1e3), rank=1),
    Column("CV", lambda task: _digits(task["service"]["service_cv"]["value"]), rank=2),
    Column("", _status("service")),
)
_OPTIMUM = (
    Column("optimum", "name"),
    Column("of queries", "mix", ".1%"),
    Column("tokens", lambda task: task["tokens"]["value"], ",.0f"),
    Column("95 % interval", lambda t: f"{t['tokens']['low']:,.0f} to {t['tokens']['high']:,.0f}"),
    Column("regret alone, s", "regret", ".2g"),
)


def tables(document: dict[str, Any]) -> Iterator[Part]:
    """What a terminal gets of the document."""
    yield Table(_ACCURACY, document["tasks"])
    yield Table(_SERVICE, document["tasks"])
    if document["solved"]:
        best, traffic = document["decision"], document["arrivals"]
        yield Table(_OPTIMUM, best["tasks"])
        yield list(_totals(best, traffic))
    if "out" in document:
        yield f"wrote {document['out']}"


def _totals(best: dict[str, Any], traffic: dict[str, Any]) -> Iterator[tuple[str, str]]:
    unit = traffic.get("time_unit")
    read = f" of {'dates' if unit == 'date' else f'times in {unit}'}" if unit else ""
    rate = f"{traffic['arrival_rate']:.4g} / s ({traffic['source']}{read})"
    if "arrival_rate_interval" in traffic:
        low, high = traffic["arrival_rate_interval"]
        rate += f", {low:.4g} to {high:.4g}; CV of the gaps {traffic['cv']:.2f}"
    yield "arrival rate", rate
    for name, label, unit in (
        ("mean_accuracy", "accuracy", ""),
        ("mean_system_time", "mean system time", " s"),
    ):
        low, high = best["chosen"][name]
        value = best[name]["value"]
        yield label, f"{value:.4g}{unit}; these budgets bring {low:.3g} to {high:.3g}{unit}"
    regret = best["regret"]
    yield "regret", f"{regret['mean']:.2g} s on average, at most {regret['high']:.2g} s (95 %)"
    if best["measure_next"] is not None:
        most = next(iter(best["regret_by_parameter"]))
        yield "matters most", f"{most}, of single parameters"
        yield "measure next", f"{best['measure_next']}: of tasks, most regret alone"
