"""The objective J, its gradient, its curvature, and how far a point is from the optimum.

Written for one workload (`jax.vmap` for more): tokens are [K]. With g = λ/d, κ = 1 + cv² and the
shadow price m_k of one second of type-k service (its own time, its part in the second moment of the
service time, its part in the load),

    J(l) = α Σ π_k p_k(l_k) - E[T](l)             (Ozbas & Bastopcu, 2026, arXiv 2601.10274)
    m_k = G + g κ_k t_k,  G = 1 + g² V / 2        (derived here, as is all that follows)
    ∂J/∂l_k = π_k (up_k - down_k),  up_k = α A_k b_k e^{-b_k l_k},  down_k = c_k m_k
    -∇²J = diag(π α A b² e^{-b l} + g π κ c²) + g² (u vᵀ + v uᵀ) + g³ V u uᵀ,  u = π c,  v = π κ c t

so J is strictly concave wherever π > 0 and the queue is stable, and every linear solve with its
Hessian takes O(K).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxalloc.allocation.mg1 import (
    Scalar,
    Tokens,
    mean_system_time,
)
from jaxalloc.allocation.workload import Workload


class Curvature(NamedTuple):
    """-∇²J as a diagonal plus rank two: diag(diagonal) + cross (u vᵀ + v uᵀ) + square u uᵀ."""

    diagonal: Tokens  # [K]
    u: Tokens  # [K]
    v: Tokens  # [K]
    cross: Scalar
    square: Scalar


def accuracy(workload: Workload, tokens: Tokens) -> Tokens:
    """Probability of a correct answer of each type, p_k = D_k + A_k (1 - e^{-b_k l_k})."""
    return workload.floor - workload.gain * jnp.expm1(-workload.decay * tokens)


def mean_accuracy(workload: Workload, tokens: Tokens) -> Scalar:
    """Probability that a query is answered correctly, Σ π_k p_k(l_k)."""
    return jnp.sum(workload.mix * accuracy(workload, tokens))


def objective(workload: Workload, tokens: Tokens) -> Scalar:
    """J(l) = α Σ π_k p_k(l_k) - E[T](l), in s; -inf where the queue is unstable."""
    benefit = workload.accuracy_weight * mean_accuracy(workload, tokens)
    return benefit - mean_system_time(workload, tokens)
