"""From requests to the instance that the loop reads: checked, ordered, laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Num

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.integers import LARGEST, NOT_WHOLE, as_int32
from jaxalloc.scheduling.kvcache import NEVER
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests, require
from jaxalloc.scheduling.state import Instance, tie_bits

# Tokens planned in a round stay below twice the capacity, which must fit in 32 bits.
MAX_CAPACITY = 1 << 30
LAST_ROUND = 1 << 30


class _Rule(NamedTuple):
    """What must hold of a field: its entries that are `valid`, and in words."""

    name: str
    value: Any
    valid: Any
    text: str


class Prepared(NamedTuple):
    """What the loop reads, and what is left for the summary.

    Attributes:
      instance: the instance as the loop reads it, empty if it is invalid.
      invalid: whether it is.
      origin: seconds at which the clock of the loop starts.
      arrival: [N] arrivals by that clock.
    """

    instance: Instance
    invalid: Bool[Array, ""]
    origin: Num[Array, ""]
    arrival: Num[Array, " N"]


def prepare(
    requests: Requests,
    capacity: Array,
    policy: Policy,
    key: Array | None,
    batch_time: BatchTime | None,
    max_rounds: Array | None,
) -> Prepared:
    """Check an instance and lay it out; the requests are those of `Requests.as_int32`."""
    requests, batch_time, origin = _timed(requests, batch_time)
    capacity, max_rounds = _limits(capacity, max_rounds)
    rules = _rules(requests, capacity, policy, batch_time, max_rounds)
    invalid = ~jnp.all(jnp.stack([jnp.all(rule.valid) for rule in rules]))
    capacity = jnp.clip(capacity, 0, MAX_CAPACITY)
    real = requests.output > 0
    bound = jnp.maximum(policy.bound(requests), 1)
    arrival = requests.arrival if batch_time is not None else requests.arrival.astype(jnp.int32)
    waiting_key, by_key = _order(requests, policy)
    total = jnp.where(invalid, 0, jnp.sum(real, dtype=jnp.int32))
    by_arrival = jnp.argsort(jnp.where(real, arrival, _largest(arrival)), stable=True)
    here = jnp.where(real & (arrival <= 0), waiting_key, NEVER)
    if max_rounds is None:
        max_rounds = _default_rounds(requests, policy, batch_time is None)
    return Prepared(
        Instance(
            capacity=capacity,
            limit=policy.limit(capacity),
            max_rounds=jnp.clip(max_rounds, 0, LAST_ROUND),
            total=total,
            jobs=jnp.stack([requests.prompt, requests.output, waiting_key], axis=1),
            bound=bound,
            by_key=by_key,
            queue=here if by_key is None else here[by_key],
            by_arrival=by_arrival.astype(jnp.int32),
            arrivals=jnp.where(real, arrival, _largest(arrival))[by_arrival],
            batch_time=batch_time,
            key=key if policy.draws else None,
        ),
        invalid,
        origin,
        arrival,
    )


def _timed(
    requests: Requests, batch_time: BatchTime | None
) -> tuple[Requests, BatchTime | None, Array]:
    """Arrivals and model in one dtype, whole seconds since the first one, lest they be rounded."""
    arrival = jnp.asarray(requests.arrival)
    origin = jnp.zeros((*arrival.shape[:-1], 1), arrival.dtype)
    if batch_time is None:
        return dataclasses.replace(requests, arrival=arrival), None, origin[..., 0]
    if not jnp.issubdtype(arrival.dtype, jnp.floating):
        real = requests.output > 0
        first = jnp.min(arrival, axis=-1, keepdims=True, initial=NEVER, where=real)
        origin = jnp.where(first < NEVER, jnp.maximum(first, 0), 0)
        arrival = jnp.where(arrival < origin, jnp.minimum(arrival, 0), arrival - origin)
        arrival, origin = arrival.astype(float), origin.astype(float)
    batch_time = jax.tree.map(lambda x: jnp.asarray(x).astype(arrival.dtype), batch_time)
    return dataclasses.replace(requests, arrival=arrival), batch_time, origin[..., 0]


def _limits(capacity: Any, max_rounds: Any) -> tuple[Array, Array | None]:
    """Both in 32 bits."""
    rounds = None if max_rounds is None else jnp.asarray(as_int32("max_rounds", max_rounds))
    return jnp.asarray(as_int32("capacity", capacity)), rounds


def _rules(
    requests: Requests,
    capacity: Array,
    policy: Policy,
    batch_time: BatchTime | None,
    max_rounds: Array | None,
) -> list[_Rule]:
    """Everything that an instance, or a batch of them, must obey."""
    real = requests.output > 0
    room = jnp.broadcast_to(capacity, requests.batch_shape)[..., None]
    fits = requests.output <= room - jnp.maximum(requests.prompt, 0)
    bound = policy.bound(requests)
    whole = f"must be a whole number, 0 to {MAX_CAPACITY}"
    covers = f"does not suit {type(policy).__name__}: it must cover the output and `lower`"
    rules = [
        _Rule("capacity", capacity, (capacity >= 0) & (capacity <= MAX_CAPACITY), whole),
        _Rule("prompt", requests.prompt, ~real | (requests.prompt >= 0), "must not be negative"),
        _Rule("output", requests.output, requests.output >= 0, "must not be negative"),
        *_rules_of_time(requests, real, batch_time),
        _Rule("output", requests.output, ~real | fits, _DOES_NOT_FIT),
        _Rule("bound", bound, ~real | (bound != NOT_WHOLE), "must be a whole number of 32 bits"),
        _Rule("upper", requests.upper, ~real | policy.valid(requests), covers),
        _Rule("bound", bound, ~(real & _too_large(requests, policy)), _TOO_LARGE),
    ]
    if max_rounds is not None:
        rules.append(_Rule("max_rounds", max_rounds, max_rounds >= 0, whole))
    return rules


def _rules_of_time(
    requests: Requests, real: Array, batch_time: BatchTime | None
) -> Iterator[_Rule]:
    """What arrivals and the model of a round must obey."""
    arrival = requests.arrival
    positive = (arrival >= 0) & jnp.isfinite(arrival)
    yield _Rule("arrival", arrival, ~real | positive, "must not be negative")
    if batch_time is None:
        rounds = (arrival == jnp.floor(arrival)) & (arrival <= LAST_ROUND)
        yield _Rule("arrival", arrival, ~real | rounds, _NO_ROUND)
        return
    for name, seconds in vars(batch_time).items():
        valid = (seconds >= 0) & jnp.isfinite(seconds)
        yield _Rule(f"batch_time.{name}", seconds, valid, "must be finite seconds, 0 or more")
    shortest = jnp.asarray(batch_time.base + batch_time.per_request + batch_time.per_token)
    finest = arrival * jnp.finfo(arrival.dtype).eps / 2
    yield _Rule("batch_time", shortest, shortest > 0, "seconds: a round must take some time")
    apart = finest <= jnp.broadcast_to(shortest, requests.batch_shape)[..., None]
    yield _Rule("arrival", arrival, ~real | apart, _TOO_COARSE.format(arrival.dtype))


_DOES_NOT_FIT = "does not fit: prompt + output must not exceed the capacity of {capacity}"
_NO_ROUND = "must be a whole round: round it, or give a batch-time model"
_TOO_LARGE = "is too large for keys of 32 bits: use smaller bounds, less ageing or fewer requests"
_TOO_COARSE = (
    "s cannot be told from a round later in {}: count from the first arrival, as `create` does, "
    "or enable jax_enable_x64"
)


def _largest(values: Array) -> Array:
    """The largest number of a dtype, which sorts last."""
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    return jnp.array(jnp.inf if floating else NEVER, values.dtype)


def _default_rounds(requests: Requests, policy: Policy, in_rounds: bool) -> Array:
    """The rounds after which to give up: no policy needs a count that ends by itself.

    All that do not draw do so, within i + (n + 2) (Σ o + max o + 1) rounds of which i, at most the
    last arrival, are idle (derived here):

    - Whenever someone waits and no one runs, the head of the queue starts, for s + o ≤ M. So
      someone runs in every round that is not idle, but for those in which α-protection resets.
    - H-SF and A_max never evict, so every round yields a token that is not lost: Σ o rounds do.
    - First come, first served kills the last started. Of those who run the first started (ties:
      the smaller index) stays so until it ends, since it is killed only if it overflows the cache
      alone, which s + o ≤ M excludes. Every request is the first for o rounds at most: Σ o do.
    - MC-SF, MC-Benchmark and A_min kill the smallest (key, index), key = max(bound, generated).
      Call the largest of those who run the top: it is not killed, and until the next completion
      its pair never falls. While it is the top by what it has generated, its key grows by one a
      round: max o rounds in all. No request becomes the top by its bound twice, each time for at
      most o rounds: it would have been killed in between, below the top of that moment, and its
      bound is no more than its key was then. So a completion takes Σ o + max o rounds at most.
      (With `refine_next` the bound may be one more; that happens at most o times, for it has
      generated more each time. So a completion takes Σ o (o + 1) + max o rounds at most.)
    - α-protection is stopped at a reset if no one has finished since the last one and all had
      arrived by then: it begins again from the same state, for ever. So after the last arrival
      there are at most n + 2 resets, with Σ o rounds between two.

    β-clearing ends with probability 1, but after no known number of rounds: it may take the last
    arrival (if in rounds) + 64 · (sum of the outputs) + 1024.
    """
    if not policy.draws:
        return jnp.int32(LAST_ROUND)
    last = jnp.max(requests.arrival, initial=0, where=requests.output > 0) if in_rounds else 0.0
    rounds = jnp.asarray(last).astype(float) + 64 * jnp.sum(requests.output.astype(float)) + 1024
    return jnp.minimum(rounds, LAST_ROUND).astype(jnp.int32)


def _order(requests: Requests, policy: Policy) -> tuple[Array, Array | None]:
    """Waiting keys, and the request of every static key."""
    num = requests.num_requests
    index = lax.iota(jnp.int32, num)
    order = policy.order(requests)
    if not policy.by_arrival:
        order = order + _aged(requests, policy)
    if policy.refines:
        return (order << tie_bits(num)) | index, None
    real = requests.output > 0
    by_key = jnp.argsort(jnp.where(real, order, _largest(order)), stable=True).astype(jnp.int32)
    return jnp.zeros(num, jnp.int32).at[by_key].set(index), by_key


def _aged(requests: Requests, policy: Policy) -> Array:
    """⌊aging · arrival⌋, or `LARGEST` if it is no less."""
    weight = min(int(policy.aging), LARGEST)
    arrival = requests.arrival
    if weight == 0:
        return jnp.zeros(arrival.shape, jnp.int32)
    if jnp.issubdtype(arrival.dtype, jnp.floating):
        return jnp.asarray(as_int32("arrival", jnp.floor(weight * arrival)))
    return jnp.where(arrival > LARGEST // weight, LARGEST, weight * arrival)


def _too_large(requests: Requests, policy: Policy) -> Array:
    """Whether a request's keys, with its index packed below them, overflow 32 bits."""
    room = (1 << (31 - tie_bits(requests.num_requests))) - 1
    bound = jnp.maximum(policy.bound(requests), 1)
    key = jnp.maximum(bound, requests.output)
    packed = policy.evicts and policy.reset_probability is None
    too_large = (key >= room) & packed
    if policy.aging and not policy.by_arrival:
        most = room if policy.refines else NEVER
        too_large = too_large | (_aged(requests, policy) >= most - key)
    return too_large


def validate(
    requests: Requests,
    capacity: Any,
    policy: Policy,
    *,
    batch_time: BatchTime | None = None,
    max_rounds: Any = None,
) -> None:
    """Raise a ValueError that says why `simulate` would call an instance INVALID.

    Args:
      requests: concrete requests, of one instance or a batch.
      capacity: M.
      policy: who is to run.
      batch_time: seconds a round; arrivals are then seconds.
      max_rounds: as of `simulate`.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=3, output=[2, 7])
    >>> validate(requests, 8, jaxalloc.policies.AMin())
    Traceback (most recent call last):
    ValueError: output[1] = 7 does not fit: prompt + output must not exceed the capacity of 8
    """
    requests, batch_time, _ = _timed(requests.as_int32(), batch_time)
    tokens, rounds = _limits(capacity, max_rounds)
    given = {"capacity": capacity, "max_rounds": max_rounds}
    for rule in _rules(requests, tokens, policy, batch_time, rounds):
        value = np.asarray(given.get(rule.name, rule.value))
        require(rule.valid, rule.name, value, rule.text.format(capacity=capacity))
