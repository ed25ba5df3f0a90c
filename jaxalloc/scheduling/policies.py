"""The solvers: scheduling policies as frozen hyper-parameters and pure rules, all in one frame.

A policy answers four questions; the round of `jaxalloc.scheduling.rounds` does the rest.

- *order*: `order` gives the key by which waiting requests are tried, smallest first, ties by index.
  The first that does not fit ends the round's admissions (prefix rule). With `aging` w > 0 the key
  of a policy that orders by length is key + ⌊w · arrival⌋, which orders as key − w · waited does.
- *planned length*: `bound` is what the policy believes of the output. If `look_ahead`, a request is
  planned to hold the cache for min(bound, M − s) rounds, and for one more round once it is overdue.
- *admission*: with `look_ahead`, planned usage must stay within M at every future round; otherwise
  the tokens held after this round must stay within `limit`.
- *eviction*: while the tokens held after this round exceed M, the running request with the smallest
  `eviction_key` is killed (ties by `tie`); or, if `reset_probability` is set, each running one is
  reset with that probability until the others fit.

A new policy is a subclass in this file, and nothing else.

Sources: A_min, A_max, H-SF are arXiv 2508.14544 (Chen, Ye & Zhou, 2025); MC-SF, MC-Benchmark and
the α-protection rules are arXiv 2502.07115 (Jaillet et al., 2025). The pseudo-code of A_min was not
at hand: its rules C1–C6 are this project's reading of the paper's description (plan with the lower
bound, raise it to what was generated, evict in order, shortest first). Those with an alternative
are fields of `AMin`.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from jaxalloc.scheduling.integers import NOT_WHOLE, share_of
from jaxalloc.scheduling.requests import Requests


@dataclasses.dataclass(frozen=True)
class Policy:
    """The frame: every rule with its default; `aging` is in whole tokens per round (or second)."""

    aging: int = dataclasses.field(default=0, kw_only=True)

    look_ahead: ClassVar[bool] = False
    by_arrival: ClassVar[bool] = False  # first come, first served: `aging` changes nothing then
    evicts: ClassVar[bool] = False
    refines: ClassVar[bool] = False  # evictions change `bound`, and the waiting order with it
    blocks_after_eviction: ClassVar[bool] = False  # a round that evicts admits no one

    def __post_init__(self) -> None:
        if self.aging < 0 or int(self.aging) != self.aging:
            raise ValueError(f"aging = {self.aging} must be a whole number, 0 or more")

    @property
    def tie(self) -> Literal["oldest", "newest"]:
        """Which of two equal eviction keys goes first: the smaller or the larger index."""
        return "oldest"

    @property
    def restarts_at_once(self) -> bool:
        """Whether a killed request may start again in the round that killed it."""
        return True

    @property
    def resumes(self) -> bool:
        """Whether a killed request keeps the tokens that it has generated."""
        return False

    @property
    def reset_probability(self) -> float | None:
        """None: kill one at a time by `eviction_key`; else reset each with this probability."""
        return None

    @property
    def max_batch(self) -> int | None:
        """The most requests that run together; None: as many as fit."""
        return None

    @property
    def draws(self) -> bool:
        """Whether it is random."""
        return self.reset_probability is not None and self.reset_probability < 1

    def bound(self, requests: Requests) -> Int[Array, " N"]:
        """What is believed of the output: planned length, eviction key and order."""
        return requests.predicted

    def limit(self, capacity: Int[Array, ""]) -> Int[Array, ""]:
        """The tokens held after this round up to which requests are admitted."""
        return capacity

    def eviction_key(
        self, bound: Int[Array, " R"], generated: Int[Array, " R"]
    ) -> Int[Array, " R"]:
        """Key of the running requests; the smallest is killed first. At most max(bound, output)."""
        return jnp.maximum(bound, generated)

    def refine(self, bound: Int[Array, ""], generated: Int[Array, ""]) -> Int[Array, ""]:
        """The bound of a request killed after `generated` tokens."""
        return bound

    def valid(self, requests: Requests) -> Bool[Array, " N"]:
        """Whether a request's numbers are such as the policy relies on."""
        return jnp.ones(requests.output.shape, bool)

    def order(self, requests: Requests) -> Num[Array, " N"]:
        """The key by which waiting requests are tried, before ageing."""
        return requests.arrival if self.by_arrival else jnp.maximum(self.bound(requests), 1)


@dataclasses.dataclass(frozen=True)
class HindsightShortestFirst(Policy):
    """H-SF: shortest true output first, planned exactly; never evicts (arXiv 2508.14544)."""

    look_ahead = True

    def bound(self, requests: Requests) -> Int[Array, " N"]:
        """The output itself."""
        return requests.output


@dataclasses.dataclass(frozen=True)
class MCSF(Policy):
    """MC-SF: shortest predicted output first, planned with the prediction (arXiv 2502.07115).

    Predictions that are too short overflow the cache; then the running request with the smallest
    max(predicted, generated) is killed, and its prediction stays as it was.
    """

    look_ahead = True
    evicts = True


@dataclasses.dataclass(frozen=True)
class MCBenchmark(Policy):
    """MC-Benchmark: first come, first served, planned and evicted as MC-SF (arXiv 2502.07115)."""

    look_ahead = True
    evicts = True
    by_arrival = True


@dataclasses.dataclass(frozen=True)
class AMax(Policy):
    """A_max: smallest upper bound first, planned with it; never evicts (arXiv 2508.14544).

    A request that ends early frees its memory at once. `upper` below the output, or below `lower`,
    makes an instance INVALID.
    """

    look_ahead = True

    def bound(self, requests: Requests) -> Int[Array, " N"]:
        """The upper bound."""
        return requests.upper

    def valid(self, requests: Requests) -> Bool[Array, " N"]:
        """An upper bound that covers the output and is no less than the lower bound."""
        upper, lower = jnp.maximum(requests.upper, 1), jnp.maximum(requests.lower, 1)
        return (requests.output <= upper) & (lower <= upper) & (requests.lower != NOT_WHOLE)


@dataclasses.dataclass(frozen=True)
class AMin(Policy):
    """A_min: smallest lower bound first, raised to what was generated (arXiv 2508.14544).

    One round: complete; while the tokens held after this round exceed M, kill the running request
    with the smallest (max(lower, generated), index) and raise its bound to that; start the waiting
    ones in order (bound, index) while the look-ahead check passes; run. The rules are this
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

    look_ahead = True
    evicts = True
    refines = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tie not in ("oldest", "newest"):
            raise ValueError(f"tie = {self.tie!r} must be 'oldest' or 'newest'")

    @property
    def restarts_at_once(self) -> bool:
        """C5."""
        return self.restart_same_round

    def bound(self, requests: Requests) -> Int[Array, " N"]:
        """The lower bound."""
        return requests.lower

    def refine(self, bound: Int[Array, ""], generated: Int[Array, ""]) -> Int[Array, ""]:
        """C3."""
        return jnp.maximum(bound, generated + 1 if self.refine_next else generated)


@dataclasses.dataclass(frozen=True)
class VLLMFirstCome(Policy):
    """First come, first served, as vLLM does it: no plan, the last started is preempted.

    A request is admitted if the tokens held after this round fit. On overflow the last started
    (ties: the larger index) is preempted; it keeps its generated tokens and, when it starts again,
    prefills them with its prompt. A round that preempts admits no one.

    Attributes:
      max_batch: the most requests that run together; None: as many as fit.
      resume: False lets a preempted request start again from its prompt.
    """

    max_batch: int | None = None
    resume: bool = True

    by_arrival = True
    evicts = True
    blocks_after_eviction = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch = {self.max_batch} must be at least 1, or None")

    @property
    def tie(self) -> Literal["oldest", "newest"]:
        """Of those started together the larger index goes first."""
        return "newest"

    @property
    def resumes(self) -> bool:
        """As vLLM does by default."""
        return self.resume

    def bound(self, requests: Requests) -> Int[Array, " N"]:
        """Nothing is believed."""
        return jnp.ones_like(requests.output)

    def eviction_key(
        self, bound: Int[Array, " R"], generated: Int[Array, " R"]
    ) -> Int[Array, " R"]:
        """Tokens generated since the last start: fewest for the last started."""
        return generated


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

    by_arrival = True
    evicts = True
    blocks_after_eviction = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha = {self.alpha} must be in [0, 1)")

    @property
    def reset_probability(self) -> float | None:
        """Everyone."""
        return 1.0

    def bound(self, requests: Requests) -> Int[Array, " N"]:
        """Nothing is believed."""
        return jnp.ones_like(requests.output)

    def limit(self, capacity: Int[Array, ""]) -> Int[Array, ""]:
        """⌊(1 − α) M⌋; one request alone may always start."""
        return share_of(capacity, 10**9 - round(Fraction(str(self.alpha)) * 10**9))


@dataclasses.dataclass(frozen=True)
class AlphaBetaClearing(AlphaProtection):
    """α-protection β-clearing: on overflow resets each running request with probability β.

    It does so again while the cache overflows (arXiv 2502.07115); ends only with probability 1.

    Attributes:
      alpha: the share of the cache that admissions leave free, in [0, 1).
      beta: the probability of being reset, in (0, 1].
    """

    beta: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta = {self.beta} must be in (0, 1]")

    @property
    def reset_probability(self) -> float | None:
        """β."""
        return self.beta
