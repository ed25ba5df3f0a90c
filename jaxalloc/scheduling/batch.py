"""`simulate_batch`: many instances, in chunks that suit the backend."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxalloc.backend import in_chunks, platform_of
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.constant import without_derivative
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule
from jaxalloc.scheduling.simulation import (
    NO_DERIVATIVE,
    as_key,
    check_options,
    numbers,
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
    (requests, capacity, batch_time, max_rounds), tied = without_derivative(given, NO_DERIVATIVE)
    shape = requests.batch_shape
    size = int(np.prod(shape, dtype=int))

    def flat(leaf: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(leaf), shape).reshape(size)

    many = jax.tree.map(lambda x: x.reshape(size, requests.num_requests), requests)
    keys = as_key(key)
    implementation = str(jax.random.key_impl(keys))
    arguments: Arguments = (
        many,
        flat(capacity),
        _key_data(keys, size) if policy.draws else None,
        jax.tree.map(flat, batch_time),
        None if max_rounds is None else flat(max_rounds),
    )
    traced = platform_of(arguments) is None

    def run(arguments: Arguments, record: int) -> Schedule:
        def work(part: Arguments) -> Schedule:
            schedule: Schedule = _many(
                *part, policy=policy, slots=slots, record=record, implementation=implementation
            )
            return schedule

        if traced or size == 0:
            return work(arguments)
        return in_chunks(work, arguments, cpu=CPU_CHUNK, accelerator=ACCELERATOR_CHUNK)

    if record is True:
        record = recorded_rounds(None if traced else run(arguments, 0))
    schedule = run(arguments, int(record))
    result: Schedule = tied(jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), schedule))
    return result


def _key_data(keys: jax.Array, size: int) -> Array:
    """[size, words] one key an instance, as plain integers."""
    keys = keys.reshape(size) if keys.ndim else jax.random.split(keys, size)
    data: Array = jax.random.key_data(keys)
    return data


@jax.jit(static_argnames=("policy", "slots", "record", "implementation"))
def _many(
    requests: Requests,
    capacity: Array,
    key_data: Array | None,
    batch_time: BatchTime | None,
    max_rounds: Array | None,
    *,
    policy: Policy,
    slots: int | None,
    record: int,
    implementation: str,
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

    return jax.vmap(one)(requests, capacity, key_data, batch_time, max_rounds)
