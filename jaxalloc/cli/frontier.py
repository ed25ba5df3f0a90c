"""`jaxalloc frontier`: what accuracy costs in time, and the weight at which a target is met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.flags import (
    ADVICE,
    PICTURES,
    AsJson,
    PicturePath,
    WorkloadName,
    check_target,
    read_workload,
    with_field_flags,
)

if TYPE_CHECKING:
    from jaxalloc.workloads.files import WorkloadFile

FAILED = 1
NOT_FOUND = "the search ended beside the target: it is too close to what the server can do at all"

Weights = Annotated[
    str,
    typer.Option("--weights", metavar="AXIS", help="Accuracy weights, s: FROM:TO:COUNT[:log]."),
]
Seconds = Annotated[
    str | None,
    typer.Option("--system-time", metavar="S", help="Cap on the mean system time, s."),
]
Accuracy = Annotated[
    str | None, typer.Option("--accuracy", metavar="P", help="Least mean accuracy.")
]
Tokens = Annotated[
    str | None,
    typer.Option("--mean-tokens", metavar="N", help="Cap on the mean tokens of a query."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    flags = with_field_flags("NUMBER", "Instead of the workload's own (for every task)")
    app.command("frontier")(flags(frontier))


def frontier(
    workload: WorkloadName,
    numbers: Mapping[str, str],
    weights: Weights = "0.1:1000:201:log",
    system_time: Seconds = None,
    accuracy: Accuracy = None,
    mean_tokens: Tokens = None,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Trace the best accuracy for every mean system time; find the weight that meets a target."""
    file = read_workload(workload, numbers)
    check_target(plot, PICTURES, "--plot")
    given = {"system_time": system_time, "accuracy": accuracy, "mean_tokens": mean_tokens}
    targets = {key: _target(key, text) for key, text in given.items() if text is not None}
    from jaxalloc.cli.output import print_json
    from jaxalloc.cli.precision import float64

    with float64():
        document = {"workload": workload} | _answer(file, weights, targets)
        if plot is not None:
            from jaxalloc.cli.plots.pareto import pareto_figure
            from jaxalloc.cli.plots.style import save

            save(pareto_figure(document, file.name or Path(workload).stem), plot)
            document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        _print(document)
    _complain(document)


def _target(key: str, text: str) -> float:
    name = "--" + key.replace("_", "-")
    try:
        value = float(text)
    except ValueError:
        raise BadInput(f"{name} = {text!r} is not a number: give the target") from None
    if not 0 <= value < float("inf"):
        raise BadInput(f"{name} = {value:g} must be finite and not negative: give the target")
    if key == "accuracy" and value > 1:
        raise BadInput(f"{name} = {value:g} must not exceed 1: give a probability")
    return value


def _answer(file: WorkloadFile, weights: str, targets: dict[str, float]) -> dict[str, Any]:
    """The curve and the targets, as plain Python: what `--json` prints."""
    import jax
    import numpy as np

    import jaxalloc
    from jaxalloc.sweep.allocations import quantity_of
    from jaxalloc.sweep.axes import read_axis
    from jaxalloc.workloads.files import to_workload

    workload = to_workload(file)
    try:
        axis = read_axis("accuracy_weight", weights, quantity_of("accuracy_weight", ()))
    except ValueError as error:
        raise BadInput(f"--weights: {error}") from None
    curve = jax.tree.map(np.asarray, jax.jit(jaxalloc.frontier)(workload, axis.values))
    best = curve.allocation
    points = [
        {
            "accuracy_weight": float(curve.weight[i]),
            "status": jaxalloc.Status(int(best.status[i])).name,
            "mean_system_time": float(curve.mean_system_time[i]),
            "mean_accuracy": float(curve.mean_accuracy[i]),
            "utilization": float(curve.utilization[i]),
            "tokens": dict(zip(file.task_names, best.tokens[i].tolist(), strict=True)),
        }
        for i in range(len(curve.weight))
    ]
    found = {key: _meet(workload, key, value, file.task_names) for key, value in targets.items()}
    return {"points": points, "targets": found}


def _meet(workload: Any, key: str, value: float, names: tuple[str, ...]) -> dict[str, Any]:
    """One target: the multiplier and the optimum there."""
    import jax

    import jaxalloc

    multiplier, best = jax.jit(getattr(jaxalloc, f"solve_for_{key}"))(workload, value)
    kind = "price_per_token" if key == "mean_tokens" else "accuracy_weight"
    status = jaxalloc.Status(int(best.status)).name
    advice = {"CONVERGED": None, "INFEASIBLE": _reach(workload, key, value)}
    return {
        "target": value,
        kind: float(multiplier),
        "status": status,
        "advice": advice.get(status, NOT_FOUND),
        "mean_system_time": float(jaxalloc.mean_system_time(workload, best.tokens)),
        "mean_accuracy": float(jaxalloc.mean_accuracy(workload, best.tokens)),
        "mean_tokens": float((workload.mix * best.tokens).sum()),
        "utilization": float(jaxalloc.utilization(workload, best.tokens)),
        "tokens": dict(zip(names, best.tokens.tolist(), strict=True)),
    }


def _reach(workload: Any, key: str, value: float) -> str:
    """Why no budgets meet a target: what can be had at all, and what to change."""
    import jaxalloc

    least = float(jaxalloc.mean_system_time(workload, workload.min_tokens))
    if not least < float("inf"):
        return ADVICE["INFEASIBLE"]
    if key == "system_time":
        fix = "raise it, or lower --min-tokens, --base-time or --arrival-rate"
        return f"the smallest budgets take {least:.4g} s: {fix}"
    if key == "mean_tokens":
        least = float((workload.mix * workload.min_tokens).sum())
        return f"the smallest budgets have {least:,.4g} tokens: raise it, or lower --min-tokens"
    most = float(jaxalloc.mean_accuracy(workload, workload.max_tokens))
    limit = float((workload.mix * (workload.floor + workload.gain)).sum())
    if value > limit:
        return f"no thinking brings more than {limit:.4g}: lower it"
    if value > most:
        return f"the largest budgets bring {most:.4g}: lower it, or raise --max-tokens"
    return "the budgets that reach it overload the server: lower it, or --arrival-rate"


def _complain(document: dict[str, Any]) -> None:
    """Say what failed, and exit with 1 if anything did."""
    from jaxalloc.cli.output import complain

    failed = False
    statuses = {point["status"] for point in document["points"]} - {"CONVERGED"}
    for status in sorted(statuses):
        complain(f"{status}: {ADVICE[status]}")
        failed = True
    for key, entry in document["targets"].items():
        if entry["status"] != "CONVERGED":
            name = "--" + key.replace("_", "-")
            complain(f"{entry['status']}: {name} = {entry['target']:g}: {entry['advice']}")
            failed = True
    if failed:
        raise typer.Exit(FAILED)


def _print(document: dict[str, Any]) -> None:
    from jaxalloc.cli.output import make_table, make_totals, number, show

    points = document["points"]
    table = make_table("accuracy weight", "system time", "accuracy", "utilization", "0.01 accuracy")
    every = max(1, -(-(len(points) - 1) // 12))
    for point in points[::every]:
        table.add_row(
            f"{point['accuracy_weight']:.4g} s",
            number(point["mean_system_time"], ".4g", " s"),
            number(point["mean_accuracy"], ".4f"),
            number(point["utilization"], ".4f"),
            f"{point['accuracy_weight'] / 100:.3g} s",
        )
    show(table)
    if every > 1:
        show(f"every {every}th of {len(points)} points; --json prints them all")
    for key, entry in document["targets"].items():
        totals = make_totals()
        totals.add_row("target", f"{key.replace('_', ' ')} {entry['target']:g}")
        totals.add_row("status", entry["status"])
        if entry["status"] != "CONVERGED":
            show("", totals)
            continue
        if "price_per_token" in entry:
            totals.add_row("price per token", number(entry["price_per_token"], ".6g", " s"))
        else:
            totals.add_row("accuracy weight", number(entry["accuracy_weight"], ".6g", " s"))
        totals.add_row("mean system time", f"{entry['mean_system_time']:.4g} s")
        totals.add_row("accuracy", f"{entry['mean_accuracy']:.4f}")
        totals.add_row("mean tokens", f"{entry['mean_tokens']:,.1f}")
        budgets = ", ".join(f"{name} {tokens:,.0f}" for name, tokens in entry["tokens"].items())
        totals.add_row("tokens", budgets)
        show("", totals)
    if "plot" in document:
        show(f"\nwrote {document['plot']}")
