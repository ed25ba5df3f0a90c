"""`jaxalloc sensitivity`: what moves the optimum of one workload."""

from __future__ import annotations

import math
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
    from jaxalloc.allocation.decisions.sensitivity import Sensitivity
    from jaxalloc.allocation.model.workload import Workload
    from jaxalloc.workloads.files import WorkloadFile

FAILED = 1
TOTALS = ("mean_accuracy", "mean_system_time", "utilization", "objective")
_LARGEST_STEP = 0.5

Step = Annotated[
    float,
    typer.Option(
        "--step",
        metavar="X",
        help="Relative change of a parameter for which predictions are compared with a re-solve.",
    ),
]
Top = Annotated[
    int, typer.Option("--top", metavar="N", help="How many parameters the table shows; 0: all.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    flags = with_field_flags("NUMBER", "Instead of the workload's own (for every task)")
    app.command("sensitivity")(flags(sensitivity))


def sensitivity(
    workload: WorkloadName,
    numbers: Mapping[str, str],
    step: Step = 0.01,
    top: Top = 15,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Show how the optimum answers to every parameter, and how far that prediction carries."""
    file = read_workload(workload, numbers)
    check_target(plot, PICTURES, "--plot")
    if not 0 < abs(step) <= _LARGEST_STEP:
        raise BadInput(f"--step = {step:g} must be between -0.5 and 0.5 and not 0: try 0.01")
    if top < 0:
        raise BadInput(f"--top = {top} must not be negative: give a number of rows, or 0 for all")
    from jaxalloc.cli.output import complain, print_json
    from jaxalloc.cli.precision import float64

    with float64():
        document = {"workload": workload} | _answer(file, step)
        if plot is not None:
            from jaxalloc.cli.plots.heat import heat_figure
            from jaxalloc.cli.plots.style import save

            save(heat_figure(document, file.name or Path(workload).stem), plot)
            document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        _print(document, top)
    if document["status"] != "CONVERGED":
        complain(f"{document['status']}: {ADVICE[document['status']]}")
        raise typer.Exit(FAILED)


def _answer(file: WorkloadFile, step: float) -> dict[str, Any]:
    """Derivatives, elasticities and the comparison, as plain Python: what `--json` prints."""
    import jax

    import jaxalloc
    from jaxalloc.workloads.files import to_workload

    workload = to_workload(file)
    report = jax.jit(jaxalloc.sensitivity)(workload)
    names = file.task_names
    low, high = report.bound_prices
    parameters = _parameters(workload, report, names)
    _compare(workload, report, parameters, step, names)
    return {
        "status": jaxalloc.Status(int(report.allocation.status)).name,
        "residual": float(report.allocation.residual),
        "step": step,
        "values": _label(report.values, names),
        "parameters": [
            {key: value for key, value in entry.items() if key != "place"} for entry in parameters
        ],
        "bound_prices": [
            {"task": name, "min_tokens": float(low[k]), "max_tokens": float(high[k])}
            for k, name in enumerate(names)
        ],
    }


def _label(outputs: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Numbers of `Outputs` by name: tokens.GSM8K, ..., objective."""
    tokens = {f"tokens.{name}": float(outputs.tokens[k]) for k, name in enumerate(names)}
    return tokens | {name: float(getattr(outputs, name)) for name in TOTALS}


def _parameters(
    workload: Workload, report: Sensitivity, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """One entry a parameter, in the order of the fields."""
    import jax
    import numpy as np

    from jaxalloc.allocation.model.domain import FIELDS

    # Off the device once, not number by number.
    derivatives, elasticities, along = jax.tree.map(
        np.asarray, (report.derivatives, report.elasticities, report.along_simplex)
    )
    entries = []
    for field, description in FIELDS.items():
        places: list[tuple[int, ...]] = [()]
        if description.per_type:
            places = [(k,) for k in range(len(names))]
        for place in places:

            def pick(outputs: Any, field: str = field, place: tuple[int, ...] = place) -> Any:
                chosen = [getattr(output, field)[(..., *place)] for output in outputs]
                return _label(type(report.values)(*chosen), names)

            entry = {
                "parameter": ".".join([field, *(names[k] for k in place)]),
                "value": float(np.asarray(getattr(workload, field))[place]),
                "derivative": pick(derivatives),
                "elasticity": pick(elasticities),
                "place": (field, place),
            }
            if field == "mix":
                moved = type(report.values)(*(output[(..., *place)] for output in along))
                entry["along_simplex"] = _label(moved, names)
            entries.append(entry)
    return entries


def _compare(
    workload: Workload,
    report: Sensitivity,
    parameters: list[dict[str, Any]],
    step: float,
    names: tuple[str, ...],
) -> None:
    """Solve anew with each parameter changed; put what was predicted beside what came out.

    A mix changes along the simplex: the share of a task grows by `step` times what it is, at the
    expense of all other queries in proportion. A parameter that is 0 stays.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxalloc
    from jaxalloc.allocation.model.workload import Workload as Problem

    lanes = {name: [np.asarray(value)] * len(parameters) for name, value in vars(workload).items()}
    for row, entry in enumerate(parameters):
        field, place = entry["place"]
        value = np.array(lanes[field][row])
        if field == "mix":
            share = _replaced_share(float(value[place]), step)
            value *= 1 - share
            value[place] += share
            entry["change"] = share
        else:
            entry["change"] = step * float(value[place])
            value[place] += entry["change"]
        lanes[field][row] = value
    many = Problem(**{name: jnp.asarray(np.stack(rows)) for name, rows in lanes.items()})
    best = jaxalloc.solve_batch(many)
    measures = {
        name: jax.jit(jax.vmap(getattr(jaxalloc, name)))(many, best.tokens) for name in TOTALS
    }
    solved = jax.tree.map(np.asarray, type(report.values)(tokens=best.tokens, **measures))
    for row, entry in enumerate(parameters):
        slopes = entry.get("along_simplex", entry["derivative"])
        after = _label(type(report.values)(*(output[row] for output in solved)), names)
        before = _label(report.values, names)
        entry["predicted"] = {name: slope * entry["change"] for name, slope in slopes.items()}
        entry["solved"] = {name: after[name] - before[name] for name in before}
        entry["solved_status"] = jaxalloc.Status(int(best.status[row])).name


def _replaced_share(mix: float, step: float) -> float:
    """The share of all queries to replace so that one type's part grows by `step` of itself."""
    return step * mix / (1 - mix) if mix * (1 + abs(step)) < 1 else 0.0


def _print(document: dict[str, Any], top: int) -> None:
    from jaxalloc.cli.output import make_table, make_totals, number, show

    def rank(entry: dict[str, Any]) -> float:
        """The largest elasticity in absolute value."""
        sizes = [abs(value) for value in entry["elasticity"].values() if math.isfinite(value)]
        return -max(sizes, default=0.0)

    entries = sorted(document["parameters"], key=rank)
    shown = [entry for entry in entries if rank(entry) < 0][: top or None]
    table = make_table("elasticity to", "tokens, most", "accuracy", "time", "load", "objective")
    for entry in shown:
        elasticity = entry["elasticity"]
        tokens = {name: x for name, x in elasticity.items() if name.startswith("tokens.")}
        most = max(
            tokens, key=lambda name: abs(tokens[name]) if math.isfinite(tokens[name]) else -1
        )
        table.add_row(
            entry["parameter"],
            number(tokens[most], "+.3f", " " + most.removeprefix("tokens.")),
            *(number(elasticity[name], "+.3f") for name in TOTALS),
        )
    check = make_table(
        f"change by\n{document['step']:+.1%} of",
        "time, s\npredicted",
        "\nsolved",
        "objective, s\npredicted",
        "\nsolved",
    )
    for entry in shown:
        predicted, solved = entry["predicted"], entry["solved"]
        changes = [
            part[name] for name in ("mean_system_time", "objective") for part in (predicted, solved)
        ]
        check.add_row(entry["parameter"], *(number(change, "+.5f") for change in changes))
    bounds = make_totals()
    for entry in document["bound_prices"]:
        for bound in ("min_tokens", "max_tokens"):
            if entry[bound]:
                bounds.add_row(
                    f"a token more of {bound}, {entry['task']}", f"{entry[bound]:+.3g} s"
                )
    show(table, check)
    if bounds.rows:
        show("shadow prices of the bounds, in objective", bounds)
    left = len(entries) - len(shown)
    if left:
        show(
            f"{left} parameters not shown: --top 0 shows all that move anything, --json everything"
        )
    if "plot" in document:
        show(f"wrote {document['plot']}")
