"""`jaxalloc solve`: the optimal token budgets of one workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.cli.flags import (
    ADVICE,
    PICTURES,
    AsJson,
    MaxSteps,
    PicturePath,
    Solver,
    SolverName,
    Tolerance,
    WorkloadName,
    check_target,
    make_solver,
    read_workload,
    with_field_flags,
)

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload
    from jaxalloc.workloads.files import WorkloadFile

FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    flags = with_field_flags("NUMBER", "Instead of the workload's own (for every task)")
    app.command("solve")(flags(solve))


def solve(
    workload: WorkloadName,
    numbers: Mapping[str, str],
    solver: Solver = SolverName.NEWTON,
    max_steps: MaxSteps = None,
    tolerance: Tolerance = None,
    integer: Annotated[
        bool, typer.Option("--integer", help="Whole tokens, with the certified loss.")
    ] = False,
    certificates: Annotated[
        bool, typer.Option("--certificates", help="Add the contraction and Lipschitz bounds.")
    ] = False,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Find the thinking tokens of every task that maximize accuracy's worth minus time."""
    file = read_workload(workload, numbers)
    check_target(plot, PICTURES, "--plot")
    method = make_solver(solver, max_steps, tolerance)
    from jaxalloc.cli.output import complain, print_json
    from jaxalloc.cli.precision import float64

    with float64():
        answer = _answer(file, method, integer, certificates)
        document = {"workload": workload, "solver": solver.value} | answer
        if plot is not None:
            from jaxalloc.cli.plots.budgets import solve_figure
            from jaxalloc.cli.plots.style import save
            from jaxalloc.workloads.files import to_workload

            save(solve_figure(to_workload(file), answer, file.name or Path(workload).stem), plot)
            document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        _print(document)
    statuses = {answer["status"], answer.get("rounding", answer)["status"]}
    if statuses != {"CONVERGED"}:
        for status in sorted(statuses - {"CONVERGED"}):
            complain(f"{status}: {ADVICE[status]}")
        raise typer.Exit(FAILED)


def _answer(file: WorkloadFile, solver: Any, integer: bool, certificates: bool) -> dict[str, Any]:
    """The optimum and what it means, as plain Python: what `--json` prints."""
    import jax

    import jaxalloc
    from jaxalloc.workloads.files import to_workload

    workload = to_workload(file)
    # One compilation is quicker than the many small ones of a call without jit.
    allocation = jax.jit(jaxalloc.solve, static_argnames="solver")(workload, solver)
    tokens = allocation.tokens
    answer: dict[str, Any] = {
        "status": jaxalloc.Status(int(allocation.status)).name,
        "steps": int(allocation.steps),
        "residual": float(allocation.residual),
    }
    if integer:
        rounding = jaxalloc.round_tokens(workload, allocation)
        answer["rounding"] = {
            "status": jaxalloc.Status(int(rounding.status)).name,
            "gap": float(rounding.gap),
            "gap_bound": float(rounding.gap_bound),
            "continuous_tokens": tokens.tolist(),
        }
        tokens = rounding.best
    if certificates:
        answer["certificates"] = {
            "contraction_bound": float(jaxalloc.contraction_bound(workload)),
            "lipschitz_bound": float(jaxalloc.lipschitz_bound(workload)),
        }
    answer |= _totals(workload, tokens)
    answer["tasks"] = _tasks(workload, tokens, file.task_names)
    return answer


def _totals(workload: Workload, tokens: Any) -> dict[str, float]:
    import jaxalloc

    measures = ("objective", "utilization", "mean_accuracy", "mean_wait", "mean_system_time")
    return {name: float(getattr(jaxalloc, name)(workload, tokens)) for name in measures}


def _tasks(workload: Workload, tokens: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    from jaxalloc.allocation.model.mg1 import service_time
    from jaxalloc.allocation.model.objective import accuracy

    time = service_time(workload, tokens)
    load = workload.mix * time
    columns = {
        "mix": workload.mix,
        "tokens": tokens,
        "service_time": time,
        "accuracy": accuracy(workload, tokens),
        "load_share": load / load.sum(),
    }
    return [
        {"name": name} | {key: float(column[k]) for key, column in columns.items()}
        for k, name in enumerate(names)
    ]


def _print(document: dict[str, Any]) -> None:
    from jaxalloc.cli.output import make_table, make_totals, number, show

    rounding = document.get("rounding")
    digits = 0 if rounding else 2
    heads = ("task", "of queries", "tokens", "service time", "accuracy", "of load")
    tasks = make_table(*heads, least=("of load", "of queries"))
    for task in document["tasks"]:
        tasks.add_row(
            task["name"],
            f"{task['mix']:.1%}",
            number(task["tokens"], f",.{digits}f"),
            number(task["service_time"], ".4g", " s"),
            number(task["accuracy"], ".4f"),
            number(task["load_share"], ".1%"),
        )
    totals = make_totals()
    totals.add_row("utilization", number(document["utilization"], ".4f"))
    totals.add_row("mean wait", number(document["mean_wait"], ".4g", " s"))
    totals.add_row("mean system time", number(document["mean_system_time"], ".4g", " s"))
    totals.add_row("accuracy", number(document["mean_accuracy"], ".4f"))
    totals.add_row("objective", number(document["objective"], ".6g", " s"))
    totals.add_row("status", document["status"])
    totals.add_row(
        "residual", f"{number(document['residual'], '.2g')} after {document['steps']} steps"
    )
    if rounding:
        lost, bound = (number(rounding[key], ".2g", " s") for key in ("gap", "gap_bound"))
        loss = f"{lost} of objective, certified at most {bound}"
        totals.add_row("lost by rounding", loss)
    if "certificates" in document:
        bounds = document["certificates"]
        contraction = bounds["contraction_bound"]
        verdict = "converges" if contraction < 1 else "no guarantee"
        totals.add_row("contraction bound", f"{contraction:.4g} (fixed point: {verdict})")
        totals.add_row("Lipschitz bound", f"{bounds['lipschitz_bound']:.4g} (step: its inverse)")
    show(tasks, totals)
    if "plot" in document:
        show(f"\nwrote {document['plot']}")
