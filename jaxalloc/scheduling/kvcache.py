"""The KV cache: who runs in which slot, what they plan to hold, and whether one more fits.

A request that started at p with a prompt s holds `s + (x − p)` tokens at every round p < x ≤ its
end. With `offset` Q = s − p that is Q + x, so the tokens held after round t by k running requests
are ΣQ + k (t + 1): two scalars.

The look-ahead check needs the usage planned at future rounds. Planned usage only grows between
planned completions, so it is enough to know it there: slot j carries `usage` u_j, the usage planned
at its own planned completion c_j. Starting or ending one request changes u_j for c_j up to its own
completion, which is one pass over the running slots (derived here). Overdue requests (c_j ≤ t) are
planned for one more round and count at t + 1 only, where the two scalars hold the sum.

Running requests fill slots 0 … k−1 without gaps: the last one moves into the place of one that
ends. A pass reads them in chunks, so it costs what runs and not what could run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxalloc.scheduling.storage import (
    Stored,
    at,
    column_of,
    fold,
    is_on_chip,
    part,
    parts_of_rows,
    put,
    put_column,
    put_part,
)

# Rows of `Slots.table`.
PLANNED_END, END, OFFSET, BOUND, START, REQUEST = range(6)
NUM_ROWS = 6

CHUNK = 64  # slots read in one go: wide enough for vectors, narrow enough for a small server
NEVER = (1 << 31) - 1

Scalar = Int[Array, ""]
Carry = tuple[Any, ...]


class Slots(NamedTuple):
    """The running requests, in slots 0 … k−1; the others are all 0.

    Attributes:
      table: [6, R] planned end c, end, offset Q, bound, start p and request of each slot.
      usage: [R] tokens planned to be held at the slot's planned end, overdue ones left out.
    """

    table: Stored
    usage: Stored


def empty(num_slots: int) -> Slots:
    """No one runs; R is `num_slots` rounded up to whole chunks."""
    width = padded_width(num_slots)
    return Slots(jnp.zeros((NUM_ROWS, width), jnp.int32), jnp.zeros(width, jnp.int32))


def padded_width(num_slots: int) -> int:
    """R: a power of two up to one chunk, whole chunks above it."""
    if num_slots > CHUNK:
        return -(-num_slots // CHUNK) * CHUNK
    return 1 << max(num_slots - 1, 0).bit_length()


def _over_chunks(
    slots: Slots, running: Scalar, body: Callable[[Scalar | int, int, Carry], Carry], init: Carry
) -> Carry:
    """Fold `body(first slot, chunk width, carry)` over the chunks that hold running requests."""
    width = slots.usage.shape[0]
    if width <= CHUNK or is_on_chip(slots.usage):
        return body(0, width, init)
    chunks = (running + CHUNK - 1) // CHUNK
    _, folded = lax.while_loop(
        lambda carry: carry[0] < chunks,
        lambda carry: (carry[0] + 1, body(carry[0] * CHUNK, CHUNK, carry[1])),
        (jnp.int32(0), init),
    )
    result: Carry = folded
    return result


def earliest_start(
    slots: Slots,
    running: Scalar,
    held: Scalar,
    prompt: Scalar,
    length: Scalar,
    time: Scalar,
    capacity: Scalar,
) -> tuple[Scalar, Scalar]:
    """The first round from `time` on in which a request might start, and usage at its end.

    Starting at t' ≥ t is admissible iff for every planned completion x in (t', t' + õ]:
    usage(x) + s + x − t' ≤ M. So
    `T = max over planned completions t < x ≤ t + õ of min(x, usage(x) + s + x − M)`
    is at most t iff it may start now, and else no earlier start is possible while nothing that is
    planned is withdrawn (derived here).

    Args:
      slots: the cache.
      running: how many run.
      held: tokens held after this round by the running.
      prompt: s of the request.
      length: its planned length õ.
      time: t.
      capacity: M.

    Returns:
      T, and the usage planned by the running at t + õ.
    """
    end = time + length
    spare = capacity - prompt

    def body(first: Scalar | int, width: int, carry: Carry) -> Carry:
        latest, usage = carry
        planned_end, offset = parts_of_rows(slots.table, first, width, PLANNED_END, OFFSET)
        planned = part(slots.usage, first, width)
        # What is planned up to now bounds the start by the past, and need not be left out.
        start = jnp.minimum(planned_end, planned + planned_end - spare)
        start = jnp.where(planned_end <= end, start, 0)
        latest = jnp.maximum(latest, fold(jnp.maximum, start, slots.usage))
        then = jnp.where(planned_end >= end, offset + end, 0)
        return latest, usage + fold(jnp.add, then, slots.usage)

    latest, usage = _over_chunks(slots, running, body, (jnp.int32(0), jnp.int32(0)))
    # The next round holds the overdue ones too. `end` is a planned completion itself.
    latest = jnp.maximum(latest, jnp.minimum(time + 1, held + time + 1 - spare))
    return jnp.maximum(latest, jnp.minimum(end, usage + end - spare)), usage


def plan(slots: Slots, running: Scalar, end: Scalar, offset: Scalar, sign: int) -> Slots:
    """Add (or, with sign −1, withdraw) a request's plan to hold offset + x up to x = end.

    A request that starts is among the running already, and its own usage changes with the others'.
    Overdue slots change too, which does not matter: their usage is never read.
    """

    def body(first: Scalar | int, width: int, carry: Carry) -> Carry:
        (usage,) = carry
        (planned_end,) = parts_of_rows(slots.table, first, width, PLANNED_END)
        change = jnp.where(planned_end <= end, sign * (offset + planned_end), 0)
        return (put_part(usage, first, part(usage, first, width) + change),)

    return slots._replace(usage=_over_chunks(slots, running, body, (slots.usage,))[0])


def occupy(slots: Slots, slot: Scalar, column: list[Scalar], usage: Scalar) -> Slots:
    """Put a request into a slot; `column` holds its six rows."""
    return Slots(put_column(slots.table, slot, column), put(slots.usage, slot, usage))


class Leaver(NamedTuple):
    """A running request that leaves its slot to the last running one.

    Everything is read before anything changes, so that arrays can change in place.

    Attributes:
      slot: where it is.
      column: [6] its rows.
      last: the last running slot.
      last_column, last_usage: [6] and its usage.
    """

    slot: Scalar
    column: Int[Array, " 6"]
    last: Scalar
    last_column: Int[Array, " 6"]
    last_usage: Scalar


def leaver(slots: Slots, slot: Scalar, running: Scalar) -> Leaver:
    """The request in a slot, which may be any number if nobody leaves."""
    last = jnp.maximum(running - 1, 0)
    slot = jnp.clip(slot, 0, last)
    return Leaver(
        slot,
        column_of(slots.table, slot),
        last,
        column_of(slots.table, last),
        at(slots.usage, last),
    )


def vacate(slots: Slots, who: Leaver) -> Slots:
    """Move the last running request into the leaver's slot and clear its own."""
    table = put_column(slots.table, who.slot, who.last_column)
    table = put_column(table, who.last, [jnp.int32(0)] * NUM_ROWS)
    return Slots(table, put(slots.usage, who.slot, who.last_usage))


def find_ending(slots: Slots, running: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
    """The first slot whose request ends at `time` (or NEVER), and the next end after it."""

    def body(first: Scalar | int, width: int, carry: Carry) -> Carry:
        slot, following = carry
        (end,) = parts_of_rows(slots.table, first, width, END)
        index = first + lax.iota(jnp.int32, width)
        here = fold(jnp.minimum, jnp.where(end == time, index, NEVER), slots.usage)
        later = fold(jnp.minimum, jnp.where(end > time, end, NEVER), slots.usage)
        return jnp.minimum(slot, here), jnp.minimum(following, later)

    never = jnp.int32(NEVER)
    slot, following = _over_chunks(slots, running, body, (never, never))
    return slot, following


def smallest_key(
    slots: Slots,
    running: Scalar,
    time: Scalar,
    key: Callable[[Array, Array], Array],
    tie_bits: int,
    newest: bool,
) -> Scalar:
    """The running request with the smallest key, ties by index (the larger first if `newest`).

    Args:
      slots: the cache.
      running: how many run.
      time: t.
      key: (bound, rounds since the last start) to a key below 2^(31 − tie_bits).
      tie_bits: bits of the largest request index, which is packed below the key.
      newest: reverse ties.

    Returns:
      The request's index.
    """
    mask = (1 << tie_bits) - 1
    flip = mask if newest else 0

    def body(first: Scalar | int, width: int, carry: Carry) -> Carry:
        rows = END, BOUND, START, REQUEST
        end, bound, start, request = parts_of_rows(slots.table, first, width, *rows)
        packed = (key(bound, time - start) << tie_bits) | (request ^ flip)
        best = fold(jnp.minimum, jnp.where(end > time, packed, NEVER), slots.usage)
        return (jnp.minimum(carry[0], best),)

    (best,) = _over_chunks(slots, running, body, (jnp.int32(NEVER),))
    return (best & mask) ^ flip


def last_marked(slots: Slots, below: Scalar, marked: jax.Array) -> Scalar:
    """The largest slot under `below` whose request is marked, or −1; `marked` is [N]."""
    request = slots.table[REQUEST]
    index = lax.iota(jnp.int32, request.shape[0])
    return jnp.max(jnp.where((index < below) & marked[request], index, -1))
