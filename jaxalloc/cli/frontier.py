"""`jaxalloc frontier`: what accuracy costs in time, and the weight at which a target is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.cli.compute import computing
from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import (
    ADVICE,
    AsJson,
    PicturePath,
    WorkloadName,
    flag,
    number,
    option,
    read_workload,
    title_of,
    with_field_flags,
)
from jaxalloc.cli.report import MEASURES, Column, Part, Table, deliver, facts

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload

NOT_FOUND = "the search ended beside the target: it is too close to what the server can do at all"
_MOST_ROWS = 12
_MEASURES = ("mean_system_time", "mean_accuracy", "utilization")
_PRICES = {
    "accuracy_weight": Column("accuracy weight", "accuracy_weight", ".6g", " s"),
    "price_per_token": Column("price per token", "price_per_token", ".6g", " s"),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("frontier")(with_field_flags(frontier))


def frontier(
    workload: WorkloadName,
    numbers: Mapping[str, float],
    weights: Annotated[
        str, option("--weights", "AXIS", "Accuracy weights, s: FROM:TO:COUNT[:log].")
    ] = "0.1:1000:201:log",
    system_time: Annotated[
        float | None, option("--system-time", "S", "Cap on the mean system time, s.", number(0))
    ] = None,
    accuracy: Annotated[
        float | None, option("--accuracy", "P", "Least mean accuracy.", number(0, 1))
    ] = None,
    mean_tokens: Annotated[
        float | None,
        option("--mean-tokens", "N", "Cap on the mean tokens of a query.", number(0)),
    ] = None,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Trace the best accuracy for every mean system time; find the weight that meets a target."""
    file = read_workload(workload, numbers)
    given = {"system_time": system_time, "accuracy": accuracy, "mean_tokens": mean_tokens}
    with computing():
        from jaxalloc.sweep.allocations import parse_axis
        from jaxalloc.workloads.files import to_workload

        try:
            axis = parse_axis("accuracy_weight", weights, file.task_names)
        except ValueError as error:
            raise BadInput(f"weights: {error}") from None
        problem = to_workload(file)
        document = {
            "workload": workload,
            "points": _points(problem, axis.values, file.task_names),
            "targets": {
                key: _meet(problem, key, value, file.task_names)
                for key, value in given.items()
                if value is not None
            },
        }

        def draw() -> Any:
            from jaxalloc.cli.plots.pareto import pareto_figure

            return pareto_figure(document, title_of(file, workload))

        lines = list(_failures(document))
        deliver(
            document,
            _tables(document),
            figure=draw,
            plot=plot,
            as_json=as_json,
            lines=lines,
            failed=bool(lines),
        )


def _points(workload: Workload, weights: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    import jax

    import jaxalloc

    curve = jax.device_get(jax.jit(jaxalloc.frontier)(workload, weights))
    best = curve.allocation
    return [
        {
            "accuracy_weight": float(curve.weight[i]),
            "status": jaxalloc.Status(int(best.status[i])).name,
            **{name: float(getattr(curve, name)[i]) for name in _MEASURES},
            "tokens": dict(zip(names, best.tokens[i].tolist(), strict=True)),
        }
        for i in range(len(curve.weight))
    ]


def _meet(workload: Workload, key: str, value: float, names: tuple[str, ...]) -> dict[str, Any]:
    """One target: the multiplier and the optimum there."""
    import jax

    import jaxalloc

    multiplier, best = jax.jit(getattr(jaxalloc, f"solve_for_{key}"))(workload, value)
    status = jaxalloc.Status(int(best.status)).name
    advice = None if status == "CONVERGED" else NOT_FOUND
    if status == "INFEASIBLE":
        advice = _reach(workload, key, value)
    measured = jax.device_get(jax.jit(_measure)(workload, best.tokens))
    return {
        "target": value,
        "price_per_token" if key == "mean_tokens" else "accuracy_weight": float(multiplier),
        "status": status,
        "advice": advice,
        **{name: float(measure) for name, measure in measured.items()},
        "tokens": dict(zip(names, best.tokens.tolist(), strict=True)),
    }


def _measure(workload: Workload, tokens: Any) -> dict[str, Any]:
    import jaxalloc

    measures = {name: getattr(jaxalloc, name)(workload, tokens) for name in _MEASURES}
    return measures | {"mean_tokens": (workload.mix * tokens).sum()}


def _reach(workload: Workload, key: str, value: float) -> str:
    """Why no budgets meet a target: what can be had at all, and what to change."""
    import jax

    least = jax.device_get(jax.jit(_measure)(workload, workload.min_tokens))
    if not least["mean_system_time"] < float("inf"):
        return ADVICE["INFEASIBLE"]
    if key == "system_time":
        fix = "raise it, or lower --min-tokens, --base-time or --arrival-rate"
        return f"the smallest budgets take {least['mean_system_time']:.4g} s: {fix}"
    if key == "mean_tokens":
        tokens = f"{least['mean_tokens']:,.4g} tokens"
        return f"the smallest budgets have {tokens}: raise it, or lower --min-tokens"
    most = float(jax.jit(_measure)(workload, workload.max_tokens)["mean_accuracy"])
    limit = float((workload.mix * (workload.floor + workload.gain)).sum())
    if value > limit:
        return f"no thinking brings more than {limit:.4g}: lower it"
    if value > most:
        return f"the largest budgets bring {most:.4g}: lower it, or raise --max-tokens"
    return "the budgets that reach it overload the server: lower it, or --arrival-rate"


def _failures(document: dict[str, Any]) -> Iterator[str]:
    statuses = {point["status"] for point in document["points"]}
    for status in sorted(statuses - {"CONVERGED"}):
        yield f"{status}: {ADVICE[status]}"
    for key, entry in document["targets"].items():
        if entry["status"] != "CONVERGED":
            yield f"{entry['status']}: {flag(key)} = {entry['target']:g}: {entry['advice']}"


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    points = document["points"]
    every = max(1, -(-(len(points) - 1) // _MOST_ROWS))
    weight = _PRICES["accuracy_weight"]._replace(spec=".4g")
    measures = [MEASURES[name]._replace(title=name[5:].replace("_", " ")) for name in _MEASURES[:2]]
    worth = Column("0.01 accuracy", lambda point: point["accuracy_weight"] / 100, ".3g", " s")
    yield Table((weight, *measures, MEASURES["utilization"], worth), points[::every])
    if every > 1:
        yield f"every {every}th of {len(points)} points; --json prints them all"
    for key, entry in document["targets"].items():
        yield ""
        told = [("target", f"{key.replace('_', ' ')} {entry['target']:g}")]
        told += [("status", entry["status"])]
        if entry["status"] == "CONVERGED":
            price = next(column for name, column in _PRICES.items() if name in entry)
            mean = Column("mean tokens", "mean_tokens", ",.1f")
            told += facts(entry, price, *(MEASURES[name] for name in _MEASURES[:2]), mean)
            budgets = (f"{name} {tokens:,.0f}" for name, tokens in entry["tokens"].items())
            told += [("tokens", ", ".join(budgets))]
        yield told
