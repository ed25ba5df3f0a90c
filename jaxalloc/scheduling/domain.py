"""What an instance must obey, and how time is laid out for it: one list, checked or told why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.integers import LARGEST, Rule
from jaxalloc.scheduling.policies import Policy

# Tokens planned in a round stay below twice the capacity, which must fit in 32 bits.
MAX_CAPACITY = 1 << 30
LAST_ROUND = 1 << 30

_WHOLE = f"must be a whole number, 0 to {MAX_CAPACITY}"
_DOES_NOT_FIT = "does not fit: prompt + output must not exceed the capacity of {capacity}"
_NO_ROUND = "must be a whole round: round it, or give a batch-time model"
_TOO_COARSE = (
    "s cannot be told from a round later in {}: count from the first arrival, as `create` does, "
    "or enable jax_enable_x64"
)


def timed(
    requests: Any, batch_time: BatchTime | None
) -> tuple[Any, BatchTime | None, Num[Array, "*B"]]:
    """Requests and batch time in one dtype, and the seconds from which whole ones now count.

    Whole seconds since an epoch would be rounded if they became floats as they are.
    """
    arrival = jnp.asarray(requests.arrival)
    origin = jnp.zeros((*arrival.shape[:-1], 1), arrival.dtype)
    if batch_time is not None and not jnp.issubdtype(arrival.dtype, jnp.floating):
        real = requests.output > 0
        first = jnp.min(arrival, axis=-1, keepdims=True, initial=LARGEST, where=real)
        origin = jnp.where(first < LARGEST, jnp.maximum(first, 0), 0)
        arrival = jnp.where(arrival < origin, jnp.minimum(arrival, 0), arrival - origin)
        arrival, origin = arrival.astype(float), origin.astype(float)
    batch_time = jax.tree.map(lambda x: jnp.asarray(x).astype(arrival.dtype), batch_time)
    return dataclasses.replace(requests, arrival=arrival), batch_time, origin[..., 0]


def rules(
    requests: Any, policy: Policy, batch_time: BatchTime | None, capacity: Any, max_rounds: Any
) -> Iterator[Rule]:
    """Everything that an instance, or a batch of them, must obey, `timed`; integers in 32 bits."""
    prompt, output = requests.prompt, requests.output
    padding = output <= 0
    room = jnp.broadcast_to(capacity, output.shape[:-1])[..., None] - jnp.maximum(prompt, 0)
    yield Rule("capacity", capacity, (capacity >= 0) & (capacity <= MAX_CAPACITY), _WHOLE)
    if max_rounds is not None:
        yield Rule("max_rounds", max_rounds, max_rounds >= 0, _WHOLE)
    yield Rule("output", output, output >= 0, "must not be negative")
    if batch_time is not None:
        yield from _rules_of_rounds(batch_time)
    of_requests = [
        Rule("prompt", prompt, prompt >= 0, "must not be negative"),
        *_rules_of_arrivals(requests.arrival, batch_time),
        Rule("output", output, output <= room, _DOES_NOT_FIT),
        *policy.rules(requests),
    ]
    for rule in of_requests:
        yield rule._replace(valid=padding | rule.valid)


def _rules_of_rounds(batch_time: BatchTime) -> Iterator[Rule]:
    for name, seconds in vars(batch_time).items():
        valid = (seconds >= 0) & jnp.isfinite(seconds)
        yield Rule(f"batch_time.{name}", seconds, valid, "must be finite seconds, 0 or more")
    shortest = batch_time.shortest
    yield Rule("batch_time", shortest, shortest > 0, "seconds: a round must take some time")


def _rules_of_arrivals(arrival: Array, batch_time: BatchTime | None) -> Iterator[Rule]:
    positive = (arrival >= 0) & jnp.isfinite(arrival)
    yield Rule("arrival", arrival, positive, "must not be negative")
    if batch_time is None:
        whole = (arrival == jnp.floor(arrival)) & (arrival <= LAST_ROUND)
        yield Rule("arrival", arrival, whole, _NO_ROUND)
    else:
        finest = arrival * jnp.finfo(arrival.dtype).eps / 2
        apart = finest <= jnp.broadcast_to(batch_time.shortest, arrival.shape[:-1])[..., None]
        yield Rule("arrival", arrival, apart, _TOO_COARSE.format(arrival.dtype))
