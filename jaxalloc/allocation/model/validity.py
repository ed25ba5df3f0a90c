"""What a workload must be, checked by `Workload.create` on the host and by a status when traced.

The domains of the single fields stand in `domain`. What a dtype can hold of a workload comes on top
(derived here), with ε its relative precision and τ its smallest normal number:

- λ, α, A, b, c and the bounds are 0 or at least τ. Compiled code takes a subnormal for 0, and a
  workload that is taken for another must not be called solved. (In the other fields, which are only
  added to larger numbers, a subnormal weighs nothing and may stand: a softmax makes such mixes.)
- c is at least τ / ε, for what a token costs and what it brings are told apart to ε of c.
- λ √κ <= ε / √τ, 1e138 / s in float64 and 1e12 / s in float32, κ = 1 + cv². What is below τ of
  κ t² vanishes. Where d > 1/2 that takes at most λ κ t / d <= 2 ε of that type's own time t from
  E[T], and less from a price; where d <= 1/2, V >= m1² >= 1 / (4 λ²), of which τ is less than ε.
- α b_k is 0 or at least τ. What a token brings, α b_k A_k e^{-b l}, then vanishes only below
  τ <= c_k, which is less than what it costs: it errs on no side.
- 1 + cv² and its product with the square of each service time at min_tokens are finite. Beyond, an
  overflow needs no rule: it ends as inf or NaN, which no certificate passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxalloc.allocation.model.domain import FIELDS


class Rule(NamedTuple):
    """A rule, the numbers that it is about, and which of them keep it."""

    name: str
    value: Any
    kept: Any
    text: str


def rules(fields: dict[str, Any], xp: Any = jnp) -> Iterator[Rule]:
    """What fields that are finite must satisfy besides; `xp` is their kind of arrays, np or jnp.

    Args:
      fields: [*B] and [*B, K] arrays of one dtype, or what broadcasts to that from the right.
      xp: `numpy` on the host, `jax.numpy` under tracing.
    """
    tiny, eps = (float(getattr(np.finfo(fields["mix"].dtype), key)) for key in ("tiny", "eps"))
    for name, field in FIELDS.items():
        value = fields[name]
        yield Rule(name, value, field.allows(value), field.rule)
        if field.scales:
            text = f"is below {tiny:.2g}, which counts as 0: give 0, or more"
            yield Rule(name, value, is_normal(value, xp), text)
    low, cost = fields["min_tokens"], fields["time_per_token"]
    yield Rule("min_tokens", low, low <= fields["max_tokens"], "must not exceed max_tokens")
    text = f"is below {tiny / eps:.2g}: use a shorter unit of time"
    yield Rule("time_per_token", cost, cost >= tiny / eps, text)
    rate, weight = (fields[name][..., None] for name in ("arrival_rate", "accuracy_weight"))
    kappa = 1 + xp.square(fields["service_cv"])
    most = eps / math.sqrt(tiny)
    text = f"must not exceed {most:.2g}: use a longer unit of time"
    held = xp.all(rate * xp.sqrt(kappa) <= most, axis=-1)
    yield Rule("arrival_rate", fields["arrival_rate"], held, text)
    reward = weight * fields["decay"]
    text = f"must be 0, or at least {tiny:.2g}: use a shorter unit of time"
    yield Rule("accuracy_weight * decay", reward, (weight == 0) | (reward >= tiny), text)
    square = kappa * xp.square(fields["base_time"] + cost * low)
    text = "is the second moment of a service time and must be finite: use a longer unit of time"
    yield Rule("(1 + service_cv^2) * time^2", square, xp.isfinite(square), text)


def is_normal(value: Any, xp: Any = jnp) -> Any:
    """Whether a number is 0 or no subnormal, told by its bits: comparisons may take both for 0."""
    unsigned = np.dtype(f"uint{8 * value.dtype.itemsize}").type
    least = np.asarray(np.finfo(value.dtype).tiny, value.dtype).view(unsigned)
    return xp.abs(value).view(unsigned) - unsigned(1) >= least - unsigned(1)
