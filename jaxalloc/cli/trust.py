"""`jaxalloc trust`: whether the M/G/1 answers hold for the traffic of a trace."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.flags import (
    PICTURES,
    AsJson,
    PicturePath,
    TimeUnit,
    check_seed,
    check_target,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("trust")(trust)


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
        str,
        typer.Option("--utilization", metavar="A,B", help="Loads to scale the services to."),
    ] = "0.3,0.5,0.7,0.9",
    base_tokens: Annotated[
        float,
        typer.Option("--base-tokens", metavar="N", help="What a query costs beside its tokens."),
    ] = 0.0,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Columns of the trace, such as arrival=When,output=Out."),
    ] = None,
    time_unit: TimeUnit = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulated reference.")] = 0,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Compare the M/G/1 mean with a replay of a trace, and say whether to trust it."""
    check_target(plot, PICTURES, "--plot")
    check_seed(seed)
    if not 0 <= base_tokens < float("inf"):
        raise BadInput(f"--base-tokens = {base_tokens:g} must not be negative: give tokens")
    loads = _loads(utilizations)
    from jaxalloc.allocation.queue.trust import trust as judge
    from jaxalloc.cli.output import print_json
    from jaxalloc.traces.readers import read_trace
    from jaxalloc.traces.words import read_pairs

    try:
        read = read_trace(
            trace,
            columns=read_pairs(columns, "--columns"),
            needed=("arrival", "output"),
            time_unit=time_unit,
        )
        found = judge(read, utilizations=loads, base_time=base_tokens, seed=seed)
    except ValueError as error:
        raise BadInput(str(error)) from None
    document = found._asdict() | {
        "trace": trace,
        "time_unit": read.time_unit,
        "without_output": read.dropped,
        "comparisons": [one._asdict() for one in found.comparisons],
    }
    if plot is not None:
        from jaxalloc.cli.plots.style import save
        from jaxalloc.cli.plots.trust import trust_figure

        save(trust_figure(document), plot)
        document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        _print(document)


def _loads(words: str) -> list[float]:
    loads = []
    for word in words.split(","):
        try:
            loads.append(float(word))
        except ValueError:
            raise BadInput(f"--utilization = {word!r} is not a number: try 0.5,0.9") from None
        if not 0 < loads[-1] < 1:
            raise BadInput(f"--utilization = {word} must be between 0 and 1: try 0.5,0.9")
    return loads


def _print(document: dict[str, Any]) -> None:
    from jaxalloc.cli.output import make_table, make_totals, show

    totals = make_totals()
    left_out = document["without_output"]
    without = f"; {left_out:,} without output are left out" if left_out else ""
    totals.add_row("queries", f"{document['num_queries']:,}{without}")
    unit = {"date": "dates and times"}.get(
        document["time_unit"], f"numbers in {document['time_unit']}"
    )
    totals.add_row("arrivals read", unit)
    if document["grid"] is not None:
        totals.add_row("time grid", f"{document['grid']:g} s: spread at random within it")
    slowest, fastest = document["rate_range"]
    drift = f"{slowest:.3g} to {fastest:.3g} in tenths of the trace"
    totals.add_row("arrival rate", f"{document['arrival_rate']:.4g} / s; {drift}")
    totals.add_row("cv of the gaps", f"{document['arrival_cv']:.3f} (Poisson: 1)")
    lags = document["autocorrelation"]
    totals.add_row(
        "autocorrelation",
        f"{lags[0]:.3f} at lag 1, {lags[-1]:.3f} at lag {len(lags)} "
        f"(Poisson: within ± {document['noise']:.3f})",
    )
    totals.add_row("cv of the services", f"{document['service_cv']:.3f}")
    heads = ("load", "M/G/1 mean", "replay", "error", "99 % of M/G/1", "verdict")
    table = make_table(*heads, least=("99 % of M/G/1", "replay", "M/G/1 mean"))
    for one in document["comparisons"]:
        table.add_row(
            f"{one['utilization']:g}",
            f"{one['predicted']:.4g} s",
            f"{one['replayed']:.4g} s",
            f"{one['error']:+.1%}",
            f"{one['low']:.3g} – {one['high']:.3g} s",
            one["verdict"],
        )
    show(totals, table, document["sentence"])
    if "plot" in document:
        show(f"\nwrote {document['plot']}")
