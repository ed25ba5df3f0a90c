"""A trace: requests as they were seen, before anyone schedules them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxalloc.scheduling.requests import Requests
from jaxalloc.tables import Floats, Integers

MOST_TOKENS = 1 << 30  # of a prompt, an output or a prediction: the scheduler counts in 32 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """N requests in order of arrival.

    Attributes:
      arrival: [N] s, the first at 0.
      prompt: [N] tokens.
      output: [N] tokens, at least 1.
      lower, upper, predicted: [N] the user's own predictions of the output, or None.
      dropped: requests of the source that were left out since they generated nothing.
      time_unit: of the arrivals in the source ("s", "ms", "us", "ns" or "date"); None if it has
        none.
    """

    arrival: Floats
    prompt: Integers
    output: Integers
    lower: Integers | None = None
    upper: Integers | None = None
    predicted: Integers | None = None
    dropped: int = 0
    time_unit: str | None = None

    @property
    def num_requests(self) -> int:
        """N."""
        return int(self.output.shape[0])

    @property
    def arrival_cv(self) -> float:
        """Coefficient of variation of the times between arrivals: 1 for a Poisson process.

        NaN where all arrive at once. Far above 1 no M/G/1 answer should be trusted.
        """
        gaps = np.diff(self.arrival)
        return float(np.std(gaps) / np.mean(gaps)) if gaps.size and gaps.any() else float("nan")

    def head(self, num: int) -> Trace:
        """The first `num` requests."""
        return self._choose(slice(num))

    def tail(self, first: int) -> Trace:
        """Those from request `first` on."""
        return self._choose(slice(first, None))

    def fitting(self, capacity: int) -> Trace:
        """Those whose prompt and output fit into a cache of `capacity` tokens."""
        return self._choose(np.flatnonzero(self.prompt + self.output <= capacity))

    def _choose(self, which: Any) -> Trace:
        own = vars(self).items()
        chosen = {name: value[which] for name, value in own if isinstance(value, np.ndarray)}
        chosen["arrival"] = chosen["arrival"] - chosen["arrival"][:1]
        return dataclasses.replace(self, **chosen)


def to_requests(trace: Trace, *, arrival: Any = 0, **predictions: Any) -> Requests:
    """The requests of a trace; they arrive when the caller says, all at 0 by default.

    Args:
      trace: prompts, outputs and the user's own predictions.
      arrival: [N] rounds, or seconds such as `trace.arrival`.
      **predictions: `lower`, `upper` or `predicted`, instead of the trace's own.
    """
    own = {name: getattr(trace, name) for name in ("lower", "upper", "predicted")}
    given = {name: value for name, value in (own | predictions).items() if value is not None}
    return Requests.create(prompt=trace.prompt, output=trace.output, arrival=arrival, **given)
