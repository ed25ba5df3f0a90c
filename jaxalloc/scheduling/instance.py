"""From requests to the instance that the loop reads: checked, ordered, laid out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.kvcache import NEVER
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests, require
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
    capacity = jnp.asarray(capacity)
    outside = (capacity < 0) | (capacity > MAX_CAPACITY)
    capacity = jnp.clip(capacity, 0, MAX_CAPACITY).astype(jnp.int32)
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
    waiting_key, by_key = _order(requests, policy, bound, arrival)
    wrong = wrong | _too_large(requests, policy, bound)
    invalid = jnp.any(real & wrong) | jnp.any(requests.output < 0)
    invalid = invalid | outside
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
) -> tuple[Array, Array | None]:
    """Waiting keys, and the request of every static key."""
    num = requests.num_requests
    index = lax.iota(jnp.int32, num)
    order = policy.order(requests)
    if policy.aging and not policy.by_arrival:
        order = order + jnp.floor(policy.aging * arrival.astype(float)).astype(jnp.int32)
    if policy.refines:
        return (order << tie_bits(num)) | index, None
    real = requests.output > 0
    by_key = jnp.argsort(jnp.where(real, order, _largest(order)), stable=True).astype(jnp.int32)
    return jnp.zeros(num, jnp.int32).at[by_key].set(index), by_key


def _too_large(requests: Requests, policy: Policy, bound: Array) -> Array:
    """Whether a request's keys, with its index packed below them, overflow 32 bits."""
    room = float((1 << (31 - tie_bits(requests.num_requests))) - 1)
    key = jnp.maximum(bound, requests.output).astype(float)
    packed = policy.evicts and policy.reset_probability is None
    too_large = (key >= room) & packed
    if policy.aging and not policy.by_arrival:
        key = key + jnp.floor(policy.aging * requests.arrival.astype(float))
        too_large = too_large | (key >= (room if policy.refines else NEVER))
    return too_large


def validate(
    requests: Requests, capacity: Any, policy: Policy, *, in_seconds: bool = False
) -> None:
    """Raise a ValueError that says why `simulate` would call an instance INVALID.

    Args:
      requests: concrete requests, of one instance or a batch.
      capacity: M.
      policy: who is to run.
      in_seconds: arrivals are seconds, since there is a batch-time model.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=3, output=[2, 7])
    >>> validate(requests, 8, jaxalloc.policies.AMin())
    Traceback (most recent call last):
    ValueError: output[1] = 7 does not fit: prompt + output must not exceed the capacity of 8
    """
    real = np.asarray(requests.output) > 0
    room = np.asarray(capacity)[..., None]
    if np.any((room < 0) | (room > MAX_CAPACITY)):
        raise ValueError(f"capacity = {capacity} must be between 0 and {MAX_CAPACITY} tokens")
    for name in ("prompt", "output", "arrival"):
        value = np.asarray(getattr(requests, name))
        require(~real | ((value >= 0) & np.isfinite(value)), name, value, "must not be negative")
    output, arrival = np.asarray(requests.output), np.asarray(requests.arrival)
    fits = ~real | (output <= room - np.asarray(requests.prompt))
    rule = f"does not fit: prompt + output must not exceed the capacity of {capacity}"
    require(fits, "output", output, rule)
    if not in_seconds:
        whole = ~real | ((arrival == np.floor(arrival)) & (arrival <= LAST_ROUND))
        rule = "must be a whole round: round it, or give a batch-time model"
        require(whole, "arrival", arrival, rule)
    valid = ~real | np.asarray(policy.valid(requests))
    rule = f"does not suit {type(policy).__name__}: it must cover the output and `lower`"
    require(valid, "upper", np.asarray(requests.upper), rule)
    bound = jnp.maximum(policy.bound(requests), 1)
    too_large = ~real | ~np.asarray(_too_large(requests, policy, bound))
    rule = "is too large for keys of 32 bits: use smaller bounds, less ageing or fewer requests"
    require(too_large, "bound", np.asarray(bound), rule)
