"""`jaxalloc fit`: a workload from a table of runs, and how far its optimum can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from jaxalloc.allocation.model.domain import FIELDS, domain_error
from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import (
    AsJson,
    PicturePath,
    Seed,
    TimeUnit,
    check_target,
)

if TYPE_CHECKING:
    from jaxalloc.measurements.runs import Arrivals

Answer = TypeVar("Answer")

FAILED = 1
ACCURACY_WEIGHT = 30.0
_PANEL = "Of the workload"


def fit(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS", help="Runs, one row an answer: .csv or .parquet.")
    ],
    arrivals: Annotated[
        Path | None,
        typer.Option("--arrivals", metavar="LOG", help="Log of arrivals: .csv or .parquet."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the workload: .toml.")
    ] = None,
    plot: PicturePath = None,
    as_json: AsJson = False,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="FIELD=NAME,...",
            help="Columns of RUNS not called task, tokens, correct, seconds, question.",
        ),
    ] = None,
    arrival_columns: Annotated[
        str | None,
        typer.Option(
            "--arrival-columns",
            metavar="FIELD=NAME,...",
            help="Columns of LOG not called time, task.",
        ),
    ] = None,
    time_unit: TimeUnit = None,
    concurrency: Annotated[
        float | None,
        typer.Option(
            "--concurrency",
            metavar="N",
            help="Queries in service at once while RUNS were measured: divides their times.",
            show_default=False,
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
        float | None,
        typer.Option("--arrival-rate", metavar="X", help="Queries / s.", rich_help_panel=_PANEL),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            "--mix", metavar="TASK=SHARE,...", help="Shares of tasks.", rich_help_panel=_PANEL
        ),
    ] = None,
    accuracy_weight: Annotated[
        float,
        typer.Option(
            "--accuracy-weight",
            metavar="X",
            help=FIELDS["accuracy_weight"].meaning,
            rich_help_panel=_PANEL,
        ),
    ] = ACCURACY_WEIGHT,
    min_tokens: Annotated[
        float | None,
        typer.Option(
            "--min-tokens",
            metavar="X",
            help="Smallest token budget; by default 0.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    max_tokens: Annotated[
        float | None,
        typer.Option(
            "--max-tokens",
            metavar="X",
            help="Largest token budget; by default the largest measured.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the workload.", rich_help_panel=_PANEL)
    ] = None,
    seed: Seed = 0,
) -> None:
    """Fit accuracy curves and service times to measured runs, and write them as a workload.

    Without a log of arrivals the mix is equal and the arrival rate 0.1 / s. Standard errors and
    covariances are kept in the file. Exit code 1 and no file if the data do not determine a task or
    its law misses them, unless --partial, and if the workload has no optimum.
    """
    settings = {
        "arrival_rate": arrival_rate,
        "accuracy_weight": accuracy_weight,
        "min_tokens": min_tokens,
        "max_tokens": max_tokens,
    }
    _check(settings, arrivals, mix)
    if concurrency is not None and not 1 <= concurrency < float("inf"):
        raise BadInput(f"--concurrency = {concurrency:g} must be at least 1: give a number")
    check_target(out, (".toml",), "--out")
    shares = _shares(mix)
    from jaxalloc.cli import fit_checks
    from jaxalloc.measurements.runs import read_arrivals, read_runs

    table = _or_bad_input(lambda: read_runs(runs, _pairs(columns, "--columns"), time_unit))
    log = None
    if arrivals is not None:
        named = _pairs(arrival_columns, "--arrival-columns")
        log = _or_bad_input(lambda: read_arrivals(arrivals, named, time_unit))
        _check_log(arrivals, log, table.tasks)
    said = fit_checks.check_mix(runs, table.tasks, shares)
    table, notes = fit_checks.one_at_a_time(runs, table, log, shares, arrival_rate, concurrency)
    said += notes

    from jaxalloc.cli.compute import computing
    from jaxalloc.cli.errors import complain
    from jaxalloc.cli.fit_report import describe, print_report
    from jaxalloc.cli.report import print_json
    from jaxalloc.measurements.fits import fit_runs

    with computing():
        tasks = fit_runs(table, robust=robust)
        kept = [task for task in tasks if task.usable or (partial and task.writable)]
        complete = bool(kept) and (len(kept) == len(tasks) or partial)
        document = describe(str(runs), len(table.tokens), tasks)
        document["solved"] = False
        if complete:
            from jaxalloc.cli.fit_workload import build, decision, extrapolations

            file, found = _or_bad_input(
                lambda: build(kept, log, shares, settings, name or runs.stem, str(runs))
            )
            document |= {"arrivals": found, "decision": decision(file, seed)}
            document["solved"] = fit_checks.is_solved(document["decision"])
            beyond = extrapolations(document["decision"], kept, settings)
            said += beyond if document["solved"] else []
        if document["solved"] and out is not None:
            from jaxalloc.workloads.files import save

            try:
                save(file, out)
            except OSError as error:
                reason = error.strerror or error
                raise BadInput(f"--out = {str(out)!r}: {reason}: give another") from None
            document["out"] = str(out)
        if plot is not None:
            from jaxalloc.cli.plots.fits import fits_figure
            from jaxalloc.cli.plots.style import save as save_figure

            save_figure(fits_figure(tasks, name or runs.stem), plot)
            document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        print_report(document)
    for line in fit_checks.complaints(tasks, kept, document) + said:
        complain(line)
    if not document["solved"]:
        raise typer.Exit(FAILED)


def _check(settings: dict[str, Any], arrivals: Path | None, mix: str | None) -> None:
    """Complain about numbers before reading any file."""
    for field, value in settings.items():
        problem = None if value is None else domain_error(field, value)
        if problem:
            raise BadInput(f"--{field.replace('_', '-')}: {problem}")
    most, least = settings["max_tokens"], settings["min_tokens"]
    if most is not None and least is not None and least > most:
        raise BadInput(f"--min-tokens = {least:g} must not exceed --max-tokens = {most:g}")
    for flag, value in (("--mix", mix), ("--arrival-rate", settings["arrival_rate"])):
        if arrivals is not None and value is not None:
            raise BadInput(f"{flag} = {value} and --arrivals = {arrivals} say the same: drop one")


def _check_log(path: Path, log: Arrivals, tasks: tuple[str, ...]) -> None:
    unknown = [task for task in log.tasks if task not in tasks]
    if unknown:
        raise BadInput(
            f"{path}: task {unknown[0]!r} has no runs: measure it, or drop it from the log "
            f"(runs are of {', '.join(tasks)})"
        )


def _or_bad_input(work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except ValueError as error:
        raise BadInput(str(error)) from None


def _pairs(words: str | None, flag: str) -> dict[str, str]:
    """`a=1,b=2` as pairs."""
    pairs: dict[str, str] = {}
    for part in (words or "").split(","):
        if not part.strip():
            continue
        key, sign, value = part.rpartition("=")
        if not sign or not value.strip():
            raise BadInput(f"{part!r} in {flag} is no pair: write NAME=VALUE,NAME=VALUE")
        if key.strip() in pairs:
            raise BadInput(f"{key.strip()} is given twice in {flag}: drop one")
        pairs[key.strip()] = value.strip()
    return pairs


def _shares(words: str | None) -> dict[str, float]:
    """The shares of `--mix`."""
    shares = {}
    for task, text in _pairs(words, "--mix").items():
        try:
            share = float(text)
        except ValueError:
            raise BadInput(f"--mix: {task} = {text!r} is not a number: give a share") from None
        problem = domain_error("mix", share)
        if problem:
            raise BadInput(f"--mix: {task}: {problem}")
        shares[task] = share
    if shares and sum(shares.values()) <= 0:
        raise BadInput(f"--mix = {words} sums to 0: give a task a share above 0")
    return shares
