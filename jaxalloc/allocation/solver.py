"""What a solver is: hyper-parameters, a state and one pure step; and the step rules they share."""

from __future__ import annotations

from typing import Any, Protocol

import jax.numpy as jnp

from jaxalloc.allocation.objective import Point, violated
from jaxalloc.allocation.workload import Flag, Scalar, Tokens, Workload

_KEPT_IDLE = 0.2  # share of the idle fraction d that one step leaves


class State(Protocol):
    """What a solver carries from step to step; a pytree."""

    @property
    def point(self) -> Point:
        """Where it stands; always stable."""

    @property
    def stalled(self) -> Flag:
        """Whether no further step can help."""


class Solver(Protocol):
    """Hyper-parameters and one pure step; frozen and hashable, static under `jax.jit`."""

    @property
    def max_steps(self) -> int:
        """Cap on the number of steps."""

    @property
    def tolerance(self) -> float | None:
        """Largest residual that counts as converged; None: what the dtype can reach."""

    def init(self, workload: Workload, start: Point) -> Any:
        """The `State` at a stable point."""

    def step(self, workload: Workload, state: Any) -> Any:
        """The next `State`."""


def move(
    workload: Workload, point: Point, step: Tokens, *, kept_idle: float = _KEPT_IDLE
) -> Tokens:
    """Go along `step`, to the bounds exactly, and only as far as keeps that share of d."""
    target = point.tokens + step
    target = jnp.where(step <= workload.min_tokens - point.tokens, workload.min_tokens, target)
    target = jnp.where(step >= workload.max_tokens - point.tokens, workload.max_tokens, target)
    used = workload.arrival_rate * jnp.sum(workload.mix * workload.time_per_token * step)
    limit = (1 - kept_idle) * point.idle
    part = point.tokens + limit / jnp.where(used > limit, used, 1) * step
    target = jnp.where(used > limit, part, target)
    return jnp.clip(target, workload.min_tokens, workload.max_tokens)


def largest_imbalance(workload: Workload, point: Point) -> Scalar:
    """Largest violated |ln(up/down)|; unlike the residual it also tells far from very far."""
    return jnp.max(jnp.where(violated(workload, point), jnp.abs(point.imbalance), 0))
