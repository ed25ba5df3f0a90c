"""`jaxalloc sensitivity`: what moves the optimum of one workload."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from jaxalloc.allocation.model.domain import FIELDS
from jaxalloc.cli.command import Answer, Given, command
from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import failures, number, option
from jaxalloc.cli.report import Column, Part, Table, rows

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload

TOTALS = ("mean_accuracy", "mean_system_time", "utilization", "objective")
_Place = tuple[str, tuple[int, ...]]  # a field, and the task where there is one a task


@command
def sensitivity(
    given: Given,
    step: Annotated[
        float,
        option(
            "--step",
            "X",
            "Relative change of a parameter for which predictions are compared with a re-solve.",
            number(-0.5, 0.5),
        ),
    ] = 0.01,
    top: Annotated[
        int,
        option("--top", "N", "How many parameters the table shows; 0: all.", number(0, whole=True)),
    ] = 15,
) -> Answer:
    """Show how the optimum answers to every parameter, and how far that prediction carries."""
    import jax

    import jaxalloc

    if step == 0:
        raise BadInput("step = 0 changes nothing: try 0.01")
    names = given.names
    report = jax.device_get(jax.jit(jaxalloc.sensitivity)(given.workload))  # not number by number
    low, high = report.bound_prices
    status = jaxalloc.Status(int(report.allocation.status)).name
    document = {
        "status": status,
        "residual": float(report.allocation.residual),
        "step": step,
        "values": _label(report.values, names),
        "parameters": _parameters(jax.device_get(given.workload), report, names, step),
        "bound_prices": rows(task=names, min_tokens=low, max_tokens=high),
    }

    def draw() -> Any:
        from jaxalloc.cli.plots.heat import heat_figure

        return heat_figure(document, given.title)

    return Answer(document, _tables(document, top), draw, failures(status))


def _parameters(
    workload: Workload, report: Any, names: tuple[str, ...], step: float
) -> list[dict[str, Any]]:
    """One entry a parameter: its derivatives, and what they predict beside what comes out."""
    import jaxalloc

    places: list[_Place] = [
        (field, place)
        for field, about in FIELDS.items()
        for place in ([(k,) for k in range(len(names))] if about.per_type else [()])
    ]
    changes = [_change(workload, field, place, step) for field, place in places]
    statuses, solved = _solve_anew(workload, places, changes)
    before = _label(report.values, names)
    entries = []
    for row, (field, place) in enumerate(places):

        def pick(outputs: Any, at: Any = (field, place)) -> dict[str, float]:
            return _label([getattr(output, at[0])[(..., *at[1])] for output in outputs], names)

        entry: dict[str, Any] = {
            "parameter": ".".join([field, *(names[k] for k in place)]),
            "value": float(getattr(workload, field)[place]),
            "derivative": pick(report.derivatives),
            "elasticity": pick(report.elasticities),
        }
        slopes = entry["derivative"]
        if field == "mix":
            along = [output[(..., *place)] for output in report.along_simplex]
            slopes = entry["along_simplex"] = _label(along, names)
        after = _label([output[row] for output in solved], names)
        entry["change"] = changes[row]
        entry["predicted"] = {name: slope * changes[row] for name, slope in slopes.items()}
        entry["solved"] = {name: after[name] - before[name] for name in before}
        entry["solved_status"] = jaxalloc.Status(int(statuses[row])).name
        entries.append(entry)
    return entries


def _label(outputs: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Numbers of `Outputs`, in its order, by name: tokens.GSM8K, ..., objective."""
    from jaxalloc import Outputs

    by_name = Outputs(*outputs)
    tokens = {f"tokens.{name}": float(by_name.tokens[k]) for k, name in enumerate(names)}
    return tokens | {name: float(getattr(by_name, name)) for name in TOTALS}


def _change(workload: Workload, field: str, place: tuple[int, ...], step: float) -> float:
    """By how much a parameter is changed; one that is 0 stays.

    A mix changes along the simplex: of all queries the share is replaced that lets the part of one
    type grow by `step` of itself.
    """
    value = float(getattr(workload, field)[place])
    if field != "mix":
        return step * value
    return step * value / (1 - value) if value * (1 + abs(step)) < 1 else 0.0


def _solve_anew(workload: Workload, places: list[_Place], changes: list[float]) -> tuple[Any, Any]:
    """Statuses and `Outputs` of the workload with each parameter changed alone."""
    import jax
    import numpy as np

    import jaxalloc

    fields = ((name, getattr(workload, name)) for name in FIELDS)
    lanes: dict[str, Any] = {name: np.stack([value] * len(places)) for name, value in fields}
    for row, ((field, place), change) in enumerate(zip(places, changes, strict=True)):
        if field == "mix":
            lanes[field][row] *= 1 - change
        lanes[field][(row, *place)] += change
    many = jaxalloc.Workload(**lanes)
    best = jaxalloc.solve_batch(many)
    measures = jax.jit(jax.vmap(_totals))(many, best.tokens)
    return best.status, jax.device_get(jaxalloc.Outputs(tokens=best.tokens, **measures))


def _totals(workload: Workload, tokens: Any) -> dict[str, Any]:
    import jaxalloc

    return {name: getattr(jaxalloc, name)(workload, tokens) for name in TOTALS}


def _size(value: float) -> float:
    return abs(value) if math.isfinite(value) else 0.0


def _tables(document: dict[str, Any], top: int) -> Iterator[Part]:
    def effect(entry: dict[str, Any]) -> float:
        return max(map(_size, entry["elasticity"].values()), default=0.0)

    def most(entry: dict[str, Any]) -> str:
        tokens = [name for name in entry["elasticity"] if name.startswith("tokens.")]
        name = max(tokens, key=lambda name: _size(entry["elasticity"][name]))
        return f"{elasticity(name).text(entry)} {name.removeprefix('tokens.')}"

    def elasticity(name: str, title: str = "") -> Column:
        return Column(title, lambda entry: entry["elasticity"][name], "+.3f")

    def change(title: str, part: str, name: str) -> Column:
        return Column(title, lambda entry: entry[part][name], "+.5f")

    ranked = sorted(document["parameters"], key=lambda entry: -effect(entry))
    shown = [entry for entry in ranked if effect(entry) > 0][: top or None]
    parameter = Column("elasticity to", "parameter")
    titles = ("accuracy", "time", "load", "objective")
    totals = map(elasticity, TOTALS, titles)
    yield Table((parameter, Column("tokens, most", most), *totals), shown)
    columns = (
        parameter._replace(title=f"change by\n{document['step']:+.1%} of"),
        change("time, s\npredicted", "predicted", "mean_system_time"),
        change("\nsolved", "solved", "mean_system_time"),
        change("objective, s\npredicted", "predicted", "objective"),
        change("\nsolved", "solved", "objective"),
    )
    yield Table(columns, shown)
    prices = [
        (f"a token more of {bound}, {entry['task']}", f"{entry[bound]:+.3g} s")
        for entry in document["bound_prices"]
        for bound in ("min_tokens", "max_tokens")
        if entry[bound]
    ]
    if prices:
        yield "shadow prices of the bounds, in objective"
        yield prices
    left = len(ranked) - len(shown)
    if left:
        yield f"{left} parameters not shown: --top 0 shows all that move any, --json everything"
