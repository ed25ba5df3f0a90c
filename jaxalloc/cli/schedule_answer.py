"""What `jaxalloc schedule` answers: policies run on the requests, their metrics, the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.bounds import latency_bound
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus
from jaxalloc.scheduling.simulation import simulate_batch
from jaxalloc.traces.intervals import Predictions, calibration
from jaxalloc.traces.words import Source, policy_keys, read_intervals

# The policies that read predictions.


class Setup(NamedTuple):
    """What the flags amount to: B replications of N requests each.

    Attributes:
      name: the words of the command line.
      source: the requests of every replication, and the streams it draws from.
      capacity: M.
      arrivals: [B] their arrivals in rounds or seconds.
      arrival_words, intervals: how arrivals and predictions are made.
      batch_time: seconds a round, or None.
      max_rounds: after which to give up, or None.
      aging: of every policy.
    """

    name: str
    source: Source
    capacity: int
    arrivals: list[Any]
    arrival_words: str
    intervals: str
    batch_time: BatchTime | None
    max_rounds: int | None
    aging: int


def compare(setup: Setup, chosen: dict[str, Policy]) -> tuple[dict[str, Any], dict[str, Schedule]]:
    """Run every policy; the answer as plain Python, and the schedules."""
    predictions, batch = make_batch(setup, setup.intervals)
    schedules = {name: run(setup, policy, batch) for name, policy in chosen.items()}
    bound = None
    if setup.batch_time is None:
        bound = np.asarray(latency_bound(batch, setup.capacity)) / batch.num_requests
    traces = setup.source.traces
    first = traces[0]
    document: dict[str, Any] = {
        "source": setup.name,
        "capacity": setup.capacity,
        "requests": first.num_requests,
        "replications": len(traces),
        "intervals": setup.intervals,
        "seed": setup.source.seeds[0],
        "unit": "rounds" if setup.batch_time is None else "seconds",
        "arrivals": setup.arrival_words,
        "time_unit": first.time_unit,
        "mean_prompt": float(np.mean([trace.prompt for trace in traces])),
        "mean_output": float(np.mean([trace.output for trace in traces])),
        "too_long": setup.source.too_long._asdict(),
        "without_output": first.dropped,
        "arrival_cv": first.arrival_cv,
        "calibration": _calibration(setup, predictions),
        "mean_latency_bound": None if bound is None else float(np.mean(bound)),
        "policies": [_row(name, played) for name, played in schedules.items()],
    }
    _add_ratios(document)
    return document, schedules


def make_batch(setup: Setup, intervals: str) -> tuple[list[Predictions], Requests]:
    """Predictions of every replication, and the requests as one batch."""
    traces, seeds, stretches, _ = setup.source
    predictions = [
        read_intervals(intervals, *one) for one in zip(traces, seeds, stretches, strict=True)
    ]
    batch = Requests.create(
        prompt=np.stack([trace.prompt for trace in traces]),
        output=np.stack([trace.output for trace in traces]),
        lower=np.stack([made.lower for made in predictions]),
        upper=np.stack([made.upper for made in predictions]),
        predicted=np.stack([made.predicted for made in predictions]),
        arrival=np.stack(setup.arrivals),
    )
    return predictions, batch


def run(setup: Setup, policy: Policy, batch: Requests, record: int = 0) -> Schedule:
    """All replications of one policy."""
    batch.check(setup.capacity, policy, batch_time=setup.batch_time)
    return simulate_batch(
        batch,
        setup.capacity,
        policy,
        key=policy_keys(setup.source.seeds, setup.source.stretches) if policy.draws else None,
        batch_time=setup.batch_time,
        max_rounds=setup.max_rounds,
        record=record,
    )


def _calibration(setup: Setup, predictions: list[Predictions]) -> dict[str, float]:
    """How good the predictions are, averaged over the replications."""
    reports = [
        dataclasses.asdict(calibration(trace.output, made))
        for trace, made in zip(setup.source.traces, predictions, strict=True)
    ]
    return {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}


def _row(name: str, played: Schedule) -> dict[str, Any]:
    """One policy's metrics, averaged over the replications; inf where one did not finish."""
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


def draw(
    setup: Setup,
    chosen: dict[str, Policy],
    document: dict[str, Any],
    schedules: dict[str, Schedule],
    path: Path,
) -> None:
    """Latency against interval width, and occupancy over time in the first replication."""
    from jaxalloc.cli.plots.schedule import WIDTHS, schedule_figure
    from jaxalloc.cli.plots.style import save

    curves: dict[str, list[tuple[float, float]]] = {}
    traces, seeds, stretches, too_long = setup.source
    alone = Source(traces[:1], seeds[:1], stretches[:1], too_long)
    first = setup._replace(source=alone, arrivals=setup.arrivals[:1])
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
            played = run(setup, policy, batch) if policy.reads_predictions else schedules[name]
            curves.setdefault(name, []).append((width, float(np.mean(played.mean_latency))))
    save(schedule_figure(curves, occupancy, document), path)
