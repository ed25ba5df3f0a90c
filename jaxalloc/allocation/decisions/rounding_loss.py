"""What whole tokens cost: from the formulas, from the certificate, and on sample paths."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxalloc.allocation.decisions.rounding import gap_bound, integer_box, round_tokens
from jaxalloc.allocation.model.checks import one_workload
from jaxalloc.allocation.model.objective import accuracy, evaluate, total_increase
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload
from jaxalloc.allocation.optimum.solve import solve
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.allocation.queue.estimates import paired_difference
from jaxalloc.allocation.queue.fifo import simulate_fifo

Rounded = tuple[Tokens, Scalar, Scalar]  # whole tokens, what they lose, and the bound of that


class Loss(NamedTuple):
    """What one way of rounding loses against the continuous optimum.

    Attributes:
      tokens: [K] whole tokens.
      loss: J at the optimum minus J at the tokens, s; inf where the queue is unstable there.
      bound: what the loss cannot exceed (`round_tokens` derives it), s.
      simulated: the same loss on sample paths with common random numbers, s; NaN without them.
      low: lower end of its interval.
      high: upper end.
    """

    tokens: Tokens
    loss: Scalar
    bound: Scalar
    simulated: Scalar
    low: Scalar
    high: Scalar


class RoundingLoss(NamedTuple):
    """What `rounding_loss` returns.

    Attributes:
      tokens: [K] the continuous optimum between whole bounds (`round_tokens`).
      objective: J there, s.
      nearest: the `Loss` of the nearest integers.
      floor: of the integers below.
      best: of the best neighbours.
      status: int32 `Status`; where it is not CONVERGED the numbers are NaN.
    """

    tokens: Tokens
    objective: Scalar
    nearest: Loss
    floor: Loss
    best: Loss
    status: Int[Array, ""]


def rounding_loss(
    workload: Workload,
    key: Array | None = None,
    num_queries: int = 1_000_000,
    *,
    confidence: float = 0.99,
) -> RoundingLoss:
    """The loss of nearest, floor and best-neighbour rounding: analytic, bounded and simulated.

    The simulated loss is α (accuracy at the optimum - rounded) - (mean system time at the optimum -
    rounded), on the same arrivals and types: its interval is that of the 32 paired differences, a
    small part of what either path alone would leave. The accuracy is that of the types that came;
    single answers would tell nothing, since a token more or less changes one in a million of them.

    Args:
      workload: one workload; solved here.
      key: of the sample paths; None leaves them out.
      num_queries: of each of the four sample paths.
      confidence: of the intervals.

    >>> import jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.1, mix=[0.5, 0.5], gain=0.5, decay=[1e-3, 1e-2], floor=0.0,
    ...     base_time=0.1, time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> lost = jaxalloc.rounding_loss(workload)
    >>> bool(0 <= lost.best.loss <= lost.nearest.loss <= lost.nearest.bound < 1e-4)
    True
    """
    workload = one_workload(workload)
    tokens, value, found, status = _analyze(workload)
    if key is None:
        # NumPy's: an array of JAX's that is NaN would raise under `jax.debug_nans`.
        unknown: Any = np.full((), np.nan, workload.dtype)
        nearest, floor, best = (
            Loss(rounded, loss, bound, unknown, unknown, unknown) for rounded, loss, bound in found
        )
        return RoundingLoss(tokens, value, nearest, floor, best, status)

    def path(tokens: Tokens) -> Array:
        result = simulate_fifo(key, workload, tokens, num_queries, confidence=confidence)
        correct = (result.group_types * accuracy(workload, tokens)[None, :]).sum(axis=1)
        return workload.accuracy_weight * correct - result.group_means[:, 0]

    optimum = path(tokens)
    simulated = []
    for rounded, loss, bound in found:
        interval = paired_difference(optimum, path(rounded), confidence)
        middle, low, high = (jnp.where(loss < jnp.inf, end, end + jnp.inf) for end in interval)
        simulated.append(Loss(rounded, loss, bound, middle, low, high))
    nearest, floor, best = simulated
    return RoundingLoss(tokens, value, nearest, floor, best, status)


@jax.jit
def _analyze(workload: Workload) -> tuple[Tokens, Scalar, list[Rounded], Array]:
    """Everything but the sample paths: of each rounding the tokens, the loss and its bound."""
    dtype = workload.dtype
    optimum = solve(workload)
    rounding = round_tokens(workload, optimum)
    boxed = integer_box(workload)
    best = solve(boxed, initial=optimum.tokens)
    start = evaluate(boxed, best.tokens)
    valid = jnp.where(rounding.status == Status.CONVERGED, 1.0, jnp.nan).astype(dtype)
    losses = [
        (
            tokens,
            -total_increase(boxed, start, tokens) * valid,
            gap_bound(boxed, start, tokens) * valid,
        )
        for tokens in (rounding.nearest, rounding.floor, rounding.best)
    ]
    return best.tokens * valid, best.objective * valid, losses, rounding.status
