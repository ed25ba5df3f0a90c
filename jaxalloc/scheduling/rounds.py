"""One round of one instance: arrivals, overflow, admission, the batch iteration, completions.

The state is carried through nested loops without branches around it: a loop that does not turn is
the branch not taken, and arrays stay where they are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxalloc.numerics import Sum
from jaxalloc.scheduling import admission, eviction, kvcache, waiting
from jaxalloc.scheduling.kvcache import NEVER, Leaver
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.state import Instance, Scalar, State, place_of
from jaxalloc.scheduling.storage import at, nothing_like, put, row_of


def is_over(instance: Instance, state: State) -> Bool[Array, ""]:
    """Whether all have finished, or the rounds, the slots or the clearings are used up."""
    ended = (state.finished >= instance.total) | (state.time >= instance.max_rounds)
    return ended | state.exceeded | state.stuck


def play(instance: Instance, policy: Policy, state: State, num_slots: int) -> State:
    """One round."""
    before = state.log.num_first
    state = _arrive(instance, policy, state)
    state, killed = eviction.overflow(instance, policy, state)
    state, prefill = admission.admit(instance, policy, state, killed > 0, num_slots)
    state = eviction.requeue(instance, policy, state, killed)
    state = _iterate(instance, state, prefill)
    state = _note_first_tokens(state, before)
    state = _complete(instance, policy, state)
    return wait_for_arrival(instance, state)


def _now(instance: Instance, state: State) -> Array:
    """The time that arrivals are compared with."""
    return state.clock.total if instance.in_seconds else state.time


def _next_arrival(instance: Instance, state: State) -> tuple[Array, Array]:
    """Whether someone is still to arrive, and when."""
    last = instance.bound.shape[0] - 1
    return state.arrived < instance.total, at(instance.arrivals, jnp.minimum(state.arrived, last))


def wait_for_arrival(instance: Instance, state: State) -> State:
    """An idle server's next round begins at the next arrival."""
    more, arrival = _next_arrival(instance, state)
    idle = more & (state.running == 0) & (state.waiting.head == NEVER)
    idle = idle & (arrival > _now(instance, state))
    if not instance.in_seconds:
        return state._replace(time=jnp.where(idle, arrival, state.time))
    clock = Sum(jnp.where(idle, arrival, state.clock.total), jnp.where(idle, 0, state.clock.excess))
    return state._replace(clock=clock)


def _arrive(instance: Instance, policy: Policy, state: State) -> State:
    """Let those wait who have arrived by the beginning of the round."""

    def due(state: State) -> Array:
        more, arrival = _next_arrival(instance, state)
        return more & (arrival <= _now(instance, state))

    def enter(state: State) -> State:
        request = at(instance.by_arrival, state.arrived)
        key = row_of(instance.jobs, request)[2]
        retry = jnp.where(key < state.waiting.head, 0, state.retry)
        place = place_of(instance, policy, key)
        return state._replace(
            waiting=waiting.insert(state.waiting, place, key),
            arrived=state.arrived + 1,
            retry=retry,
        )

    return lax.while_loop(due, enter, state)


def _iterate(instance: Instance, state: State, prefill: Scalar) -> State:
    """Generate one token for every running request."""
    held = state.held
    log = state.log
    if log.held is not None:
        last = log.held.shape[0] - 1
        log = log._replace(held=put(log.held, jnp.minimum(state.time, last), held))
    clock, seconds = state.clock, jnp.ones((), state.clock.total.dtype)
    if instance.batch_time is not None:
        seconds = instance.batch_time.seconds(batch=state.running, held=held, prefill=prefill)
        clock = clock.add(seconds)
    return state._replace(
        time=state.time + 1,
        clock=clock,
        peak=jnp.maximum(state.peak, held),
        area=state.area.add(held.astype(seconds.dtype) * seconds),
        log=log,
    )


def _complete(instance: Instance, policy: Policy, state: State) -> State:
    """Let those go whose last token is generated."""

    def look(state: State) -> _Ending:
        slot, next_end = kvcache.find_ending(state.slots, state.running, state.time)
        return _Ending(slot < NEVER, next_end, kvcache.leaver(state.slots, slot, state.running))

    def skip(state: State) -> _Ending:
        nobody: _Ending = nothing_like(look, state)
        return nobody._replace(next_end=state.next_end)

    def leave(carry: tuple[State, _Ending]) -> tuple[State, _Ending]:
        state, ending = carry
        column = ending.leaver.column
        early = column[kvcache.PLANNED_END] > state.time
        state = eviction.leave(policy, state, ending.leaver)
        log = state.log
        if log.finish is not None:
            finish = put(log.finish, column[kvcache.REQUEST], state.clock.total)
            log = log._replace(finish=finish)
        state = state._replace(
            finished=state.finished + 1, retry=jnp.where(early, 0, state.retry), log=log
        )
        return state, look(state)

    ending = lax.cond(state.next_end <= state.time, look, skip, state)
    state, ending = lax.while_loop(lambda carry: carry[1].found, leave, (state, ending))
    return state._replace(next_end=ending.next_end)


class _Ending(NamedTuple):
    """Whether a request ends now, who it is, and a lower bound on the next end after that."""

    found: Bool[Array, ""]
    next_end: Scalar
    leaver: Leaver


def _note_first_tokens(state: State, before: Scalar) -> State:
    """Write down the clock for those who generated their first token in this round."""
    first_order, first_token = state.log.first_order, state.log.first_token
    if first_order is None or first_token is None:
        return state

    def note(carry: tuple[Scalar, Array]) -> tuple[Scalar, Array]:
        place, times = carry
        return place + 1, put(times, at(first_order, place), state.clock.total)

    _, times = lax.while_loop(
        lambda carry: carry[0] < state.log.num_first, note, (before, first_token)
    )
    return state._replace(log=state.log._replace(first_token=times))
