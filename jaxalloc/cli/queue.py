"""`jaxalloc queue`: the queue at the optimum, by formula and on sample paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.flags import (
    ADVICE,
    PICTURES,
    AsJson,
    PicturePath,
    WorkloadName,
    check_seed,
    check_target,
    read_workload,
    with_field_flags,
)

FAILED = 1
MOST_QUERIES = 10**10
FEW_RELAXATIONS = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    flags = with_field_flags("NUMBER", "Instead of the workload's own (for every task)")
    app.command("queue")(flags(queue))


def queue(
    workload: WorkloadName,
    numbers: Mapping[str, str],
    integer: Annotated[
        bool, typer.Option("--integer", help="Whole tokens, and what each way of rounding loses.")
    ] = False,
    queries: Annotated[
        str, typer.Option("--queries", metavar="N", help="Queries to simulate, such as 1e8.")
    ] = "1e6",
    percentiles: Annotated[
        str, typer.Option("--percentiles", metavar="P,Q", help="Percentiles of the times, %.")
    ] = "50,95,99",
    arrivals: Annotated[
        str,
        typer.Option(
            "--arrivals",
            metavar="LAW",
            help="poisson, cv:X (gamma gaps of that coefficient of variation), or trace:FILE "
            "(its gaps, stretched to the arrival rate).",
        ),
    ] = "poisson",
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="S",
            help="Find the arrival rates (Poisson) that keep the mean and the percentiles under S "
            "seconds.",
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="C", help="Of the intervals.")
    ] = 0.99,
    seed: Annotated[int, typer.Option("--seed", help="Of all random numbers.")] = 0,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Simulate the queue at the optimal tokens, beside what the M/G/1 formulas say."""
    file = read_workload(workload, numbers)
    check_target(plot, PICTURES, "--plot")
    count = _number("--queries", queries, 1, MOST_QUERIES)
    if not count.is_integer():
        raise BadInput(f"--queries = {queries} is no whole number: give one")
    levels = _levels(percentiles)
    seconds = None if target is None else _number("--target", target, 0, float("inf"))
    if seconds is not None and arrivals != "poisson":
        raise BadInput(
            f"--target = {target} is met by a formula for Poisson arrivals, which --arrivals = "
            f"{arrivals} are not: drop one, or try rates by --arrival-rate"
        )
    if not 0 < confidence < 1:
        raise BadInput(f"--confidence = {confidence:g} must be between 0 and 1: try 0.99")
    check_seed(seed)
    from jaxalloc.cli import queue_answer
    from jaxalloc.cli.output import print_json
    from jaxalloc.cli.precision import float64

    with float64():
        try:
            law = queue_answer.read_arrivals(arrivals, file.arrival_rate)
        except ValueError as error:
            raise BadInput(str(error)) from None
        setup = queue_answer.Setup(
            file, integer, int(count), levels, law, seconds, confidence, seed, plot is not None
        )
        answer, curves = queue_answer.compute(setup)
        document = {"workload": workload, "arrivals": arrivals} | answer
        if plot is not None and curves is not None:
            from jaxalloc.cli.plots.queue import queue_figure
            from jaxalloc.cli.plots.style import save

            save(queue_figure(document, curves, file.name or Path(workload).stem), plot)
            document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        queue_answer.show_answer(document)
    _complain(document)


def _complain(document: dict[str, Any]) -> None:
    """Say what failed and what is doubtful; exit with 1 if anything failed."""
    from jaxalloc.cli.output import complain

    if document["status"] != "CONVERGED":
        complain(f"{document['status']}: {ADVICE[document['status']]}")
        raise typer.Exit(FAILED)
    if document["relaxations"] < FEW_RELAXATIONS:
        complain(
            f"a replication lasts only {document['relaxations']:.1f} relaxation times: "
            "the intervals are too narrow: raise --queries"
        )


def _number(flag: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadInput(f"{flag} = {text!r} is not a number: give one") from None
    if not least <= value <= most or value == float("inf"):
        raise BadInput(f"{flag} = {text} must be from {least:g} to {most:g}: give such a number")
    return value


def _levels(text: str) -> tuple[float, ...]:
    levels = []
    for word in text.split(","):
        try:
            level = float(word)
        except ValueError:
            raise BadInput(f"--percentiles = {word!r} is not a number: try 50,95,99") from None
        if 0 < level < 1:
            raise BadInput(
                f"--percentiles = {word} is in % and below 1: give {100 * level:.12g} for it"
            )
        if not 1 <= level < 100:
            raise BadInput(f"--percentiles = {word} must be from 1 to below 100: try 50,95,99")
        levels.append(level)
    return tuple(dict.fromkeys(levels))
