"""`jaxalloc solve`: the optimal token budgets of one workload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.cli.command import Answer, Given, command
from jaxalloc.cli.options import MaxSteps, Solver, Tolerance, failures, make_solver
from jaxalloc.cli.report import MEASURES, Column, Part, Table, facts, number, rows

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload


@command
def solve(
    given: Given,
    solver: Solver = "newton",
    max_steps: MaxSteps = None,
    tolerance: Tolerance = None,
    integer: Annotated[
        bool, typer.Option("--integer", help="Whole tokens, with the certified loss.")
    ] = False,
    certificates: Annotated[
        bool, typer.Option("--certificates", help="Add the contraction and Lipschitz bounds.")
    ] = False,
) -> Answer:
    """Find the thinking tokens of every task that maximize accuracy's worth minus time."""
    import jax

    import jaxalloc

    method = make_solver(solver, max_steps, tolerance)
    # One compilation is quicker than the many small ones of a call without jit.
    best = jax.jit(jaxalloc.solve, static_argnames="solver")(given.workload, method)
    document: dict[str, Any] = {
        "solver": solver,
        "status": jaxalloc.Status(int(best.status)).name,
        "steps": int(best.steps),
        "residual": float(best.residual),
    }
    tokens, statuses = best.tokens, [document["status"]]
    if integer:
        rounding = jax.jit(jaxalloc.round_tokens)(given.workload, best)
        statuses.append(jaxalloc.Status(int(rounding.status)).name)
        document["rounding"] = {
            "status": statuses[-1],
            "gap": float(rounding.gap),
            "gap_bound": float(rounding.gap_bound),
            "continuous_tokens": tokens.tolist(),
        }
        tokens = rounding.best
    if certificates:
        bounds = jax.jit(_bounds)(given.workload)
        document["certificates"] = {name: float(bound) for name, bound in bounds.items()}
    totals, tasks = jax.jit(_measure)(given.workload, tokens)
    document |= {name: float(totals[name]) for name in MEASURES}
    document["tasks"] = rows(name=given.names, **tasks)

    def draw() -> Any:
        from jaxalloc.cli.plots.budgets import solve_figure

        return solve_figure(given.workload, document, given.title)

    return Answer(document, _tables(document), draw, failures(*statuses))


def _bounds(workload: Workload) -> dict[str, Any]:
    import jaxalloc

    return {
        "contraction_bound": jaxalloc.contraction_bound(workload),
        "lipschitz_bound": jaxalloc.lipschitz_bound(workload),
    }


def _measure(workload: Workload, tokens: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The totals, and the columns of the tasks."""
    import jaxalloc
    from jaxalloc.allocation.model.mg1 import service_time
    from jaxalloc.allocation.model.objective import accuracy

    time = service_time(workload, tokens)
    load = workload.mix * time
    tasks = {
        "mix": workload.mix,
        "tokens": tokens,
        "service_time": time,
        "accuracy": accuracy(workload, tokens),
        "load_share": load / load.sum(),
    }
    return {name: getattr(jaxalloc, name)(workload, tokens) for name in MEASURES}, tasks


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    rounding, bounds = document.get("rounding"), document.get("certificates")
    columns = (
        Column("task", "name"),
        Column("of queries", "mix", ".1%", rank=1),
        Column("tokens", "tokens", ",.0f" if rounding else ",.2f"),
        Column("service time", "service_time", ".4g", " s"),
        Column("accuracy", "accuracy", ".4f"),
        Column("of load", "load_share", ".1%", rank=2),
    )
    yield Table(columns, document["tasks"])
    steps = f"{number(document['residual'], '.2g')} after {document['steps']} steps"
    told = [*facts(document, *MEASURES.values(), Column("status", "status")), ("residual", steps)]
    if rounding:
        lost, bound = (number(rounding[key], ".2g", " s") for key in ("gap", "gap_bound"))
        told.append(("lost by rounding", f"{lost} of objective, certified at most {bound}"))
    if bounds:
        contraction, lipschitz = (number(bound, ".4g") for bound in bounds.values())
        verdict = "converges" if bounds["contraction_bound"] < 1 else "no guarantee"
        told.append(("contraction bound", f"{contraction} (fixed point: {verdict})"))
        told.append(("Lipschitz bound", f"{lipschitz} (step: its inverse)"))
    yield told
