"""The objective J, its gradient, its curvature, and how far a point is from the optimum.

Written for one workload (`jax.vmap` for more): tokens are [K]. With g = λ/d, κ = 1 + cv² and the
shadow price m_k of one second of type-k service (its own time, its part in the second moment of the
service time, its part in the load, the price of its tokens),

    J(l) = α Σ π_k p_k(l_k) - E[T](l) - μ Σ π_k l_k       (with μ = 0: arXiv 2601.10274)
    m_k = G + g κ_k t_k + μ / c_k,  G = 1 + g² V / 2      (derived here, as is all that follows)
    ∂J/∂l_k = π_k (up_k - down_k),  up_k = α A_k b_k e^{-b_k l_k},  down_k = c_k m_k
    -∇²J = diag(π α A b² e^{-b l} + g π κ c²) + g² (u vᵀ + v uᵀ) + g³ V u uᵀ,  u = π c,  v = π κ c t

So J is strictly concave wherever π > 0 and the queue is stable, and every linear solve with its
Hessian takes O(K).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxalloc.allocation.model.checks import workload_and_tokens
from jaxalloc.allocation.model.mg1 import queue, service_time, variability, wait_of
from jaxalloc.allocation.model.sums import sums
from jaxalloc.allocation.model.workload import Mask, Scalar, Tokens, Workload

# ln(up/down) is kept finite: no step needs to know more of a type this far out of balance.
_LARGEST_IMBALANCE = 80.0  # e^80 is still a float32
SMALLEST_IMBALANCE = -1e9


class Point(NamedTuple):
    """Tokens, and what the value and the derivatives of J are made of there."""

    tokens: Tokens
    second_moment: Scalar  # V, s²
    idle: Scalar  # d = 1 - ρ; the point is stable iff it is positive
    most_idle: Scalar  # d at min_tokens
    load_price: Scalar  # g = λ/d, 1 / s
    base_price: Scalar  # G = 1 + g² V / 2
    price: Tokens  # m = G + g κ t
    imbalance: Tokens  # ln(up / down)
    excess: Tokens  # up / down - 1


def accuracy(workload: Workload, tokens: Tokens) -> Tokens:
    """Probability of a correct answer of each type, p_k = D_k + A_k (1 - e^{-b_k l_k})."""
    return workload.floor - workload.gain * jnp.expm1(-workload.decay * tokens)


def mean_accuracy(workload: Workload, tokens: Tokens) -> Scalar:
    """Probability that a query is answered correctly, Σ π_k p_k(l_k)."""
    workload, tokens = workload_and_tokens(workload, tokens)
    return jnp.sum(workload.mix * accuracy(workload, tokens))


def objective(workload: Workload, tokens: Tokens) -> Scalar:
    """J(l) = α Σ π_k p_k(l_k) - E[T](l) - μ Σ π_k l_k, s; -inf where the queue is unstable."""
    workload, tokens = workload_and_tokens(workload, tokens)
    at = queue(workload, tokens)
    correct, spent = sums(workload.mix * accuracy(workload, tokens), workload.mix * tokens)
    value = workload.accuracy_weight * correct - (at.first + wait_of(workload, at))
    return value - workload.token_price * spent


def evaluate(workload: Workload, tokens: Tokens, most_idle: Scalar | None = None) -> Point:
    """The `Point` at `tokens`. Where the queue is unstable its prices mean nothing.

    The load is counted from min_tokens, where d is `most_idle`: that keeps the digits of d at the
    cost of working precision, which is why loops hand it on.
    """
    if most_idle is None:
        most_idle = queue(workload, workload.min_tokens).idle
    more = workload.time_per_token * (tokens - workload.min_tokens)
    time = service_time(workload, tokens)
    kappa = variability(workload)
    extra, second_moment = sums(workload.mix * more, workload.mix * kappa * jnp.square(time))
    idle = most_idle - workload.arrival_rate * extra
    load_price = workload.arrival_rate / idle
    base_price = 1 + load_price * (load_price * second_moment) / 2
    price = shadow_price(workload, tokens, load_price, base_price)
    imbalance = own_imbalance(workload, tokens, price)
    return Point(
        tokens=tokens,
        second_moment=second_moment,
        idle=idle,
        most_idle=most_idle,
        load_price=load_price,
        base_price=base_price,
        price=price,
        imbalance=imbalance,
        excess=jnp.exp(imbalance) - 1,
    )


def shadow_price(
    workload: Workload, tokens: Tokens, load_price: Scalar, base_price: Scalar
) -> Tokens:
    """m_k = G + g κ_k t_k + μ / c_k at given g and G."""
    time = load_price * variability(workload) * service_time(workload, tokens)
    return base_price + time + workload.token_price / workload.time_per_token


def own_imbalance(workload: Workload, tokens: Tokens, price: Tokens) -> Tokens:
    """ln(up / down) of every type at given prices, ln(α A b / (c m)) - b l."""
    steepest = workload.accuracy_weight * workload.decay * workload.gain
    ratio = jnp.log(steepest / (workload.time_per_token * price)) - workload.decay * tokens
    ratio = jnp.where(ratio < SMALLEST_IMBALANCE, SMALLEST_IMBALANCE, ratio)
    return jnp.where(ratio > _LARGEST_IMBALANCE, _LARGEST_IMBALANCE, ratio)


def violated(workload: Workload, point: Point) -> Mask:
    """Where a type's imbalance counts: not where it pushes against the bound the type sits at."""
    at_min = point.tokens <= workload.min_tokens
    at_max = point.tokens >= workload.max_tokens
    return ~((at_min & (point.imbalance <= 0)) | (at_max & (point.imbalance >= 0)))


def distance(workload: Workload, point: Point) -> Scalar:
    """Largest violated |ln(up / down)|; inf where the queue is unstable.

    The residual |up - down| / (up + down) is tanh(distance / 2); the distance also tells far from
    very far.
    """
    largest = jnp.max(jnp.where(violated(workload, point), jnp.abs(point.imbalance), 0))
    return jnp.where(point.idle > 0, largest, jnp.inf)


class Difference(NamedTuple):
    """What each type adds to a difference of J when its tokens change."""

    gained: Tokens  # α Δ(π p), less the price of the tokens, s
    first: Tokens  # Δ(π t), s
    second: Tokens  # Δ(π κ t²), s²


def difference(workload: Workload, start: Point, tokens: Tokens) -> Difference:
    """The parts of J(tokens) - J(start), every one formed from Δl and so free of cancellation."""
    step = tokens - start.tokens
    first = workload.mix * workload.time_per_token * step
    twice = 2 * service_time(workload, start.tokens) + workload.time_per_token * step
    up = workload.time_per_token * start.price * (1 + start.excess)
    gained = -workload.mix * up / workload.decay * jnp.expm1(-workload.decay * step)
    return Difference(
        gained=gained - workload.token_price / workload.time_per_token * first,
        first=first,
        second=variability(workload) * first * twice,
    )


def increase(workload: Workload, start: Point, parts: Difference) -> Scalar:
    """J(tokens) - J(start) to full relative precision, where the values agree in most digits.

    ΔE[T] = Δm1 + λ (ΔV d + V λ Δm1) / (2 d d′) (derived here); -inf where the queue is unstable.
    The parts are sums over types, or vectors for as many separate changes.
    """
    rate = workload.arrival_rate
    idle = start.idle - rate * parts.first
    wait = rate * (parts.second * start.idle + start.second_moment * rate * parts.first)
    wait = wait / (2 * start.idle * jnp.where(idle > 0, idle, 1))
    return jnp.where(idle > 0, parts.gained - parts.first - wait, -jnp.inf)


def total_increase(workload: Workload, start: Point, tokens: Tokens) -> Scalar:
    """J(tokens) - J(start), all types changing together."""
    parts = difference(workload, start, tokens)
    return increase(workload, start, Difference(*sums(*parts)))
