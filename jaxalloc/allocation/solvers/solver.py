"""What a solver is: hyper-parameters, a state and one pure step; and the step rules they share."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxalloc.allocation.model.objective import Point
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload

_KEPT_IDLE = 0.2  # share of the idle fraction d that one step leaves


class State(Protocol):
    """What a solver carries from step to step; a pytree."""

    @property
    def point(self) -> Point:
        """Where it stands; always stable."""

    @property
    def distance(self) -> Scalar:
        """`objective.distance` of the point."""

    @property
    def stalled(self) -> Flag:
        """Whether no further step can help."""


class Solver(Protocol):
    """Hyper-parameters and one pure step; frozen and hashable, static under `jax.jit`.

    A step may hold no callback: on a CPU it is compiled into a native function of its own.
    """

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


def check(solver: Solver) -> None:
    """Raise ValueError for hyper-parameters that no solver can use."""
    if solver.max_steps < 0:
        raise ValueError(f"max_steps = {solver.max_steps} must not be negative")
    if solver.tolerance is not None and not solver.tolerance >= 0:
        raise ValueError(f"tolerance = {solver.tolerance} must not be negative, or None")


def move(
    workload: Workload, point: Point, target: Tokens, *, kept_idle: float = _KEPT_IDLE
) -> Tokens:
    """Go to `target`, which is in the box, or only as far as keeps that share of d."""
    step = target - point.tokens
    used = workload.arrival_rate * jnp.sum(workload.mix * workload.time_per_token * step)
    limit = (1 - kept_idle) * point.idle

    def shorten() -> Tokens:
        short = point.tokens + limit / used * step
        return jnp.clip(short, workload.min_tokens, workload.max_tokens)

    return jax.lax.cond(used > limit, shorten, lambda: target)
