"""From requests to the instance that the loop reads: checked, ordered, laid out."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Num

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.domain import LAST_ROUND, MAX_CAPACITY, rules, timed
from jaxalloc.scheduling.integers import LARGEST, tie_bits
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.rounds.state import Instance


class Prepared(NamedTuple):
    """What the loop reads, and what is left for the summary.

    Attributes:
      instance: the instance as the loop reads it, empty if it is invalid.
      invalid: whether it is.
      origin: seconds at which the clock of the loop starts.
    """

    instance: Instance
    invalid: Bool[Array, ""]
    origin: Num[Array, ""]


def prepare(
    requests: Requests,
    capacity: Array,
    policy: Policy,
    random_key: Array | None,
    batch_time: BatchTime | None,
    max_rounds: Array | None,
) -> Prepared:
    """Check an instance and lay it out; all integers are of 32 bits (`as_int32`)."""
    requests, batch_time, origin = timed(requests, batch_time)
    obeyed = rules(requests, policy, batch_time, capacity, max_rounds)
    invalid = ~jnp.all(jnp.stack([jnp.all(rule.valid) for rule in obeyed]))
    capacity = jnp.clip(capacity, 0, MAX_CAPACITY)
    real = requests.output > 0
    arrival = requests.arrival if batch_time is not None else requests.arrival.astype(jnp.int32)
    arrival = jnp.where(real, arrival, _last(arrival))
    order = policy.order(requests)
    index = lax.iota(jnp.int32, requests.num_requests)
    if policy.refines:
        waiting_key, by_key = (order << tie_bits(requests.num_requests)) | index, None
    else:
        by_key = jnp.argsort(jnp.where(real, order, _last(order)), stable=True).astype(jnp.int32)
        waiting_key = jnp.zeros_like(index).at[by_key].set(index)
    if max_rounds is None:
        max_rounds = _default_rounds(requests, policy, batch_time is None)
    return Prepared(
        Instance(
            capacity=capacity,
            limit=policy.limit(capacity),
            max_rounds=jnp.clip(max_rounds, 0, LAST_ROUND),
            total=jnp.where(invalid, 0, jnp.sum(real, dtype=jnp.int32)),
            prompt=requests.prompt,
            output=requests.output,
            bound=policy.bound(requests),
            waiting_key=waiting_key,
            by_key=by_key,
            by_arrival=jnp.argsort(arrival, stable=True).astype(jnp.int32),
            arrival=arrival,
            batch_time=batch_time,
            random_key=random_key,
        ),
        invalid,
        origin,
    )


def _last(values: Array) -> Array:
    """The largest number of a dtype, which sorts last."""
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    return jnp.array(jnp.inf if floating else LARGEST, values.dtype)


def _default_rounds(requests: Requests, policy: Policy, in_rounds: bool) -> Array:
    """The rounds after which to give up: no policy needs a count that ends by itself.

    All that do not draw do so (the room's README derives it). β-clearing ends with probability 1,
    but after no known number of rounds: it may take the last arrival (if in rounds) + 64 · (sum of
    the outputs) + 1024.
    """
    if not policy.draws:
        return jnp.int32(LAST_ROUND)
    last = jnp.max(requests.arrival, initial=0, where=requests.output > 0) if in_rounds else 0.0
    rounds = jnp.asarray(last).astype(float) + 64 * jnp.sum(requests.output.astype(float)) + 1024
    return jnp.minimum(rounds, LAST_ROUND).astype(jnp.int32)
