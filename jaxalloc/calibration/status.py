"""How a fit ended, what that means, and what to do about it."""

from __future__ import annotations

import enum
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class FitStatus(enum.IntEnum):
    """How a fit ended. The first three are usable, the others name what the data lack.

    Attributes:
      meaning: what to make of it.
    """

    meaning: str

    CONVERGED = 0, "determined by the data"
    WEAK = 1, "near a bound, or the decay is known badly: its intervals are approximate"
    AT_BOUND = 2, "a parameter is at its bound: its interval is one-sided"
    MAX_STEPS = 3, "the fit did not converge: look at the data"
    FLAT = 4, "no rise with tokens beyond chance: measure more, or budgets further apart"
    DECAY_UNKNOWN = 5, "accuracy rises, but not where: measure budgets in between"
    FEW_LEVELS = 6, "too few token budgets: measure at least three (two for times)"
    ALL_CORRECT = 7, "every answer is correct: measure smaller budgets"
    ALL_WRONG = 8, "every answer is wrong: measure larger budgets"
    NEGATIVE_SLOPE = 9, "the service time falls as tokens grow: check the columns"
    INVALID = 10, "a number is not finite or outside its domain: correct it"
    FEW_QUESTIONS = (
        11,
        "too few questions to tell how they differ: measure more, or leave the column of "
        "questions out",
    )
    LACK_OF_FIT = (
        12,
        "what was measured departs from the law beyond chance: look at --plot for a hard limit, "
        "failed calls or an S-shaped or falling curve",
    )
    NO_SCATTER = (
        13,
        "most times lie exactly on a line, others far from it: drop rows that measure nothing "
        "(failed calls), or fit without --robust",
    )

    def __new__(cls, value: int, meaning: str = "") -> FitStatus:
        """A number that bears its meaning."""
        status = int.__new__(cls, value)
        status._value_ = value
        status.meaning = meaning
        return status

    @property
    def usable(self) -> bool:
        """Whether the data determine the law."""
        return self <= FitStatus.AT_BOUND

    @property
    def constant(self) -> bool:
        """Whether more tokens do not raise accuracy: the smallest budget is best."""
        return self in (FitStatus.FLAT, FitStatus.ALL_CORRECT)


def first_of(*cases: tuple[FitStatus, Any]) -> Int[Array, ""]:
    """The status of the first case that holds, else CONVERGED."""
    status = jnp.int32(FitStatus.CONVERGED)
    for name, holds in reversed(cases):
        status = jnp.where(holds, jnp.int32(name), status)
    return status


def has_covariance(status: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether the covariance of a fit says something: the usable ones and LACK_OF_FIT."""
    return (status <= FitStatus.AT_BOUND) | (status == FitStatus.LACK_OF_FIT)
