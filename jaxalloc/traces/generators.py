"""Synthetic traces: laws of the lengths, and the random numbers that they are drawn from."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxalloc.messages import choices, read_pairs, suggest
from jaxalloc.tables import Integers
from jaxalloc.traces.trace import MOST_TOKENS, Trace

Rng = np.random.Generator
MOST_SIGMA = 30.0  # exp(MOST_SIGMA times a normal number) is finite


def stream(seed: int, name: str, index: int = 0) -> Rng:
    """The random numbers of a seed for one end, such as "gaps", of replication `index`.

    A bare `default_rng(seed)` draws a synthetic trace; what is drawn beside it bears a name. (NumPy
    pads with zeros: `default_rng([seed, 0])` is no other stream than `default_rng(seed)`.)

    >>> first, same, other = (stream(0, name).random() for name in ("gaps", "gaps", "noise"))
    >>> first == same, first == other
    (True, False)
    """
    return np.random.default_rng([zlib.crc32(name.encode()), index, seed])


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
            raise ValueError(f"law = {self.name!r} is unknown: {choices(LAWS)}")
        for name, allowed, rule in (
            ("most", 1 <= self.most <= MOST_TOKENS, f"from 1 to {MOST_TOKENS} tokens"),
            ("least", 1 <= self.least <= self.most, f"from 1 to most = {self.most}"),
            ("mean", 1 < self.mean <= MOST_TOKENS, f"above 1 and at most {MOST_TOKENS} tokens"),
            ("weight", 0 <= self.weight <= 1, "from 0 to 1"),
            ("sigma", 0 <= self.sigma <= MOST_SIGMA, f"from 0 to {MOST_SIGMA:g}"),
        ):
            if not allowed:
                raise ValueError(f"{name} = {getattr(self, name)} must be {rule}")

    @classmethod
    def parse(cls, words: str, most: int) -> Law:
        """The law of words, cut off at `most` if they do not say where.

        >>> Law.parse("geometric:mean=20", 300)
        Law(name='geometric', mean=20.0, least=1, most=300, weight=0.5, sigma=1.0)
        """
        name, _, rest = words.partition(":")
        kinds: dict[str, type] = {
            field.name: type(field.default) for field in dataclasses.fields(cls)[1:]
        }
        given: dict[str, Any] = {"most": most}
        for key, text in read_pairs(rest).items():
            if key not in kinds:
                raise ValueError(f"{key} is unknown: {suggest(key, kinds)}")
            try:
                given[key] = kinds[key](text)
            except ValueError:
                raise ValueError(f"{key} = {text} is not a number: correct it") from None
        return cls(name=name, **given)

    def draw(self, rng: Rng, size: int) -> Integers:
        """[size] token counts."""
        return np.clip(LAWS[self.name](self, rng, size), self.least, self.most).astype(np.int64)


def _weighted_geometric(law: Law, rng: Rng, size: int) -> Any:
    chance = 2 / (law.mean + 1)
    return rng.geometric(chance, size) + rng.geometric(chance, size) - 1


LAWS: dict[str, Callable[[Law, Rng, int], Any]] = {
    # P(o) ∝ q^o, q = 1 − 1 / mean.
    "geometric": lambda law, rng, size: rng.geometric(1 / law.mean, size),
    # P(o) ∝ o q^o: the sum of two geometric numbers, less 1.
    "weighted_geometric": _weighted_geometric,
    # `least` with probability `weight`, else `most`.
    "two_point": lambda law, rng, size: np.where(
        rng.random(size) < law.weight, law.least, law.most
    ),
    # Every number from `least` to `most` alike.
    "uniform": lambda law, rng, size: rng.integers(law.least, law.most + 1, size),
    # exp(normal) with the given mean, rounded up; floats, as it may exceed all integers.
    "lognormal": lambda law, rng, size: np.ceil(
        rng.lognormal(np.log(law.mean) - law.sigma**2 / 2, law.sigma, size)
    ),
}


def generate(seed: int, num_requests: int, output: Law, prompt: Law | int) -> Trace:
    """A synthetic trace of requests that all arrive at 0, the same for the same seed.

    Args:
      seed: of the random numbers.
      num_requests: N.
      output: law of the outputs.
      prompt: law of the prompts, or the tokens of all of them.

    >>> generate(0, 3, Law(name="uniform", least=5, most=9), 4).output.tolist()
    [9, 8, 7]
    """
    rng = np.random.default_rng(seed)
    outputs = output.draw(rng, num_requests)
    prompts = prompt.draw(rng, num_requests) if isinstance(prompt, Law) else prompt
    return Trace(
        arrival=np.zeros(num_requests),
        prompt=np.broadcast_to(prompts, num_requests),
        output=outputs,
    )
