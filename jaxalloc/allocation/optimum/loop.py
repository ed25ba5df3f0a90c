"""The one loop around every solver: where it starts, when it stops."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.allocation.model.mg1 import variability
from jaxalloc.allocation.model.objective import SMALLEST_IMBALANCE, Point, evaluate
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.solvers.solver import Solver, State, move

_TOLERANCE = {"float64": 1e-8, "float32": 1e-5}
_ROUNDING_FLOOR = 16.0  # in units of eps: below it a residual cannot halve any more
_LEAST_IDLE_TO_START = 1e-3  # of what is idle at min_tokens, for `initial` to be used


class _Progress(NamedTuple):
    """The loop's carry."""

    state: State
    tokens: Tokens  # the best so far
    distance: Scalar  # its distance
    halved: Flag  # whether the last step halved the least distance
    steps: Int[Array, ""]


def tolerance_of(solver: Solver, workload: Workload) -> float:
    """The solver's tolerance, or the one that the dtype can reach."""
    return _TOLERANCE[str(workload.dtype)] if solver.tolerance is None else solver.tolerance


def first_point(
    workload: Workload, initial: Tokens | None, most_idle: Scalar | None = None
) -> Point:
    """Where to start: `initial` if it is of use, else every type's own optimum at the least prices.

    That guess overestimates, since prices rise with the load; it is shortened to keep the queue
    stable. `initial` is of use where it leaves some of d, `most_idle` at min_tokens, and for each
    type where its thinking is worth something.
    """
    lowest = evaluate(workload, workload.min_tokens, most_idle)
    most_idle = lowest.most_idle
    own = lowest.load_price * variability(workload) * workload.time_per_token / lowest.price
    rise = jnp.maximum(lowest.imbalance, 0) / (workload.decay + own)
    target = jnp.minimum(workload.min_tokens + rise, workload.max_tokens)
    guess = move(workload, lowest, target)
    if initial is not None:
        wanted = jnp.where(jnp.isfinite(initial), initial, workload.min_tokens)
        wanted = jnp.clip(wanted, workload.min_tokens, workload.max_tokens)
        there = evaluate(workload, wanted, most_idle)
        stable = there.idle > _LEAST_IDLE_TO_START * most_idle
        # So far beyond its optimum that the imbalance is cut off, a type finds its way back slowly.
        lost = there.imbalance <= SMALLEST_IMBALANCE
        wanted = jnp.where(lost, jnp.minimum(wanted, guess), wanted)
        guess = jnp.where(stable, wanted, guess)
    return evaluate(workload, guess, most_idle)


def run(workload: Workload, start: Point, solver: Solver) -> tuple[Tokens, Int[Array, ""]]:
    """Step until the residual is within tolerance and no longer halves, or the solver must stop.

    What is watched is the distance, of which the residual is tanh(distance / 2). No step is taken
    where nothing is idle at min_tokens.

    Returns:
      The tokens of least residual, and the number of steps.
    """
    tolerance = tolerance_of(solver, workload)
    enough = 2 * math.atanh(tolerance) if tolerance < 1 else math.inf
    floor = 2 * _ROUNDING_FLOOR * jnp.finfo(workload.dtype).eps

    def unfinished(progress: _Progress) -> Flag:
        wanting = (progress.distance > enough) | progress.halved
        able = (progress.steps < solver.max_steps) & ~progress.state.stalled
        return (start.most_idle > 0) & wanting & able & (progress.distance > floor)

    def advance(progress: _Progress) -> _Progress:
        state = solver.step(workload, progress.state)
        better = state.distance < progress.distance
        return _Progress(
            state=state,
            tokens=jnp.where(better, state.point.tokens, progress.tokens),
            distance=jnp.minimum(state.distance, progress.distance),
            halved=state.distance <= progress.distance / 2,
            steps=progress.steps + 1,
        )

    state = solver.init(workload, start)
    first = _Progress(state, state.point.tokens, state.distance, jnp.array(True), jnp.int32(0))
    last = jax.lax.while_loop(unfinished, advance, first)
    return last.tokens, last.steps
