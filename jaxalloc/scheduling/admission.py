"""Who of the waiting starts in a round."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxalloc.scheduling import kvcache, waiting
from jaxalloc.scheduling.kvcache import NEVER
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.state import (
    BELIEF,
    FIRST,
    KEPT,
    REPEATED,
    SLOT,
    STARTED,
    Instance,
    Log,
    Scalar,
    State,
    place_of,
    request_of,
)
from jaxalloc.scheduling.storage import at, nothing_like, put, put_row, row_of, zero


class _Head(NamedTuple):
    """The head of the queue: who it is, its rows, and when it may start."""

    earliest: Scalar
    request: Scalar
    job: Int[Array, " 3"]
    row: Int[Array, " 8"]
    length: Scalar
    usage: Scalar


def _head(instance: Instance, policy: Policy, state: State) -> _Head:
    """The head of the queue (some request if nobody waits) and whether it fits."""
    request = request_of(instance, policy, state.waiting.head)
    job, row = row_of(instance.jobs, request), row_of(state.ledger, request)
    length = jnp.minimum(row[BELIEF], instance.capacity - job[0])
    if policy.look_ahead:
        earliest, usage = kvcache.earliest_start(
            state.slots, state.running, state.held, job[0], length, state.time, instance.capacity
        )
        return _Head(earliest, request, job, row, length, usage)
    fits = job[0] + row[KEPT] < instance.limit - state.held
    fits = fits | (state.running == 0)
    if policy.max_batch is not None:
        fits = fits & (state.running < policy.max_batch)
    earliest = jnp.where(fits, state.time, state.time + 1)
    return _Head(earliest, request, job, row, length, zero())


def admit(
    instance: Instance, policy: Policy, state: State, killed: Array, num_slots: int
) -> tuple[State, Scalar]:
    """Start the waiting in order while they fit; also returns the tokens to prefill."""

    def due(state: State, earliest: Scalar) -> Array:
        someone = (state.waiting.head < NEVER) & (earliest <= state.time)
        return someone & ~killed if policy.blocks_after_eviction else someone

    def look(state: State) -> _Head:
        return _head(instance, policy, state)

    def skip(state: State) -> _Head:
        nothing: _Head = nothing_like(look, state)
        return nothing._replace(earliest=state.retry)

    def wanted(state: State, head: _Head) -> Array:
        return due(state, head.earliest)

    def start(carry: tuple[State, Scalar, _Head]) -> tuple[State, Scalar, _Head]:
        state, prefill, head = carry
        state, tokens = _start(instance, policy, state, head)
        return state, prefill + tokens, look(state)

    state, prefill, head = lax.while_loop(
        lambda carry: wanted(carry[0], carry[2]) & (carry[0].running < num_slots),
        start,
        (state, jnp.int32(0), lax.cond(due(state, state.retry), look, skip, state)),
    )
    return state._replace(retry=head.earliest, exceeded=wanted(state, head)), prefill


def _start(instance: Instance, policy: Policy, state: State, head: _Head) -> tuple[State, Scalar]:
    """Start the head of the queue; also returns the tokens to prefill."""
    time, slot, row = state.time, state.running, head.row
    prompt, output = head.job[0], head.job[1]
    tokens = prompt + row[KEPT]
    offset = tokens - time
    planned_end, end = time + head.length, time + output - row[KEPT]
    column = [planned_end, end, offset, row[BELIEF], time, head.request]
    slots = kvcache.occupy(state.slots, slot, column, head.usage)
    if policy.look_ahead:
        slots = kvcache.plan(slots, slot + 1, planned_end, offset, 1)
    again = row[FIRST] >= 0
    changes = {
        STARTED: time,
        FIRST: jnp.where(again, row[FIRST], time),
        REPEATED: row[REPEATED] + jnp.where(again, tokens, 0),
        SLOT: slot,
    }
    place = place_of(instance, policy, state.waiting.head)
    state = state._replace(
        waiting=waiting.remove(state.waiting, place),
        slots=slots,
        running=state.running + 1,
        offsets=state.offsets + offset,
        next_end=jnp.minimum(state.next_end, end),
        ledger=put_row(state.ledger, head.request, row, changes),
        log=_note_start(state.log, head.request, again),
    )
    return state, tokens


def _note_start(log: Log, request: Scalar, again: Array) -> Log:
    """Remember the order of first starts, if the log is kept."""
    if log.first_order is None:
        return log
    new = log.num_first
    order = put(log.first_order, new, jnp.where(again, at(log.first_order, new), request))
    return log._replace(first_order=order, num_first=new + (~again).astype(jnp.int32))
