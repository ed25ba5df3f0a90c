"""One round of one instance: arrivals, overflow, admission, the batch iteration, completions.

The state is carried through nested loops without branches around it: a loop that does not turn is
the branch not taken, and arrays stay where they are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxalloc.scheduling import kvcache, waiting
from jaxalloc.scheduling.kvcache import NEVER, Leaver
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
    Log,
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

        def choose(state: State) -> _Victim:
            request = kvcache.smallest_key(
                state.slots, state.running, state.time, policy.eviction_key, bits, newest
            )
            return _victim(state, at(state.ledger[:, SLOT], request))

        def kill(carry: tuple[State, Scalar, _Victim]) -> tuple[State, Scalar, _Victim]:
            state, killed, victim = carry
            state = _evict(instance, policy, state, victim, killed)
            return state, killed + 1, choose(state)

        over = state.held > instance.capacity
        nobody = jax.tree.map(jnp.zeros_like, jax.eval_shape(choose, state))
        victim = lax.cond(over, choose, lambda _: nobody, state)
        state, killed, _ = lax.while_loop(
            lambda carry: carry[0].held > instance.capacity, kill, (state, zero, victim)
        )
        return state, killed

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
            state = _evict(instance, policy, state, _victim(state, slot), killed)
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
    state = _leave(policy, state, victim.leaver)
    state = state._replace(
        ledger=put_row(state.ledger, request, row, changes),
        retry=jnp.int32(0),
    )
    if policy.restarts_at_once:
        place = place_of(instance, policy, key)
        return state._replace(waiting=waiting.insert(state.waiting, place, key))
    return state._replace(log=state.log._replace(stash=put(state.log.stash, killed, key)))


def _leave(policy: Policy, state: State, who: Leaver) -> State:
    """Free a slot, and withdraw what its request still planned to hold."""
    end, offset = who.column[kvcache.PLANNED_END], who.column[kvcache.OFFSET]
    slots = kvcache.vacate(state.slots, who)
    if policy.look_ahead:
        # The loop does not turn where nothing is left of the plan.
        some = jnp.where(end > state.time, who.last, 0)
        slots = kvcache.plan(slots, some, end, offset, -1)
    moved = who.last_column[kvcache.REQUEST]
    ledger = lax.dynamic_update_slice(
        state.ledger, who.slot.reshape(1, 1), (moved, jnp.int32(SLOT))
    )
    return state._replace(
        slots=slots, ledger=ledger, running=who.last, offsets=state.offsets - offset
    )


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
    held = state.held + job[0] + row[KEPT] + 1
    fits = (held <= policy.limit(instance.capacity)) | (state.running == 0)
    if policy.max_batch is not None:
        fits = fits & (state.running < policy.max_batch)
    earliest = jnp.where(fits, state.time, state.time + 1)
    return _Head(earliest, request, job, row, length, jnp.int32(0))


def _admit(
    instance: Instance, policy: Policy, state: State, killed: Array, num_slots: int
) -> tuple[State, Scalar]:
    """Start the waiting in order while they fit; also returns the tokens to prefill."""
    blocked = killed if policy.blocks_after_eviction else jnp.array(False)

    def look(state: State) -> _Head:
        return _head(instance, policy, state)

    def skip(state: State) -> _Head:
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(look, state))
        return nothing._replace(earliest=state.retry)

    def wanted(state: State, head: _Head) -> Array:
        return (state.waiting.head < NEVER) & (head.earliest <= state.time) & ~blocked

    def start(carry: tuple[State, Scalar, _Head]) -> tuple[State, Scalar, _Head]:
        state, prefill, head = carry
        state, tokens = _start(instance, policy, state, head)
        return state, prefill + tokens, look(state)

    ready = (state.waiting.head < NEVER) & (state.retry <= state.time) & ~blocked
    state, prefill, head = lax.while_loop(
        lambda carry: wanted(carry[0], carry[2]) & (carry[0].running < num_slots),
        start,
        (state, jnp.int32(0), lax.cond(ready, look, skip, state)),
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
    return log._replace(first_order=order, num_first=new + ~again)


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

    def look(state: State) -> _Ending:
        slot, next_end = kvcache.find_ending(state.slots, state.running, state.time)
        return _Ending(slot < NEVER, next_end, kvcache.leaver(state.slots, slot, state.running))

    def skip(state: State) -> _Ending:
        nobody = jax.tree.map(jnp.zeros_like, jax.eval_shape(look, state))
        return nobody._replace(next_end=state.next_end)

    def leave(carry: tuple[State, _Ending]) -> tuple[State, _Ending]:
        state, ending = carry
        column = ending.leaver.column
        early = column[kvcache.PLANNED_END] > state.time
        state = _leave(policy, state, ending.leaver)
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

    def note(carry: tuple[Scalar, Array]) -> tuple[Scalar, Array]:
        place, first_token = carry
        request = at(state.log.first_order, place)
        return place + 1, put(first_token, request, state.clock.total)

    _, first_token = lax.while_loop(
        lambda carry: carry[0] < state.log.num_first, note, (before, state.log.first_token)
    )
    return state._replace(log=state.log._replace(first_token=first_token))
