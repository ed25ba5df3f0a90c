"""How a workload's solution ended, what that means, and what to do about it; needs no JAX."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """How a lane ended.

    Attributes:
      meaning: in a few words.
      advice: what to do about it, with arguments and fields by their names; "" if all is well.
    """

    meaning: str
    advice: str

    def __new__(cls, number: int, meaning: str = "", advice: str = "") -> Status:
        """A number with its texts."""
        status = int.__new__(cls, number)
        status._value_, status.meaning, status.advice = number, meaning, advice
        return status

    CONVERGED = 0, "the certified residual is within tolerance", ""
    MAX_STEPS = (
        1,
        "the cap on steps was reached, or rounding left no step to take",
        "the residual is above the tolerance: take the solver Newton or a larger max_steps",
    )
    INFEASIBLE = (
        2,
        "the queue is unstable even at min_tokens",
        "the server is overloaded even with the smallest budgets: lower arrival_rate, min_tokens "
        "or base_time",
    )
    NON_FINITE = 3, "a field is NaN or inf", "a field of the workload is NaN or inf: correct it"
    INVALID = (
        4,
        "a field is outside its domain or the dtype's, or min_tokens > max_tokens",
        "a field of the workload is outside its domain: correct it",
    )
