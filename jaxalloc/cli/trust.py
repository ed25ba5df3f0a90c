"""`jaxalloc trust`: whether the M/G/1 answers hold for the traffic of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from jaxalloc.cli.options import (
    AsJson,
    PicturePath,
    Seed,
    TimeUnit,
    number,
    numbers_in,
    option,
    pairs,
)
from jaxalloc.cli.report import Column, Part, Table, deliver

# Whatever gives way in a narrow terminal goes in the order of the ranks.
COMPARISONS = (
    Column("load", "utilization", "g"),
    Column("M/G/1 mean", "predicted", ".4g", " s", rank=1),
    Column("replay", "replayed", ".4g", " s", rank=2),
    Column("error", "error", "+.1%"),
    Column("99 % of M/G/1", lambda one: f"{one['low']:.3g} – {one['high']:.3g} s", rank=3),
    Column("verdict", "verdict"),
)


def trust(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE",
            help="A trace with arrivals and generated tokens (.csv, .jsonl, .json, .parquet).",
            show_default=False,
        ),
    ],
    utilizations: Annotated[
        Any,
        option(
            "--utilization",
            "A,B",
            "Loads to scale the services to.",
            numbers_in(number(0, 1, inside=True)),
        ),
    ] = "0.3,0.5,0.7,0.9",
    base_tokens: Annotated[
        float, option("--base-tokens", "N", "What a query costs beside its tokens.", number(0))
    ] = 0.0,
    columns: Annotated[
        Any, option("--columns", "FIELD=NAME,...", "Columns, such as arrival=When.", pairs)
    ] = "",
    time_unit: TimeUnit = None,
    seed: Seed = 0,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Compare the M/G/1 mean with a replay of a trace, and say whether to trust it."""
    from jaxalloc.allocation.queue.trust import trust as judge
    from jaxalloc.traces.readers import read_trace

    needed = ("arrival", "output")
    read = read_trace(trace, columns=columns, needed=needed, time_unit=time_unit)
    found = judge(read, utilizations=utilizations, base_time=base_tokens, seed=seed)
    document = found._asdict() | {
        "trace": trace,
        "time_unit": read.time_unit,
        "without_output": read.dropped,
        "comparisons": [one._asdict() for one in found.comparisons],
    }

    def draw() -> Any:
        from jaxalloc.cli.plots.trust import trust_figure

        return trust_figure(document)

    deliver(document, _tables(document), figure=draw, plot=plot, as_json=as_json)


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    left_out, unit = document["without_output"], document["time_unit"]
    slowest, fastest = document["rate_range"]
    lags = document["autocorrelation"]
    facts = {
        "queries": f"{document['num_queries']:,}"
        + (f"; {left_out:,} without output are left out" if left_out else ""),
        "arrivals read": "dates and times" if unit == "date" else f"numbers in {unit}",
        "time grid": f"{document['grid'] or 0:g} s: spread at random within it",
        "arrival rate": f"{document['arrival_rate']:.4g} / s; "
        f"{slowest:.3g} to {fastest:.3g} in tenths of the trace",
        "cv of the gaps": f"{document['arrival_cv']:.3f} (Poisson: 1)",
        "autocorrelation": f"{lags[0]:.3f} at lag 1, {lags[-1]:.3f} at lag {len(lags)} "
        f"(Poisson: within ± {document['noise']:.3f})",
        "cv of the services": f"{document['service_cv']:.3f}",
    }
    if document["grid"] is None:
        del facts["time grid"]
    yield [*facts.items()]
    yield Table(COMPARISONS, document["comparisons"])
    yield document["sentence"]
