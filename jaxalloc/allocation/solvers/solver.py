"""What a solver is: hyper-parameters and one pure step over a state; and what the steps share."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalloc.allocation.model.objective import Point
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload

_KEPT_IDLE = 0.2  # share of the idle fraction d that one step leaves


class State(NamedTuple):
    """What a solver carries from step to step."""

    point: Point  # where it stands; always stable
    distance: Scalar  # `objective.distance` of the point
    stalled: Flag  # whether no further step can help
    memory: Any = ()  # of the solver's own


@dataclasses.dataclass(frozen=True)
class Solver(abc.ABC):
    """Hyper-parameters and one pure step; frozen and hashable, static under `jax.jit`.

    A step may hold no callback: on a CPU it is compiled into a native function of its own.

    Attributes:
      max_steps: cap on the number of steps.
      tolerance: the largest residual that counts as converged; None is 1e-8 in float64, 1e-5 in
        float32.
    """

    max_steps: int
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.max_steps < 0:
            raise ValueError(f"max_steps = {self.max_steps} must not be negative")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance = {self.tolerance} must not be negative, or None")

    @abc.abstractmethod
    def init(self, workload: Workload, start: Point) -> State:
        """The state at a stable point."""

    @abc.abstractmethod
    def step(self, workload: Workload, state: State) -> State:
        """The next state."""


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


def solve_two(a11: Any, a12: Any, a21: Any, a22: Any, b1: Any, b2: Any) -> tuple[Any, Any]:
    """x and y of a11 x + a12 y = b1, a21 x + a22 y = b2."""
    determinant = a11 * a22 - a12 * a21
    return (b1 * a22 - a12 * b2) / determinant, (a11 * b2 - a21 * b1) / determinant
