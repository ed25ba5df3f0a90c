"""The scheduling policies: frozen hyper-parameters in one frame, of which `rounds` is the rest.

A new policy is a subclass in this file, and nothing else. It says

- *what it plans with*: `plans_with` is the field of the requests that it believes to be the output.
  If `look_ahead`, a request is planned to hold the cache for min(bound, M − s) rounds, and for one
  more round once it is overdue.
- *the order*: `order` is the key by which waiting requests are tried, smallest first, ties by
  index. The first that does not fit ends the round's admissions (prefix rule).
- *admission*: with `look_ahead`, planned usage must stay within M at every future round; otherwise
  the tokens held after this round must stay within `limit`.
- *eviction*: while the tokens held after this round exceed M, the running request with the smallest
  max(bound, tokens generated since it started) is killed (ties by `tie`); or, with a `beta`, each
  running one is reset with that probability until the others fit.

Sources: A_min, A_max, H-SF are arXiv 2508.14544 (Chen, Ye & Zhou, 2025); MC-SF, MC-Benchmark and
the α-protection rules are arXiv 2502.07115 (Jaillet et al., 2025). The paper describes A_min in
words and this project has not seen its pseudo-code: rules C1–C6 are how these words are read here
(plan with the lower bound, raise it to what was generated, evict in order, shortest first). Those
with an alternative are fields of `AMin`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Int, Num

from jaxalloc.scheduling.integers import LARGEST, NOT_WHOLE, Rule, as_int32, share_of, tie_bits

# `Requests`, which stand above: a policy reads the field that it plans with, and outputs once over.
Lengths = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """The frame: every rule with its default.

    Attributes:
      aging: w, whole tokens a round (or second): the key of a policy that does not order by arrival
        becomes key + ⌊w · arrival⌋, which orders as key − w · waited does.
      max_batch: the most requests that run together; None: as many as fit.
    """

    aging: int = 0
    max_batch: int | None = None

    name: ClassVar[str]  # in commands, plans and tables
    label: ClassVar[str]  # in figures
    plans_with: ClassVar[str | None] = "predicted"  # None: with nothing
    look_ahead: ClassVar[bool] = False
    by_arrival: ClassVar[bool] = False  # first come, first served
    evicts: ClassVar[bool] = False
    refines: ClassVar[bool] = False  # a kill raises the bound, and with it the waiting key
    blocks_after_eviction: ClassVar[bool] = False  # a round that evicts admits no one

    # What some policies have as fields; these are described there.
    tie = "oldest"
    refine_next = False
    restart_same_round = True
    resume = False
    beta = 0.0  # the probability of a reset; 0: kill in order

    def __post_init__(self) -> None:
        if self.aging < 0 or int(self.aging) != self.aging:
            raise ValueError(f"aging = {self.aging} must be a whole number, 0 or more")
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch = {self.max_batch} must be at least 1, or None")

    @property
    def draws(self) -> bool:
        """Whether it is random."""
        return 0 < self.beta < 1

    @property
    def reads_predictions(self) -> bool:
        """Whether it matters to it what is predicted."""
        return self.plans_with not in (None, "output")

    def bound(self, requests: Lengths) -> Int[Array, "*B N"]:
        """What is believed of the output: planned length and key."""
        if self.plans_with is None:
            return jnp.ones_like(requests.output)
        return jnp.maximum(getattr(requests, self.plans_with), 1)

    def order(self, requests: Lengths) -> Num[Array, "*B N"]:
        """The key by which waiting requests are tried."""
        if self.by_arrival:
            return jnp.asarray(requests.arrival)
        return self.bound(requests) + self._aged(requests.arrival)

    def limit(self, capacity: Int[Array, ""]) -> Int[Array, ""]:
        """The tokens held after this round up to which requests are admitted without a plan."""
        return capacity

    def rules(self, requests: Lengths) -> Iterator[Rule]:
        """What the policy asks of requests."""
        name, bound = self.plans_with or "output", self.bound(requests)
        given = getattr(requests, name)
        yield Rule(name, given, given != NOT_WHOLE, "must be a whole number of 32 bits")
        # Keys are packed with the index of their request below them.
        room = (1 << (31 - tie_bits(requests.output.shape[-1]))) - 1
        key = jnp.maximum(bound, requests.output)
        small = jnp.full(key.shape, True)
        if self.evicts and not self.beta:
            small = key < room
        if self.aging and not self.by_arrival:
            most = room if self.refines else LARGEST
            small = small & (self._aged(requests.arrival) < most - key)
        yield Rule(name, given, small, _TOO_LARGE)

    def _aged(self, arrival: Array) -> Int[Array, "*B N"]:
        """⌊aging · arrival⌋, or `LARGEST` if it is no less."""
        weight = min(int(self.aging), LARGEST)
        if weight == 0:
            return jnp.zeros(arrival.shape, jnp.int32)
        if jnp.issubdtype(arrival.dtype, jnp.floating):
            return jnp.asarray(as_int32("arrival", jnp.floor(weight * arrival)))
        return jnp.where(arrival > LARGEST // weight, LARGEST, weight * arrival)


_TOO_LARGE = "is too large for keys of 32 bits: use smaller bounds, less ageing or fewer requests"


@dataclasses.dataclass(frozen=True)
class HindsightShortestFirst(Policy):
    """H-SF: shortest true output first, planned exactly; never evicts (arXiv 2508.14544)."""

    name = "h_sf"
    label = "H-SF (hindsight)"
    plans_with = "output"
    look_ahead = True


@dataclasses.dataclass(frozen=True)
class MCSF(Policy):
    """MC-SF: shortest predicted output first, planned with the prediction (arXiv 2502.07115).

    Predictions that are too short overflow the cache; then the running request with the smallest
    max(predicted, generated) is killed, and its prediction stays as it was.
    """

    name = "mc_sf"
    label = "MC-SF"
    look_ahead = True
    evicts = True


@dataclasses.dataclass(frozen=True)
class MCBenchmark(MCSF):
    """MC-Benchmark: first come, first served, planned and evicted as MC-SF (arXiv 2502.07115)."""

    name = "mc_benchmark"
    label = "MC-Benchmark"
    by_arrival = True


@dataclasses.dataclass(frozen=True)
class AMax(Policy):
    """A_max: smallest upper bound first, planned with it; never evicts (arXiv 2508.14544).

    A request that ends early frees its memory at once. `upper` below the output, or below `lower`,
    makes an instance INVALID.
    """

    name = "a_max"
    label = "A_max"
    plans_with = "upper"
    look_ahead = True

    def rules(self, requests: Lengths) -> Iterator[Rule]:
        """The upper bound must cover the output and be no less than the lower bound."""
        upper, lower = self.bound(requests), jnp.maximum(requests.lower, 1)
        covers = (requests.output <= upper) & (lower <= upper) & (requests.lower != NOT_WHOLE)
        yield from super().rules(requests)
        text = "does not suit AMax: it must cover the output and `lower`"
        yield Rule("upper", requests.upper, covers, text)


@dataclasses.dataclass(frozen=True)
class AMin(Policy):
    """A_min: smallest lower bound first, raised to what was generated (arXiv 2508.14544).

    One round: complete; while the tokens held after this round exceed M, kill the running request
    with the smallest (max(lower, generated), index), which raises its lower bound to the tokens
    that it had generated; start the waiting in order of (lower, index) while they fit. This is the
    project's reading of the paper (see the module's head).

    Attributes:
      tie: C2, which of equal keys is killed first: the smaller index ("oldest") or the larger.
      refine_next: C3, raise the bound to generated + 1 tokens, which is known too.
      restart_same_round: C5, a killed request may start again in the same round; if not, it is
        skipped in this round without stopping it.
    """

    tie: Literal["oldest", "newest"] = "oldest"
    refine_next: bool = False
    restart_same_round: bool = True

    name = "a_min"
    label = "A_min"
    plans_with = "lower"
    look_ahead = True
    evicts = True
    refines = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tie not in ("oldest", "newest"):
            raise ValueError(f"tie = {self.tie!r} must be 'oldest' or 'newest'")


@dataclasses.dataclass(frozen=True)
class VLLMFirstCome(Policy):
    """First come, first served, as vLLM does it: no plan, the last started is preempted.

    A request is admitted if the tokens held after this round fit. On overflow the last started
    (ties: the larger index) is preempted; it keeps its generated tokens and, when it starts again,
    prefills them with its prompt. A round that preempts admits no one.

    Attributes:
      resume: False lets a preempted request start again from its prompt.
    """

    resume: bool = True

    name = "vllm"
    label = "vLLM, first come"
    plans_with = None
    by_arrival = True
    evicts = True
    tie = "newest"
    blocks_after_eviction = True


@dataclasses.dataclass(frozen=True)
class AlphaProtection(Policy):
    """α-protection greedy: first come, first served up to (1 − α) M (arXiv 2502.07115).

    On overflow every running request is reset; a round that resets admits no one. The reset can
    repeat itself for ever: the second with all arrived and no one finished in between ends in
    MAX_ROUNDS.

    Attributes:
      alpha: the share of the cache that admissions leave free, in [0, 1): the decimal number that
        it prints as, to nine places, so that (1 − α) M is the same in every precision.
    """

    alpha: float = 0.1

    name = "alpha"
    label = "α-protection"
    plans_with = None
    by_arrival = True
    evicts = True
    beta = 1.0
    blocks_after_eviction = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha = {self.alpha} must be in [0, 1)")

    def limit(self, capacity: Int[Array, ""]) -> Int[Array, ""]:
        """⌊(1 − α) M⌋; one request alone may always start."""
        return share_of(capacity, 10**9 - round(Fraction(str(self.alpha)) * 10**9))


@dataclasses.dataclass(frozen=True)
class AlphaBetaClearing(AlphaProtection):
    """α-protection β-clearing: on overflow resets each running request with probability β.

    It does so again while the cache overflows (arXiv 2502.07115); ends only with probability 1.

    Attributes:
      beta: the probability of being reset, in (0, 1].
    """

    beta: float = 0.2

    name = "alpha_beta"
    label = "α-protection, β-clearing"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta = {self.beta} must be in (0, 1]")


by_name: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        AMin, AMax, HindsightShortestFirst, MCSF, MCBenchmark, VLLMFirstCome, AlphaProtection,
        AlphaBetaClearing,
    )
}  # fmt: skip
