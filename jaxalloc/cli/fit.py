"""`jaxalloc fit`: a workload from a table of runs, and how far its optimum can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.allocation.model.domain import FIELDS
from jaxalloc.cli.command import Answer, command, field_number
from jaxalloc.cli.fit_answer import describe_decision, describe_task, tables, verdict
from jaxalloc.cli.options import Seed, TimeUnit, number, option, pairs, target

if TYPE_CHECKING:
    from jaxalloc.calibration.decision import Decision

_SAMPLES = 4000  # draws of the parameters
_PANEL = "Of the workload"


def _of_workload(name: str, meaning: str, parse: Any) -> Any:
    return typer.Option(name, metavar="X", help=meaning, parser=parse, rich_help_panel=_PANEL)


def _shares(text: Any) -> dict[str, float]:
    """A parser of the shares of tasks."""
    parse = field_number("mix")
    shares = {}
    for task, share in pairs(text).items():
        try:
            shares[task] = parse(share)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"{text}: {task} = {error.message}") from None
    return shares


@command
def fit(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS", help="Runs, one row an answer: .csv, .parquet, ….")
    ],
    arrivals: Annotated[
        Path | None, option("--arrivals", "LOG", "Log of arrivals: .csv, .parquet, ….")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", callback=target(".toml"), help="Write the workload: .toml."
        ),
    ] = None,
    columns: Annotated[
        Any,
        option(
            "--columns",
            "FIELD=NAME,...",
            "Columns of RUNS not called task, tokens, correct, seconds, question.",
            pairs,
        ),
    ] = "",
    arrival_columns: Annotated[
        Any,
        option(
            "--arrival-columns", "FIELD=NAME,...", "Columns of LOG not called time, task.", pairs
        ),
    ] = "",
    time_unit: TimeUnit = None,
    concurrency: Annotated[
        float | None,
        option(
            "--concurrency",
            "N",
            "Queries in service at once while RUNS were measured: divides their times.",
            number(1),
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Write what there is: tasks without a rise at their smallest budget, those with "
            "LACK_OF_FIT as they are, and leave out what the data do not determine.",
        ),
    ] = False,
    robust: Annotated[
        bool, typer.Option("--robust", help="Service times by Huber's loss, not squares.")
    ] = False,
    arrival_rate: Annotated[
        float | None, _of_workload("--arrival-rate", "Queries / s.", field_number("arrival_rate"))
    ] = None,
    mix: Annotated[Any, _of_workload("--mix", "Shares, as TASK=SHARE,....", _shares)] = "",
    accuracy_weight: Annotated[
        float,
        _of_workload(
            "--accuracy-weight",
            FIELDS["accuracy_weight"].meaning,
            field_number("accuracy_weight"),
        ),
    ] = 30.0,
    min_tokens: Annotated[
        float | None,
        _of_workload(
            "--min-tokens", "Smallest token budget; by default 0.", field_number("min_tokens")
        ),
    ] = None,
    max_tokens: Annotated[
        float | None,
        _of_workload(
            "--max-tokens",
            "Largest token budget; by default the largest measured.",
            field_number("max_tokens"),
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the workload.", rich_help_panel=_PANEL)
    ] = None,
    seed: Seed = 0,
) -> Answer:
    """Fit accuracy curves and service times to measured runs, and write them as a workload.

    Without a log of arrivals the mix is equal and the arrival rate 0.1 / s. Standard errors and
    covariances are kept in the file. Exit code 1 and no file if the data do not determine a task or
    its law misses them, unless --partial, and if the workload has no optimum.
    """
    from jaxalloc.measurements.runs import read_arrivals, read_runs
    from jaxalloc.measurements.workload import fit_runs

    table = read_runs(runs, columns, time_unit)
    log = None if arrivals is None else read_arrivals(arrivals, arrival_columns, time_unit)
    fitted = fit_runs(
        table,
        log,
        mix=mix,
        arrival_rate=arrival_rate,
        accuracy_weight=accuracy_weight,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        concurrency=concurrency,
        partial=partial,
        robust=robust,
        name=name or runs.stem,
        source=str(runs),
    )
    document: dict[str, Any] = {
        "runs": str(runs),
        "rows": len(table.tokens),
        "tasks": [describe_task(task) for task in fitted.tasks],
        "solved": False,
    }
    failures, doubts = [], fitted.notes
    if fitted.file is None:
        *doubts, failure = doubts
        failures = [failure]
    else:
        document["arrivals"] = fitted.traffic
        best = describe_decision(fitted, _decide(fitted.file, seed))
        document["decision"] = best | {"samples": _SAMPLES}
        failures, few = verdict(best, fitted)
        document["solved"] = not failures
        if not failures:
            few += _extrapolated(best["tasks"], fitted, min_tokens, max_tokens)
            if out is not None:
                from jaxalloc.workloads.files import save

                save(fitted.file, out)
                document["out"] = str(out)
        doubts = [*doubts, *few]

    def draw() -> Any:
        from jaxalloc.cli.plots.fits import fits_figure

        return fits_figure(fitted.tasks, name or runs.stem)

    return Answer(document, tables(document), draw, failures, doubts)


def _decide(file: Any, seed: int) -> Decision:
    """The optimum with what is unknown carried through."""
    import jax
    import numpy as np

    from jaxalloc.calibration.decision import solve_uncertain
    from jaxalloc.workloads.uncertainty import to_covariances

    known = to_covariances(file)
    decision = solve_uncertain(jax.random.key(seed), file.workload, known, _SAMPLES)
    arrays: Decision = jax.tree.map(np.asarray, decision)
    return arrays


def _extrapolated(tasks: Any, fitted: Any, least: float | None, most: float | None) -> list[str]:
    """Optima outside of what was measured, noted in each task's answer."""
    from jaxalloc.measurements.workload import extrapolations

    tokens = [task["tokens"]["value"] for task in tasks]
    warnings = []
    for task, said in zip(tasks, extrapolations(fitted, tokens, least, most), strict=True):
        task["extrapolation"] = said
        if said:
            optimum = f"{task['tokens']['value']:,.0f} tokens"
            warnings.append(f"{task['name']}: the optimum, {optimum}, is {said}")
    return warnings
