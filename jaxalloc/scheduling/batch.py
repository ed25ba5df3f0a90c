"""`simulate_batch`: many instances, in chunks that suit the backend."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxalloc.backend.chunks import in_chunks, placement_of
from jaxalloc.backend.sharding import over_lanes
from jaxalloc.numerics import without_derivative
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule
from jaxalloc.scheduling.simulation import (
    NO_DERIVATIVE,
    Numbers,
    check_options,
    numbers,
    random_key,
    recorded_rounds,
    simulate,
)

# A CPU runs the instances of a chunk one after another, and a chunk a thread; on an accelerator the
# lanes of a chunk run together.
CPU_CHUNK = 64
ACCELERATOR_CHUNK = 4096

Arguments = tuple[Requests, Array, Array | None, BatchTime | None, Array | None]


def simulate_batch(
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
    """`simulate` over the leading axes of `requests`, all processor cores at work.

    `capacity`, `max_rounds` and the fields of `batch_time` broadcast to the leading axes *B. A
    single `key` is split, one for every instance; keys of shape [*B] are taken as they are.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=1, output=[[2, 4, 3], [2, 2, 0]], upper=4)
    >>> schedule = jaxalloc.simulate_batch(requests, 8, jaxalloc.policies.AMax())
    >>> schedule.finish.tolist(), schedule.total_latency.tolist()
    ([[2, 6, 7], [2, 4, -1]], [15.0, 6.0])
    """
    check_options(requests, policy, slots, record)
    given = numbers(requests, capacity, batch_time, max_rounds)
    typed_key = random_key(key, policy)

    def play(given: Numbers) -> Schedule:
        return _play(given, typed_key, policy, slots, record)

    return without_derivative(play, given, NO_DERIVATIVE)


def _play(
    given: Numbers, key: jax.Array | None, policy: Policy, slots: int | None, record: bool | int
) -> Schedule:
    """The schedules: in chunks where there are arrays, as one computation under tracing."""
    requests, capacity, batch_time, max_rounds = given
    shape = requests.batch_shape

    def wide(leaf: Any) -> Array:
        traced = isinstance(leaf, jax.core.Tracer)
        return jnp.broadcast_to(leaf if traced else jax.device_put(leaf), shape)

    arguments: Arguments = (
        requests,
        wide(capacity),
        None if key is None else _key_data(key, shape),
        jax.tree.map(wide, batch_time),
        None if max_rounds is None else wide(max_rounds),
    )
    platform, _, spread = placement_of(arguments)

    def run(record: int) -> Schedule:
        work = functools.partial(
            _many,
            policy=policy,
            slots=slots,
            record=record,
            implementation="" if key is None else str(jax.random.key_impl(key)),
        )
        if platform is None or spread or 0 in shape:
            return work(arguments)
        flat = jax.tree.map(
            lambda x: x.reshape(math.prod(shape), *x.shape[len(shape) :]), arguments
        )
        idle = jax.tree.map(lambda _: 0, flat)  # no requests
        found = in_chunks(work, flat, cpu=CPU_CHUNK, accelerator=ACCELERATOR_CHUNK, idle=idle)
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)

    if record is True:
        record = recorded_rounds(None if platform is None else run(0))
    return run(int(record))


def _key_data(keys: jax.Array, shape: tuple[int, ...]) -> Array:
    """[*shape, words] one key an instance, as plain integers."""
    data: Array = jax.random.key_data(keys if keys.ndim else jax.random.split(keys, shape))
    return jnp.broadcast_to(data, (*shape, data.shape[-1]))


@jax.jit(static_argnames=("policy", "slots", "record", "implementation"))
def _many(
    arguments: Arguments, *, policy: Policy, slots: int | None, record: int, implementation: str
) -> Schedule:
    """One chunk."""

    def one(
        requests: Requests,
        capacity: Array,
        key_data: Array | None,
        batch_time: BatchTime | None,
        max_rounds: Array | None,
    ) -> Schedule:
        key = None
        if key_data is not None:
            key = jax.random.wrap_key_data(key_data, impl=implementation)
        return simulate(
            requests,
            capacity,
            policy,
            key=key,
            batch_time=batch_time,
            max_rounds=max_rounds,
            slots=slots,
            record=record,
        )

    many = over_lanes(one, len(arguments[0].batch_shape))
    schedule: Schedule = many(*arguments)
    return schedule
