"""From requests to the instance that the loop reads: checked, ordered, laid out."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.kvcache import NEVER
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.state import Instance, tie_bits

# Tokens planned in a round stay below twice the capacity, which must fit in 32 bits.
MAX_CAPACITY = 1 << 30
LAST_ROUND = 1 << 30


def prepare(
    requests: Requests,
    capacity: Array,
    policy: Policy,
    key: Array,
    batch_time: BatchTime | None,
    max_rounds: Array | None,
) -> tuple[Instance, Bool[Array, ""]]:
    """The instance as the loop reads it, and whether it is invalid (it is then empty)."""
    capacity = jnp.asarray(capacity).astype(jnp.int32)
    real = requests.output > 0
    bound = jnp.maximum(policy.bound(requests), 1)
    arrival = requests.arrival
    wrong = (arrival < 0) | ~jnp.isfinite(arrival)
    if batch_time is not None:
        floating = jnp.issubdtype(arrival.dtype, jnp.floating)
        arrival = arrival if floating else arrival.astype(float)
    else:
        wrong = wrong | (arrival != jnp.floor(arrival)) | (arrival > LAST_ROUND)
        arrival = arrival.astype(jnp.int32)
    wrong = wrong | (requests.prompt < 0) | (requests.output > capacity - requests.prompt)
    wrong = wrong | ~policy.valid(requests)
    waiting_key, by_key, too_large = _order(requests, policy, bound, arrival)
    invalid = jnp.any(real & (wrong | too_large)) | jnp.any(requests.output < 0)
    invalid = invalid | (capacity < 0) | (capacity > MAX_CAPACITY)
    total = jnp.where(invalid, 0, jnp.sum(real, dtype=jnp.int32))
    by_arrival = jnp.argsort(jnp.where(real, arrival, _largest(arrival)), stable=True)
    here = jnp.where(real & (arrival <= 0), waiting_key, NEVER)
    if max_rounds is None:
        max_rounds = _default_rounds(requests, arrival, batch_time is None)
    return Instance(
        capacity=capacity,
        max_rounds=jnp.clip(jnp.asarray(max_rounds), 0, LAST_ROUND).astype(jnp.int32),
        total=total,
        jobs=jnp.stack([requests.prompt, requests.output, waiting_key], axis=1),
        bound=bound,
        by_key=by_key,
        queue=here if by_key is None else here[by_key],
        by_arrival=by_arrival.astype(jnp.int32),
        arrivals=jnp.where(real, arrival, _largest(arrival))[by_arrival],
        batch_time=batch_time,
        key=key if policy.draws else None,
    ), invalid


def _largest(values: Array) -> Array:
    """The largest number of a dtype, which sorts last."""
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    return jnp.array(jnp.inf if floating else NEVER, values.dtype)


def _default_rounds(requests: Requests, arrival: Array, in_rounds: bool) -> Array:
    """The last arrival (if in rounds) + 2 · (sum of the outputs) + 64, at most `LAST_ROUND`."""
    real = requests.output > 0
    last = jnp.max(jnp.where(real, arrival, 0)) if in_rounds else jnp.int32(0)
    total = jnp.sum(requests.output)
    rough = jnp.sum(requests.output.astype(float)) * 2 + last
    return jnp.where(rough < LAST_ROUND // 2, last + 2 * total + 64, LAST_ROUND)


def _order(
    requests: Requests, policy: Policy, bound: Array, arrival: Array
) -> tuple[Array, Array | None, Array]:
    """Waiting keys, the request of every static key, and whether an integer key would overflow."""
    num = requests.num_requests
    real = requests.output > 0
    index = lax.iota(jnp.int32, num)
    room = 1 << (31 - tie_bits(num))
    longest = jnp.maximum(bound, requests.output)
    packed = policy.evicts and policy.reset_probability is None
    too_large = (longest >= room - 1) & packed
    order = policy.order(requests)
    if policy.aging and not policy.by_arrival:
        extra = jnp.floor(policy.aging * arrival.astype(float))
        limit = room - 1 if policy.refines else NEVER
        too_large = too_large | (longest.astype(float) + extra >= limit)
        order = order + extra.astype(jnp.int32)
    if policy.refines:
        return (order << tie_bits(num)) | index, None, too_large
    by_key = jnp.argsort(jnp.where(real, order, _largest(order)), stable=True).astype(jnp.int32)
    return jnp.zeros(num, jnp.int32).at[by_key].set(index), by_key, too_large
