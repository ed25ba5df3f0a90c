"""When queries arrive: what `simulate_fifo` takes as `arrivals`.

The rate is the workload's; these say how regular the gaps between arrivals are. A trace replayed
brings its own gaps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalloc.allocation.model.workload import Scalar
from jaxalloc.numerics import require

Gaps = Float[Array, "N"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Poisson:
    """Gaps are exponential, as the M/G/1 formulas want them."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Renewal:
    """Independent gamma-distributed gaps of a given variability.

    Attributes:
      cv: coefficient of variation of the gaps: 0 is clockwork, 1 is Poisson, above 1 is bursty.
    """

    cv: Scalar | float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replay:
    """The arrivals of a trace, walked once by every replication from an empty queue.

    Attributes:
      gaps: [N - 1] times between the N arrivals, s. The workload's arrival rate plays no part.
    """

    gaps: Gaps

    @classmethod
    def at(cls, times: Any, rate: float | None = None) -> Replay:
        """The arrivals at `times`, s, in order.

        Args:
          times: [N] times of arrival, not decreasing.
          rate: stretch the time axis so that N - 1 gaps arrive at this rate, queries / s.

        >>> Replay.at([0.0, 1.0, 4.0], rate=1.0).gaps.tolist()
        [0.5, 1.5]
        """
        times = np.asarray(times, dtype=np.float64)
        if times.ndim != 1 or times.size < 2:
            raise ValueError(f"times has shape {times.shape}: give at least two times of arrival")
        require(np.isfinite(times), "times", times, "must be finite: give a time, s")
        gaps = np.diff(times)
        require(
            np.append(True, gaps >= 0), "times", times, "comes before the one before: sort them"
        )
        if rate is not None:
            require(0 < rate < np.inf, "rate", rate, "must be above 0 and finite: give queries / s")
            if not gaps.sum() > 0:
                raise ValueError(f"all times are {times[0]:g}: no stretching gives rate = {rate:g}")
            gaps = gaps * (gaps.size / (rate * gaps.sum()))
        return cls(jnp.asarray(gaps))


Arrivals = Poisson | Renewal | Replay


def check_arrivals(arrivals: Arrivals) -> None:
    """Raise ValueError for a law that no gaps can follow, unless it is traced."""
    for name, value in vars(arrivals).items():
        if not isinstance(value, jax.core.Tracer):
            value = np.asarray(value)
            hint = "1 is Poisson" if name == "cv" else "in s"
            valid = (value >= 0) & (value < np.inf)
            require(valid, name, value, f"must be at least 0 and finite: {hint}")


def gap_variability(arrivals: Arrivals) -> Any:
    """The squared coefficient of variation of the gaps, C_a²; a replayed trace needs none."""
    return arrivals.cv**2 if isinstance(arrivals, Renewal) else 1.0
