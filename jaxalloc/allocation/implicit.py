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

import jax
import jax.numpy as jnp

from jaxalloc.allocation.mg1 import service_moments, service_time, variability
from jaxalloc.allocation.objective import objective
from jaxalloc.allocation.workload import Flag, Scalar, Tokens, Workload


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

    _, push = jax.jvp(lambda w: _balance(w, tokens), (workload,), (moved,))
    free = _respond(workload, tokens, held, push, with_bound)
    value = jax.jvp(objective, (workload, tokens), (moved, with_bound))[1]
    return jnp.where(held, with_bound, free) * gate, value * gate


def _balance(workload: Workload, tokens: Tokens) -> Tokens:
    """f_k = up_k / c_k - m_k, in the parameters as they stand."""
    first, second = service_moments(workload, tokens)
    g = workload.arrival_rate / (1 - workload.arrival_rate * first)
    price = 1 + jnp.square(g) * second / 2
    price = price + g * variability(workload) * service_time(workload, tokens)
    steepest = workload.accuracy_weight * workload.gain * workload.decay
    up = steepest * jnp.exp(-workload.decay * tokens)
    return up / workload.time_per_token - price


def _respond(
    workload: Workload, tokens: Tokens, held: Flag, push: Tokens, with_bound: Tokens
) -> Tokens:
    """Solve B_FF x = push_F - B_FC with_bound for the free types, by a 2 x 2 system."""
    first, second = service_moments(workload, tokens)
    g = workload.arrival_rate / (1 - workload.arrival_rate * first)
    kappa = variability(workload)
    time = kappa * service_time(workload, tokens)
    load = time + g * second
    steepest = workload.accuracy_weight * workload.gain * jnp.square(workload.decay)
    own = steepest * jnp.exp(-workload.decay * tokens) / workload.time_per_token
    response = jnp.where(held, 0, 1 / (own + g * kappa * workload.time_per_token))
    seconds = workload.mix * workload.time_per_token
    weight = seconds * response
    moved = weight * push + seconds * with_bound
    cross = jnp.square(g)
    b1, b2 = jnp.sum(moved), jnp.sum(time * moved)
    a11, a12 = 1 + cross * jnp.sum(weight * load), cross * jnp.sum(weight)
    a21, a22 = cross * jnp.sum(weight * time * load), 1 + cross * jnp.sum(weight * time)
    determinant = a11 * a22 - a12 * a21
    x, y = (b1 * a22 - a12 * b2) / determinant, (a11 * b2 - a21 * b1) / determinant
    return response * (push - cross * (load * x + y))
