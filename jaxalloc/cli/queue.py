"""`jaxalloc queue`: the queue at the optimum, by formula and on sample paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from jaxalloc.cli.command import Answer, Given, command
from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import Seed, failures, number, numbers_in, option
from jaxalloc.cli.report import Column, Part, Table, number as shown

MOST_QUERIES = 10**10
FEW_RELAXATIONS = 20


def _level(text: str) -> float:
    """A percentile, in %."""
    level: float = number(0, 100, inside=True)(text)
    if level < 1:
        raise typer.BadParameter(f"{text} is in % and below 1: give {100 * level:.12g} for it")
    return level


@command
def queue(
    given: Given,
    integer: Annotated[
        bool, typer.Option("--integer", help="Whole tokens, and what each way of rounding loses.")
    ] = False,
    queries: Annotated[
        Any,
        option(
            "--queries",
            "N",
            "Queries to simulate, such as 1e8.",
            number(1, MOST_QUERIES, whole=True),
        ),
    ] = "1e6",
    percentiles: Annotated[
        Any,
        option("--percentiles", "P,Q", "Percentiles of the times, %.", numbers_in(_level)),
    ] = "50,95,99",
    arrivals: Annotated[
        str,
        option(
            "--arrivals",
            "LAW",
            "poisson, cv:X (gamma gaps of that coefficient of variation), or trace:FILE (its gaps, "
            "stretched to the arrival rate).",
        ),
    ] = "poisson",
    target: Annotated[
        float | None,
        option(
            "--target",
            "S",
            "Find the arrival rates (Poisson) that keep the mean and the percentiles under S "
            "seconds.",
            number(0),
        ),
    ] = None,
    confidence: Annotated[
        float, option("--confidence", "C", "Of the intervals.", number(0, 1, inside=True))
    ] = 0.99,
    seed: Seed = 0,
) -> Answer:
    """Simulate the queue at the optimal tokens, beside what the M/G/1 formulas say."""
    if target is not None and arrivals != "poisson":
        raise BadInput(
            f"target = {target:g} is met by a formula for Poisson arrivals, which --arrivals = "
            f"{arrivals} are not: drop one, or try rates by --arrival-rate"
        )
    from jaxalloc.cli.queue_answer import Wishes, answer, read_arrivals

    law = read_arrivals(arrivals, given.file.arrival_rate)
    wishes = Wishes(integer, queries, percentiles, law, target, confidence, seed)
    found, drawn = answer(given.workload, given.names, wishes)
    document = {"arrivals": arrivals} | found
    if document["status"] != "CONVERGED":
        return Answer(document, (), failures=failures(document["status"]))

    def draw() -> Any:
        from jaxalloc.cli.plots.queue import queue_figure

        return queue_figure(document, given.workload, *drawn, given.title)

    doubt = (
        f"a replication lasts only {document['relaxations']:.1f} relaxation times: the intervals "
        "are too narrow: raise --queries"
    )
    doubts = [doubt] * (document["relaxations"] < FEW_RELAXATIONS)
    return Answer(document, _tables(document), draw, doubts=doubts)


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    def unit(name: str) -> str:
        return "" if name in ("fraction_correct", "utilization") else " s"

    def measure(title: str, key: str) -> Column:
        return Column(title, lambda row: shown(row[1][key], ".5g", unit(row[0])))

    def interval(row: Any) -> str:
        low, high = (shown(row[1][end], ".5g") for end in ("low", "high"))
        return f"{low} – {high}{unit(row[0])}"

    yield Table(
        (
            Column("", lambda row: row[0].replace("_", " ")),
            measure("M/G/1 formula", "formula"),
            measure("simulated", "simulated"),
            Column(f"{100 * document['confidence']:.6g}% interval", interval),
        ),
        [*document["measures"].items()],
    )
    paths = f"{document['queries']:,.0f} queries"
    if document["queries"] != document["queries_asked"]:
        paths += f" ({document['queries_asked']:,} asked, rounded up to whole replications)"
    yield f"{paths}, {document['arrivals']} arrivals; of each task, simulated, in s:"
    levels = [key for key in document["tasks"][0] if key.startswith("system_time_p")]
    seconds = {"service": "service_time", "wait": "mean_wait", "total": "mean_system_time"}
    seconds |= {key.removeprefix("system_time_"): key for key in levels}
    yield Table(
        (
            Column("task", "name"),
            Column("tokens", "tokens", ",.0f"),
            *(Column(title, key, ".4g") for title, key in seconds.items()),
            Column("correct", "fraction_correct", ".4f"),
        ),
        document["tasks"],
    )
    if "rounding" in document:
        yield "loss of whole tokens against the continuous optimum:"
        yield Table(_ROUNDING, [*document["rounding"].items()])
    if "largest_arrival_rates" in document:
        rates = dict(document["largest_arrival_rates"])
        told = [("target", f"{rates.pop('target'):g} s of system time")]
        for name, rate in rates.items():
            met = f"{rate:.5g} queries / s" if rate == rate else "not even at an idle server"
            told.append((f"largest arrival rate, {name}", met))
        yield "at these tokens:"
        yield told


def _between(row: Any) -> str:
    low, high = row[1]["low"], row[1]["high"]
    return f"{low:.3g} – {high:.3g} s" if low == low else ""


_ROUNDING = (
    Column("rounding", lambda row: row[0]),
    Column("loss", lambda row: row[1]["loss"], ".3g", " s"),
    Column("at most", lambda row: row[1]["bound"], ".3g", " s"),
    Column("simulated", lambda row: row[1]["simulated"], ".3g", " s"),
    Column("interval", _between),
)
