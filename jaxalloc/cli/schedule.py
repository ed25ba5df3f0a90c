"""`jaxalloc schedule`: policies against metrics on a trace or a synthetic workload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from jaxalloc.cli.command import Answer, command
from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import Seed, TimeUnit, number, option
from jaxalloc.cli.report import Column, Part, Table, number as shown

MOST_TOKENS = 1 << 30  # and rounds: the scheduler counts in 32 bits
MOST_REQUESTS = 10**7  # of all replications: about 5 GB
_TOKENS = number(0, MOST_TOKENS, whole=True)
_COUNT = number(1, MOST_REQUESTS, whole=True)


@command
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
        int,
        option(
            "--capacity",
            "M",
            "Tokens the KV cache holds.",
            number(2, MOST_TOKENS, whole=True),
        ),
    ],
    policies: Annotated[
        str | None, option("--policies", "A,B", "Which policies to compare; by default all.")
    ] = None,
    requests: Annotated[int, option("--requests", "N", "Requests a replication.", _COUNT)] = 1000,
    replications: Annotated[
        int,
        option("--replications", "B", "Seeds of a generator, or stretches of a trace.", _COUNT),
    ] = 1,
    intervals: Annotated[
        str,
        option(
            "--intervals",
            "WORDS",
            "Predictions: exact, one (interval for all), one:LO:HI, bins:B, relative:X, "
            "noise:SIGMA, or own (columns of the trace).",
        ),
    ] = "bins:10",
    arrivals: Annotated[
        str,
        option("--arrivals", "LAW", "zero, poisson:RATE (a round, or a second), or trace."),
    ] = "zero",
    prompt: Annotated[
        str,
        option("--prompt", "N|LAW", "Prompts of a generator: tokens, or a law like the outputs'."),
    ] = "32",
    batch_time: Annotated[
        str | None,
        option(
            "--batch-time",
            "MODEL",
            "Seconds a round: llama2-70b, or BASE:PER_REQUEST:PER_TOKEN:PER_PREFILL.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        option("--columns", "A=B,...", "Columns of the trace, such as prompt=In,output=Out."),
    ] = None,
    time_unit: TimeUnit = None,
    aging: Annotated[
        int, option("--aging", "N", "Tokens of precedence a round of waiting.", _TOKENS)
    ] = 0,
    max_rounds: Annotated[
        int | None,
        option(
            "--max-rounds",
            "N",
            "Rounds after which to give up.",
            number(1, MOST_TOKENS, whole=True),
        ),
    ] = None,
    seed: Seed = 0,
) -> Answer:
    """Compare scheduling policies under a KV-cache limit."""
    if requests * replications > MOST_REQUESTS:
        raise BadInput(
            f"requests = {requests} times --replications = {replications} is more than "
            f"{MOST_REQUESTS}: lower one"
        )
    from jaxalloc.cli.schedule_answer import Study
    from jaxalloc.messages import read_pairs, within
    from jaxalloc.scheduling.policies import by_name
    from jaxalloc.traces import words

    chosen = words.read_policies(",".join(by_name) if policies is None else policies, aging)
    model = words.read_batch_time(batch_time)
    with within("columns"):
        reading: dict[str, Any] = {"columns": read_pairs(columns or ""), "time_unit": time_unit}
    if not words.is_file(source) and any(reading.values()):
        raise BadInput(f"source = {source} is no file: drop --columns and --time-unit")
    drawn = words.read_source(source, prompt, capacity, requests, replications, seed, **reading)
    times = [
        words.read_arrivals(arrivals, trace, model is not None, one, stretch)
        for trace, one, stretch in zip(drawn.traces, drawn.seeds, drawn.stretches, strict=True)
    ]
    study = Study(drawn, capacity, times, intervals, model, max_rounds)
    played = {name: study.play(policy) for name, policy in chosen.items()}
    document: dict[str, Any] = {"source": source, "arrivals": arrivals, "seed": seed}
    document |= study.describe(played)

    def draw() -> Any:
        from jaxalloc.cli.plots.schedule import schedule_figure

        curves = study.latency_by_width(chosen, played)
        return schedule_figure(curves, study.occupancy(chosen, played), document)

    failures = []
    if not any(row["finished"] for row in document["policies"]):
        failures = ["MAX_ROUNDS: no policy finished every request: try --max-rounds or others"]
    return Answer(document, _tables(document), draw, failures)


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    def figure(title: str, name: str, rank: int = 0) -> Column:
        def cell(row: dict[str, Any]) -> str:
            value = row[name]
            return shown(value, ".1f" if value is None or value < 100 else ",.0f")

        return Column(title, cell, rank=rank)

    yield (
        f"{document['source']}: {document['replications']} × {document['requests']} requests, "
        f"prompts of {document['mean_prompt']:.0f} and outputs of {document['mean_output']:.0f} "
        f"tokens, capacity {document['capacity']}; times in {document['unit']}"
    )
    columns = (
        Column("policy", "policy"),
        figure("mean", "mean_latency"),
        figure("p95", "p95_latency", 1),
        figure("first", "mean_time_to_first_token", 2),
        figure("makespan", "makespan", 3),
        figure("evicted", "total_evictions", 4),
        figure("wasted", "total_wasted", 5),
        Column("× H-SF", "ratio_to_h_sf", ".3f"),
    )
    yield Table(columns, document["policies"])
    quality, long = document["calibration"], document["too_long"]
    yield (
        f"predictions {document['intervals']}: {quality['coverage']:.1%} covered, mean width "
        f"{quality['mean_width']:.1f}, rank correlation {quality['rank_correlation']:.2f}"
    )
    if document["arrivals"] == "trace":
        unit = document["time_unit"]
        yield f"arrivals of the trace, read as {'dates and times' if unit == 'date' else unit}"
    if long["requests"]:
        yield (
            f"{long['requests']:,} of {long['of']:,} requests, with {long['token_share']:.1%} of "
            "all tokens, are left out: they do not fit into the cache"
        )
    if document["without_output"]:
        yield f"{document['without_output']:,} requests without output are left out"
    if document["mean_latency_bound"] is not None:
        yield f"no schedule has a mean latency below {document['mean_latency_bound']:.1f}"
    for row in document["policies"]:
        if not row["finished"]:
            yield f"{row['policy']}: {row['statuses']}"
