"""When the cache overflows: who is killed, and what a request leaves behind."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxalloc.scheduling import kvcache, waiting
from jaxalloc.scheduling.kvcache import Leaver
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.state import (
    BELIEF,
    EVICTIONS,
    KEPT,
    RECOMPUTED,
    SLOT,
    STARTED,
    Instance,
    Scalar,
    State,
    place_of,
)
from jaxalloc.scheduling.storage import at, nothing_like, put, put_entry, put_row, row_of, zero

# Draws of a β-clearing in one round; if the cache still overflows, the instance gives up as if
# it had run out of rounds. At β = 0.01 and one running request that is a chance of 3e-5.
MAX_CLEARINGS = 1024


def overflow(instance: Instance, policy: Policy, state: State) -> tuple[State, Scalar]:
    """Kill while the tokens held after this round exceed M; also returns how many were killed."""
    none = jnp.int32(0)
    if not policy.evicts:
        return state, none
    if policy.reset_probability is None:
        bits, newest = instance.tie_bits, policy.tie == "newest"

        def choose(state: State) -> _Victim:
            request = kvcache.smallest_key(
                state.slots, state.running, state.time, policy.eviction_key, bits, newest
            )
            return _victim(state, row_of(state.ledger, request)[SLOT])

        def over(state: State) -> Array:
            return state.held > instance.capacity

        def next_victim(state: State) -> _Victim:
            victim: _Victim = lax.cond(
                over(state), choose, lambda _: nothing_like(choose, state), state
            )
            return victim

        def kill(carry: tuple[State, Scalar, _Victim]) -> tuple[State, Scalar, _Victim]:
            state, killed, victim = carry
            state = _evict(instance, policy, state, victim, killed)
            return state, killed + 1, next_victim(state)

        state, killed, _ = lax.while_loop(
            lambda carry: over(carry[0]), kill, (state, none, next_victim(state))
        )
        return state, killed

    probability = policy.reset_probability

    def draw(time: Scalar, clearing: Scalar) -> Array | None:
        if instance.key is None:
            return None
        key = jax.random.fold_in(jax.random.fold_in(instance.key, time), clearing)
        return jax.random.uniform(key, instance.bound.shape) < probability

    def clear(carry: tuple[State, Scalar, Scalar]) -> tuple[State, Scalar, Scalar]:
        state, killed, clearing = carry
        marked = draw(state.time, clearing)

        def next_slot(state: State, below: Scalar) -> Scalar:
            if marked is None:
                return below - 1
            return kvcache.last_marked(state.slots, below, marked)

        # From the last slot down, so that whoever moves into a free slot has had its draw.
        def reset(inner: tuple[State, Scalar, Scalar, _Victim]) -> Any:
            state, killed, slot, victim = inner
            state = _evict(instance, policy, state, victim, killed)
            slot = next_slot(state, slot)
            return state, killed + 1, slot, _victim(state, slot)

        slot = next_slot(state, state.running)
        state, killed, _, _ = lax.while_loop(
            lambda inner: inner[2] >= 0, reset, (state, killed, slot, _victim(state, slot))
        )
        return state, killed, clearing + 1

    state, killed, _ = lax.while_loop(
        lambda carry: (carry[0].held > instance.capacity) & (carry[2] < MAX_CLEARINGS),
        clear,
        (state, none, none),
    )
    state = state._replace(stuck=state.held > instance.capacity)
    return _notice_standstill(instance, state, killed), killed


def _notice_standstill(instance: Instance, state: State, killed: Scalar) -> State:
    """Stop if all are reset, all arrived, as they were before, and no one has finished since."""
    before = state.log.reset_after
    if before is None:
        return state
    whole = (killed > 0) & (state.arrived >= instance.total)
    return state._replace(
        stuck=state.stuck | (whole & (before == state.finished)),
        log=state.log._replace(reset_after=jnp.where(whole, state.finished, before)),
    )


class _Victim(NamedTuple):
    """Who is killed next, and its row of the ledger."""

    leaver: Leaver
    row: Int[Array, " 8"]


def _victim(state: State, slot: Scalar) -> _Victim:
    """The request in a slot as the next victim."""
    leaver = kvcache.leaver(state.slots, slot, state.running)
    return _Victim(leaver, row_of(state.ledger, leaver.column[kvcache.REQUEST]))


def _evict(
    instance: Instance, policy: Policy, state: State, victim: _Victim, killed: Scalar
) -> State:
    """Kill a running request; it waits again, from the next round on if the policy says so."""
    row, column = victim.row, victim.leaver.column
    request = column[kvcache.REQUEST]
    generated = state.time - column[kvcache.START]
    key = row_of(instance.jobs, request)[2]
    column_of_loss = KEPT if policy.resumes else RECOMPUTED
    changes = {
        EVICTIONS: row[EVICTIONS] + 1,
        STARTED: jnp.int32(-1),
        column_of_loss: row[column_of_loss] + generated,
    }
    if policy.refines:
        refined = policy.refine(row[BELIEF], generated)
        changes[BELIEF] = refined
        key = key + ((refined - at(instance.bound, request)) << instance.tie_bits)
    state = leave(policy, state, victim.leaver)
    state = state._replace(
        ledger=put_row(state.ledger, request, row, changes),
        retry=zero(),
    )
    if state.log.stash is None:
        place = place_of(instance, policy, key)
        return state._replace(waiting=waiting.insert(state.waiting, place, key))
    return state._replace(log=state.log._replace(stash=put(state.log.stash, killed, key)))


def leave(policy: Policy, state: State, who: Leaver) -> State:
    """Free a slot, and withdraw what its request still planned to hold."""
    end, offset = who.column[kvcache.PLANNED_END], who.column[kvcache.OFFSET]
    slots = kvcache.vacate(state.slots, who)
    if policy.look_ahead:
        # The loop does not turn where nothing is left of the plan.
        some = jnp.where(end > state.time, who.last, 0)
        slots = kvcache.plan(slots, some, end, offset, -1)
    moved = who.last_column[kvcache.REQUEST]
    ledger = put_entry(state.ledger, moved, SLOT, who.slot)
    return state._replace(
        slots=slots, ledger=ledger, running=who.last, offsets=state.offsets - offset
    )


def requeue(instance: Instance, policy: Policy, state: State, killed: Scalar) -> State:
    """Let those wait again who were set aside when they were killed."""
    stash = state.log.stash
    if stash is None:
        return state

    def enter(carry: tuple[State, Scalar]) -> tuple[State, Scalar]:
        state, left = carry
        key = at(stash, left - 1)
        queue = waiting.insert(state.waiting, place_of(instance, policy, key), key)
        return state._replace(waiting=queue, retry=zero()), left - 1

    state, _ = lax.while_loop(lambda carry: carry[1] > 0, enter, (state, killed))
    return state
