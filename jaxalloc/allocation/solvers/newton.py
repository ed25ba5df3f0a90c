"""Newton's method at the cost of a gradient: damped proximal Newton with secant curvatures.

At a point with prices m, imbalance r = ln(up/down) and φ(r) = (e^r - 1)/r, a step δ within the box
makes every type balance in the linear model (derived here; a type at a bound may push outwards)

    m_k (e^{r_k} - 1) = b_k m_k φ(r_k) δ_k + Δm_k,
    Δm_k = g′ κ_k c_k δ_k + g g′ (κ_k t_k + ½ (g + g′) V) x + g′² y,   x = uᵀδ,  y = vᵀδ,

with u = π c, v = π κ c t and g′ = g / (1 - g x), the load price λ/d at the end of the step. For
φ = 1 and g′ = g this is Newton's method on J. Both changes replace a tangent by the chord to the
point of balance: b m φ is b times the logarithmic mean of up and down, so a type that nothing else
couples to lands on its optimum in one step from anywhere; and g′ - g = g g′ x is exact, so the
barrier λ/d is not underestimated. At the optimum r = 0 and x = 0: convergence is quadratic.

The model is solved in O(K): given x and y every δ_k is explicit, and for a set of free types and a
g′ (x, y) solve a 2 x 2 system; the set and g′ are updated until they repeat, `_MAX_ROUNDS` times at
most.

**Why it converges from anywhere.** (1) For g′ = g the model is B δ = ∇J with
B = diag(π c (b m φ + g κ c)) + g² (u vᵀ + v uᵀ) + g³ V u uᵀ, whose part from E[T] is
g Σ π κ (c_k δ_k + g t_k uᵀδ)²: B is positive definite, and the step has slope ∇Jᵀδ >= δᵀBδ > 0
unless the point is optimal. (2) A step is shortened so that the idle fraction d keeps at least a
fifth of its value, hence every point is stable. (3) A step is accepted if it halves the smallest
imbalance so far, which can happen only finitely often before the tolerance; or if its slope is
positive and it raises J enough, which is known when the slope at its end is still >= 0 (J is
concave) or from J's exact difference. (4) A rejected step multiplies the diagonal by 1 + μ, with μ
growing; then x shrinks, g′ → g, and the step turns into a short scaled projected-gradient step,
which is accepted because ∇J is Lipschitz on the level set of J, compact inside d > 0. So J rises
until the residual is within tolerance. Rounding ends this when a step no longer changes the tokens:
then μ passes its cap and the solver stops, and the residual says what was reached.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.allocation.model.mg1 import service_time, variability
from jaxalloc.allocation.model.objective import (
    Point,
    distance,
    evaluate,
    total_increase,
    violated,
)
from jaxalloc.allocation.model.sums import sums
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.solvers.solver import Solver, State, move, solve_two

Sides = Int[Array, "K"]  # -1 at the lower bound, 1 at the upper bound, 0 free

_FIRST_DAMPING = 1.0
_DAMPING_GROWTH = 4.0
_DAMPING_DECAY = 0.25
_LEAST_DAMPING = 0.02
_MOST_DAMPING = 1e12
_SUFFICIENT_INCREASE = 1e-4
_MAX_ROUNDS = 8
_PRICE_TOLERANCE = 0.1  # relative, of g′: what is left is corrected by the next step
_MOST_PRICE_CHANGE = 5.0  # of g′ to g, as a step keeps a fifth of d


class _Memory(NamedTuple):
    """What decides on the next step."""

    least: Scalar  # the smallest distance so far
    damping: Scalar  # μ


@dataclasses.dataclass(frozen=True)
class Newton(Solver):
    """Damped proximal Newton with secant curvatures: O(K) a step, convergent from anywhere."""

    max_steps: int = 100

    def init(self, workload: Workload, start: Point) -> State:
        """Begin at `start`, which is stable."""
        away = distance(workload, start)
        return State(start, away, jnp.array(False), _Memory(away, jnp.zeros_like(away)))

    def step(self, workload: Workload, state: State) -> State:
        """One trial step, taken if it is good enough; else the damping grows."""
        start, (least, damping) = state.point, state.memory
        target = _model_optimum(workload, start, damping)
        end = evaluate(workload, move(workload, start, target), start.most_idle)
        away = distance(workload, end)
        enough = jax.lax.cond(
            away <= least / 2,
            lambda: jnp.array(True),
            lambda: _is_increase(workload, start, end),
        )
        accepted = (end.idle > 0) & enough
        damping = jnp.where(
            accepted,
            damping * _DAMPING_DECAY,
            jnp.maximum(damping * _DAMPING_GROWTH, _FIRST_DAMPING),
        )
        return State(
            point=jax.lax.cond(accepted, lambda: end, lambda: start),
            distance=jnp.where(accepted, away, state.distance),
            stalled=damping > _MOST_DAMPING,
            memory=_Memory(
                least=jnp.where(accepted, jnp.minimum(away, least), least),
                damping=jnp.where(damping < _LEAST_DAMPING, 0, damping),
            ),
        )


def _is_increase(workload: Workload, start: Point, end: Point) -> Flag:
    """Whether J rises enough from `start` to `end`, point (3) of the argument above."""
    # A type of zero mix weighs nothing in J; the least weight lets its own balance be judged too.
    weight = jnp.maximum(workload.mix, jnp.finfo(workload.dtype).tiny ** 0.5)
    reach = weight * workload.time_per_token * (end.tokens - start.tokens)
    slope, end_slope = sums(reach * start.price * start.excess, reach * end.price * end.excess)
    rises = jax.lax.cond(
        end_slope >= 0,
        lambda: jnp.array(True),
        lambda: total_increase(workload, start, end.tokens) >= _SUFFICIENT_INCREASE * slope,
    )
    return (slope > 0) & rises


class _Answer(NamedTuple):
    """What the model answers to a guess of its bound types and of g′."""

    step: Tokens  # δ, not clipped
    side: Sides
    load_price: Scalar  # g′ at the end of the step
    changed: Flag  # whether the guess must be corrected


def _model_optimum(workload: Workload, point: Point, damping: Scalar) -> Tokens:
    """The tokens that solve the model within the box; types at a bound are there exactly."""
    g, kappa = point.load_price, variability(workload)
    slope = point.price * point.excess  # ∇J over π c
    own = workload.decay * point.price * _secant(point)
    push, time = kappa * workload.time_per_token, kappa * service_time(workload, point.tokens)
    seconds = workload.mix * workload.time_per_token
    lower, upper = workload.min_tokens - point.tokens, workload.max_tokens - point.tokens

    def answer_to(side: Sides, end_price: Scalar) -> _Answer:
        gain = 1 / ((own + end_price * push) * (1 + damping))
        load = time + (g + end_price) / 2 * point.second_moment
        free = side == 0
        weight = jnp.where(free, seconds * gain, 0)
        held = jnp.where(free, 0, seconds * jnp.where(side < 0, lower, upper))
        fixed = weight * slope + held
        terms = (fixed, time * fixed, weight * load, weight, weight * time * load, weight * time)
        b1, b2, s1, s2, s3, s4 = sums(*terms)
        cross_x, cross_y = g * end_price, jnp.square(end_price)
        x, y = solve_two(1 + cross_x * s1, cross_y * s2, cross_x * s3, 1 + cross_y * s4, b1, b2)
        step = (slope - cross_x * x * load - cross_y * y) * gain
        new_side = (step >= upper).astype(jnp.int32) - (step <= lower).astype(jnp.int32)
        kept = jnp.clip(1 - g * x, 1 / _MOST_PRICE_CHANGE, _MOST_PRICE_CHANGE)  # d′/d
        new_price = g / kept
        changed = jnp.any(new_side != side)
        changed |= jnp.abs(new_price - end_price) > _PRICE_TOLERANCE * end_price
        return _Answer(step, new_side, new_price, changed)

    def unfinished(carry: tuple[_Answer, Array]) -> Flag:
        return carry[0].changed & (carry[1] < _MAX_ROUNDS)

    def correct(carry: tuple[_Answer, Array]) -> tuple[_Answer, Array]:
        return answer_to(carry[0].side, carry[0].load_price), carry[1] + 1

    # The first guess of the bound types: those that push against the bound they sit at.
    at = jnp.where(point.tokens <= workload.min_tokens, -1, 1)
    first = jnp.where(violated(workload, point), 0, at).astype(jnp.int32)
    carry = answer_to(first, g), jnp.int32(1)
    answer, _ = jax.lax.while_loop(unfinished, correct, carry)
    target = jnp.where(answer.side < 0, workload.min_tokens, point.tokens + answer.step)
    return jnp.where(answer.side > 0, workload.max_tokens, target)


def _secant(point: Point) -> Tokens:
    """φ(r) = (e^r - 1)/r, the logarithmic mean of up and down over down."""
    r = point.imbalance
    near = jnp.abs(r) < 1e-4  # there 1 + r/2 + r²/6 is exact to rounding
    return jnp.where(near, 1 + r / 2 + r * r / 6, point.excess / jnp.where(near, 1, r))
