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

from jaxalloc.allocation.model.elementary import sums
from jaxalloc.allocation.model.mg1 import service_time, variability
from jaxalloc.allocation.model.objective import (
    Point,
    distance,
    evaluate,
    total_increase,
    violated,
)
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.solvers.solver import check, move

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


class NewtonState(NamedTuple):
    """Where the iteration stands."""

    point: Point
    distance: Scalar
    stalled: Flag
    least: Scalar  # the smallest distance so far
    damping: Scalar  # μ


@dataclasses.dataclass(frozen=True)
class Newton:
    """Damped proximal Newton with secant curvatures: O(K) a step, convergent from anywhere.

    Attributes:
      max_steps: cap on the number of steps.
      tolerance: the largest residual that counts as converged; None is 1e-8 in float64, 1e-5 in
        float32.
    """

    max_steps: int = 100
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check(self)

    def init(self, workload: Workload, start: Point) -> NewtonState:
        """Begin at `start`, which is stable."""
        away = distance(workload, start)
        return NewtonState(start, away, jnp.array(False), away, jnp.zeros_like(away))

    def step(self, workload: Workload, state: NewtonState) -> NewtonState:
        """One trial step, taken if it is good enough; else the damping grows."""
        start = state.point
        model = build_model(workload, start, state.damping)
        target = solve_model(workload, start, model)
        end = evaluate(workload, move(workload, start, target), start.most_idle)
        away = distance(workload, end)
        enough = jax.lax.cond(
            away <= state.least / 2,
            lambda: jnp.array(True),
            lambda: is_increase(workload, start, end),
        )
        accepted = (end.idle > 0) & enough
        damping = jnp.where(
            accepted,
            state.damping * _DAMPING_DECAY,
            jnp.maximum(state.damping * _DAMPING_GROWTH, _FIRST_DAMPING),
        )
        return NewtonState(
            point=jax.lax.cond(accepted, lambda: end, lambda: start),
            distance=jnp.where(accepted, away, state.distance),
            stalled=damping > _MOST_DAMPING,
            least=jnp.where(accepted, jnp.minimum(away, state.least), state.least),
            damping=jnp.where(damping < _LEAST_DAMPING, 0, damping),
        )


def is_increase(workload: Workload, start: Point, end: Point) -> Flag:
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


def start_sides(workload: Workload, point: Point) -> Sides:
    """The first guess of the bound types: those that push against the bound they sit at."""
    at = jnp.where(point.tokens <= workload.min_tokens, -1, 1)
    return jnp.where(violated(workload, point), 0, at).astype(jnp.int32)


class Model(NamedTuple):
    """The linear model at a point."""

    slope: Tokens  # m (e^r - 1): ∇J over π c
    own: Tokens  # b m φ
    push: Tokens  # κ c, which g′ multiplies
    time: Tokens  # κ t, so that v = u κ t
    weight: Tokens  # u = π c
    load_price: Scalar  # g
    second_moment: Scalar  # V
    damping: Scalar  # 1 + μ
    lower: Tokens  # of δ
    upper: Tokens


class Response(NamedTuple):
    """What a model answers to a guess of its bound types and of g′."""

    step: Tokens  # δ, not clipped
    side: Sides
    load_price: Scalar  # g′ at the end of the step
    changed: Flag  # whether the guess must be corrected


def secant(point: Point) -> Tokens:
    """φ(r) = (e^r - 1)/r, the logarithmic mean of up and down over down."""
    r = point.imbalance
    near = jnp.abs(r) < 1e-4  # there 1 + r/2 + r²/6 is exact to rounding
    return jnp.where(near, 1 + r / 2 + r * r / 6, point.excess / jnp.where(near, 1, r))


def build_model(workload: Workload, point: Point, damping: Scalar) -> Model:
    """The model that a step from `point` solves."""
    kappa = variability(workload)
    return Model(
        slope=point.price * point.excess,
        own=workload.decay * point.price * secant(point),
        push=kappa * workload.time_per_token,
        time=kappa * service_time(workload, point.tokens),
        weight=workload.mix * workload.time_per_token,
        load_price=point.load_price,
        second_moment=point.second_moment,
        damping=1 + damping,
        lower=workload.min_tokens - point.tokens,
        upper=workload.max_tokens - point.tokens,
    )


def respond(model: Model, side: Sides, end_price: Scalar) -> Response:
    """Solve the model with types of side -1 and 1 at their bounds and the given g′."""
    g = model.load_price
    gain = 1 / ((model.own + end_price * model.push) * model.damping)
    load = model.time + (g + end_price) / 2 * model.second_moment
    free = side == 0
    weight = jnp.where(free, model.weight * gain, 0)
    bound = jnp.where(side < 0, model.lower, model.upper)
    fixed = weight * model.slope + jnp.where(free, 0, model.weight * bound)
    terms = (fixed, model.time * fixed, weight * load, weight)
    b1, b2, s1, s2, s3, s4 = sums(*terms, weight * model.time * load, weight * model.time)
    cross_x, cross_y = g * end_price, jnp.square(end_price)
    a11, a12 = 1 + cross_x * s1, cross_y * s2
    a21, a22 = cross_x * s3, 1 + cross_y * s4
    determinant = a11 * a22 - a12 * a21
    x, y = (b1 * a22 - a12 * b2) / determinant, (a11 * b2 - a21 * b1) / determinant
    step = (model.slope - cross_x * x * load - cross_y * y) * gain
    next_side = (step >= model.upper).astype(jnp.int32) - (step <= model.lower).astype(jnp.int32)
    kept = jnp.clip(1 - g * x, 1 / _MOST_PRICE_CHANGE, _MOST_PRICE_CHANGE)  # d′/d
    next_price = g / kept
    changed = jnp.any(next_side != side)
    changed |= jnp.abs(next_price - end_price) > _PRICE_TOLERANCE * end_price
    return Response(step, next_side, next_price, changed)


def solve_model(workload: Workload, point: Point, model: Model) -> Tokens:
    """The tokens that solve the model within the box; types at a bound are there exactly."""

    def unfinished(carry: tuple[Response, Array]) -> Flag:
        return carry[0].changed & (carry[1] < _MAX_ROUNDS)

    def correct(carry: tuple[Response, Array]) -> tuple[Response, Array]:
        guess, count = carry
        return respond(model, guess.side, guess.load_price), count + 1

    first = respond(model, start_sides(workload, point), point.load_price)
    answer, _ = jax.lax.while_loop(unfinished, correct, (first, jnp.int32(1)))
    target = jnp.where(answer.side < 0, workload.min_tokens, point.tokens + answer.step)
    return jnp.where(answer.side > 0, workload.max_tokens, target)
