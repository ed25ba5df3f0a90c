"""Synthetic traces: laws of the lengths, arrivals at once or as a Poisson process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxalloc.traces.trace import MOST_TOKENS, Floats, Integers, Trace

Rng = np.random.Generator
MOST_SIGMA = 30.0  # exp(MOST_SIGMA times a normal number) is finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """A law of token counts, at least 1 and at most `most`.

    Attributes:
      name: one of `LAWS`.
      mean: of the law before it is cut off, tokens (`two_point`: no meaning).
      least, most: the two values of `two_point`, the ends of `uniform`, the cut-off of the others.
      weight: probability of `least` in `two_point`.
      sigma: of the logarithm in `lognormal`.
    """

    name: str
    mean: float = 100.0
    least: int = 1
    most: int = 1 << 20
    weight: float = 0.5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LAWS:
            raise ValueError(f"law = {self.name!r} is unknown: choose from {', '.join(LAWS)}")
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least = {self.least} must be between 1 and most = {self.most}")
        if not self.mean > 1:
            raise ValueError(f"mean = {self.mean} must be greater than 1 token")
        if not self.mean <= MOST_TOKENS or not self.most <= MOST_TOKENS:
            raise ValueError(
                f"mean = {self.mean} and most = {self.most} must be at most {MOST_TOKENS} tokens"
            )
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight = {self.weight} must be between 0 and 1")
        if not self.sigma >= 0:
            raise ValueError(f"sigma = {self.sigma} must not be negative")
        if not self.sigma <= MOST_SIGMA:
            raise ValueError(f"sigma = {self.sigma} must be at most {MOST_SIGMA}")

    def draw(self, rng: Rng, size: int) -> Integers:
        """[size] token counts."""
        return np.clip(LAWS[self.name](self, rng, size), self.least, self.most).astype(np.int64)


def _geometric(law: Law, rng: Rng, size: int) -> Integers:
    """P(o) ∝ q^o, q = 1 − 1 / mean."""
    return rng.geometric(1 / law.mean, size)


def _weighted_geometric(law: Law, rng: Rng, size: int) -> Integers:
    """P(o) ∝ o q^o: the sum of two geometric numbers, less 1."""
    chance = 2 / (law.mean + 1)
    return rng.geometric(chance, size) + rng.geometric(chance, size) - 1


def _two_point(law: Law, rng: Rng, size: int) -> Integers:
    """`least` with probability `weight`, else `most`."""
    return np.where(rng.random(size) < law.weight, law.least, law.most)


def _uniform(law: Law, rng: Rng, size: int) -> Integers:
    """Every number from `least` to `most` alike."""
    return rng.integers(law.least, law.most + 1, size)


def _lognormal(law: Law, rng: Rng, size: int) -> Floats:
    """exp(normal) with the given mean, rounded up; floats, as it may exceed all integers."""
    location = np.log(law.mean) - law.sigma**2 / 2
    return np.ceil(rng.lognormal(location, law.sigma, size))


LAWS: dict[str, Callable[[Law, Rng, int], Integers | Floats]] = {
    "geometric": _geometric,
    "weighted_geometric": _weighted_geometric,
    "two_point": _two_point,
    "uniform": _uniform,
    "lognormal": _lognormal,
}


def generate(
    seed: int, num_requests: int, output: Law, prompt: Law | int, *, rate: float | None = None
) -> Trace:
    """A synthetic trace, the same for the same seed.

    Args:
      seed: of the random numbers.
      num_requests: N.
      output: law of the outputs.
      prompt: law of the prompts, or the tokens of all of them.
      rate: of Poisson arrivals, requests / s; None: all arrive at 0.

    >>> generate(0, 3, Law(name="uniform", least=5, most=9), 4).output.tolist()
    [9, 8, 7]
    """
    rng = np.random.default_rng(seed)
    outputs = output.draw(rng, num_requests)
    if isinstance(prompt, Law):
        prompts = prompt.draw(rng, num_requests)
    else:
        prompts = np.full(num_requests, prompt, np.int64)
    gaps = np.zeros(num_requests) if rate is None else rng.exponential(1 / rate, num_requests)
    arrival = np.cumsum(gaps)
    return Trace(
        arrival=arrival - arrival[:1],
        prompt=prompts,
        output=outputs,
        time_unit=None if rate is None else "s",
    )
