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

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxalloc.scheduling.rounds.arrays import NEVER, Scalar, at, by_halves, put, put_row, row_at

CHUNK = 64  # slots read in one go: wide enough for vectors, narrow enough for a small server


class Job(NamedTuple):
    """A running request, or those of many slots; where no one runs all is 0.

    Attributes:
      planned_end: c, the planned completion.
      end: the completion.
      offset: Q = s − p.
      bound: what the policy believes of the output.
      start: p.
      request: which request it is.
      usage: tokens planned to be held at c, overdue requests left out.
    """

    planned_end: Any
    end: Any
    offset: Any
    bound: Any
    start: Any
    request: Any
    usage: Any = None


class Slots(NamedTuple):
    """R slots, of which 0 … k−1 are in use: the `usage` [R] of their jobs, and the `others` [6, R].

    What changes in every pass is apart from what a pass reads, so that it can change in place.
    """

    others: Any
    usage: Any


def empty(num_slots: int) -> Slots:
    """No one runs; R is a power of two up to one chunk, whole chunks above it."""
    width = 1 << max(num_slots - 1, 0).bit_length()
    if num_slots > CHUNK:
        width = -(-num_slots // CHUNK) * CHUNK
    others = jnp.zeros((len(Job._fields) - 1, width), jnp.int32)
    return Slots(others, jnp.zeros(width, jnp.int32))


@functools.singledispatch
def job_at(slots: Any, slot: Scalar) -> tuple[Any, Array]:
    """What runs in a slot: all of a `Job` but its usage, and that."""
    return row_at(slots.others, slot), at(slots.usage, slot)


@functools.singledispatch
def put_job(slots: Any, slot: Scalar, others: Any, usage: Scalar) -> Any:
    """Let a job run in a slot."""
    return Slots(put_row(slots.others, slot, others), put(slots.usage, slot, usage))


@functools.singledispatch
def fold(
    slots: Any, running: Scalar, read: Callable[[Job, Array], tuple[Array, ...]], *combine: Any
) -> list[Array]:
    """Reduce what `read(jobs, slot)` makes of the slots in use, each by add, max or min."""
    width = min(slots.usage.shape[0], CHUNK)

    def body(carry: tuple[Scalar, list[Array]]) -> tuple[Scalar, list[Array]]:
        first, found = carry
        jobs = _jobs(slots.others, slots.usage, first, width)
        new = read(jobs, first + lax.iota(jnp.int32, width))
        whole = [by_halves(how, values) for how, values in zip(combine, new, strict=True)]
        return first + width, [how(*x) for how, *x in zip(combine, found, whole, strict=True)]

    begin = jnp.int32(0), [jnp.int32(NEVER if how is lax.min else 0) for how in combine]
    return lax.while_loop(lambda carry: carry[0] < running, body, begin)[1]


@functools.singledispatch
def plan(slots: Any, running: Scalar, end: Scalar, offset: Scalar, sign: int) -> Any:
    """Add (or, with sign −1, withdraw) a request's plan to hold offset + x up to x = end.

    A request that starts is among the running already, and its own usage changes with the others'.
    Overdue slots change too, which does not matter: their usage is never read.
    """
    width = min(slots.usage.shape[0], CHUNK)

    def body(carry: tuple[Scalar, Array]) -> tuple[Scalar, Array]:
        first, usage = carry
        jobs = _jobs(slots.others, usage, first, width)
        new = planned(jobs, end, offset, sign)
        return first + width, lax.dynamic_update_slice(usage, new, (first,))

    begin = jnp.int32(0), slots.usage
    return slots._replace(usage=lax.while_loop(lambda carry: carry[0] < running, body, begin)[1])


def planned(jobs: Job, end: Scalar, offset: Scalar, sign: int) -> Array:
    """The usage of slots with one plan more, or less."""
    more = sign * (offset + jobs.planned_end)
    return jobs.usage + jnp.where(jobs.planned_end <= end, more, 0)


def _jobs(others: Array, usage: Array, first: Scalar, width: int) -> Job:
    """The jobs of some slots."""
    rows = map(jnp.int32, range(others.shape[0]))
    parts = (lax.dynamic_slice(others, (row, first), (1, width)) for row in rows)
    columns = [part.reshape(width) for part in parts]
    return Job(*columns)._replace(usage=lax.dynamic_slice(usage, (first,), (width,)))


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

    def read(jobs: Job, _: Array) -> tuple[Array, Array]:
        # What is planned up to now bounds the start by the past, and need not be left out.
        start = jnp.minimum(jobs.planned_end, jobs.usage + jobs.planned_end - spare)
        start = jnp.where(jobs.planned_end <= end, start, 0)
        return start, jnp.where(jobs.planned_end >= end, jobs.offset + end, 0)

    latest, usage = fold(slots, running, read, lax.max, lax.add)
    # The next round holds the overdue ones too. `end` is a planned completion itself.
    latest = jnp.maximum(latest, jnp.minimum(time + 1, held + time + 1 - spare))
    return jnp.maximum(latest, jnp.minimum(end, usage + end - spare)), usage


class Leaver(NamedTuple):
    """A running request that leaves its slot to the last running one.

    Everything is read before anything changes, so that arrays can change in place.

    Attributes:
      slot: where it is.
      others: what was there.
      last, last_others, last_usage: the last running slot, and what was there.
    """

    slot: Scalar
    others: Any
    last: Scalar
    last_others: Any
    last_usage: Scalar

    @property
    def job(self) -> Job:
        """It, but for the usage."""
        return Job(*self.others)


def leaver(slots: Slots, slot: Scalar, running: Scalar) -> Leaver:
    """The request in a slot, which may be any number if nobody leaves."""
    last = jnp.maximum(running - 1, 0)
    slot = jnp.clip(slot, 0, last)
    return Leaver(slot, job_at(slots, slot)[0], last, *job_at(slots, last))


def vacate(slots: Slots, who: Leaver) -> Slots:
    """Move the last running request into the leaver's slot and clear its own."""
    moved = put_job(slots, who.slot, who.last_others, who.last_usage)
    nobody = [jnp.int32(0)] * len(Job._fields)
    cleared: Slots = put_job(moved, who.last, nobody[:-1], nobody[-1])
    return cleared


def next_ending(slots: Slots, running: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
    """The next end of a request, from `time` on, and the first slot that ends now, if one does."""

    def read(jobs: Job, slot: Array) -> tuple[Array, Array]:
        next_end = jnp.where(jobs.end >= time, jobs.end, NEVER)
        return next_end, jnp.where(jobs.end == time, slot, NEVER)

    next_end, slot = fold(slots, running, read, lax.min, lax.min)
    return next_end, slot


def first_victim(
    slots: Slots, running: Scalar, time: Scalar, tie_bits: int, newest: bool
) -> Scalar:
    """The running request with the smallest max(bound, generated since its start).

    Ties are broken by index, the larger first if `newest`. Keys are below 2^(31 − tie_bits): the
    index, of `tie_bits` bits, is packed below.
    """
    mask = (1 << tie_bits) - 1
    flip = mask if newest else 0

    def read(jobs: Job, _: Array) -> tuple[Array]:
        key = jnp.maximum(jobs.bound, time - jobs.start)
        packed = (key << tie_bits) | (jobs.request ^ flip)
        return (jnp.where(jobs.end > time, packed, NEVER),)

    (best,) = fold(slots, running, read, lax.min)
    return (best & mask) ^ flip


def last_marked(slots: Slots, below: Scalar, marked: Bool[Array, " N"]) -> Scalar:
    """The largest slot under `below` whose request is marked, or −1."""
    request = Job(*slots.others).request
    slot = lax.iota(jnp.int32, request.shape[0])
    return jnp.max(jnp.where((slot < below) & marked[request], slot, -1))
