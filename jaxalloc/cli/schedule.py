"""`jaxalloc schedule`: policies against metrics on a trace or a synthetic workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jaxalloc.cli.errors import BadInput

if TYPE_CHECKING:
    from jaxalloc.scheduling.batch_time import BatchTime
    from jaxalloc.scheduling.policies import Policy
    from jaxalloc.scheduling.requests import Requests
    from jaxalloc.scheduling.schedule import Schedule
    from jaxalloc.traces.intervals import Predictions
    from jaxalloc.traces.trace import Trace

FAILED = 1
POLICIES = {
    "a_min": "AMin",
    "a_max": "AMax",
    "h_sf": "HindsightShortestFirst",
    "mc_sf": "MCSF",
    "mc_benchmark": "MCBenchmark",
    "vllm": "VLLMFirstCome",
    "alpha": "AlphaProtection",
    "alpha_beta": "AlphaBetaClearing",
}
PICTURES = (".png", ".pdf", ".svg")


class Setup(NamedTuple):
    """What the flags amount to: B replications of N requests each.

    Attributes:
      source: the words of the command line.
      capacity: M.
      traces: [B] the requests of every replication.
      arrivals: [B] their arrivals in rounds or seconds.
      intervals: how predictions are made.
      seed: of arrivals, predictions and policies.
      batch_time: seconds a round, or None.
      max_rounds: after which to give up, or None.
      aging: of every policy.
    """

    source: str
    capacity: int
    traces: list[Trace]
    arrivals: list[Any]
    intervals: str
    seed: int
    batch_time: BatchTime | None
    max_rounds: int | None
    aging: int


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schedule")(schedule)


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
    ] = ",".join(POLICIES),
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
    aging: Annotated[
        int, typer.Option("--aging", help="Tokens of precedence a round of waiting.")
    ] = 0,
    max_rounds: Annotated[
        int | None,
        typer.Option("--max-rounds", help="Rounds after which to give up.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all random numbers.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw a picture: .png, .pdf or .svg."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare scheduling policies under a KV-cache limit."""
    from jaxalloc.cli.output import print_json
    from jaxalloc.cli.precision import float64

    if plot is not None and (plot.suffix not in PICTURES or not plot.parent.is_dir()):
        raise BadInput(f"--plot = {plot} must be a {', '.join(PICTURES)} file in a folder that is")
    for flag, value, least in (
        ("capacity", capacity, 2),
        ("requests", requests, 1),
        ("replications", replications, 1),
        ("aging", aging, 0),
        ("seed", seed, 0),
        ("max-rounds", 1 if max_rounds is None else max_rounds, 1),
    ):
        if value < least:
            raise BadInput(f"--{flag} = {value} must be at least {least}")
    with float64():
        from jaxalloc.cli import schedule_input as given

        try:
            chosen = given.read_policies(policies, aging)
            model = given.read_batch_time(batch_time)
            traces = given.read_source(
                source, columns, prompt, capacity, requests, replications, seed
            )
            times = given.read_arrivals(arrivals, traces, model is not None, seed)
            setup = Setup(
                source, capacity, traces, times, intervals, seed, model, max_rounds, aging
            )
            document, schedules = _compare(setup, chosen)
            if plot is not None:
                _draw(setup, chosen, document, schedules, plot)
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


def _compare(setup: Setup, chosen: dict[str, Policy]) -> tuple[dict[str, Any], dict[str, Schedule]]:
    """Run every policy; the answer as plain Python, and the schedules."""
    import numpy as np

    from jaxalloc.scheduling.bounds import latency_bound

    predictions, batch = make_batch(setup, setup.intervals)
    schedules = {name: run(setup, policy, batch) for name, policy in chosen.items()}
    bound = None
    if setup.batch_time is None:
        bound = np.asarray(latency_bound(batch, setup.capacity)) / setup.traces[0].num_requests
    first = setup.traces[0]
    document: dict[str, Any] = {
        "source": setup.source,
        "capacity": setup.capacity,
        "requests": first.num_requests,
        "replications": len(setup.traces),
        "intervals": setup.intervals,
        "seed": setup.seed,
        "unit": "rounds" if setup.batch_time is None else "seconds",
        "mean_prompt": float(np.mean([trace.prompt for trace in setup.traces])),
        "mean_output": float(np.mean([trace.output for trace in setup.traces])),
        "arrival_cv": first.arrival_cv,
        "calibration": _calibration(setup, predictions),
        "mean_latency_bound": None if bound is None else float(np.mean(bound)),
        "policies": [_row(name, played) for name, played in schedules.items()],
    }
    _add_ratios(document)
    return document, schedules


def make_batch(setup: Setup, intervals: str) -> tuple[list[Predictions], Requests]:
    """Predictions of every replication, and the requests as one batch."""
    import numpy as np

    from jaxalloc.cli.schedule_input import read_intervals
    from jaxalloc.scheduling.requests import Requests

    predictions = [
        read_intervals(intervals, trace, setup.seed + b) for b, trace in enumerate(setup.traces)
    ]
    batch = Requests.create(
        prompt=np.stack([trace.prompt for trace in setup.traces]),
        output=np.stack([trace.output for trace in setup.traces]),
        lower=np.stack([made.lower for made in predictions]),
        upper=np.stack([made.upper for made in predictions]),
        predicted=np.stack([made.predicted for made in predictions]),
        arrival=np.stack(setup.arrivals),
    )
    return predictions, batch


def run(setup: Setup, policy: Policy, batch: Requests, record: int = 0) -> Schedule:
    """All replications of one policy."""
    import jax

    from jaxalloc.scheduling.batch import simulate_batch
    from jaxalloc.scheduling.instance import validate

    validate(batch, setup.capacity, policy, in_seconds=setup.batch_time is not None)
    return simulate_batch(
        batch,
        setup.capacity,
        policy,
        key=jax.random.key(setup.seed),
        batch_time=setup.batch_time,
        max_rounds=setup.max_rounds,
        record=record,
    )


def _calibration(setup: Setup, predictions: list[Predictions]) -> dict[str, float]:
    """How good the predictions are, averaged over the replications."""
    import dataclasses

    import numpy as np

    from jaxalloc.traces.intervals import calibration

    reports = [
        dataclasses.asdict(calibration(trace.output, made))
        for trace, made in zip(setup.traces, predictions, strict=True)
    ]
    return {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}


def _row(name: str, played: Schedule) -> dict[str, Any]:
    """One policy's metrics, averaged over the replications; inf where one did not finish."""
    import numpy as np

    from jaxalloc.scheduling.schedule import ScheduleStatus

    columns = {
        "total_latency": played.total_latency,
        "mean_latency": played.mean_latency,
        **{f"p{p}_latency": played.latency_percentile(p) for p in (50, 95, 99)},
        "mean_time_to_first_token": played.mean_time_to_first_token,
        "makespan": played.makespan,
        "rounds": played.rounds,
        "total_evictions": played.total_evictions,
        "total_recomputed": played.total_recomputed,
        "total_wasted": played.total_wasted,
        "peak_occupancy": played.peak_occupancy,
        "mean_occupancy": played.mean_occupancy,
    }
    status = np.asarray(played.status)
    return {
        "policy": name,
        "finished": bool((status == ScheduleStatus.FINISHED).all()),
        "statuses": {s.name: int(np.sum(status == s)) for s in ScheduleStatus if s in status},
        **{key: float(np.mean(np.asarray(value))) for key, value in columns.items()},
    }


def _add_ratios(document: dict[str, Any]) -> None:
    """Mean latencies over H-SF's, if it ran, and over the bound."""
    rows = document["policies"]
    best = next((row["mean_latency"] for row in rows if row["policy"] == "h_sf"), None)
    for row in rows:
        bound = document["mean_latency_bound"]
        row["ratio_to_h_sf"] = None if best is None else row["mean_latency"] / best
        row["ratio_to_bound"] = None if bound is None else row["mean_latency"] / bound


def _print(document: dict[str, Any]) -> None:
    """The table."""
    from jaxalloc.cli.output import make_table, show

    heads = {
        "mean_latency": "mean",
        "p95_latency": "p95",
        "p99_latency": "p99",
        "mean_time_to_first_token": "first",
        "makespan": "makespan",
        "total_evictions": "evicted",
        "total_wasted": "wasted",
        "ratio_to_h_sf": "× H-SF",
    }
    table = make_table("policy", *heads.values())
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
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _draw(
    setup: Setup,
    chosen: dict[str, Policy],
    document: dict[str, Any],
    schedules: dict[str, Schedule],
    path: Path,
) -> None:
    """Latency against interval width, and occupancy over time in the first replication."""
    import numpy as np

    from jaxalloc.cli.plots.schedule import WIDTHS, schedule_figure
    from jaxalloc.cli.plots.style import save

    curves: dict[str, list[tuple[float, float]]] = {}
    first = setup._replace(traces=setup.traces[:1], arrivals=setup.arrivals[:1])
    occupancy = {}
    _, batch = make_batch(first, setup.intervals)
    for name, policy in chosen.items():
        rounds = int(schedules[name].rounds[0])
        played = run(first, policy, batch, record=1 << rounds.bit_length())
        held = np.asarray(played.occupancy)[0, : int(played.rounds[0])]
        occupancy[name] = (held, float(played.makespan[0]))
    for words in WIDTHS:
        predictions, batch = make_batch(setup, words)
        width = _calibration(setup, predictions)["mean_width"]
        for name, policy in chosen.items():
            played = schedules[name] if name not in WIDTH_MATTERS else run(setup, policy, batch)
            curves.setdefault(name, []).append((width, float(np.mean(played.mean_latency))))
    save(schedule_figure(curves, occupancy, document), path)


WIDTH_MATTERS = ("a_min", "a_max", "mc_sf", "mc_benchmark")
