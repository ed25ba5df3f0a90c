"""One round of one instance: arrivals, overflow, admission, the batch iteration, completions.

The state is carried through nested loops without branches around it: a loop that does not turn is
the branch not taken, and arrays stay where they are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxalloc.scheduling import kvcache, waiting
from jaxalloc.scheduling.kvcache import NEVER
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.state import (
    BELIEF,
    EVICTIONS,
    FIRST,
    KEPT,
    RECOMPUTED,
    REPEATED,
    SLOT,
    STARTED,
    Instance,
    Scalar,
    State,
    Sum,
    at,
    place_of,
    put,
    put_row,
    request_of,
    row_of,
)

# Draws of a β-clearing in one round; if the cache still overflows, the instance gives up as if
# it had run out of rounds. At β = 0.01 and one running request that is a chance of 3e-5.
MAX_CLEARINGS = 1024


def is_over(instance: Instance, state: State) -> Bool[Array, ""]:
    """Whether all have finished, or the rounds, the slots or the clearings are used up."""
    ended = (state.finished >= instance.total) | (state.time >= instance.max_rounds)
    return ended | state.exceeded | state.stuck


def play(instance: Instance, policy: Policy, state: State, num_slots: int) -> State:
    """One round."""
    before = state.log.num_first
    state = _arrive(instance, policy, state)
    state, killed = _overflow(instance, policy, state)
    state, prefill = _admit(instance, policy, state, killed > 0, num_slots)
    state = _unstash(instance, policy, state, killed)
    state = _iterate(instance, state, prefill)
    if instance.in_seconds:
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


def _overflow(instance: Instance, policy: Policy, state: State) -> tuple[State, Scalar]:
    """Kill while the tokens held after this round exceed M; also returns how many were killed."""
    zero = jnp.int32(0)
    if not policy.evicts:
        return state, zero
    if policy.reset_probability is None:
        bits, newest = instance.tie_bits, policy.tie == "newest"

        def kill(carry: tuple[State, Scalar]) -> tuple[State, Scalar]:
            state, killed = carry
            victim = kvcache.smallest_key(
                state.slots, state.running, state.time, policy.eviction_key, bits, newest
            )
            slot = row_of(state.ledger, victim)[SLOT]
            return _evict(instance, policy, state, slot, killed), killed + 1

        return lax.while_loop(lambda carry: carry[0].held > instance.capacity, kill, (state, zero))

    probability = policy.reset_probability

    def draw(time: Scalar, clearing: Scalar) -> Array:
        if instance.key is None:
            return jnp.ones(instance.bound.shape, bool)
        key = jax.random.fold_in(jax.random.fold_in(instance.key, time), clearing)
        return jax.random.uniform(key, instance.bound.shape) < probability

    def clear(carry: tuple[State, Scalar, Scalar]) -> tuple[State, Scalar, Scalar]:
        state, killed, clearing = carry
        marked = draw(state.time, clearing)

        def reset(inner: tuple[State, Scalar, Scalar]) -> tuple[State, Scalar, Scalar]:
            state, killed, slot = inner
            state = _evict(instance, policy, state, slot, killed)
            return state, killed + 1, kvcache.last_marked(state.slots, slot, marked)

        state, killed, _ = lax.while_loop(
            lambda inner: inner[2] >= 0,
            reset,
            (state, killed, kvcache.last_marked(state.slots, state.running, marked)),
        )
        return state, killed, clearing + 1

    state, killed, _ = lax.while_loop(
        lambda carry: (carry[0].held > instance.capacity) & (carry[2] < MAX_CLEARINGS),
        clear,
        (state, zero, zero),
    )
    return state._replace(stuck=state.held > instance.capacity), killed


def _evict(instance: Instance, policy: Policy, state: State, slot: Scalar, killed: Scalar) -> State:
    """Kill the request in a slot; it waits again, from the next round on if the policy says so."""
    column = kvcache.column(state.slots, slot)
    request = column[kvcache.REQUEST]
    generated = state.time - column[kvcache.START]
    row = row_of(state.ledger, request)
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
    state = _leave(policy, state, slot, column)
    state = state._replace(
        ledger=put_row(state.ledger, request, row, changes),
        retry=jnp.int32(0),
    )
    if policy.restarts_at_once:
        place = place_of(instance, policy, key)
        return state._replace(waiting=waiting.insert(state.waiting, place, key))
    return state._replace(log=state.log._replace(stash=put(state.log.stash, killed, key)))


def _leave(policy: Policy, state: State, slot: Scalar, column: Array) -> State:
    """Free a slot, and withdraw what its request still planned to hold."""
    slots, last = state.slots, state.running - 1
    end, offset = column[kvcache.PLANNED_END], column[kvcache.OFFSET]
    if policy.look_ahead:
        # The loop does not turn where nothing is left of the plan.
        slots = kvcache.plan(slots, jnp.where(end > state.time, state.running, 0), end, offset, -1)
    slots, moved = kvcache.vacate(slots, slot, last)
    ledger = lax.dynamic_update_slice(state.ledger, slot.reshape(1, 1), (moved, jnp.int32(SLOT)))
    return state._replace(slots=slots, ledger=ledger, running=last, offsets=state.offsets - offset)


def _unstash(instance: Instance, policy: Policy, state: State, killed: Scalar) -> State:
    """Let those wait again who were set aside when they were killed."""
    if policy.restarts_at_once:
        return state

    def enter(carry: tuple[State, Scalar]) -> tuple[State, Scalar]:
        state, left = carry
        key = at(state.log.stash, left - 1)
        queue = waiting.insert(state.waiting, place_of(instance, policy, key), key)
        return state._replace(waiting=queue, retry=jnp.int32(0)), left - 1

    return lax.while_loop(lambda carry: carry[1] > 0, enter, (state, killed))[0]


def _earliest(
    instance: Instance, policy: Policy, state: State
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """The earliest round for the head of the queue, who it is, its planned length, usage then."""
    request = request_of(instance, policy, state.waiting.head)
    prompt = row_of(instance.jobs, request)[0]
    row = row_of(state.ledger, request)
    length = jnp.minimum(row[BELIEF], instance.capacity - prompt)
    if policy.look_ahead:
        earliest, usage = kvcache.earliest_start(
            state.slots, state.running, state.held, prompt, length, state.time, instance.capacity
        )
        return earliest, request, length, usage
    held = state.held + prompt + row[KEPT] + 1
    fits = (held <= policy.limit(instance.capacity)) | (state.running == 0)
    if policy.max_batch is not None:
        fits = fits & (state.running < policy.max_batch)
    return jnp.where(fits, state.time, state.time + 1), request, length, jnp.int32(0)


def _admit(
    instance: Instance, policy: Policy, state: State, killed: Array, num_slots: int
) -> tuple[State, Scalar]:
    """Start the waiting in order while they fit; also returns the tokens to prefill."""
    blocked = killed if policy.blocks_after_eviction else jnp.array(False)
    some = state.waiting.head < NEVER

    def look(state: State) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        return _earliest(instance, policy, state)

    def skip(state: State) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        return state.retry, jnp.int32(0), jnp.int32(0), jnp.int32(0)

    head = lax.cond(some & ~blocked & (state.retry <= state.time), look, skip, state)

    def fits(carry: tuple[State, Scalar, tuple]) -> Array:
        state, _, head = carry
        free = state.running < num_slots
        return (state.waiting.head < NEVER) & (head[0] <= state.time) & free & ~blocked

    def start(carry: tuple[State, Scalar, tuple]) -> tuple[State, Scalar, tuple]:
        state, prefill, (_, request, length, usage) = carry
        state, tokens = _start(instance, policy, state, request, length, usage)
        return state, prefill + tokens, look(state)

    state, prefill, head = lax.while_loop(fits, start, (state, jnp.int32(0), head))
    full = (state.waiting.head < NEVER) & (head[0] <= state.time) & ~blocked
    return state._replace(retry=head[0], exceeded=full), prefill


def _start(
    instance: Instance,
    policy: Policy,
    state: State,
    request: Scalar,
    length: Scalar,
    usage: Scalar,
) -> tuple[State, Scalar]:
    """Start the head of the queue; also returns the tokens to prefill."""
    time, slot = state.time, state.running
    prompt, output, _ = row_of(instance.jobs, request)
    row = row_of(state.ledger, request)
    tokens = prompt + row[KEPT]
    offset = tokens - time
    planned_end, end = time + length, time + output - row[KEPT]
    slots = state.slots
    if policy.look_ahead:
        slots = kvcache.plan(slots, state.running, planned_end, offset, 1)
    column = [planned_end, end, offset, row[BELIEF], time, request]
    again = row[FIRST] >= 0
    log = state.log
    if instance.in_seconds:
        new = state.log.num_first
        order = put(log.first_order, new, jnp.where(again, at(log.first_order, new), request))
        log = log._replace(first_order=order, num_first=new + ~again)
    changes = {
        STARTED: time,
        FIRST: jnp.where(again, row[FIRST], time),
        REPEATED: row[REPEATED] + jnp.where(again, tokens, 0),
        SLOT: slot,
    }
    place = place_of(instance, policy, state.waiting.head)
    return state._replace(
        waiting=waiting.remove(state.waiting, place),
        slots=kvcache.occupy(slots, slot, column, usage + tokens + length),
        running=state.running + 1,
        offsets=state.offsets + offset,
        next_end=jnp.minimum(state.next_end, end),
        ledger=put_row(state.ledger, request, row, changes),
        log=log,
    ), tokens


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
        seconds = seconds.astype(state.clock.total.dtype)
        clock = clock.add(seconds)
    return state._replace(
        time=state.time + 1,
        clock=clock,
        peak=jnp.maximum(state.peak, held),
        area=state.area.add(held * seconds),
        log=log,
    )


def _complete(instance: Instance, policy: Policy, state: State) -> State:
    """Let those go whose last token is generated."""

    def look(state: State) -> tuple[Scalar, Scalar]:
        return kvcache.find_ending(state.slots, state.running, state.time)

    def skip(state: State) -> tuple[Scalar, Scalar]:
        return jnp.int32(NEVER), state.next_end

    def leave(carry: tuple[State, tuple[Scalar, Scalar]]) -> tuple[State, tuple[Scalar, Scalar]]:
        state, (slot, _) = carry
        column = kvcache.column(state.slots, slot)
        early = column[kvcache.PLANNED_END] > state.time
        state = _leave(policy, state, slot, column)
        log = state.log
        if instance.in_seconds:
            finish = put(log.finish, column[kvcache.REQUEST], state.clock.total)
            log = log._replace(finish=finish)
        state = state._replace(
            finished=state.finished + 1, retry=jnp.where(early, 0, state.retry), log=log
        )
        return state, look(state)

    found = lax.cond(state.next_end <= state.time, look, skip, state)
    state, (_, next_end) = lax.while_loop(lambda carry: carry[1][0] < NEVER, leave, (state, found))
    return state._replace(next_end=next_end)


def _note_first_tokens(state: State, before: Scalar) -> State:
    """Write down the clock for those who generated their first token in this round."""

    def note(carry: tuple[Scalar, Array]) -> tuple[Scalar, Array]:
        place, first_token = carry
        request = at(state.log.first_order, place)
        return place + 1, put(first_token, request, state.clock.total)

    _, first_token = lax.while_loop(
        lambda carry: carry[0] < state.log.num_first, note, (before, state.log.first_token)
    )
    return state._replace(log=state.log._replace(first_token=first_token))
