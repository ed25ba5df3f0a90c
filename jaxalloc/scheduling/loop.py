"""One instance from its first round to its last, in the form that suits the platform."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Num

from jaxalloc.backend.dispatch import dispatch, with_kernel
from jaxalloc.scheduling import gpu_kernel
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.instance import prepare
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.rounds import state, turn
from jaxalloc.scheduling.rounds.state import Instance, Known, State
from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus


def schedule_of(
    requests: Requests,
    capacity: Any,
    random_key: Array | None,
    batch_time: BatchTime | None,
    max_rounds: Any,
    *,
    policy: Policy,
    slots: int | None,
    record: int,
) -> Schedule:
    """Prepare, play, summarize; all integers are of 32 bits."""
    num = requests.num_requests
    if num == 0:  # one that is padding instead
        requests = jax.tree.map(lambda x: jnp.zeros(1, x.dtype), requests)
    instance, invalid, origin = prepare(
        requests, capacity, policy, random_key, batch_time, max_rounds
    )
    end = _play(instance, policy, max(num, 1) if slots is None else slots, record)
    schedule = _summarize(instance, invalid, origin, end)
    if num == 0:
        columns = {name: getattr(schedule, name)[:0] for name in schedule.PER_REQUEST}
        schedule = dataclasses.replace(schedule, **columns)
    return schedule


def _play(instance: Instance, policy: Policy, num_slots: int, record: int) -> State:
    """The last state, but for what only rounds read."""

    def begin(instance: Instance) -> State:
        return turn.wait_for_arrival(instance, state.initial(instance, policy, num_slots, record))

    def run(started: tuple[Instance, State]) -> State:
        instance, first = started
        return lax.while_loop(
            lambda now: ~turn.is_over(instance, now),
            lambda now: turn.play(instance, policy, now, num_slots),
            first,
        )

    def end(last: State) -> State:
        none: Any = None
        return last._replace(waiting=none, slots=none, slot_of=none, stash=none)

    def plain(instance: Instance) -> State:
        # On its own, for it reads and makes whole arrays, of which the loop touches a few entries.
        first = dispatch(begin, instance)
        return dispatch(lambda started: end(run(started)), (instance, first))

    def kernel(instances: Instance, *, interpret: bool) -> State:
        def alone(instance: Instance) -> State:
            return run((instance, begin(instance)))

        return end(
            gpu_kernel.in_programs(instances, policy, num_slots, record, alone, interpret=interpret)
        )

    return with_kernel(plain, kernel, instance) if gpu_kernel.takes(instance) else plain(instance)


def _summarize(
    instance: Instance, invalid: Bool[Array, ""], origin: Num[Array, ""], end: State
) -> Schedule:
    """The schedule that a last state amounts to."""
    real, known = instance.output > 0, Known(*end.ledger)
    finish = known.started + instance.output - known.kept
    done = real & (known.started >= 0) & (finish <= end.time)
    begun = real & (known.first >= 0) & (known.first < end.time)
    start, finish = jnp.where(done, known.started, -1), jnp.where(done, finish, -1)
    floating = end.clock.total.dtype
    if end.finish is not None and end.first_token is not None:
        finish_time, token_time, makespan = end.finish, end.first_token[:-1], end.clock.total
    else:
        finish_time, token_time, makespan = finish, known.first + 1, end.time

    def since_arrival(times: Array, which: Array) -> Array:
        unknown = jnp.where(real, jnp.inf, jnp.nan).astype(floating)
        return jnp.where(which, (times - instance.arrival).astype(floating), unknown)

    status = jnp.where(
        end.finished >= instance.total,
        ScheduleStatus.FINISHED,
        jnp.where(end.exceeded, ScheduleStatus.SLOTS_EXCEEDED, ScheduleStatus.MAX_ROUNDS),
    )
    origin = origin.astype(floating)
    makespan = makespan.astype(floating) + origin
    mean = end.area.total / jnp.maximum(makespan, jnp.finfo(floating).tiny)
    return Schedule(
        start=start,
        finish=finish,
        first_start=known.first,
        latency=since_arrival(finish_time, done),
        time_to_first_token=since_arrival(token_time, begun),
        finish_seconds=jnp.where(done, finish_time.astype(floating) + origin, -1),
        evictions=known.evictions,
        recomputed=known.recomputed,
        wasted=known.recomputed + known.repeated,
        rounds=end.time,
        makespan=makespan,
        peak_occupancy=end.peak,
        mean_occupancy=jnp.where(makespan > 0, mean, 0),
        status=jnp.where(invalid, ScheduleStatus.INVALID, status).astype(jnp.int32),
        occupancy=end.occupancy,
    )
