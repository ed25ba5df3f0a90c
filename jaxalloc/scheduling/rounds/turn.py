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
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.rounds import admission, cache, eviction, waiting
from jaxalloc.scheduling.rounds.arrays import NEVER, Scalar, at, put, row_at, when
from jaxalloc.scheduling.rounds.cache import Job, Leaver
from jaxalloc.scheduling.rounds.state import Instance, Known, State


def is_over(instance: Instance, state: State) -> Bool[Array, ""]:
    """Whether all have finished, or the rounds, the slots or the clearings are used up."""
    ended = (state.finished >= instance.total) | (state.time >= instance.max_rounds)
    return ended | state.exceeded | state.stuck


def play(instance: Instance, policy: Policy, state: State, num_slots: int) -> State:
    """One round."""
    state = _arrive(instance, state)
    state, killed = eviction.overflow(instance, policy, state)
    before = state.running
    state, prefill = admission.admit(instance, policy, state, killed > 0, num_slots)
    state = eviction.requeue(instance, state, killed)
    state = _note_first_tokens(_iterate(instance, state, prefill), before)
    state = _complete(policy, state)
    return wait_for_arrival(instance, state)


def _awaited(instance: Instance, state: State) -> tuple[Bool[Array, ""], Array]:
    """Whether someone is still to arrive, and what time it is for arrivals."""
    now = state.time if instance.batch_time is None else state.clock.total
    return state.arrived < instance.total, now


def wait_for_arrival(instance: Instance, state: State) -> State:
    """An idle server's next round begins at the next arrival."""
    more, now = _awaited(instance, state)
    idle = more & (state.running == 0) & (state.waiting.head == NEVER) & (state.arrival > now)
    if instance.batch_time is None:
        return state._replace(time=jnp.where(idle, state.arrival, state.time))
    total = jnp.where(idle, state.arrival, state.clock.total)
    return state._replace(clock=Sum(total, jnp.where(idle, 0, state.clock.excess)))


def _arrive(instance: Instance, state: State) -> State:
    """Let those wait who have arrived by the beginning of the round."""
    last = instance.bound.shape[0] - 1

    def due(state: State) -> Array:
        more, now = _awaited(instance, state)
        return more & (state.arrival <= now)

    def enter(state: State) -> State:
        request = at(instance.by_arrival, state.arrived)
        key = at(instance.waiting_key, request)
        following = at(instance.by_arrival, jnp.minimum(state.arrived + 1, last))
        return state._replace(
            waiting=waiting.insert(state.waiting, request, key),
            arrived=state.arrived + 1,
            arrival=at(instance.arrival, following),
            earliest=jnp.where(key < state.waiting.head, state.time, state.earliest),
        )

    return lax.while_loop(due, enter, state)


def _iterate(instance: Instance, state: State, prefill: Scalar) -> State:
    """Generate one token for every running request."""
    held, occupancy = state.held, state.occupancy
    if occupancy is not None:
        last = occupancy.shape[0] - 1
        occupancy = put(occupancy, jnp.minimum(state.time, last), held)
    clock, seconds = state.clock, jnp.ones((), state.clock.total.dtype)
    if instance.batch_time is not None:
        seconds = instance.batch_time.seconds(batch=state.running, held=held, prefill=prefill)
        clock = clock.add(seconds)
    return state._replace(
        time=state.time + 1,
        clock=clock,
        peak=jnp.maximum(state.peak, held),
        area=state.area.add(held.astype(seconds.dtype) * seconds),
        occupancy=occupancy,
    )


def _note_first_tokens(state: State, before: Scalar) -> State:
    """Write down the clock for those who started for the first time: slots `before` and later."""
    if state.first_token is None:
        return state
    no_one = state.first_token.shape[0] - 1

    def note(carry: tuple[Scalar, Array]) -> tuple[Scalar, Array]:
        slot, times = carry
        request = Job(*cache.job_at(state.slots, slot)[0]).request
        new = Known(*row_at(state.ledger, request)).first == state.time - 1
        return slot + 1, put(times, jnp.where(new, request, no_one), state.clock.total)

    begin = before, state.first_token
    _, times = lax.while_loop(lambda carry: carry[0] < state.running, note, begin)
    return state._replace(first_token=times)


class _Ending(NamedTuple):
    """The next end of a running request, from now on, and who leaves if that is now."""

    next_end: Scalar
    leaver: Leaver


def _complete(policy: Policy, state: State) -> State:
    """Let those go whose last token is generated."""

    def look(state: State) -> _Ending:
        next_end, slot = cache.next_ending(state.slots, state.running, state.time)
        return _Ending(next_end, cache.leaver(state.slots, slot, state.running))

    def leave(carry: tuple[State, _Ending]) -> tuple[State, _Ending]:
        state, (_, leaver) = carry
        early = leaver.job.planned_end > state.time
        state = eviction.leave(policy, state, leaver)
        finish = state.finish
        if finish is not None:
            finish = put(finish, leaver.job.request, state.clock.total)
        state = state._replace(
            finished=state.finished + 1,
            earliest=jnp.where(early, state.time, state.earliest),
            finish=finish,
        )
        return state, look(state)

    ending = when(state.next_end <= state.time, look, state, next_end=state.next_end)
    state, ending = lax.while_loop(
        lambda carry: carry[1].next_end <= carry[0].time, leave, (state, ending)
    )
    return state._replace(next_end=ending.next_end)
