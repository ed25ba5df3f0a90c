"""`jaxalloc frontier`: what accuracy costs in time, and the weight at which a target is met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from jaxalloc.cli.command import Answer, Given, command
from jaxalloc.cli.options import ADVICE, failures, flag, number, option
from jaxalloc.cli.report import MEASURES, Column, Part, Table, facts, rows

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload

NOT_FOUND = "the search ended beside the target: it is too close to what the server can do at all"
_MOST_ROWS = 12
_MEASURES = ("mean_system_time", "mean_accuracy", "utilization")
_PRICES = {
    "accuracy_weight": Column("accuracy weight", "accuracy_weight", ".6g", " s"),
    "price_per_token": Column("price per token", "price_per_token", ".6g", " s"),
}


@command
def frontier(
    given: Given,
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
) -> Answer:
    """Trace the best accuracy for every mean system time; find the weight that meets a target."""
    import jax

    import jaxalloc
    from jaxalloc.messages import within
    from jaxalloc.sweep.allocations import quantity_of
    from jaxalloc.sweep.axes import read_axis

    with within("weights"):
        axis = read_axis("accuracy_weight", weights, quantity_of("accuracy_weight", ()))
    curve = jax.device_get(jax.jit(jaxalloc.frontier)(given.workload, axis.values))
    points = rows(
        accuracy_weight=curve.weight,
        status=[jaxalloc.Status(status).name for status in curve.allocation.status.tolist()],
        **{name: getattr(curve, name) for name in _MEASURES},
        tokens=[given.by_task(tokens) for tokens in curve.allocation.tokens],
    )
    wanted = {"system_time": system_time, "accuracy": accuracy, "mean_tokens": mean_tokens}
    targets = {key: _meet(given, key, v) for key, v in wanted.items() if v is not None}
    document = {"points": points, "targets": targets}

    def draw() -> Any:
        from jaxalloc.cli.plots.pareto import pareto_figure

        return pareto_figure(document, given.title)

    missed = [
        f"{entry['status']}: {flag(key)} = {entry['target']:g}: {entry['advice']}"
        for key, entry in targets.items()
        if entry["status"] != "CONVERGED"
    ]
    failed = failures(*(point["status"] for point in points))
    return Answer(document, _tables(document), draw, failed + missed)


def _meet(given: Given, key: str, value: float) -> dict[str, Any]:
    """One target: the multiplier and the optimum there."""
    import jax

    import jaxalloc

    multiplier, best = jax.jit(getattr(jaxalloc, f"solve_for_{key}"))(given.workload, value)
    status = jaxalloc.Status(int(best.status)).name
    advice = None if status == "CONVERGED" else NOT_FOUND
    if status == "INFEASIBLE":
        advice = _reach(given.workload, key, value)
    return {
        "target": value,
        "price_per_token" if key == "mean_tokens" else "accuracy_weight": float(multiplier),
        "status": status,
        "advice": advice,
        **_measured(given.workload, best.tokens),
        "tokens": given.by_task(best.tokens),
    }


def _measured(workload: Workload, tokens: Any) -> dict[str, float]:
    import jax

    return {name: float(value) for name, value in jax.jit(_measure)(workload, tokens).items()}


def _measure(workload: Workload, tokens: Any) -> dict[str, Any]:
    import jaxalloc

    measures = {name: getattr(jaxalloc, name)(workload, tokens) for name in _MEASURES}
    return measures | {"mean_tokens": (workload.mix * tokens).sum()}


def _reach(workload: Workload, key: str, value: float) -> str:
    """Why no budgets meet a target: what can be had at all, and what to change."""
    least = _measured(workload, workload.min_tokens)
    if not least["mean_system_time"] < float("inf"):
        return ADVICE["INFEASIBLE"]
    if key == "system_time":
        fix = "raise it, or lower --min-tokens, --base-time or --arrival-rate"
        return f"the smallest budgets take {least['mean_system_time']:.4g} s: {fix}"
    if key == "mean_tokens":
        tokens = f"{least['mean_tokens']:,.4g} tokens"
        return f"the smallest budgets have {tokens}: raise it, or lower --min-tokens"
    most = _measured(workload, workload.max_tokens)["mean_accuracy"]
    limit = float((workload.mix * (workload.floor + workload.gain)).sum())
    if value > limit:
        return f"no thinking brings more than {limit:.4g}: lower it"
    if value > most:
        return f"the largest budgets bring {most:.4g}: lower it, or raise --max-tokens"
    return "the budgets that reach it overload the server: lower it, or --arrival-rate"


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    points = document["points"]
    every = max(1, -(-(len(points) - 1) // _MOST_ROWS))
    time, accuracy, load = (MEASURES[name] for name in _MEASURES)
    weight = _PRICES["accuracy_weight"]._replace(spec=".4g")
    worth = Column("0.01 accuracy", lambda point: point["accuracy_weight"] / 100, ".3g", " s")
    columns = (weight, time._replace(title="system time"), accuracy, load, worth)
    yield Table(columns, points[::every])
    if every > 1:
        yield f"every {every}th of {len(points)} points; --json prints them all"
    for key, entry in document["targets"].items():
        yield ""
        told = [("target", f"{key.replace('_', ' ')} {entry['target']:g}")]
        told += [("status", entry["status"])]
        if entry["status"] == "CONVERGED":
            price = next(column for name, column in _PRICES.items() if name in entry)
            told += facts(
                entry, price, time, accuracy, Column("mean tokens", "mean_tokens", ",.1f")
            )
            budgets = (f"{name} {tokens:,.0f}" for name, tokens in entry["tokens"].items())
            told += [("tokens", ", ".join(budgets))]
        yield told
