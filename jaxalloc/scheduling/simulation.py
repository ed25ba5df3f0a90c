"""`simulate`: a policy at work on one instance, and what came of it."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxalloc.scheduling import native, rounds, state
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import PerRequest, Requests
from jaxalloc.scheduling.state import Instance, Log, Sum


class ScheduleStatus(enum.IntEnum):
    """How a simulation ended."""

    FINISHED = 0
    """Every request finished."""
    MAX_ROUNDS = 1
    """The rounds were used up first; unfinished requests have start = finish = −1."""
    SLOTS_EXCEEDED = 2
    """More requests were to run together than there are slots: raise `slots`."""
    INVALID = 3
    """A value is outside its domain (see `validate`); nothing was run."""


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
        return jnp.sum(self.evictions, axis=-1)

    @property
    def total_recomputed(self) -> Int[Array, "*B"]:
        """Generated tokens lost in all."""
        return jnp.sum(self.recomputed, axis=-1)

    @property
    def total_wasted(self) -> Int[Array, "*B"]:
        """Generated tokens lost and tokens prefilled again, in all."""
        return jnp.sum(self.wasted, axis=-1)

    def latency_percentile(self, percent: float) -> Float[Array, "*B"]:
        """Percentile of the latency, interpolated linearly; inf if it falls on one unfinished."""
        return _percentile(self.latency, percent)

    def time_to_first_token_percentile(self, percent: float) -> Float[Array, "*B"]:
        """Percentile of the time to first token, likewise."""
        return _percentile(self.time_to_first_token, percent)


def simulate(
    requests: Requests,
    capacity: Any,
    policy: Policy,
    *,
    key: jax.Array | None = None,
    batch_time: BatchTime | None = None,
    max_rounds: Any = None,
    slots: int | None = None,
    record: bool | int = False,
) -> Schedule:
    """Serve one instance under a KV-cache limit, round by round.

    It never raises on values: an instance whose values are outside their domain is INVALID (ask
    `validate` why). Works under `jax.jit` and `jax.vmap`; compiled once a shape and policy.

    Args:
      requests: one instance ([N] fields); `simulate_batch` runs many.
      capacity: M, tokens that the cache holds.
      policy: who runs, one of `jaxalloc.policies`.
      key: of the random policy (`AlphaBetaClearing`); None: key 0.
      batch_time: seconds a round; arrivals are then seconds. None: arrivals are rounds.
      max_rounds: rounds after which to give up; None: the last arrival (if in rounds)
        + 8 · (sum of the outputs) + 64. One request at a time takes the sum of the outputs.
      slots: the most requests that may run together; None: N, which is always enough and costs
        memory alone.
      record: keep the tokens held after every round; under tracing, how many rounds to keep.

    Returns:
      The schedule; look at its `status` first.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=1, output=[2, 4, 3], lower=1, upper=4)
    >>> schedule = jaxalloc.simulate(requests, 8, jaxalloc.policies.AMin())
    >>> schedule.finish.tolist(), float(schedule.total_latency), schedule.evictions.tolist()
    ([5, 4, 3], 12.0, [2, 0, 0])
    """
    key = jax.random.key(0) if key is None else key
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    arguments = (requests, capacity, key, batch_time, max_rounds)
    if record is True:
        short = _simulate(*arguments, policy=policy, slots=slots, record=0)
        if isinstance(short.rounds, jax.core.Tracer):
            raise ValueError("record = True under tracing: give the number of rounds to keep")
        record = max(int(short.rounds), 1)
    return _simulate(*arguments, policy=policy, slots=slots, record=int(record))


@jax.jit(static_argnames=("policy", "slots", "record"))
def _simulate(
    requests: Requests,
    capacity: Array,
    key: Array,
    batch_time: BatchTime | None,
    max_rounds: Array | None,
    *,
    policy: Policy,
    slots: int | None,
    record: int,
) -> Schedule:
    """Prepare, loop, summarize."""
    instance, invalid = state.prepare(requests, capacity, policy, key, batch_time, max_rounds)
    num_slots = requests.num_requests if slots is None else max(slots, 1)

    def run(instance: Instance) -> _End:
        first = state.initial(instance, policy, num_slots, record)
        last = lax.while_loop(
            lambda now: ~rounds.is_over(instance, now),
            lambda now: rounds.play(instance, policy, now, num_slots),
            rounds.wait_for_arrival(instance, first),
        )
        return _End(**{name: getattr(last, name) for name in _End._fields})

    return _summarize(requests, instance, native.dispatch(run, instance), invalid)


class _End(NamedTuple):
    """What is left of the last `State`."""

    time: Array
    clock: Sum
    finished: Array
    ledger: Array
    peak: Array
    area: Sum
    exceeded: Array
    log: Log


def _summarize(
    requests: Requests, instance: Instance, end: _End, invalid: Bool[Array, ""]
) -> Schedule:
    """The schedule that a last state amounts to."""
    real = requests.output > 0
    ledger = end.ledger
    start, first = ledger[:, state.STARTED], ledger[:, state.FIRST]
    finish = start + requests.output - ledger[:, state.KEPT]
    done = real & (start >= 0) & (finish <= end.time)
    begun = real & (first >= 0) & (first < end.time)
    start, finish = jnp.where(done, start, -1), jnp.where(done, finish, -1)
    floating = end.clock.total.dtype
    if instance.in_seconds:
        finish_time, token_time = end.log.finish, end.log.first_token
        makespan = end.clock.total
    else:
        finish_time, token_time = finish.astype(floating), (first + 1).astype(floating)
        makespan = end.time.astype(floating)
    arrival = requests.arrival.astype(floating)

    def since_arrival(time: Array, known: Array) -> Array:
        return jnp.where(real, jnp.where(known, time - arrival, jnp.inf), jnp.nan)

    recomputed = ledger[:, state.RECOMPUTED]
    status = jnp.where(
        end.finished >= instance.total,
        ScheduleStatus.FINISHED,
        jnp.where(end.exceeded, ScheduleStatus.SLOTS_EXCEEDED, ScheduleStatus.MAX_ROUNDS),
    )
    return Schedule(
        start=start,
        finish=finish,
        first_start=first,
        latency=since_arrival(finish_time, done),
        time_to_first_token=since_arrival(token_time, begun),
        finish_seconds=jnp.where(done, finish_time, -1),
        evictions=ledger[:, state.EVICTIONS],
        recomputed=recomputed,
        wasted=recomputed + ledger[:, state.REPEATED],
        rounds=end.time,
        makespan=makespan,
        peak_occupancy=end.peak,
        mean_occupancy=jnp.where(makespan > 0, end.area.total / jnp.maximum(makespan, 1e-30), 0),
        status=jnp.where(invalid, ScheduleStatus.INVALID, status).astype(jnp.int32),
        occupancy=end.log.held,
    )


def _percentile(values: Float[Array, "*B N"], percent: float) -> Float[Array, "*B"]:
    """Linear interpolation between order statistics, NaN left out, inf allowed."""
    ordered = jnp.sort(values, axis=-1)  # NaN last
    count = jnp.sum(~jnp.isnan(values), axis=-1, keepdims=True)
    place = jnp.maximum(count - 1, 0) * (percent / 100)
    below = jnp.floor(place).astype(jnp.int32)
    low = jnp.take_along_axis(ordered, below, axis=-1)
    above = jnp.minimum(below + 1, values.shape[-1] - 1)
    high = jnp.take_along_axis(ordered, above, axis=-1)
    part = place - below
    return jnp.where(part > 0, low + part * (high - low), low)[..., 0]
