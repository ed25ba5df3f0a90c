"""`simulate`: a policy at work on one instance, and what came of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxalloc.backend.dispatch import dispatch, with_kernel
from jaxalloc.backend.sharding import mesh_of
from jaxalloc.scheduling import gpu_kernel, rounds, state
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.instance import prepare
from jaxalloc.scheduling.kvcache import NEVER
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus
from jaxalloc.scheduling.state import Instance, Log, State, Sum


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
        + 2 · (sum of the outputs) + 64. One request at a time takes the sum of the outputs.
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
    limits = (_within_int32(capacity), _within_int32(max_rounds))
    arguments = (requests, limits[0], as_key(key), batch_time, limits[1])
    with mesh_of(requests):
        if record is True:
            record = recorded_rounds(_simulate(*arguments, policy=policy, slots=slots, record=0))
        schedule: Schedule = _simulate(*arguments, policy=policy, slots=slots, record=int(record))
    return schedule


def _within_int32(value: Any) -> Any:
    """A Python integer cut to what 32 bits hold, far beyond any limit; anything else as it is."""
    return max(min(value, NEVER), -NEVER) if isinstance(value, int) else value


def as_key(key: jax.Array | None) -> jax.Array:
    """A typed key; None stands for key 0."""
    if key is None:
        return jax.random.key(0)
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def recorded_rounds(schedule: Schedule | None) -> int:
    """How many rounds to record: as many as were played without recording."""
    if schedule is None or isinstance(schedule.rounds, jax.core.Tracer):
        raise ValueError("record = True under tracing: give the number of rounds to keep")
    return max(int(jnp.max(schedule.rounds)), 1)


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
    requests = requests.as_int32()
    instance, invalid = prepare(requests, capacity, policy, key, batch_time, max_rounds)
    num_slots = requests.num_requests if slots is None else max(slots, 1)

    end = _play(instance, policy, num_slots, record)
    return _summarize(requests, instance, end, invalid)


def _play(instance: Instance, policy: Policy, num_slots: int, record: int) -> _End:
    """All rounds, in the form that suits the platform."""

    def begin(instance: Instance) -> State:
        first = state.initial(instance, policy, num_slots, record)
        return rounds.wait_for_arrival(instance, first)

    def run(started: tuple[Instance, State]) -> State:
        instance, first = started
        return lax.while_loop(
            lambda now: ~rounds.is_over(instance, now),
            lambda now: rounds.play(instance, policy, now, num_slots),
            first,
        )

    def from_start(instance: Instance) -> State:
        return run((instance, begin(instance)))

    def plain(instance: Instance) -> _End:
        # On its own, for it reads and makes whole arrays, of which the loop touches a few entries.
        first = dispatch(begin, instance)
        return dispatch(lambda started: _end(run(started)), (instance, first))

    def kernel(instances: Instance, *, interpret: bool) -> _End:
        return _end(
            gpu_kernel.in_programs(
                instances, policy, num_slots, record, from_start, interpret=interpret
            )
        )

    return with_kernel(plain, kernel, instance) if gpu_kernel.takes(instance) else plain(instance)


def _end(last: State) -> _End:
    return _End(**{name: getattr(last, name) for name in _End._fields})


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
    if end.log.finish is not None and end.log.first_token is not None:
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
