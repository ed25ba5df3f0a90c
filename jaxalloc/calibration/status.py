"""How a fit ended, and what to do about it."""

from __future__ import annotations

import enum

# Beyond these an interval of 95 % is known to hold what it says (benchmarks/calibration_coverage).
WEAK_RATE_ERROR = 0.3  # standard error of ln b
WEAK_MARGIN = 0.03  # of the floor to 0, and of the ceiling to 1
UNKNOWN_RATE_ERROR = 1.0  # standard error of ln b: a factor of seven either way


class FitStatus(enum.IntEnum):
    """How a fit ended. The first three are usable, the others name what the data lack."""

    CONVERGED = 0  # a maximum inside the bounds, and the data determine it
    WEAK = 1  # the same, but near a bound or with a decay known badly: intervals are approximate
    AT_BOUND = 2  # the maximum is at a bound: floor 0, floor + gain 1, or base_time 0
    MAX_STEPS = 3  # not converged
    FLAT = 4  # a constant explains the data as well
    DECAY_UNKNOWN = 5  # accuracy rises, but where is not seen
    FEW_LEVELS = 6  # too few different token budgets
    ALL_CORRECT = 7
    ALL_WRONG = 8
    NEGATIVE_SLOPE = 9  # the service time falls as tokens grow
    INVALID = 10  # a number is not finite or outside its domain
    FEW_QUESTIONS = 11  # no more different questions than parameters: their scatter is not seen
    LACK_OF_FIT = 12  # what was measured departs from the law by more than chance
    NO_SCATTER = 13  # most times lie on a line exactly, some far from it: Huber's loss has no scale


USABLE = (FitStatus.CONVERGED, FitStatus.WEAK, FitStatus.AT_BOUND)
# More tokens do not raise accuracy: the smallest budget is best.
CONSTANT = (FitStatus.FLAT, FitStatus.ALL_CORRECT)

MEANING = {
    FitStatus.CONVERGED: "determined by the data",
    FitStatus.WEAK: "near a bound, or the decay is known badly: its intervals are approximate",
    FitStatus.AT_BOUND: "a parameter is at its bound: its interval is one-sided",
    FitStatus.MAX_STEPS: "the fit did not converge: look at the data",
    FitStatus.FLAT: "no rise with tokens beyond chance: measure more, or budgets further apart",
    FitStatus.DECAY_UNKNOWN: "accuracy rises, but not where: measure budgets in between",
    FitStatus.FEW_LEVELS: "too few token budgets: measure at least three (two for times)",
    FitStatus.ALL_CORRECT: "every answer is correct: measure smaller budgets",
    FitStatus.ALL_WRONG: "every answer is wrong: measure larger budgets",
    FitStatus.NEGATIVE_SLOPE: "the service time falls as tokens grow: check the columns",
    FitStatus.INVALID: "a number is not finite or outside its domain: correct it",
    FitStatus.FEW_QUESTIONS: "too few questions to tell how they differ: measure more, or leave "
    "the column of questions out",
    FitStatus.LACK_OF_FIT: "what was measured departs from the law beyond chance: look at "
    "--plot for a hard limit, failed calls or an S-shaped or falling curve",
    FitStatus.NO_SCATTER: "most times lie exactly on a line, others far from it: drop rows that "
    "measure nothing (failed calls), or fit without --robust",
}
