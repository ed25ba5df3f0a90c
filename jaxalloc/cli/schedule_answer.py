"""What `jaxalloc schedule` computes: policies at work on the same requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.bounds import latency_bound
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus
from jaxalloc.scheduling.simulation import simulate_batch
from jaxalloc.traces.intervals import calibration
from jaxalloc.traces.words import Source, policy_keys, read_intervals

# Predictions from perfect to useless, in the words of `--intervals`.
WIDTHS = ("exact", "bins:100", "bins:50", "bins:20", "bins:10", "bins:5", "bins:2", "one")
_PERCENTILES = (50, 95, 99)
_FIGURES = (
    *("total_latency", "mean_latency", "mean_time_to_first_token", "makespan", "rounds"),
    *("total_evictions", "total_recomputed", "total_wasted", "peak_occupancy", "mean_occupancy"),
)


class Study(NamedTuple):
    """B replications of N requests, for any policy.

    Attributes:
      source: the requests, and the streams that each replication draws from.
      capacity: M.
      arrivals: [B] of every replication, in rounds or seconds.
      intervals: how predictions are made.
      batch_time: seconds a round, or None.
      max_rounds: after which to give up, or None.
    """

    source: Source
    capacity: int
    arrivals: list[Any]
    intervals: str
    batch_time: BatchTime | None
    max_rounds: int | None

    def requests(self) -> tuple[Requests, dict[str, float]]:
        """All replications as one batch; how good the predictions are, averaged over them."""
        traces, seeds, stretches, _ = self.source
        made = [
            read_intervals(self.intervals, *one)
            for one in zip(traces, seeds, stretches, strict=True)
        ]
        quality = [
            dataclasses.asdict(calibration(trace.output, own))
            for trace, own in zip(traces, made, strict=True)
        ]

        def stacked(rows: Sequence[Any], *names: str) -> dict[str, Any]:
            return {name: np.stack([getattr(row, name) for row in rows]) for name in names}

        batch = Requests.create(
            **stacked(traces, "prompt", "output"),
            **stacked(made, "lower", "upper", "predicted"),
            arrival=np.stack(self.arrivals),
        )
        return batch, {name: _mean([one[name] for one in quality]) for name in quality[0]}

    def play(self, policy: Policy, record: int = 0) -> Schedule:
        """All replications of one policy."""
        batch, _ = self.requests()
        batch.check(self.capacity, policy, batch_time=self.batch_time)
        keys = policy_keys(self.source.seeds, self.source.stretches) if policy.draws else None
        return simulate_batch(
            batch,
            self.capacity,
            policy,
            key=keys,
            batch_time=self.batch_time,
            max_rounds=self.max_rounds,
            record=record,
        )

    def describe(self, played: Mapping[str, Schedule]) -> dict[str, Any]:
        """The answer as plain Python; means over the replications."""
        batch, quality = self.requests()
        first, bound = self.source.traces[0], None
        if self.batch_time is None:
            bound = _mean(latency_bound(batch, self.capacity)) / batch.num_requests
        rows = [{"policy": name} | _row(schedule) for name, schedule in played.items()]
        best = next((row["mean_latency"] for row in rows if row["policy"] == "h_sf"), None)
        for row in rows:
            row["ratio_to_h_sf"] = None if best is None else row["mean_latency"] / best
            row["ratio_to_bound"] = None if bound is None else row["mean_latency"] / bound
        return {
            "capacity": self.capacity,
            "requests": first.num_requests,
            "replications": len(self.source.traces),
            "intervals": self.intervals,
            "unit": "rounds" if self.batch_time is None else "seconds",
            "time_unit": first.time_unit,
            "mean_prompt": _mean(batch.prompt),
            "mean_output": _mean(batch.output),
            "too_long": self.source.too_long._asdict(),
            "without_output": first.dropped,
            "arrival_cv": first.arrival_cv,
            "calibration": quality,
            "mean_latency_bound": bound,
            "policies": rows,
        }

    def occupancy(
        self, chosen: Mapping[str, Policy], played: Mapping[str, Schedule]
    ) -> dict[str, tuple[Any, float]]:
        """Tokens held after every round of the first replication, and when the last one ended."""
        traces, seeds, stretches, too_long = self.source
        alone = Source(traces[:1], seeds[:1], stretches[:1], too_long)
        first = self._replace(source=alone, arrivals=self.arrivals[:1])
        held = {}
        for name, policy in chosen.items():
            rounds = int(played[name].rounds[0])
            again = first.play(policy, record=1 << rounds.bit_length())
            held[name] = (np.asarray(again.occupancy)[0, :rounds], float(again.makespan[0]))
        return held

    def latency_by_width(
        self, chosen: Mapping[str, Policy], played: Mapping[str, Schedule]
    ) -> dict[str, list[tuple[float, float]]]:
        """Mean width of the predictions and mean latency, from perfect to useless ones."""
        curves: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for words in WIDTHS:
            other = self._replace(intervals=words)
            width = other.requests()[1]["mean_width"]
            for name, policy in chosen.items():
                again = other.play(policy) if policy.reads_predictions else played[name]
                curves[name].append((width, _mean(again.mean_latency)))
        return curves


def _mean(values: Any) -> float:
    return float(np.mean(np.asarray(values)))


def _row(played: Schedule) -> dict[str, Any]:
    """One policy's figures; inf where a replication did not finish."""
    status = np.asarray(played.status)
    return {
        "finished": bool((status == ScheduleStatus.FINISHED).all()),
        "statuses": {s.name: int(np.sum(status == s)) for s in ScheduleStatus if s in status},
        **{name: _mean(getattr(played, name)) for name in _FIGURES},
        **{f"p{p}_latency": _mean(played.latency_percentile(p)) for p in _PERCENTILES},
    }
