"""The M/G/1 queue, first come first served: service moments, utilization, Pollaczek-Khinchine.

Written for one workload (`jax.vmap` for more): tokens are [K], results are scalars. With arrivals
at rate λ, the service time t_k = t0_k + c_k l_k of type k and its coefficient of variation cv_k,

    m1 = Σ π_k t_k,   V = Σ π_k (1 + cv_k²) t_k²,   ρ = λ m1,   d = 1 - ρ,
    E[W] = λ V / (2 d),   E[T] = m1 + E[W]

(Pollaczek-Khinchine; Ozbas & Bastopcu, 2026, arXiv 2601.10274, for cv = 0).

Near saturation a sum in working precision has no digit of d left, and every answer divides by d. So
`queue` forms d in double words, and all that is said of a queue outside of a solver's loop, its
stability, its times and the certificate of an optimum, comes from there and agrees.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalloc.allocation.model.checks import workload_and_tokens
from jaxalloc.allocation.model.sums import add, exact_product, exact_sum, scale, sums, total
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload
from jaxalloc.numerics import alike


class Queue(NamedTuple):
    """The queue at given tokens."""

    first: Scalar  # m1, s
    second: Scalar  # V, s²
    utilization: Scalar  # ρ; below 1 iff d is positive
    idle: Scalar  # d, off by at most `idle_error`; 0 where it cannot be told from 0


def service_time(workload: Workload, tokens: Tokens) -> Tokens:
    """Mean service time of each type, t_k = t0_k + c_k l_k, in s."""
    return workload.base_time + workload.time_per_token * tokens


def variability(workload: Workload) -> Tokens:
    """κ_k = 1 + cv_k², the second moment of type k's service time over its squared mean."""
    return 1 + jnp.square(workload.service_cv)


def service_moments(workload: Workload, tokens: Tokens) -> tuple[Scalar, Scalar]:
    """First and second moment of the service time of an arriving query, m1 (s) and V (s²)."""
    time = service_time(workload, tokens)
    first, second = sums(workload.mix * time, workload.mix * variability(workload) * time**2)
    return first, second


def queue(workload: Workload, tokens: Tokens) -> Queue:
    """The queue at `tokens`, with all digits of d; its derivatives are of any order."""
    w = workload
    parts = (w.arrival_rate, w.mix, w.base_time, w.time_per_token, w.service_cv, tokens)
    return _queue(*alike(*parts))


@jax.custom_jvp
def _queue(
    rate: Scalar, mix: Tokens, base: Tokens, slope: Tokens, cv: Tokens, tokens: Tokens
) -> Queue:
    time = add(exact_product(slope, tokens), base)
    square = (1 + jnp.square(cv)) * time[0] * time[0]  # in an order that underflows late
    mean, second = total(scale(time, mix), mix * square)
    load = scale(mean, rate)
    whole, rest = exact_sum(jnp.ones_like(rate), -load[0])
    idle = whole + (rest - load[1])
    # An overflow is no number in double words; where it was one, V is inf too.
    first = jnp.where(jnp.isnan(mean[1]), second, mean[0] + mean[1])
    idle = jnp.where(jnp.isnan(idle), 1 - rate * first, idle)
    idle = jnp.where(jnp.abs(idle) <= idle_error(mix), 0, idle)
    below_one = 1 - jnp.finfo(rate.dtype).epsneg
    busy = rate * first
    busy = jnp.where(idle > 0, jnp.minimum(busy, below_one), jnp.maximum(busy, 1))
    return Queue(first, second, busy, idle)


@_queue.defjvp
def _queue_jvp(primals: tuple[Tokens, ...], moved: tuple[Tokens, ...]) -> tuple[Queue, Queue]:
    def plain(rate: Scalar, mix: Any, base: Any, slope: Any, cv: Any, tokens: Any) -> Any:
        time = base + slope * tokens
        first = jnp.sum(mix * time)
        return first, jnp.sum(mix * (1 + cv * cv) * time * time), rate * first

    first, second, load = jax.jvp(plain, primals, moved)[1]
    return _queue(*primals), Queue(first, second, load, -load)


def idle_error(mix: Tokens) -> float:
    """What rounding in double words may add to d: three products, and K errors of a sum near 1."""
    num_types, eps = mix.shape[-1], float(jnp.finfo(mix.dtype).eps)
    return (8 + num_types**2 / 4) * eps**2


def utilization(workload: Workload, tokens: Tokens) -> Scalar:
    """Share of the time that the server is busy, ρ = λ m1; the queue is stable iff ρ < 1.

    Above 1 it is the offered load, not a share.
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return queue(workload, tokens).utilization


def mean_wait(workload: Workload, tokens: Tokens) -> Scalar:
    """Mean time a query waits before its service starts, λ V / (2 (1 - ρ)), in s.

    Where ρ >= 1 the wait is inf and so is its slope: never a misleading derivative of 0.
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return wait_of(workload, queue(workload, tokens))


def wait_of(workload: Workload, at: Queue) -> Scalar:
    """The mean wait in a queue."""
    return workload.arrival_rate * at.second / (2 * jnp.where(at.idle > 0, at.idle, 0))


def mean_system_time(workload: Workload, tokens: Tokens) -> Scalar:
    """Mean time from arrival to answer, E[T] = m1 + E[W], in s; inf if ρ >= 1."""
    workload, tokens = workload_and_tokens(workload, tokens)
    at = queue(workload, tokens)
    return at.first + wait_of(workload, at)
