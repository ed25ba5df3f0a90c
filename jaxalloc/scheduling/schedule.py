"""The result: what a policy did, and the figures by which it is judged."""

from __future__ import annotations

import dataclasses
import enum
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalloc.scheduling.requests import PerRequest


class ScheduleStatus(enum.IntEnum):
    """How a simulation ended."""

    FINISHED = 0
    """Every request finished."""
    MAX_ROUNDS = 1
    """The rounds were used up first, or all resets repeat themselves for ever; unfinished requests
    have start = finish = −1."""
    SLOTS_EXCEEDED = 2
    """More requests were to run together than there are slots: raise `slots`."""
    INVALID = 3
    """A value is outside its domain (see `Requests.check`); nothing was run."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a policy did with one instance or a batch of them.

    Times are rounds unless they are called seconds or latencies; latencies are in the unit of the
    arrivals: rounds, or seconds under a batch-time model. Padding has start = finish = −1 and a
    latency of NaN; unfinished requests have start = finish = −1 and a latency of inf.

    Attributes:
      start: [*B, N] round of the last start.
      finish: [*B, N] round at whose beginning it is complete.
      first_start: [*B, N] round of the first start; −1 if it never started.
      latency: [*B, N] finish − arrival.
      time_to_first_token: [*B, N] first start + 1 − arrival, or the end of that round in seconds.
      finish_seconds: [*B, N] end of the last round, s; without a batch-time model as `finish`.
        Where the requests have `since`, the seconds count from there, as `makespan`'s do.
      evictions: [*B, N] times it was killed.
      recomputed: [*B, N] generated tokens lost by being killed.
      wasted: [*B, N] `recomputed`, and the tokens prefilled again.
      rounds: [*B] rounds played, idle ones included where arrivals are rounds.
      makespan: [*B] time at which the last round played ended.
      peak_occupancy: [*B] largest number of tokens held after a round.
      mean_occupancy: [*B] tokens held, averaged over time until `makespan`.
      status: [*B] a `ScheduleStatus`.
      occupancy: [*B, L] tokens held after every round if recorded, else None.
    """

    PER_REQUEST: ClassVar[tuple[str, ...]] = (
        "start",
        "finish",
        "first_start",
        "latency",
        "time_to_first_token",
        "finish_seconds",
        "evictions",
        "recomputed",
        "wasted",
    )

    start: PerRequest
    finish: PerRequest
    first_start: PerRequest
    latency: Float[Array, "*B N"]
    time_to_first_token: Float[Array, "*B N"]
    finish_seconds: Float[Array, "*B N"]
    evictions: PerRequest
    recomputed: PerRequest
    wasted: PerRequest
    rounds: Int[Array, "*B"]
    makespan: Float[Array, "*B"]
    peak_occupancy: Int[Array, "*B"]
    mean_occupancy: Float[Array, "*B"]
    status: Int[Array, "*B"]
    occupancy: Int[Array, "*B L"] | None

    @property
    def total_latency(self) -> Float[Array, "*B"]:
        """TEL = Σ (finish − arrival); inf if a request did not finish."""
        return jnp.nansum(self.latency, axis=-1)

    @property
    def mean_latency(self) -> Float[Array, "*B"]:
        """TEL over the number of requests."""
        return jnp.nanmean(self.latency, axis=-1)

    @property
    def mean_time_to_first_token(self) -> Float[Array, "*B"]:
        """Mean of `time_to_first_token`; inf if a request never started."""
        return jnp.nanmean(self.time_to_first_token, axis=-1)

    @property
    def total_evictions(self) -> Int[Array, "*B"]:
        """Kills in all."""
        return _total(self.evictions)

    @property
    def total_recomputed(self) -> Int[Array, "*B"]:
        """Generated tokens lost in all; as all totals at most the largest of its integers."""
        return _total(self.recomputed)

    @property
    def total_wasted(self) -> Int[Array, "*B"]:
        """Generated tokens lost and tokens prefilled again, in all."""
        return _total(self.wasted)

    def latency_percentile(self, percent: float) -> Float[Array, "*B"]:
        """Percentile (0 to 100) of the latency, interpolated linearly; inf if it falls on inf."""
        return _percentile(self.latency, percent)

    def time_to_first_token_percentile(self, percent: float) -> Float[Array, "*B"]:
        """Percentile of the time to first token, likewise."""
        return _percentile(self.time_to_first_token, percent)


def _total(counts: PerRequest) -> Int[Array, "*B"]:
    """The sum of counts, which stops at the largest number of its dtype and wraps nowhere."""
    exact = jnp.sum(counts, axis=-1)
    largest = jnp.iinfo(exact.dtype).max
    rough = jnp.sum(counts.astype(float), axis=-1)
    return jnp.where((exact < 0) | (rough > 1.5 * largest), largest, exact)


def _percentile(values: Float[Array, "*B N"], percent: float) -> Float[Array, "*B"]:
    """Linear interpolation between order statistics, NaN left out, inf allowed."""
    if not 0 <= percent <= 100:
        raise ValueError(f"percent = {percent} must be between 0 and 100")
    if values.shape[-1] == 0:
        return jnp.full(values.shape[:-1], jnp.nan, values.dtype)
    ordered = jnp.sort(values, axis=-1)  # NaN last
    count = jnp.sum(~jnp.isnan(values), axis=-1, keepdims=True, dtype=jnp.int32)
    place = jnp.maximum(count - 1, 0).astype(values.dtype) * (percent / 100)
    below = jnp.floor(place).astype(jnp.int32)
    low = jnp.take_along_axis(ordered, below, axis=-1)
    above = jnp.minimum(below + 1, values.shape[-1] - 1)
    high = jnp.take_along_axis(ordered, above, axis=-1)
    part = place - below.astype(place.dtype)
    between = jnp.where(jnp.isinf(low), low, low + part * (high - low))
    return jnp.where(part > 0, between, low)[..., 0]
