"""When the cache overflows: who is killed, and what a request leaves behind."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxalloc.scheduling.integers import tie_bits
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.rounds import cache, waiting
from jaxalloc.scheduling.rounds.arrays import Scalar, at, put, put_row, row_at, when
from jaxalloc.scheduling.rounds.cache import Job, Leaver
from jaxalloc.scheduling.rounds.state import Instance, Known, State

# Draws of a β-clearing in one round; if the cache still overflows, the instance gives up as if
# it had run out of rounds. At β = 0.01 and one running request that is a chance of 3e-5.
MAX_CLEARINGS = 1024


def overflow(instance: Instance, policy: Policy, state: State) -> tuple[State, Scalar]:
    """Kill while the tokens held after this round exceed M; also returns how many were killed."""
    if not policy.evicts:
        return state, jnp.int32(0)
    if policy.beta:
        return _reset_by_chance(instance, policy, state)
    return _kill_in_order(instance, policy, state)


def _kill_in_order(instance: Instance, policy: Policy, state: State) -> tuple[State, Scalar]:
    """Kill the running request with the smallest key, one after another."""

    def over(state: State) -> Array:
        return state.held > instance.capacity

    def choose(state: State) -> _Victim:
        bits, newest = tie_bits(instance.bound.shape[0]), policy.tie == "newest"
        request = cache.first_victim(state.slots, state.running, state.time, bits, newest)
        return _victim(state, at(state.slot_of, request))

    def kill(carry: tuple[State, Scalar, _Victim]) -> tuple[State, Scalar, _Victim]:
        state, killed, victim = carry
        state = _evict(instance, policy, state, victim, killed)
        return state, killed + 1, when(over(state), choose, state)

    begin = state, jnp.int32(0), when(over(state), choose, state)
    state, killed, _ = lax.while_loop(lambda carry: over(carry[0]), kill, begin)
    return state, killed


def _reset_by_chance(instance: Instance, policy: Policy, state: State) -> tuple[State, Scalar]:
    """Reset each running request with probability β, and again while the cache overflows."""

    def clear(carry: tuple[State, Scalar, Scalar]) -> tuple[State, Scalar, Scalar]:
        state, killed, clearing = carry
        marked = None
        if instance.random_key is not None:
            key = jax.random.wrap_key_data(instance.random_key, impl="threefry2x32")
            key = jax.random.fold_in(jax.random.fold_in(key, state.time), clearing)
            marked = jax.random.uniform(key, instance.bound.shape) < policy.beta

        def next_slot(state: State, below: Scalar) -> Scalar:
            if marked is None:
                return below - 1
            return cache.last_marked(state.slots, below, marked)

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

    none = jnp.int32(0)
    state, killed, _ = lax.while_loop(
        lambda carry: (carry[0].held > instance.capacity) & (carry[2] < MAX_CLEARINGS),
        clear,
        (state, none, none),
    )
    stuck = state.held > instance.capacity
    if state.reset_after is None:
        return state._replace(stuck=stuck), killed
    # All are reset, all arrived, as they were before, and no one has finished since: for ever.
    whole = (killed > 0) & (state.arrived >= instance.total)
    stuck = stuck | (whole & (state.reset_after == state.finished))
    reset_after = jnp.where(whole, state.finished, state.reset_after)
    return state._replace(stuck=stuck, reset_after=reset_after), killed


class _Victim(NamedTuple):
    """Who is killed next, and its column of the ledger."""

    leaver: Leaver
    column: Any


def _victim(state: State, slot: Scalar) -> _Victim:
    """The request in a slot as the next victim."""
    leaver = cache.leaver(state.slots, slot, state.running)
    return _Victim(leaver, row_at(state.ledger, leaver.job.request))


def _evict(
    instance: Instance, policy: Policy, state: State, victim: _Victim, killed: Scalar
) -> State:
    """Kill a running request; it waits again, from the next round on if the policy says so."""
    known, job = Known(*victim.column), victim.leaver.job
    request, generated = job.request, state.time - job.start
    key = at(instance.waiting_key, request)
    known = known._replace(started=jnp.int32(-1), evictions=known.evictions + 1)
    if policy.resume:
        known = known._replace(kept=known.kept + generated)
    else:
        known = known._replace(recomputed=known.recomputed + generated)
    if policy.refines:
        belief = jnp.maximum(known.belief, generated + int(policy.refine_next))
        key += (belief - at(instance.bound, request)) << tie_bits(instance.bound.shape[0])
        known = known._replace(belief=belief)
    state = leave(policy, state, victim.leaver)
    state = state._replace(ledger=put_row(state.ledger, request, known), earliest=state.time)
    if state.stash is not None:
        return state._replace(stash=put(state.stash, killed, key))
    return state._replace(waiting=waiting.insert(state.waiting, request, key))


def leave(policy: Policy, state: State, who: Leaver) -> State:
    """Free a slot, and withdraw what its request still planned to hold."""
    end, offset = who.job.planned_end, who.job.offset
    slots = cache.vacate(state.slots, who)
    if policy.look_ahead:
        # The loop does not turn where nothing is left of the plan.
        some = jnp.where(end > state.time, who.last, 0)
        slots = cache.plan(slots, some, end, offset, -1)
    return state._replace(
        slots=slots,
        slot_of=put(state.slot_of, Job(*who.last_others).request, who.slot),
        running=who.last,
        offsets=state.offsets - offset,
    )


def requeue(instance: Instance, state: State, killed: Scalar) -> State:
    """Let those wait again who were set aside when they were killed."""
    stash = state.stash
    if stash is None:
        return state

    def enter(carry: tuple[State, Scalar]) -> tuple[State, Scalar]:
        state, left = carry
        key = at(stash, left - 1)
        queue = waiting.insert(state.waiting, instance.request_of(key), key)
        return state._replace(waiting=queue, earliest=state.time), left - 1

    state, _ = lax.while_loop(lambda carry: carry[1] > 0, enter, (state, killed))
    return state
