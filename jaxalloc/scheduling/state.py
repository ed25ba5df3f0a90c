"""What a simulation reads (`Instance`) and carries (`State`), laid out for the loop."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from jaxalloc.numerics import Sum
from jaxalloc.scheduling import kvcache, waiting
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.kvcache import NEVER, Slots
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.storage import at
from jaxalloc.scheduling.waiting import Waiting

# Columns of `State.ledger`.
STARTED, FIRST, EVICTIONS, RECOMPUTED, REPEATED, BELIEF, KEPT, SLOT = range(8)
NUM_COLUMNS = 8

Scalar = Int[Array, ""]


def tie_bits(num_requests: int) -> int:
    """Bits of the largest request index, which packed keys carry below the key."""
    return max(num_requests - 1, 1).bit_length()


class Instance(NamedTuple):
    """What a simulation reads: one instance, laid out for the loop.

    Attributes:
      capacity: M.
      limit: tokens up to which a policy that does not look ahead admits.
      max_rounds: rounds after which it gives up.
      total: requests that are not padding.
      jobs: [N, 3] prompt, output and waiting key of every request.
      bound: [N] what the policy believes of the output, at least 1.
      by_key: [N] the request of every waiting key, a rank; None if keys change (packed keys).
      queue: [N] keys of those who wait from the beginning, in their places; NEVER elsewhere.
      by_arrival: [N] requests in order of arrival, padding last.
      arrivals: [N] their arrival times.
      batch_time: seconds a round, or None.
      key: of the random policies, else None.
    """

    capacity: Scalar
    limit: Scalar
    max_rounds: Scalar
    total: Scalar
    jobs: Int[Array, "N 3"]
    bound: Int[Array, " N"]
    by_key: Int[Array, " N"] | None
    queue: Int[Array, " N"]
    by_arrival: Int[Array, " N"]
    arrivals: Num[Array, " N"]
    batch_time: BatchTime | None
    key: Array | None

    @property
    def tie_bits(self) -> int:
        """Bits of the largest request index."""
        return tie_bits(self.bound.shape[0])

    @property
    def in_seconds(self) -> bool:
        """Whether a round lasts as long as `batch_time` says."""
        return self.batch_time is not None


class Log(NamedTuple):
    """What only some simulations keep; the others have None there.

    Attributes:
      first_order: [N] requests in the order of their first starts.
      num_first: how many have started at least once.
      first_token: [N] seconds at the end of the round of the first start.
      finish: [N] seconds at the end of the last round.
      held: [L] tokens held after every round.
      stash: [N] requests killed in this round, set aside until the next.
      reset_after: requests finished at the last reset of all with all arrived, or −1.
    """

    first_order: Int[Array, " N"] | None
    num_first: Scalar
    first_token: Float[Array, " N"] | None
    finish: Float[Array, " N"] | None
    held: Int[Array, " L"] | None
    stash: Int[Array, " N"] | None
    reset_after: Scalar | None


class State(NamedTuple):
    """What a simulation carries from round to round.

    Attributes:
      time: the round t.
      clock: seconds at its beginning, under a batch-time model.
      arrived, finished: how many requests have.
      waiting, slots: the queue and the cache.
      running, offsets: k and ΣQ; `offsets + k (t + 1)` tokens are held after round t.
      next_end: a lower bound on the next end of a running request.
      retry: a lower bound on the next round in which the head of the queue fits.
      ledger: [N, 8] what is known of every request.
      peak, area: largest and summed (over rounds or seconds) tokens held.
      exceeded, stuck: out of slots; out of clearings, or at a standstill.
      log: what only some simulations keep.
    """

    time: Scalar
    clock: Sum
    arrived: Scalar
    finished: Scalar
    waiting: Waiting
    slots: Slots
    running: Scalar
    offsets: Scalar
    next_end: Scalar
    retry: Scalar
    ledger: Int[Array, "N 8"]
    peak: Scalar
    area: Sum
    exceeded: Bool[Array, ""]
    stuck: Bool[Array, ""]
    log: Log

    @property
    def held(self) -> Scalar:
        """Tokens held after this round by those who run."""
        return self.offsets + self.running * (self.time + 1)


def initial(instance: Instance, policy: Policy, num_slots: int, record: int) -> State:
    """Round 0, or the first arrival, with those waiting who have arrived by then."""
    num = instance.bound.shape[0]
    clock = jnp.zeros((), instance.arrivals.dtype if instance.in_seconds else float)
    zero = jnp.int32(0)
    seconds = jnp.full(num, -1, clock.dtype) if instance.in_seconds else None
    return State(
        time=zero,
        clock=Sum(clock, clock),
        arrived=jnp.sum(instance.arrivals <= 0, dtype=jnp.int32),
        finished=zero,
        waiting=waiting.create(instance.queue),
        slots=kvcache.empty(min(num_slots, num)),
        running=zero,
        offsets=zero,
        next_end=jnp.int32(NEVER),
        retry=zero,
        ledger=_first_ledger(instance.bound),
        peak=zero,
        area=Sum(clock, clock),
        exceeded=jnp.array(False),
        stuck=jnp.array(False),
        log=Log(
            first_order=jnp.zeros(num, jnp.int32) if instance.in_seconds else None,
            num_first=zero,
            first_token=seconds,
            finish=seconds,
            held=jnp.zeros(record, jnp.int32) if record else None,
            stash=None if policy.restarts_at_once else jnp.zeros(num, jnp.int32),
            reset_after=jnp.int32(-1) if policy.reset_probability == 1 else None,
        ),
    )


def _first_ledger(bound: Int[Array, " N"]) -> Int[Array, "N 8"]:
    """No one has started yet."""
    fixed = {STARTED: -1, FIRST: -1}
    columns = [jnp.full_like(bound, fixed.get(i, 0)) for i in range(NUM_COLUMNS)]
    columns[BELIEF] = bound
    return jnp.stack(columns, axis=1)


def place_of(instance: Instance, policy: Policy, key: Scalar) -> Scalar:
    """Where the request with this key waits; the key may be NEVER."""
    if policy.refines:
        return key & ((1 << instance.tie_bits) - 1)
    return jnp.minimum(key, instance.bound.shape[0] - 1)


def request_of(instance: Instance, policy: Policy, key: Scalar) -> Scalar:
    """The request with this waiting key; some request if the key is NEVER."""
    place = place_of(instance, policy, key)
    return place if instance.by_key is None else at(instance.by_key, place)
