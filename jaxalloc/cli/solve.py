"""`jaxalloc solve`: the optimal token budgets of one workload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.cli.compute import computing
from jaxalloc.cli.options import (
    ADVICE,
    AsJson,
    MaxSteps,
    PicturePath,
    Solver,
    Tolerance,
    WorkloadName,
    make_solver,
    read_workload,
    title_of,
    with_field_flags,
)
from jaxalloc.cli.report import MEASURES, Column, Part, Table, deliver, facts, number

if TYPE_CHECKING:
    from jaxalloc.workloads.files import WorkloadFile


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("solve")(with_field_flags(solve))


def solve(
    workload: WorkloadName,
    numbers: Mapping[str, float],
    solver: Solver = "newton",
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
    with computing():
        from jaxalloc.workloads.files import to_workload

        problem = to_workload(file)
        method = make_solver(solver, max_steps, tolerance)
        answer = _answer(problem, file, method, integer, certificates)

        def draw() -> Any:
            from jaxalloc.cli.plots.budgets import solve_figure

            return solve_figure(problem, answer, title_of(file, workload))

        statuses = {answer["status"], answer.get("rounding", answer)["status"]} - {"CONVERGED"}
        deliver(
            {"workload": workload, "solver": solver} | answer,
            _tables(answer),
            figure=draw,
            plot=plot,
            as_json=as_json,
            lines=[f"{status}: {ADVICE[status]}" for status in sorted(statuses)],
            failed=bool(statuses),
        )


def _answer(
    workload: Any, file: WorkloadFile, solver: Any, integer: bool, certificates: bool
) -> dict[str, Any]:
    """The optimum and what it means, as plain Python: what `--json` prints."""
    import jax

    import jaxalloc

    # One compilation is quicker than the many small ones of a call without jit.
    allocation = jax.jit(jaxalloc.solve, static_argnames="solver")(workload, solver)
    tokens = allocation.tokens
    answer: dict[str, Any] = {
        "status": jaxalloc.Status(int(allocation.status)).name,
        "steps": int(allocation.steps),
        "residual": float(allocation.residual),
    }
    if integer:
        rounding = jax.jit(jaxalloc.round_tokens)(workload, allocation)
        answer["rounding"] = {
            "status": jaxalloc.Status(int(rounding.status)).name,
            "gap": float(rounding.gap),
            "gap_bound": float(rounding.gap_bound),
            "continuous_tokens": tokens.tolist(),
        }
        tokens = rounding.best

    totals, columns = jax.device_get(jax.jit(_measure)(workload, tokens))
    if certificates:
        bounds = ("contraction_bound", "lipschitz_bound")
        answer["certificates"] = {name: float(getattr(jaxalloc, name)(workload)) for name in bounds}
    answer |= {name: float(value) for name, value in totals.items()}
    answer["tasks"] = [
        {"name": name} | {key: float(column[k]) for key, column in columns.items()}
        for k, name in enumerate(file.task_names)
    ]
    return answer


def _measure(workload: Any, tokens: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The totals, and the columns of the tasks."""
    import jaxalloc
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
    return {name: getattr(jaxalloc, name)(workload, tokens) for name in MEASURES}, columns


def _tables(answer: dict[str, Any]) -> Iterator[Part]:
    rounding, bounds = answer.get("rounding"), answer.get("certificates")
    yield Table(
        (
            Column("task", "name"),
            Column("of queries", "mix", ".1%", rank=1),
            Column("tokens", "tokens", ",.0f" if rounding else ",.2f"),
            Column("service time", "service_time", ".4g", " s"),
            Column("accuracy", "accuracy", ".4f"),
            Column("of load", "load_share", ".1%", rank=2),
        ),
        answer["tasks"],
    )
    steps = f"{number(answer['residual'], '.2g')} after {answer['steps']} steps"
    lines = [*facts(answer, *MEASURES.values(), Column("status", "status")), ("residual", steps)]
    if rounding:
        lost, bound = (number(rounding[key], ".2g", " s") for key in ("gap", "gap_bound"))
        lines.append(("lost by rounding", f"{lost} of objective, certified at most {bound}"))
    if bounds:
        contraction, lipschitz = (number(bound, ".4g") for bound in bounds.values())
        verdict = "converges" if bounds["contraction_bound"] < 1 else "no guarantee"
        lines.append(("contraction bound", f"{contraction} (fixed point: {verdict})"))
        lines.append(("Lipschitz bound", f"{lipschitz} (step: its inverse)"))
    yield lines
