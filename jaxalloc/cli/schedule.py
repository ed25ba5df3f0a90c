"""`jaxalloc schedule`: policies against metrics on a trace or a synthetic workload."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import AsJson, PicturePath, Seed, TimeUnit

FAILED = 1
DEFAULT_POLICIES = "a_min,a_max,h_sf,mc_sf,mc_benchmark,vllm,alpha,alpha_beta"
MOST_TOKENS = 1 << 30  # and rounds: the scheduler counts in 32 bits
MOST_REQUESTS = 10**7  # of all replications: about 5 GB


def schedule(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|GENERATOR",
            help="A trace (.csv, .jsonl, .json, .parquet) or a law of the outputs such as "
            "geometric:mean=100 (also weighted_geometric, two_point, uniform, lognormal).",
            show_default=False,
        ),
    ],
    capacity: Annotated[
        int, typer.Option("--capacity", metavar="M", help="Tokens the KV cache holds.")
    ],
    policies: Annotated[
        str, typer.Option("--policies", metavar="A,B", help="Which policies to compare.")
    ] = DEFAULT_POLICIES,
    requests: Annotated[
        int, typer.Option("--requests", metavar="N", help="Requests a replication.")
    ] = 1000,
    replications: Annotated[
        int,
        typer.Option(
            "--replications", metavar="B", help="Seeds of a generator, or stretches of a trace."
        ),
    ] = 1,
    intervals: Annotated[
        str,
        typer.Option(
            "--intervals",
            help="Predictions: exact, one (interval for all), one:LO:HI, bins:B, relative:X, "
            "noise:SIGMA, or own (columns of the trace).",
        ),
    ] = "bins:10",
    arrivals: Annotated[
        str,
        typer.Option("--arrivals", help="zero, poisson:RATE (a round, or a second), or trace."),
    ] = "zero",
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt", help="Prompts of a generator: tokens, or a law like the outputs'."
        ),
    ] = "32",
    batch_time: Annotated[
        str | None,
        typer.Option(
            "--batch-time",
            help="Seconds a round: llama2-70b, or BASE:PER_REQUEST:PER_TOKEN:PER_PREFILL.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Columns of the trace, such as prompt=In,output=Out."),
    ] = None,
    time_unit: TimeUnit = None,
    aging: Annotated[
        int, typer.Option("--aging", help="Tokens of precedence a round of waiting.")
    ] = 0,
    max_rounds: Annotated[
        int | None,
        typer.Option("--max-rounds", help="Rounds after which to give up.", show_default=False),
    ] = None,
    seed: Seed = 0,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Compare scheduling policies under a KV-cache limit."""
    from jaxalloc.cli.compute import computing
    from jaxalloc.cli.output import print_json

    for flag, value, least, most in (
        ("capacity", capacity, 2, MOST_TOKENS),
        ("requests", requests, 1, MOST_REQUESTS),
        ("replications", replications, 1, MOST_REQUESTS),
        ("aging", aging, 0, MOST_TOKENS),
        ("max-rounds", 1 if max_rounds is None else max_rounds, 1, MOST_TOKENS),
    ):
        if value < least:
            raise BadInput(f"--{flag} = {value} must be at least {least}")
        if value > most:
            raise BadInput(f"--{flag} = {value} must be at most {most}")
    if requests * replications > MOST_REQUESTS:
        raise BadInput(
            f"--requests = {requests} times --replications = {replications} is more than "
            f"{MOST_REQUESTS}: lower one"
        )
    with computing():
        from jaxalloc.cli import schedule_answer as answer
        from jaxalloc.messages import read_pairs
        from jaxalloc.traces import words as given

        try:
            chosen = given.read_policies(policies, aging)
            model = given.read_batch_time(batch_time)
            reading = {
                "columns": read_pairs(columns or ""),
                "time_unit": time_unit,
            }
            if not given.is_file(source) and any(reading.values()):
                raise BadInput(f"TRACE = {source} is no file: drop --columns and --time-unit")
            drawn = given.read_source(
                source, prompt, capacity, requests, replications, seed, **reading
            )
            times = [
                given.read_arrivals(arrivals, trace, model is not None, *streams)
                for trace, *streams in zip(*drawn[:3], strict=True)
            ]
            setup = answer.Setup(
                source, drawn, capacity, times, arrivals, intervals, model, max_rounds, aging
            )
            document, schedules = answer.compare(setup, chosen)
            if plot is not None:
                answer.draw(setup, chosen, document, schedules, plot)
                document["plot"] = str(plot)
        except ValueError as error:
            raise BadInput(str(error)) from None
    if as_json:
        print_json(document)
    else:
        _print(document)
    if not any(row["finished"] for row in document["policies"]):
        typer.echo(
            "jaxalloc: MAX_ROUNDS: no policy finished every request: try --max-rounds or others",
            err=True,
        )
        raise typer.Exit(FAILED)


def _print(document: dict[str, Any]) -> None:
    """The table."""
    from jaxalloc.cli.output import make_table, show

    heads = {
        "mean_latency": "mean",
        "p95_latency": "p95",
        "mean_time_to_first_token": "first",
        "makespan": "makespan",
        "total_evictions": "evicted",
        "total_wasted": "wasted",
        "ratio_to_h_sf": "× H-SF",
    }
    least = ("wasted", "evicted", "makespan", "first", "p95")
    table = make_table("policy", *heads.values(), least=least)
    for row in document["policies"]:
        table.add_row(row["policy"], *(_cell(row[name], name) for name in heads))
    quality = document["calibration"]
    lines = [
        f"{document['source']}: {document['replications']} × {document['requests']} requests, "
        f"prompts of {document['mean_prompt']:.0f} and outputs of {document['mean_output']:.0f} "
        f"tokens, capacity {document['capacity']}; times in {document['unit']}",
        f"predictions {document['intervals']}: {quality['coverage']:.1%} covered, mean width "
        f"{quality['mean_width']:.1f}, rank correlation {quality['rank_correlation']:.2f}",
    ]
    if document["arrivals"] == "trace":
        read = {"date": "dates and times"}.get(document["time_unit"], document["time_unit"])
        lines.append(f"arrivals of the trace, read as {read}")
    long = document["too_long"]
    if long["requests"]:
        lines.append(
            f"{long['requests']:,} of {long['of']:,} requests, with {long['token_share']:.1%} of "
            "all tokens, are left out: they do not fit into the cache"
        )
    if document["without_output"]:
        lines.append(f"{document['without_output']:,} requests without output are left out")
    if document["mean_latency_bound"] is not None:
        lines.append(f"no schedule has a mean latency below {document['mean_latency_bound']:.1f}")
    unfinished = [row for row in document["policies"] if not row["finished"]]
    lines += [f"{row['policy']}: {row['statuses']}" for row in unfinished]
    show(lines[0], table, *lines[1:])


def _cell(value: float | None, name: str) -> str:
    import math

    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if name == "ratio_to_h_sf":
        return f"{value:.3f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
