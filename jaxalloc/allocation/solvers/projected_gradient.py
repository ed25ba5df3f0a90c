"""Projected gradient: a constant step that is certified, and a backtracking one that is fast."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalloc.allocation.model.checks import one_workload
from jaxalloc.allocation.model.mg1 import queue, service_moments, service_time, variability
from jaxalloc.allocation.model.objective import (
    Point,
    distance,
    evaluate,
    mean_accuracy,
    total_increase,
)
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.solvers.solver import Solver, State

_SUFFICIENT_INCREASE = 1e-4
_LEAST_STEP = 1e-12
_MOST_STEP = 1e6
_BISECTIONS = 100


class _Memory(NamedTuple):
    """What the next step needs."""

    step: Scalar  # length, in the metric's unit
    least_idle: Scalar  # the stable set is {d >= least_idle}


@dataclasses.dataclass(frozen=True)
class ProjectedGradient(Solver):
    """Projected gradient ascent on J.

    The backtracking variant (the default) steps in the metric of the Hessian's diagonal,
    π (α A b² e^{-b l} + g κ c²), projects on the token box, and accepts a step if J rises enough;
    it doubles the step after a success and halves it after a failure. The certified variant takes
    the constant step 1 / `lipschitz_bound(workload)` in the Euclidean metric and projects on the
    token box within the stable set {1 - ρ >= least_idle(workload)}, which holds the optimum: after
    n steps J is within L |l_0 - l*|² / (2 n) of its maximum (Beck & Teboulle, 2009). The bound L is
    loose, so that variant is slow, and it never moves a type of zero mix; the status says MAX_STEPS
    where it did not get there.

    Attributes:
      max_steps, tolerance: as every `Solver` has them.
      certified: take the certified constant step.
    """

    max_steps: int = 2000
    certified: bool = False

    def init(self, workload: Workload, start: Point) -> State:
        """Begin at `start`, which is stable."""
        least_idle = stable_margin(workload, start.most_idle)
        if self.certified:
            step = 1 / lipschitz_bound(workload)
            tokens = project(workload, start.tokens, least_idle, start.most_idle)
            start = evaluate(workload, tokens, start.most_idle)
        else:
            step = jnp.ones_like(start.idle)
        away = distance(workload, start)
        return State(start, away, jnp.array(False), _Memory(step, least_idle))

    def step(self, workload: Workload, state: State) -> State:
        """One step, or one trial of the backtracking."""
        return (_certified if self.certified else _try)(workload, state)


def _certified(workload: Workload, state: State) -> State:
    """A step of constant length, projected on the box within the stable set."""
    point, (length, least_idle) = state.point, state.memory
    slope = workload.mix * workload.time_per_token * point.price * point.excess
    target = point.tokens + length * slope
    end = evaluate(
        workload, project(workload, target, least_idle, point.most_idle), point.most_idle
    )
    stalled = jnp.all(end.tokens == point.tokens)
    return state._replace(point=end, distance=distance(workload, end), stalled=stalled)


def _try(workload: Workload, state: State) -> State:
    """A trial step in the metric of the Hessian's diagonal."""
    start, (length, least_idle) = state.point, state.memory
    own = workload.decay * start.price * (1 + start.excess)
    own = own + start.load_price * variability(workload) * workload.time_per_token
    target = start.tokens + length * start.price * start.excess / own
    target = jnp.clip(target, workload.min_tokens, workload.max_tokens)
    end = evaluate(workload, target, start.most_idle)
    reach = workload.mix * workload.time_per_token * (target - start.tokens)
    slope = jnp.sum(reach * start.price * start.excess)
    gained = total_increase(workload, start, target)
    accepted = (end.idle > 0) & (gained >= _SUFFICIENT_INCREASE * slope)
    length = jnp.where(accepted, jnp.minimum(2 * length, _MOST_STEP), length / 2)
    return State(
        point=jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, start),
        distance=jnp.where(accepted, distance(workload, end), state.distance),
        stalled=~accepted & (2 * length < _LEAST_STEP),
        memory=_Memory(length, least_idle),
    )


def stable_margin(workload: Workload, most_idle: Scalar | None = None) -> Scalar:
    """A lower bound ε on 1 - ρ at every point that is no worse than min_tokens, so at the optimum.

    `ε = 1 / (√(1 + λ²B²) + λB)`, `B = E[T](l_min) + α Σ π_k (p_k(l_max) - p_k(l_min))` (derived
    here: J(l) >= J(l_min) bounds E[T](l) by B, and E[T] >= (1 - d²) / (2 λ d)). 1 - ρ at l_min is
    `most_idle`.
    """
    if most_idle is None:
        most_idle = queue(workload, workload.min_tokens).idle
    first, second = service_moments(workload, workload.min_tokens)
    gained = mean_accuracy(workload, workload.max_tokens)
    gained = gained - mean_accuracy(workload, workload.min_tokens)
    system_time = first + workload.arrival_rate * second / (2 * most_idle)
    most = system_time + workload.accuracy_weight * gained
    product = workload.arrival_rate * most
    return 1 / (jnp.hypot(jnp.ones_like(product), product) + product)


def lipschitz_bound(workload: Workload) -> Scalar:
    """A global bound L on the curvature of J over {1 - ρ >= ε} within the token box, s / token².

    `L = max π α A b² + (λ/ε) (1 + λ √V_max / ε)² max π κ c²` with ε from `stable_margin` and
    `V_max = min(Σ π κ t(l_max)², max κ t(l_max) (1 - ε)/λ)` (derived here). A gradient step of 1/L
    converges from anywhere; the bound is loose by two to five decades.

    >>> import jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.0, mix=[1.0], gain=0.5, decay=1e-3, floor=0.0, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=1000.0, accuracy_weight=20.0)
    >>> print(f"{jaxalloc.lipschitz_bound(workload):.3g}")  # α A b²
    1e-05
    """
    workload = one_workload(workload)
    kappa = variability(workload)
    time = service_time(workload, workload.max_tokens)
    margin = stable_margin(workload)
    most = jnp.sum(workload.mix * kappa * jnp.square(time))
    loaded = jnp.max(kappa * time) * (1 - margin)
    scaled = jnp.minimum(jnp.square(workload.arrival_rate) * most, workload.arrival_rate * loaded)
    g = workload.arrival_rate / margin
    system_time = g * jnp.square(1 + jnp.sqrt(scaled) / margin)
    system_time *= jnp.max(workload.mix * kappa * jnp.square(workload.time_per_token))
    steepest = workload.mix * workload.accuracy_weight * workload.gain
    return jnp.max(steepest * jnp.square(workload.decay)) + system_time


def project(
    workload: Workload, tokens: Tokens, least_idle: Scalar, most_idle: Scalar | None = None
) -> Tokens:
    """argmin ½ |x - tokens|² over the token box with 1 - ρ(x) >= least_idle.

    The solution is the box projection of `tokens - ν u`, u = π c, with the least ν >= 0 that meets
    the load; the load falls in ν, so ν is found by bisection, to the last bit on its safe side. The
    load is counted from min_tokens, where 1 - ρ is `most_idle`.
    """
    load = workload.mix * workload.time_per_token
    if most_idle is None:
        most_idle = queue(workload, workload.min_tokens).idle

    def shifted(nu: Scalar) -> Tokens:
        return jnp.clip(tokens - nu * load, workload.min_tokens, workload.max_tokens)

    def is_light(nu: Scalar) -> Flag:
        extra = jnp.sum(load * (shifted(nu) - workload.min_tokens))
        return most_idle - workload.arrival_rate * extra >= least_idle

    def halve(_: int, bracket: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        heavy, light = bracket
        middle = (heavy + light) / 2
        enough = is_light(middle)
        return jnp.where(enough, heavy, middle), jnp.where(enough, middle, light)

    # At the largest breakpoint every loaded type is at min_tokens, where the load is least.
    reach = jnp.where(load > 0, (tokens - workload.min_tokens) / jnp.where(load > 0, load, 1), 0)
    bracket = (jnp.zeros_like(least_idle), jnp.maximum(jnp.max(reach), 0))
    light = jax.lax.cond(
        is_light(bracket[0]),
        lambda: bracket[0],
        lambda: jax.lax.fori_loop(0, _BISECTIONS, halve, bracket)[1],
    )
    return shifted(light)
