"""What `jaxalloc fit` says: its document, and the tables made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxalloc.calibration.lack_of_fit import LackOfFit
    from jaxalloc.measurements.fits import TaskFit
    from jaxalloc.measurements.goodness import Bins


def describe(path: str, rows: int, tasks: list[TaskFit]) -> dict[str, Any]:
    """The fits as plain Python: what `--json` prints."""
    return {
        "runs": path,
        "rows": rows,
        "tasks": [
            {
                "name": task.name,
                "answers": task.answers,
                "questions": task.questions,
                "min_tokens": task.min_tokens,
                "max_tokens": task.max_tokens,
                "mean_seconds": task.mean_seconds,
                "usable": task.usable,
                "accuracy": _accuracy(task),
                "service": _service(task),
            }
            for task in tasks
        ],
    }


def _accuracy(task: TaskFit) -> dict[str, Any]:
    from jaxalloc.calibration.status import FitStatus

    curve = task.curve
    errors = np.sqrt(np.diagonal(curve.covariance))
    status = FitStatus(int(curve.status))
    fields = {
        field: {
            "value": float(getattr(curve, field)),
            "standard_error": float(errors[i]),
            "interval": getattr(task.intervals, field).tolist(),
            "design_effect": float(curve.design_effect[i]),
        }
        for i, field in enumerate(("gain", "decay", "floor"))
    }
    return {
        "status": status.name,
        "meaning": status.meaning,
        **fields,
        "covariance": curve.covariance.tolist(),
        "log_likelihood": float(curve.log_likelihood),
        "flat_ratio": float(curve.flat_ratio),
        "steps": int(curve.steps),
        "goodness": None if task.bins is None else _goodness(task.bins, curve.lack_of_fit),
    }


def _goodness(bins: Bins, lack: LackOfFit) -> dict[str, Any]:
    """The deviance by token bin, and its probability if the curve holds, questions considered."""
    names = ("tokens", "trials", "observed", "low", "high", "fitted", "deviance")
    columns = {name: getattr(bins, name).tolist() for name in names}
    return {
        "deviance": float(bins.deviance.sum()),
        "dof": float(lack.dof),
        "p_value": _p_value(lack),
        "bins": [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ],
    }


def _p_value(lack: LackOfFit) -> float | None:
    """The probability of the misfit, None where the data cannot tell."""
    return float(lack.p_value) if lack.dof > 0 else None


def _service(task: TaskFit) -> dict[str, Any]:
    from jaxalloc.calibration.status import FitStatus

    service = task.service
    errors = np.sqrt(np.diagonal(service.covariance))
    status = FitStatus(int(service.status))
    fields = {
        field: {
            "value": float(getattr(service, field)),
            "standard_error": float(errors[i]),
            "interval": task.service_ends[i].tolist(),
        }
        for i, field in enumerate(("base_time", "time_per_token"))
    }
    return {
        "status": status.name,
        "meaning": status.meaning,
        **fields,
        "covariance": service.covariance.tolist(),
        "p_value": _p_value(service.lack_of_fit),
        "service_cv": {
            "value": float(service.service_cv),
            "standard_error": float(service.service_cv_se),
        },
    }


def print_report(document: dict[str, Any]) -> None:
    """Print the tables."""
    from jaxalloc.cli.output import make_table, show

    accuracy = make_table(
        "accuracy",
        "floor, %",
        "gain, %",
        "decay, 1 / 1000",
        "",
        least=("decay, 1 / 1000", "gain, %"),
    )
    service = make_table(
        "service", "base, s", "per token, ms", "CV", "", least=("CV", "per token, ms")
    )
    for task in document["tasks"]:
        curve, time = task["accuracy"], task["service"]
        accuracy.add_row(
            task["name"],
            _cell(curve["floor"], 100),
            _cell(curve["gain"], 100),
            _cell(curve["decay"], 1e3),
            _verdict(curve["status"]),
        )
        service.add_row(
            task["name"],
            _cell(time["base_time"], 1),
            _cell(time["time_per_token"], 1e3),
            _number(time["service_cv"]["value"]),
            _verdict(time["status"]),
        )
    show(accuracy, service)
    if document.get("solved"):
        _print_decision(document)
    for key in ("out", "plot"):
        if key in document:
            show(f"wrote {document[key]}")


def _verdict(status: str) -> str:
    return "" if status == "CONVERGED" else status


def _cell(known: dict[str, Any], factor: float) -> str:
    """A number with its interval: 0.35 (0.31–0.40)."""
    if not np.isfinite(known["value"]):
        return "-"
    value = _number(known["value"] * factor)
    low, high = (end * factor for end in known["interval"])
    return f"{value} ({_number(low)}–{_number(high)})" if low <= high else value


def _number(value: float, digits: int = 2) -> str:
    if not np.isfinite(value):
        return "-" if np.isnan(value) else "∞"
    if value == 0:
        return "0"
    if value < 0.01:
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return f"{value:#.{digits}g}".rstrip(".") if value < 99.5 else f"{value:,.0f}"


def _print_decision(document: dict[str, Any]) -> None:
    from jaxalloc.cli.output import make_table, make_totals, show

    best, traffic = document["decision"], document["arrivals"]
    table = make_table("optimum", "of queries", "tokens", "95 % interval", "regret alone, s")
    for task in best["tasks"]:
        tokens = task["tokens"]
        table.add_row(
            task["name"],
            f"{task['mix']:.1%}",
            f"{tokens['value']:,.0f}",
            f"{tokens['low']:,.0f} to {tokens['high']:,.0f}",
            f"{task['regret']:.2g}",
        )
    totals = make_totals()
    unit = traffic.get("time_unit")
    read = f" of {'dates' if unit == 'date' else f'times in {unit}'}" if unit else ""
    rate = f"{traffic['arrival_rate']:.4g} / s ({traffic['source']}{read})"
    if "arrival_rate_interval" in traffic:
        low, high = traffic["arrival_rate_interval"]
        rate += f", {low:.4g} to {high:.4g}; CV of the gaps {traffic['cv']:.2f}"
    totals.add_row("arrival rate", rate)
    for name, label, unit in (
        ("mean_accuracy", "accuracy", ""),
        ("mean_system_time", "mean system time", " s"),
    ):
        known = best[name]
        low, high = best["chosen"][name]
        totals.add_row(
            label,
            f"{known['value']:.4g}{unit}; these budgets bring {low:.3g} to {high:.3g}{unit}",
        )
    regret = best["regret"]
    totals.add_row(
        "regret", f"{regret['mean']:.2g} s on average, at most {regret['high']:.2g} s (95 %)"
    )
    matters = next(iter(best["regret_by_parameter"]))
    if best["measure_next"] is not None:
        totals.add_row("matters most", f"{matters}, of single parameters")
        totals.add_row("measure next", f"{best['measure_next']}: of tasks, most regret alone")
    show(table, totals)
