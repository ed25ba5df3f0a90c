"""Newton's method at the cost of a gradient: damped proximal Newton with a secant curvature.

At a point with prices m, imbalance r = ln(up/down) and φ(r) = (e^r - 1)/r, a step δ maximizes over
the token box the model (derived here)

    ∇Jᵀδ - ½ δᵀB δ,   B = diag(π c (b m φ(r) + g κ c)) (1 + μ) + g² (u vᵀ + v uᵀ) + g³ V u uᵀ.

For μ = 0 this is -∇²J with one change: the curvature of the accuracy, b·up, is replaced by b times
the logarithmic mean of up and down, b (up - down)/ln(up/down). That is the slope of the chord which
ends where the two balance, so a type that nothing else couples to lands on its optimum in one step
from anywhere, and at the optimum, where up = down, B is the Hessian: convergence is quadratic.

**Why it converges from anywhere.** (1) E[T]'s part of B is g Σ π κ (c_k δ_k + g t_k uᵀδ)², so B is
positive definite and the model's maximizer has slope ∇Jᵀδ >= δᵀBδ > 0 unless the point is optimal.
(2) A step is shortened so that the idle fraction d keeps at least a fifth of its value, hence every
point is stable. (3) A step is accepted if it halves the smallest imbalance so far, which can happen
only finitely often before the tolerance; or if it raises J enough, which is known when the slope at
its end is still >= 0 (J is concave) or from J's exact difference. (4) A rejected step multiplies
1 + μ; as μ grows the step turns into a short scaled projected-gradient step, which is accepted
because ∇J is Lipschitz on the level set of J, compact inside d > 0. So J rises until the residual
is within tolerance. Rounding ends this when a step no longer changes the tokens: then μ passes
its cap and the solver stops, and the residual says what was reached.

The maximizer takes O(K): given x = uᵀδ and y = vᵀδ every δ_k is explicit, and for a set of free
types (x, y) solve a 2 x 2 system; the set is updated until it repeats (`_MAX_SETS` times at most: a
model left unfinished is still tested by (3)).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.allocation.mg1 import variability
from jaxalloc.allocation.objective import (
    Point,
    distance,
    evaluate,
    total_increase,
    violated,
)
from jaxalloc.allocation.solver import move
from jaxalloc.allocation.workload import Flag, Scalar, Tokens, Workload

Sides = Int[Array, "K"]  # -1 at the lower bound, 1 at the upper bound, 0 free

_FIRST_DAMPING = 1.0
_DAMPING_GROWTH = 4.0
_DAMPING_DECAY = 0.25
_LEAST_DAMPING = 0.02
_MOST_DAMPING = 1e12
_SUFFICIENT_INCREASE = 1e-4
_MAX_SETS = 8


class NewtonState(NamedTuple):
    """Where the iteration stands."""

    point: Point
    distance: Scalar
    stalled: Flag
    least: Scalar  # the smallest distance so far
    damping: Scalar  # μ


@dataclasses.dataclass(frozen=True)
class Newton:
    """Damped proximal Newton with a secant curvature: O(K) a step, convergent from anywhere.

    Attributes:
      max_steps: cap on the number of steps.
      tolerance: the largest residual that counts as converged; None is 1e-8 in float64, 1e-5 in
        float32.
    """

    max_steps: int = 100
    tolerance: float | None = None

    def init(self, workload: Workload, start: Point) -> NewtonState:
        """Begin at `start`, which is stable."""
        away = distance(workload, start)
        return NewtonState(start, away, jnp.array(False), away, jnp.zeros_like(away))

    def step(self, workload: Workload, state: NewtonState) -> NewtonState:
        """One trial step, taken if it is good enough; else the damping grows."""
        start = state.point
        model = build_model(workload, start, state.damping)
        target = maximize_model(workload, start, model)
        end = evaluate(workload, move(workload, start, target))
        away = distance(workload, end)
        accepted = (end.idle > 0) & ((away <= state.least / 2) | is_increase(workload, start, end))
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
    """The quadratic model at a point, every row divided by π_k c_k."""

    slope: Tokens  # ∇J
    response: Tokens  # one over the diagonal of B, without the rank-two part
    load: Tokens  # κ t + g V, what x multiplies, over g²
    time: Tokens  # κ t, so that v = u κ t
    weight: Tokens  # u = π c
    cross: Scalar  # g²
    lower: Tokens  # of δ
    upper: Tokens


def secant(point: Point) -> Tokens:
    """φ(r) = (e^r - 1)/r, the logarithmic mean of up and down over down."""
    r = point.imbalance
    near = jnp.abs(r) < 1e-4  # there 1 + r/2 + r²/6 is exact to rounding
    return jnp.where(near, 1 + r / 2 + r * r / 6, point.excess / jnp.where(near, 1, r))


def build_model(workload: Workload, point: Point, damping: Scalar) -> Model:
    """The model that a step from `point` maximizes."""
    kappa = variability(workload)
    own = workload.decay * point.price * secant(point)
    own = own + point.load_price * kappa * workload.time_per_token
    return Model(
        slope=point.price * point.excess,
        response=1 / (own * (1 + damping)),
        load=kappa * point.time + point.load_price * point.second_moment,
        time=kappa * point.time,
        weight=workload.mix * workload.time_per_token,
        cross=jnp.square(point.load_price),
        lower=workload.min_tokens - point.tokens,
        upper=workload.max_tokens - point.tokens,
    )


def couple(model: Model, side: Sides) -> tuple[Scalar, Scalar]:
    """(x, y) = (uᵀδ, vᵀδ) if types of side -1 and 1 go to their bounds and the others are free."""
    free = side == 0
    gain = jnp.where(free, model.weight * model.response, 0)
    bound = jnp.where(side < 0, model.lower, model.upper)
    fixed = gain * model.slope + jnp.where(free, 0, model.weight * bound)
    b1, b2, s1, s2, s3, s4 = sums(
        fixed,
        model.time * fixed,
        gain * model.load,
        gain,
        gain * model.time * model.load,
        gain * model.time,
    )
    a11, a12 = 1 + model.cross * s1, model.cross * s2
    a21, a22 = model.cross * s3, 1 + model.cross * s4
    determinant = a11 * a22 - a12 * a21
    return (b1 * a22 - a12 * b2) / determinant, (a11 * b2 - a21 * b1) / determinant


def maximize_model(workload: Workload, point: Point, model: Model) -> Tokens:
    """The tokens that maximize the model over the box; types at a bound are there exactly."""

    def respond(side: Sides) -> tuple[Tokens, Sides]:
        x, y = couple(model, side)
        step = (model.slope - model.cross * (model.load * x + y)) * model.response
        return step, (step >= model.upper).astype(jnp.int32) - (step <= model.lower)

    def unfinished(carry: tuple[Tokens, Sides, Flag, Array]) -> Flag:
        return carry[2] & (carry[3] < _MAX_SETS)

    def update(
        carry: tuple[Tokens, Sides, Flag, Array],
    ) -> tuple[Tokens, Sides, Flag, Array]:
        _, side, _, count = carry
        step, next_side = respond(side)
        return step, next_side, jnp.any(next_side != side), count + 1

    guess = start_sides(workload, point)
    step, side = respond(guess)
    first = (step, side, jnp.any(side != guess), jnp.int32(1))
    step, side, _, _ = jax.lax.while_loop(unfinished, update, first)
    target = jnp.where(side < 0, workload.min_tokens, point.tokens + step)
    return jnp.where(side > 0, workload.max_tokens, target)


def sums(*terms: Tokens) -> tuple[Scalar, ...]:
    """The sums over types of several vectors, in one pass."""
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    return tuple(
        jax.lax.reduce(
            terms, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (0,)
        )
    )
