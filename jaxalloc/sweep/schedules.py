"""A sweep of schedules: every configuration is an instance and a policy, its answer figures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxalloc.scheduling.integers import as_int32
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus
from jaxalloc.scheduling.simulation import simulate
from jaxalloc.sweep.axes import Columns
from jaxalloc.sweep.designs import Design
from jaxalloc.sweep.settings import Instance, make_instance, read_fixed, trace_digests
from jaxalloc.traces.words import policy_keys

_TIMES = (
    "mean_latency",
    "p50_latency",
    "p95_latency",
    "p99_latency",
    "total_latency",
    "mean_time_to_first_token",
    "makespan",
    "mean_occupancy",
)
_COUNTS = ("rounds", "peak_occupancy", "total_evictions", "total_recomputed", "total_wasted")
_QUALITIES = ("coverage", "mean_width", "too_long_requests", "too_long_token_share")
_ARRAYS_OF_A_REQUEST = 24  # of 4 bytes: the instance, the ledger, the answer


@dataclasses.dataclass(frozen=True)
class Schedules:
    """A policy at work on requests, of which settings vary.

    Attributes:
      fixed: the settings that do not vary.
      num_requests: N, the most requests of a configuration.
      digests: SHA-256 of the traces.
    """

    fixed: dict[str, Any]
    num_requests: int
    digests: dict[str, str]

    kind = "schedule"
    statuses = tuple(status.name for status in sorted(ScheduleStatus))
    failures = ("INVALID",)  # a policy that does not finish is an answer
    rows_of_a_chunk = (1 << 3, 1 << 8)  # least and most

    @property
    def name(self) -> str:
        """The law or the trace."""
        return str(self.fixed.get("source", "schedules"))

    def describe(self) -> dict[str, Any]:
        """As plain Python: what tells this job from another."""
        source = self.fixed.get("source")
        named = {"source": Path(source).name} if source in self.digests else {}
        traces = {Path(file).name: sha256 for file, sha256 in self.digests.items()}
        return {"job": self.kind, "fields": self.fixed | named, "traces": traces}

    def dtype(self) -> np.dtype[Any]:
        """Of times: JAX's default."""
        return np.dtype(np.float64 if jax.config.values["jax_enable_x64"] else np.float32)

    def columns(self) -> dict[str, str]:
        """Names and types of the answers, in order."""
        times = dict.fromkeys(_TIMES, self.dtype().name)
        counts = dict.fromkeys(_COUNTS, "int32")
        return {"status": "text", **times, **counts, **dict.fromkeys(_QUALITIES, "float64")}

    def lane_bytes(self) -> int:
        """Memory of a configuration while it is played."""
        return 4 * _ARRAYS_OF_A_REQUEST * self.num_requests

    def check(self, design: Design) -> None:
        """Raise ValueError if no configuration can be."""
        first = None
        for row in range(design.size):
            values = design.rows(row, row + 1)
            try:
                one = self._instance({name: column[0].item() for name, column in values.items()})
                one.requests.check(one.capacity, one.policy, batch_time=one.batch_time)
            except ValueError as error:
                first = first or error
            else:
                return
        many = "every configuration is INVALID: of the first, " if design.size > 1 else ""
        raise ValueError(f"{many}{first}")

    def solve(self, rows: Columns) -> Columns:
        """The answers of some configurations, by column; NaN and -1 where one cannot be."""
        values = {name: column.tolist() for name, column in rows.items()}
        count = len(next(iter(values.values()), [0]))
        made = [self._possible({name: values[name][i] for name in values}) for i in range(count)]
        answers: Columns = {"status": np.full(count, int(ScheduleStatus.INVALID))}
        answers |= {name: np.full(count, np.nan) for name in (*_TIMES, *_QUALITIES)}
        answers |= {name: np.full(count, -1) for name in _COUNTS}
        for row, one in enumerate(made):
            for name, value in {} if one is None else one.quality.items():
                answers[name][row] = value
        for policy in dict.fromkeys(one.policy for one in made if one):
            own = [one if one and one.policy == policy else None for one in made]
            mine = np.array([one is not None for one in own])
            for name, column in _player(policy)(*self._lanes(own)).items():
                answers[name][mine] = np.asarray(column)[mine]
        return answers

    def _instance(self, values: Mapping[str, Any]) -> Instance:
        return make_instance({**self.fixed, **values})

    def _possible(self, values: Mapping[str, Any]) -> Instance | None:
        """The instance, or None where there is none, such as where too few requests fit."""
        try:
            return self._instance(values)
        except ValueError:
            return None

    def _lanes(self, made: list[Instance | None]) -> tuple[Any, ...]:
        """The arguments of `_player`: [B] lanes of N requests, empty where there is no instance."""
        first = next(one for one in made if one)
        empty = first._replace(requests=jax.tree.map(lambda leaf: leaf[:0], first.requests))
        lanes = [one or empty for one in made]

        def padded(name: str, dtype: Any = np.int32) -> Any:
            leaves = np.zeros((len(lanes), self.num_requests), dtype)
            for leaf, one in zip(leaves, lanes, strict=True):
                values = getattr(one.requests, name)
                leaf[: len(values)] = as_int32(name, values) if dtype is np.int32 else values
            return leaves

        whole = ("prompt", "output", "lower", "upper", "predicted")
        times = np.int32 if first.batch_time is None else self.dtype()
        seeds, stretches = zip(*(one.streams for one in lanes), strict=True)
        model, rounds = None, None
        if first.batch_time is not None:
            models = [one.batch_time for one in lanes]
            model = jax.tree.map(lambda *leaves: np.array(leaves, self.dtype()), *models)
        if first.max_rounds is not None:
            rounds = np.array([one.max_rounds for one in lanes], np.int32)
        return (
            Requests(**{name: padded(name) for name in whole}, arrival=padded("arrival", times)),
            np.array([one.capacity for one in lanes], np.int32),
            np.asarray(jax.random.key_data(policy_keys(seeds, stretches))),
            model,
            rounds,
        )


def make_schedules(given: Mapping[str, Any], design: Design) -> Schedules:
    """The job of a plan, checked.

    Raises:
      ValueError: names the setting, the value and the fix.
    """
    axes = {axis.field: axis for axis in design.axes}
    fixed = read_fixed(given, set(axes))
    most = axes["requests"].ends()[1] if "requests" in axes else fixed["requests"]
    sources = axes["source"].values.tolist() if "source" in axes else [fixed["source"]]
    return Schedules(fixed, int(most), trace_digests(sources))


@functools.cache
def _player(policy: Policy) -> Any:
    """The function that plays a chunk with one policy."""

    def one(requests: Any, capacity: Any, data: Any, batch_time: Any, rounds: Any) -> Schedule:
        key = jax.random.wrap_key_data(data) if policy.draws else None
        timed = {"batch_time": batch_time, "max_rounds": rounds}
        return simulate(requests, capacity, policy, key=key, **timed)

    def play(*lanes: Any) -> dict[str, Any]:
        played = jax.vmap(one)(*lanes)
        times = {f"p{p}_latency": played.latency_percentile(p) for p in (50, 95, 99)}
        names = [name for name in (*_TIMES, *_COUNTS) if name not in times]
        return {"status": played.status, **times} | {name: getattr(played, name) for name in names}

    return jax.jit(play)
