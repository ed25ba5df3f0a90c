"""Who of the waiting starts in a round."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.rounds import cache, waiting
from jaxalloc.scheduling.rounds.arrays import NEVER, Scalar, at, put, put_row, row_at, when
from jaxalloc.scheduling.rounds.cache import Job
from jaxalloc.scheduling.rounds.state import Instance, Known, State


class _Head(NamedTuple):
    """The head of the queue.

    Attributes:
      earliest: a lower bound on the round in which it may start.
      request: who it is.
      tokens: to prefill.
      output: tokens to generate.
      length: planned, and
      usage: what the running plan to hold at its planned end.
      column: of the ledger.
    """

    earliest: Scalar
    request: Scalar
    tokens: Scalar
    output: Scalar
    length: Scalar
    usage: Scalar
    column: Any


def _look(instance: Instance, policy: Policy, state: State) -> _Head:
    """The head of the queue (some request if nobody waits) and whether it fits."""
    request, time = instance.request_of(state.waiting.head), state.time
    prompt, column = at(instance.prompt, request), row_at(state.ledger, request)
    known = Known(*column)
    length = jnp.minimum(known.belief, instance.capacity - prompt)
    if policy.look_ahead:
        earliest, usage = cache.earliest_start(
            state.slots, state.running, state.held, prompt, length, time, instance.capacity
        )
    else:
        fits = (prompt + known.kept < instance.limit - state.held) | (state.running == 0)
        earliest, usage = jnp.where(fits, time, time + 1), state.held
    if policy.max_batch is not None:
        full = state.running >= policy.max_batch
        earliest = jnp.where(full, jnp.maximum(earliest, time + 1), earliest)
    tokens, output = prompt + known.kept, at(instance.output, request) - known.kept
    return _Head(earliest, request, tokens, output, length, usage, column)


def admit(
    instance: Instance, policy: Policy, state: State, killed: Array, num_slots: int
) -> tuple[State, Scalar]:
    """Start the waiting in order while they fit; also returns the tokens to prefill."""

    def due(state: State, earliest: Scalar) -> Array:
        someone = (state.waiting.head < NEVER) & (earliest <= state.time)
        return someone & ~killed if policy.blocks_after_eviction else someone

    def look(state: State) -> _Head:
        return _look(instance, policy, state)

    def start(carry: tuple[State, Scalar, _Head]) -> tuple[State, Scalar, _Head]:
        state, prefill, head = carry
        state, tokens = _start(policy, state, head)
        return state, prefill + tokens, look(state)

    head = when(due(state, state.earliest), look, state, earliest=state.earliest)
    state, prefill, head = lax.while_loop(
        lambda carry: due(carry[0], carry[2].earliest) & (carry[0].running < num_slots),
        start,
        (state, jnp.int32(0), head),
    )
    exceeded = due(state, head.earliest)
    return state._replace(earliest=head.earliest, exceeded=exceeded), prefill


def _start(policy: Policy, state: State, head: _Head) -> tuple[State, Scalar]:
    """Start the head of the queue; also returns the tokens to prefill."""
    time, slot, request, known = state.time, state.running, head.request, Known(*head.column)
    job = Job(
        planned_end=time + head.length,
        end=time + head.output,
        offset=head.tokens - time,
        bound=known.belief,
        start=time,
        request=request,
        usage=head.usage,
    )
    slots = cache.put_job(state.slots, slot, job[:-1], job.usage)
    if policy.look_ahead:
        slots = cache.plan(slots, slot + 1, job.planned_end, job.offset, 1)
    again = known.first >= 0
    known = known._replace(
        started=time,
        first=jnp.where(again, known.first, time),
        repeated=known.repeated + jnp.where(again, head.tokens, 0),
    )
    state = state._replace(
        waiting=waiting.remove(state.waiting, request),
        slots=slots,
        running=state.running + 1,
        offsets=state.offsets + job.offset,
        next_end=jnp.minimum(state.next_end, job.end),
        ledger=put_row(state.ledger, request, known),
        slot_of=put(state.slot_of, request, slot),
    )
    return state, head.tokens
