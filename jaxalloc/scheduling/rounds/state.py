"""What a simulation reads (`Instance`) and carries (`State`), laid out for the loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from jaxalloc.numerics import Sum
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.integers import tie_bits
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.rounds import cache, waiting
from jaxalloc.scheduling.rounds.arrays import NEVER, Scalar, at
from jaxalloc.scheduling.rounds.cache import Slots
from jaxalloc.scheduling.rounds.waiting import Waiting


class Instance(NamedTuple):
    """What a simulation reads: one instance, laid out for the loop.

    Attributes:
      capacity: M.
      limit: tokens up to which a policy that does not look ahead admits.
      max_rounds: rounds after which it gives up.
      total: requests that are not padding.
      prompt, output: [N] s and o of every request.
      bound: [N] what the policy believes of the output, at least 1.
      waiting_key: [N] keys of those who wait, the smallest first; ranks, or packed (`by_key`).
      by_key: [N] the request of every rank; None if keys change, and have the index packed below.
      by_arrival: [N] requests in order of arrival, padding last.
      arrival: [N] when they arrive, rounds or seconds; padding never.
      batch_time: seconds a round, or None.
      random_key: [2] words of the key of a random policy, else None.
    """

    capacity: Scalar
    limit: Scalar
    max_rounds: Scalar
    total: Scalar
    prompt: Int[Array, " N"]
    output: Int[Array, " N"]
    bound: Int[Array, " N"]
    waiting_key: Int[Array, " N"]
    by_key: Int[Array, " N"] | None
    by_arrival: Int[Array, " N"]
    arrival: Num[Array, " N"]
    batch_time: BatchTime | None
    random_key: Array | None

    def request_of(self, key: Scalar) -> Array:
        """The request with this waiting key; some request if the key is NEVER."""
        last = self.bound.shape[0] - 1
        if self.by_key is None:
            return jnp.minimum(key & ((1 << tie_bits(last + 1)) - 1), last)
        return at(self.by_key, jnp.minimum(key, last))


class Known(NamedTuple):
    """What is known of a request: a column of the ledger, or all of it.

    Attributes:
      started, first: rounds of the last and the first start, or −1.
      evictions: times it was killed.
      recomputed, repeated: generated tokens lost, and tokens prefilled again.
      belief: `Instance.bound`, refined.
      kept: generated tokens that it resumes with.
    """

    started: Any
    first: Any
    evictions: Any
    recomputed: Any
    repeated: Any
    belief: Any
    kept: Any


class State(NamedTuple):
    """What a simulation carries from round to round; what not all need is None for the others.

    Attributes:
      time: the round t.
      clock: seconds at its beginning, under a batch-time model.
      arrived, finished: how many requests have.
      arrival: when the next one arrives, if one does.
      waiting, slots: the queue and the cache.
      running, offsets: k and ΣQ; `offsets + k (t + 1)` tokens are held after round t.
      next_end: a lower bound on the next end of a running request.
      earliest: a lower bound on the next round in which the head of the queue fits.
      ledger: [7, N] what is `Known` of every request.
      slot_of: [N] where every running request runs.
      peak, area: largest and summed (over rounds or seconds) tokens held.
      exceeded, stuck: out of slots; out of clearings, or at a standstill.
      first_token: [N + 1] seconds at the end of the round of the first start; the last is no one's.
      finish: [N] seconds at the end of the last round.
      occupancy: [L] tokens held after every round.
      stash: [N] waiting keys of those killed in this round, set aside until the next.
      reset_after: requests finished at the last reset of all with all arrived, or −1.
    """

    time: Scalar
    clock: Sum
    arrived: Scalar
    finished: Scalar
    arrival: Num[Array, ""]
    waiting: Waiting
    slots: Slots
    running: Scalar
    offsets: Scalar
    next_end: Scalar
    earliest: Scalar
    ledger: Int[Array, "7 N"]
    slot_of: Int[Array, " N"]
    peak: Scalar
    area: Sum
    exceeded: Bool[Array, ""]
    stuck: Bool[Array, ""]
    first_token: Float[Array, " N+1"] | None
    finish: Float[Array, " N"] | None
    occupancy: Int[Array, " L"] | None
    stash: Int[Array, " N"] | None
    reset_after: Scalar | None

    @property
    def held(self) -> Scalar:
        """Tokens held after this round by those who run."""
        return self.offsets + self.running * (self.time + 1)


def initial(instance: Instance, policy: Policy, num_slots: int, record: int) -> State:
    """Round 0, with those waiting who have arrived by then."""
    num = instance.bound.shape[0]
    in_seconds = instance.batch_time is not None
    clock = jnp.zeros((), instance.arrival.dtype if in_seconds else float)
    zero, zeros = jnp.int32(0), jnp.zeros(num, jnp.int32)
    here = instance.arrival <= 0
    arrived = jnp.sum(here, dtype=jnp.int32)
    return State(
        time=zero,
        clock=Sum(clock, clock),
        arrived=arrived,
        finished=zero,
        arrival=instance.arrival[instance.by_arrival[jnp.minimum(arrived, num - 1)]],
        waiting=waiting.create(jnp.where(here, instance.waiting_key, NEVER)),
        slots=cache.empty(min(num_slots, num)),
        running=zero,
        offsets=zero,
        next_end=jnp.int32(NEVER),
        earliest=zero,
        ledger=jnp.stack([zeros - 1, zeros - 1, *[zeros] * 3, instance.bound, zeros]),
        slot_of=zeros,
        peak=zero,
        area=Sum(clock, clock),
        exceeded=jnp.array(False),
        stuck=jnp.array(False),
        first_token=jnp.full(num + 1, -1, clock.dtype) if in_seconds else None,
        finish=jnp.full(num, -1, clock.dtype) if in_seconds else None,
        occupancy=jnp.zeros(record, jnp.int32) if record else None,
        stash=None if policy.restart_same_round else zeros,
        reset_after=jnp.int32(-1) if policy.beta == 1 else None,
    )
