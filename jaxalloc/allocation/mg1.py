"""The M/G/1 queue, first come first served: service moments, utilization, Pollaczek-Khinchine.

Written for one workload (`jax.vmap` for more): tokens are [K], results are scalars. With arrivals
at rate λ, the service time t_k = t0_k + c_k l_k of type k and its coefficient of variation cv_k,

    m1 = Σ π_k t_k,   V = Σ π_k (1 + cv_k²) t_k²,   ρ = λ m1,   d = 1 - ρ,
    E[W] = λ V / (2 d),   E[T] = m1 + E[W]

(Pollaczek-Khinchine; Ozbas & Bastopcu, 2026, arXiv 2601.10274, for cv = 0).
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxalloc.allocation.checks import workload_and_tokens
from jaxalloc.allocation.elementary import sums
from jaxalloc.allocation.workload import Scalar, Tokens, Workload


def service_time(workload: Workload, tokens: Tokens) -> Tokens:
    """Mean service time of each type, t_k = t0_k + c_k l_k, in s."""
    return workload.base_time + workload.time_per_token * tokens


def variability(workload: Workload) -> Tokens:
    """κ_k = 1 + cv_k², the second moment of type k's service time over its squared mean."""
    return 1 + jnp.square(workload.service_cv)


def service_moments(workload: Workload, tokens: Tokens) -> tuple[Scalar, Scalar]:
    """First and second moment of the service time of an arriving query, m1 (s) and V (s²)."""
    time = service_time(workload, tokens)
    first, second = sums(
        workload.mix * time, workload.mix * variability(workload) * jnp.square(time)
    )
    return first, second


def utilization(workload: Workload, tokens: Tokens) -> Scalar:
    """Share of the time that the server is busy, ρ = λ m1; the queue is stable iff ρ < 1.

    Above 1 it is the offered load, not a share.
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return workload.arrival_rate * service_moments(workload, tokens)[0]


def mean_wait(workload: Workload, tokens: Tokens) -> Scalar:
    """Mean time a query waits before its service starts, λ V / (2 (1 - ρ)), in s.

    Where ρ >= 1 the wait is inf and so is its slope: never a misleading derivative of 0.
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return wait_of(workload, *service_moments(workload, tokens))


def wait_of(workload: Workload, first: Scalar, second: Scalar) -> Scalar:
    """The mean wait at given moments of the service time."""
    idle = 1 - workload.arrival_rate * first
    return workload.arrival_rate * second / (2 * jnp.where(idle > 0, idle, 0))


def mean_system_time(workload: Workload, tokens: Tokens) -> Scalar:
    """Mean time from arrival to answer, E[T] = m1 + E[W], in s; inf if ρ >= 1."""
    workload, tokens = workload_and_tokens(workload, tokens)
    first, second = service_moments(workload, tokens)
    return first + wait_of(workload, first, second)
