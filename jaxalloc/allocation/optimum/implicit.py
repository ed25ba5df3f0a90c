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

from typing import Any

import jax
import jax.numpy as jnp

from jaxalloc.allocation.model.mg1 import queue, service_time, variability, wait_of
from jaxalloc.allocation.model.objective import shadow_price
from jaxalloc.allocation.model.sums import sums
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.solvers.solver import solve_two

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

    def at_fixed_tokens(workload: Workload) -> Any:
        return _balance_and_value(workload, tokens)

    (_, _), (push, value), at = jax.jvp(at_fixed_tokens, (workload,), (moved,), has_aux=True)
    up, price, g, second = at
    # Solve B_FF x = push_F - B_FC with_bound for the free types.
    kappa, seconds = variability(workload), workload.mix * workload.time_per_token
    time = kappa * service_time(workload, tokens)
    load = time + g * second
    # A held type's diagonal may be 0: dividing by it would spoil second derivatives.
    own = workload.decay * up + g * kappa * workload.time_per_token
    response = jnp.where(held, 0, 1 / jnp.where(held, 1, own))
    weight, cross = seconds * response, jnp.square(g)
    change = weight * push + seconds * with_bound
    b1, b2 = jnp.sum(change), jnp.sum(time * change)
    s1, s2, s3, s4 = sums(weight * load, weight, weight * time * load, weight * time)
    x, y = solve_two(1 + cross * s1, cross * s2, cross * s3, 1 + cross * s4, b1, b2)
    free = response * (push - cross * (load * x + y))
    value = value + jnp.sum(seconds * (up - price) * with_bound)
    return jnp.where(held, with_bound, free) * gate, value * gate


def _balance_and_value(w: Workload, tokens: Tokens) -> Any:
    """f = up / c - m and J at the tokens; and up / c, m, g and V."""
    at = queue(w, tokens)
    g = w.arrival_rate / at.idle
    price = shadow_price(w, tokens, g, 1 + jnp.square(g) * at.second / 2)
    exponent = w.decay * tokens
    left = jnp.exp(-exponent)
    up = w.accuracy_weight * w.gain * w.decay * left / w.time_per_token
    accuracy = jnp.sum(w.mix * (w.floor + w.gain * _reached(exponent, left)))
    value = w.accuracy_weight * accuracy - at.first - wait_of(w, at)
    value = value - w.token_price * jnp.sum(w.mix * tokens)
    # The floor moves no token, yet a failed lane is to be NaN in it too.
    return (up - price + 0 * w.floor, value), (up, price, g, at.second)


def _reached(exponent: Tokens, left: Tokens) -> Tokens:
    """1 - e^{-x}, given both; to 13 digits, and much cheaper than `expm1`."""
    small = exponent < _SERIES_BELOW
    x = jnp.where(small, exponent, 0)
    series = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))))
    return jnp.where(small, series, 1 - left)
