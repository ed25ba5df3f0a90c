"""A sweep of schedules: every configuration is an instance and a policy, its answer figures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus
from jaxalloc.scheduling.simulation import simulate
from jaxalloc.sweep.axes import Axis
from jaxalloc.sweep.designs import Columns, Design
from jaxalloc.sweep.placement import MostRows, spread
from jaxalloc.sweep.settings import (
    Instance,
    check_fixed,
    check_instance,
    make_instance,
    quality,
    trace_digests,
)
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


class _Group(NamedTuple):
    """The rows of a launch that one policy plays, and what it computes."""

    rows: np.ndarray[Any, Any]
    answers: Any


class _Started(NamedTuple):
    """All groups of a launch, and what is known of the instances themselves."""

    groups: list[_Group]
    quality: Columns


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
    most_rows = MostRows(cpu=64, accelerator=4096)

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
                check_instance(
                    self._instance({name: column[0].item() for name, column in values.items()})
                )
            except ValueError as error:
                first = first or error
            else:
                return
        many = "every configuration is INVALID: of the first, " if design.size > 1 else ""
        raise ValueError(f"{many}{first}")

    def start(self, rows: Columns, count: int, mesh: Mesh | None) -> _Started:
        """Start playing; what `finish` waits for."""
        values = {name: column.tolist() for name, column in rows.items()}
        made = [self._possible({name: values[name][i] for name in values}) for i in range(count)]
        known = [{} if one is None else quality(one) for one in made]
        by_policy: dict[tuple[Policy, bool], list[int]] = {}
        for row, one in enumerate(made):
            if one is not None:
                by_policy.setdefault((one.policy, one.batch_time is not None), []).append(row)
        groups = []
        for (policy, in_seconds), own in by_policy.items():
            batch = self._batch({row: one for row in own if (one := made[row])}, count, in_seconds)
            groups.append(_Group(np.array(own), _compiled(policy, mesh)((), batch)))
        columns = {n: np.array([each.get(n, np.nan) for each in known]) for n in _QUALITIES}
        return _Started(groups, columns)

    def finish(self, started: _Started) -> Columns:
        """Wait for the answers, by column; NaN and −1 where an instance cannot be."""
        count = len(started.quality["coverage"])
        answers: Columns = {"status": np.full(count, int(ScheduleStatus.INVALID))}
        answers |= {name: np.full(count, np.nan) for name in _TIMES}
        answers |= {name: np.full(count, -1) for name in _COUNTS}
        for group in started.groups:
            for name, column in jax.tree.map(np.asarray, group.answers).items():
                answers[name][group.rows] = column[group.rows]
        return answers | started.quality

    def _instance(self, values: Mapping[str, Any]) -> Instance:
        return make_instance({**self.fixed, **values})

    def _possible(self, values: Mapping[str, Any]) -> Instance | None:
        """The instance, or None where there is none, such as where too few requests fit."""
        try:
            return self._instance(values)
        except ValueError:
            return None

    def _batch(self, made: dict[int, Instance], count: int, in_seconds: bool) -> Any:
        """[count] lanes of N requests; those that others play are empty."""
        lanes = range(count)
        shape = (count, self.num_requests)
        fields: dict[str, Any] = {
            name: np.zeros(shape, np.int32)
            for name in ("prompt", "output", "lower", "upper", "predicted")
        }
        fields["arrival"] = np.zeros(shape, self.dtype() if in_seconds else np.int32)
        for row, one in made.items():
            num = one.trace.num_requests
            for name in ("prompt", "output"):
                fields[name][row, :num] = getattr(one.trace, name)
            for name in ("lower", "upper", "predicted"):
                fields[name][row, :num] = getattr(one.predictions, name)
            fields["arrival"][row, :num] = one.arrival
        first = next(iter(made.values()))
        seeds = [made.get(row, first).seed for row in lanes]
        stretches = [made.get(row, first).stretch for row in lanes]
        capacity = np.array([made.get(row, first).capacity for row in lanes], np.int32)
        rounds = [made.get(row, first).max_rounds for row in lanes]
        return (
            Requests(**fields),
            capacity,
            np.asarray(jax.random.key_data(policy_keys(seeds, stretches))),
            _stack([made.get(row, first).batch_time for row in lanes], self.dtype()),
            None if rounds[0] is None else np.array(rounds, np.int32),
        )


def make_schedules(given: Mapping[str, Any], design: Design) -> Schedules:
    """The job of a plan, checked.

    Raises:
      ValueError: names the setting, the value and the fix.
    """
    axes = {axis.field: axis for axis in design.axes}
    fixed = check_fixed(given, set(axes))
    most = axes["requests"].ends()[1] if "requests" in axes else fixed["requests"]
    source = axes.get("source")
    sources = source.values.tolist() if isinstance(source, Axis) else [fixed["source"]]
    return Schedules(fixed, int(most), trace_digests(sources))


def _stack(models: list[BatchTime | None], dtype: Any) -> BatchTime | None:
    """[B] batch-time models as one."""
    known = [model for model in models if model is not None]
    if not known:
        return None
    return jax.tree.map(lambda *leaves: np.array(leaves, dtype), *known)


@functools.cache
def _compiled(policy: Policy, mesh: Mesh | None) -> Any:
    """The function that plays a chunk with one policy."""

    def play(_: Any, lanes: Any) -> dict[str, Any]:
        def one(requests: Any, capacity: Any, data: Any, batch_time: Any, rounds: Any) -> Schedule:
            return simulate(
                requests,
                capacity,
                policy,
                key=jax.random.wrap_key_data(data) if policy.draws else None,
                batch_time=batch_time,
                max_rounds=rounds,
            )

        played = jax.vmap(one)(*lanes)
        times = {f"p{p}_latency": played.latency_percentile(p) for p in (50, 95, 99)}
        names = [name for name in (*_TIMES, *_COUNTS) if name not in times]
        return {"status": played.status, **times} | {name: getattr(played, name) for name in names}

    return spread(play, mesh)
