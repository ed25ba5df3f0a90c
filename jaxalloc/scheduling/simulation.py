"""`simulate`: a policy at work on one instance, and what came of it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxalloc.backend.dispatch import dispatch, with_kernel
from jaxalloc.backend.sharding import mesh_of
from jaxalloc.numerics import Sum, as_key, without_derivative
from jaxalloc.scheduling import gpu_kernel, rounds, state
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.instance import Prepared, prepare
from jaxalloc.scheduling.integers import as_int32
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule, ScheduleStatus
from jaxalloc.scheduling.state import Instance, Log, State


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
    `validate` why). Works under `jax.jit` and `jax.vmap`; compiled once a shape and policy. It has
    no derivative, but may stand beside one, such as in an auxiliary output.

    Args:
      requests: one instance ([N] fields); `simulate_batch` runs many.
      capacity: M, tokens that the cache holds.
      policy: who runs, one of `jaxalloc.policies`.
      key: of the random policy (`AlphaBetaClearing`); None: key 0.
      batch_time: seconds a round; arrivals are then seconds. None: arrivals are rounds.
      max_rounds: rounds after which to give up, 2³⁰ at most; None: as many as it takes, which is
        proven to be finite, and for `AlphaBetaClearing` the last arrival (if in rounds)
        + 64 · (sum of the outputs) + 1024.
      slots: the most requests that may run together; None: N, which is always enough and costs
        memory alone.
      record: keep the tokens held after every round; under tracing, how many rounds to keep.

    Returns:
      The schedule; look at its `status` first.

    Raises:
      TypeError: an argument is of another kind, or a derivative is asked for.
      ValueError: a shape does not fit, or `slots` or `record` is outside its domain.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=1, output=[2, 4, 3], lower=1, upper=4)
    >>> schedule = jaxalloc.simulate(requests, 8, jaxalloc.policies.AMin())
    >>> schedule.finish.tolist(), float(schedule.total_latency), schedule.evictions.tolist()
    ([5, 4, 3], 12.0, [2, 0, 0])
    """
    check_options(requests, policy, slots, record)
    given = numbers(requests, capacity, batch_time, max_rounds)
    if shape := given[0].batch_shape:
        raise ValueError(f"requests have leading axes {shape}: use simulate_batch, or jax.vmap")
    typed_key = random_key(key, policy)

    def play(given: Numbers) -> Schedule:
        requests, capacity, batch_time, max_rounds = given
        arguments = (requests, capacity, typed_key, batch_time, max_rounds)
        play = functools.partial(_simulate, *arguments, policy=policy, slots=slots)
        with mesh_of(requests):
            rounds = recorded_rounds(play(record=0)) if record is True else int(record)
            return play(record=rounds)

    return without_derivative(play, given, NO_DERIVATIVE)


# The requests, the capacity, the batch time and the cap on rounds.
Numbers = tuple[Requests, Any, BatchTime | None, Any]

NO_DERIVATIVE = (
    "simulate has no derivative: put jax.lax.stop_gradient around what goes into it, or its "
    "schedule into an auxiliary output (has_aux=True)"
)


def check_options(requests: Any, policy: Any, slots: int | None, record: bool | int) -> None:
    """Raise one line about an argument that is of another kind, or an option outside its domain."""
    if not isinstance(requests, Requests):
        raise TypeError(f"requests = {requests!r:.80} is no `Requests`: use `Requests.create`")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy = {policy!r:.80} is no policy: give one, such as policies.AMin()")
    if slots is not None and (int(slots) != slots or slots < 1):
        raise ValueError(f"slots = {slots} must be a whole number, at least 1, or None")
    if int(record) != record or record < 0:
        raise ValueError(f"record = {record} must be True or a number of rounds, 0 or more")


def numbers(
    requests: Requests,
    capacity: Any,
    batch_time: BatchTime | None,
    max_rounds: Any,
) -> Numbers:
    """What the loop reads in its own dtypes, cast on the host where it is there.

    Raises:
      TypeError: a value is no number.
      ValueError: a shape does not broadcast to the leading axes of the requests.
    """
    requests = requests.as_int32()
    axes = requests.batch_shape
    capacity = as_int32("capacity", capacity)
    max_rounds = None if max_rounds is None else as_int32("max_rounds", max_rounds)
    seconds = {} if batch_time is None else vars(batch_time)
    if not isinstance(batch_time, BatchTime | None):
        raise TypeError(f"batch_time = {batch_time!r:.80} is no `BatchTime`")
    for name, value in {"capacity": capacity, "max_rounds": max_rounds, **seconds}.items():
        shape = np.shape(value)
        pairs = zip(reversed(shape), reversed(axes), strict=False)
        if len(shape) > len(axes) or any(mine not in (1, other) for mine, other in pairs):
            raise ValueError(f"{name} of shape {shape} does not broadcast to the leading axes "
                             f"{axes} of the requests")  # fmt: skip
    return requests, capacity, batch_time, max_rounds


def random_key(key: Any, policy: Policy) -> jax.Array | None:
    """A typed key for a policy that draws, where None stands for key 0; else None."""
    typed = None if key is None else as_key(key)
    if not policy.draws:
        return None
    return jax.random.key(0) if typed is None else typed


def recorded_rounds(schedule: Schedule | None) -> int:
    """How many rounds to record: as many as were played without recording."""
    if schedule is None or isinstance(schedule.rounds, jax.core.Tracer):
        raise ValueError("record = True under tracing: give the number of rounds to keep")
    return max(int(jnp.max(schedule.rounds, initial=1)), 1)


@jax.jit(static_argnames=("policy", "slots", "record"))
def _simulate(
    requests: Requests,
    capacity: Array,
    key: Array | None,
    batch_time: BatchTime | None,
    max_rounds: Array | None,
    *,
    policy: Policy,
    slots: int | None,
    record: int,
) -> Schedule:
    """Prepare, loop, summarize."""
    num = requests.num_requests
    if num == 0:  # one that is padding instead
        requests = jax.tree.map(lambda x: jnp.zeros(1, x.dtype), requests)
    prepared = prepare(requests, capacity, policy, key, batch_time, max_rounds)
    num_slots = max(num, 1) if slots is None else slots

    end = _play(prepared.instance, policy, num_slots, record)
    schedule = _summarize(requests, prepared, end)
    if num == 0:
        columns = {name: getattr(schedule, name)[:0] for name in schedule.PER_REQUEST}
        schedule = dataclasses.replace(schedule, **columns)
    return schedule


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


def _summarize(requests: Requests, prepared: Prepared, end: _End) -> Schedule:
    """The schedule that a last state amounts to."""
    instance, invalid, origin, arrival = prepared
    real = requests.output > 0
    ledger = end.ledger
    start, first = ledger[:, state.STARTED], ledger[:, state.FIRST]
    finish = start + requests.output - ledger[:, state.KEPT]
    done = real & (start >= 0) & (finish <= end.time)
    begun = real & (first >= 0) & (first < end.time)
    start, finish = jnp.where(done, start, -1), jnp.where(done, finish, -1)
    floating = end.clock.total.dtype
    if end.log.finish is not None and end.log.first_token is not None:
        finish_time, token_time, makespan = end.log.finish, end.log.first_token, end.clock.total
    else:
        finish_time, token_time, makespan = finish, first + 1, end.time
    latency, to_first_token = finish_time - arrival, token_time - arrival  # of integers, exactly

    def known(times: Array, which: Array) -> Array:
        unknown = jnp.where(real, jnp.inf, jnp.nan).astype(floating)
        return jnp.where(which, times.astype(floating), unknown)

    recomputed = ledger[:, state.RECOMPUTED]
    status = jnp.where(
        end.finished >= instance.total,
        ScheduleStatus.FINISHED,
        jnp.where(end.exceeded, ScheduleStatus.SLOTS_EXCEEDED, ScheduleStatus.MAX_ROUNDS),
    )
    origin = origin.astype(floating)
    absolute = jnp.where(done, finish_time.astype(floating) + origin, -1)
    makespan = makespan.astype(floating) + origin
    mean = end.area.total / jnp.maximum(makespan, jnp.finfo(floating).tiny)
    return Schedule(
        start=start,
        finish=finish,
        first_start=first,
        latency=known(latency, done),
        time_to_first_token=known(to_first_token, begun),
        finish_seconds=absolute,
        evictions=ledger[:, state.EVICTIONS],
        recomputed=recomputed,
        wasted=recomputed + ledger[:, state.REPEATED],
        rounds=end.time,
        makespan=makespan,
        peak_occupancy=end.peak,
        mean_occupancy=jnp.where(makespan > 0, mean, 0),
        status=jnp.where(invalid, ScheduleStatus.INVALID, status).astype(jnp.int32),
        occupancy=end.log.held,
    )
