"""The derivative of the optimum, from the optimality conditions and not from the iterations.

At the optimum every free type has f_k = up_k / c_k - m_k = 0, and every other sits at a bound and
moves with it. Differentiating f = 0 in any parameter θ gives (derived here), on the free types F
with the others C held,

    B_FF dl_F = (∂_θ f · dθ)_F - B_FC dl_C,
    (B δ)_k = (b_k m_k + g κ_k c_k) δ_k + g² ((κ_k t_k + g V) Σ π c δ + Σ π κ c t δ)

which is the row of -∇²J over π_k c_k, so that types of zero mix are served too: a diagonal plus
rank two, solved in O(K). The optimal value needs no dl_F, since ∂J/∂l_F = 0 (envelope theorem).

The rules are written in terms of the differentiable solution, so they hold at any order, forward
and in reverse. A type that sits at a bound with zero gradient counts as held: its derivative is
one-sided. Where min_tokens = max_tokens it moves with the mean of the two. A lane that is not
CONVERGED has NaN derivatives, also for zero cotangents: mask the inputs of such lanes in a loss,
not their outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalloc.allocation.model.elementary import sums
from jaxalloc.allocation.model.mg1 import queue, service_time, variability
from jaxalloc.allocation.model.workload import Flag, Mask, Scalar, Tokens, Workload, token_cost

_SERIES_BELOW = 1e-2


def tangents(
    workload: Workload, tokens: Tokens, converged: Flag, moved: Workload
) -> tuple[Tokens, Scalar]:
    """How the optimal tokens and the optimal value move when the workload moves by `moved`.

    Args:
      workload: the problem, one lane.
      tokens: [K] its optimum.
      converged: whether it is one; if not, the answer is NaN.
      moved: a tangent of the workload.
    """
    # A product, so that NaN survives transposition, where `jnp.where` would give 0.
    gate = jnp.where(converged, 1, jnp.nan).astype(tokens.dtype)
    moved = jax.tree.map(lambda leaf: leaf * gate, moved)
    at_min, at_max = tokens <= workload.min_tokens, tokens >= workload.max_tokens
    held = at_min | at_max
    with_bound = jnp.where(at_min, moved.min_tokens, moved.max_tokens)
    both = (moved.min_tokens + moved.max_tokens) / 2
    with_bound = jnp.where(held, jnp.where(at_min & at_max, both, with_bound), 0)

    at = _terms(workload, tokens)
    push, value = _explicit(workload, tokens, at, moved)
    free = _respond(workload, at, held, push, with_bound)
    slope = workload.mix * workload.time_per_token * (at.up - at.price)
    value = value + jnp.sum(slope * with_bound)
    return jnp.where(held, with_bound, free) * gate, value * gate


class _Terms(NamedTuple):
    """What the derivatives are made of; their formulas, like those of `objective`, are explicit."""

    time: Tokens  # t
    kappa: Tokens
    left: Tokens  # e^{-b l}
    up: Tokens  # α A b e^{-b l} / c
    price: Tokens  # m
    first: Scalar  # m1
    second: Scalar  # V
    idle: Scalar  # d
    g: Scalar  # λ / d


def _terms(workload: Workload, tokens: Tokens) -> _Terms:
    time, kappa = service_time(workload, tokens), variability(workload)
    first, second, _, idle = queue(workload, tokens)
    g = workload.arrival_rate / idle
    left = jnp.exp(-workload.decay * tokens)
    steepest = workload.accuracy_weight * workload.gain * workload.decay
    price = 1 + jnp.square(g) * second / 2 + g * kappa * time + token_cost(workload)
    up = steepest * left / workload.time_per_token
    return _Terms(time, kappa, left, up, price, first, second, idle, g)


def _explicit(
    workload: Workload, tokens: Tokens, at: _Terms, moved: Workload
) -> tuple[Tokens, Scalar]:
    """How f = up / c - m and J move with the fields while the tokens stay (derived here).

    dg = dλ / d² + g² dm1,  dG = g V dg + g² dV / 2,  dE[T] = G dm1 + g dV / 2 + V / (2 d²) dλ
    """
    w, half = workload, jnp.square(at.g) * at.second / 2
    time = moved.base_time + moved.time_per_token * tokens
    kappa = 2 * w.service_cv * moved.service_cv
    first = jnp.sum(moved.mix * at.time + w.mix * time)
    own = kappa * at.time + 2 * at.kappa * time
    second = jnp.sum(at.time * (moved.mix * at.kappa * at.time + w.mix * own))
    rate = moved.arrival_rate / jnp.square(at.idle)
    g = rate + jnp.square(at.g) * first
    price = at.g * at.second * g + jnp.square(at.g) * second / 2
    price = price + g * at.kappa * at.time + at.g * (kappa * at.time + at.kappa * time)
    bends = w.gain * (1 - w.decay * tokens) * moved.decay + w.decay * moved.gain
    steepest = w.gain * w.decay * moved.accuracy_weight + w.accuracy_weight * bends
    up = steepest * at.left / w.time_per_token
    relative = moved.time_per_token / w.time_per_token
    # The floor moves no token, yet a failed lane is to be NaN in it too.
    push = up - at.up * relative - price + 0 * moved.floor

    reached = _reached(w.decay * tokens, at.left)
    accuracy = w.floor + w.gain * reached
    better = moved.floor + reached * moved.gain + w.gain * tokens * at.left * moved.decay
    gained = jnp.sum(moved.mix * accuracy + w.mix * better) * w.accuracy_weight
    gained = gained + moved.accuracy_weight * jnp.sum(w.mix * accuracy)
    value = gained - (1 + half) * first - at.g * second / 2 - at.second / 2 * rate
    push = push - moved.token_price / w.time_per_token + token_cost(w) * relative
    value = value - moved.token_price * jnp.sum(w.mix * tokens)
    return push, value - w.token_price * jnp.sum(moved.mix * tokens)


def _reached(exponent: Tokens, left: Tokens) -> Tokens:
    """1 - e^{-x}, given both; to 13 digits, and much cheaper than `expm1`."""
    small = exponent < _SERIES_BELOW
    x = jnp.where(small, exponent, 0)
    series = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))))
    return jnp.where(small, series, 1 - left)


def _respond(
    workload: Workload, at: _Terms, held: Mask, push: Tokens, with_bound: Tokens
) -> Tokens:
    """Solve B_FF x = push_F - B_FC with_bound for the free types, by a 2 x 2 system."""
    time = at.kappa * at.time
    load = time + at.g * at.second
    # A held type's diagonal may be 0: dividing by it would spoil second derivatives.
    own = workload.decay * at.up + at.g * at.kappa * workload.time_per_token
    response = jnp.where(held, 0, 1 / jnp.where(held, 1, own))
    seconds = workload.mix * workload.time_per_token
    weight = seconds * response
    moved = weight * push + seconds * with_bound
    cross = jnp.square(at.g)
    b1, b2 = jnp.sum(moved), jnp.sum(time * moved)
    s1, s2, s3, s4 = sums(weight * load, weight, weight * time * load, weight * time)
    a11, a12, a21, a22 = 1 + cross * s1, cross * s2, cross * s3, 1 + cross * s4
    determinant = a11 * a22 - a12 * a21
    x, y = (b1 * a22 - a12 * b2) / determinant, (a11 * b2 - a21 * b1) / determinant
    return response * (push - cross * (load * x + y))
