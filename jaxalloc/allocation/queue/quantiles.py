"""Percentiles of waits and of system times.

With deterministic service the system time of type k is at least t_k, and exactly t_k for those who
do not wait. So its distribution jumps by π_k (1 - ρ) at each t_k, and as a function of the tokens a
quantile has kinks: where it begins or ceases to sit at a jump (there it moves with that type's own
service time alone, dq/dl_k = c_k), and, more faintly, where it passes a jump or t_j + t_k, at which
the density jumps. A derivative there is that of one side. A quantile of the wait is 0 up to the
level 1 - ρ.

Where no inversion has a digit left, there is the law of long times. θ > 0 is the root of G(-θ) = 1:
there the transform of the wait has its first pole, a simple one, and

    P(W > x) = C e^{-θx} + O(e^{-ηx}),  C = (1 - ρ) / (θ G'(-θ)),  η > θ the next pole

(Cramér & Lundberg; Asmussen, Applied Probability and Queues, 2003, XIII.5); a system time, W and an
independent service, has C B_own(-θ). For M/M/1 this is exact at every x; in general the relative
error e^{-(η - θ)x} falls with x, so a law that agrees with the inversion at one level holds beyond.
Near saturation θ ~ 2 d / (λ V), found with all digits of d from G - 1 as above (derived here).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.allocation.model.checks import number, share, workload_and_tokens
from jaxalloc.allocation.model.root import increasing_root
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload
from jaxalloc.allocation.queue.tails import (
    Times,
    cdf,
    jumps,
    stable_times,
    system_times,
    transforms,
    waits,
)

# The least 1 - q that inversion tells: its error is near 1e-10 in float64, 1e-5 in float32.
LEAST_INVERTED = {"float64": 1e-7, "float32": 2e-3}
_QUANTILE_ERROR = 0.02  # the most that the law of the tail may be off, relative
_PLACES = 8  # where it is compared with the inversion

PerType = Float[Array, "K"]


def wait_quantile(workload: Workload, tokens: Tokens, q: Any) -> Scalar:
    """The least time that a share q of the queries do not wait longer than, s.

    Differentiable, under `jax.jit` and `jax.vmap`; 0 up to 1 - ρ, inf where ρ >= 1; far in the tail
    as `system_time_quantile` says.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> tokens = jaxalloc.solve(workload).tokens
    >>> print([f"{jaxalloc.wait_quantile(workload, tokens, q):.2f} s" for q in (0.5, 0.9)])
    ['0.00 s', '1.92 s']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return _quantile(waits(workload, tokens), *levels(q, workload))


def system_time_quantile(workload: Workload, tokens: Tokens, q: Any) -> Scalar:
    """The least time within which a share q of the queries is answered, s.

    Differentiable in the tokens and all else, under `jax.jit` and `jax.vmap`; the module says where
    it has kinks. It is inf where ρ >= 1. Beyond q = 1 - 1e-7 (float32: 0.998) it is that of the law
    of the tail, or NaN where that does not hold; a Python q keeps the digits of 1 - q.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> tokens = jaxalloc.solve(workload).tokens
    >>> print(f"{jaxalloc.system_time_quantile(workload, tokens, 0.9):.2f} s")
    4.46 s
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return _quantile(system_times(workload, tokens), *levels(q, workload))


def type_system_time_quantiles(workload: Workload, tokens: Tokens, q: Any) -> PerType:
    """The same for every type alone, s.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> tokens = jaxalloc.solve(workload).tokens
    >>> print([f"{x:.1f}" for x in jaxalloc.type_system_time_quantiles(workload, tokens, 0.9)])
    ['5.3', '6.3', '2.9', '2.3', '3.8']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return _quantiles_of_types(system_times(workload, tokens), *levels(q, workload))


def levels(q: Any, workload: Workload) -> tuple[Scalar, Scalar]:
    """q and 1 - q, which a number known to more digits than the dtype has keeps."""
    return share("q", q, workload), number("1 - q", 1 - q, workload)


@jax.jit
def _quantiles_of_types(times: Times, q: Scalar, beyond: Scalar) -> PerType:
    def one(mix: Tokens) -> Scalar:
        return _quantile(times._replace(own=times.own._replace(mix=mix)), q, beyond)

    return jax.lax.map(one, jnp.eye(len(times.own.time), dtype=q.dtype))


@jax.jit
def _quantile(times: Times, q: Scalar, beyond: Scalar) -> Scalar:
    """The root of P(W + S > x) = beyond = 1 - q, by inversion or deep in the tail by its law."""
    deep = beyond < LEAST_INVERTED[str(q.dtype)]
    found = jax.lax.cond(deep, _quantile_by_law, _inverted_quantile, times, q, beyond)
    found = jnp.where((times.idle > 0) & (beyond > 0), found, jnp.inf)
    return jnp.where((q >= 0) & (beyond >= 0), found, jnp.nan)


def _quantile_by_law(times: Times, q: Scalar, beyond: Scalar) -> Scalar:
    law = tail_law(times)
    far = (law.log_factor - jnp.log(jnp.where(beyond > 0, beyond, 1))) / law.rate
    return jnp.where(holds(times, law), far, jnp.nan)


class TailLaw(NamedTuple):
    """P(time > x) ~ e^{log_factor - rate x}; NaN where there is none."""

    rate: Scalar  # θ, 1 / s
    log_factor: Scalar  # ln C


def tail_law(times: Times) -> TailLaw:
    """The law of long times."""
    services, own = (
        law._replace(time=jnp.where(law.mix > 0, law.time, 0))
        for law in (times.services, times.own)
    )
    unit = jnp.max(services.time)
    served = (unit > 0) & (times.rate > 0) & (times.idle > 0)
    unit = jnp.where(served, unit, 1)
    load = jnp.where(served, times.rate, 1 / unit) * services.mix * services.time
    idle = jnp.where(served, times.idle, 0.5)

    # Looked for in u = -ln(1 - w) / a of the widest gamma service, which has no pole.
    spread = jnp.zeros_like(unit)
    if services.variability is not None:
        spread = jnp.max(services.time * services.variability) / unit
    wide = jnp.where(spread > 0, spread, 1)

    def theta_of(u: Scalar) -> Scalar:  # in 1 / unit
        return jnp.where(spread > 0, -jnp.expm1(-wide * u) / wide, u)

    def excess(theta: Scalar) -> Scalar:
        """G(-θ) - 1."""
        return -jnp.sum(load * transforms(services, -theta * services.time / unit)[1]) - idle

    zero = jnp.zeros_like(unit)
    theta = theta_of(
        increasing_root(lambda u: jnp.log1p(excess(theta_of(u))), zero, zero + jnp.inf)
    )
    slope = theta * jax.jvp(excess, (theta,), (jnp.ones_like(theta),))[1]
    grown = -jnp.sum(own.mix * transforms(own, -theta * own.time / unit)[0])
    factor = jnp.log(idle / slope) + jnp.log(jnp.sum(own.mix) + grown)
    known = jnp.where(served & (slope > 0), 1.0, jnp.nan).astype(unit.dtype)
    return TailLaw(theta / unit * known, factor * known)


def holds(times: Times, law: TailLaw) -> Flag:
    """Whether the law of the tail agrees with the inversion, up to the last level of that.

    What it is off by swings within bounds that fall: so it is looked at in several places, from
    half of that time on. Where it holds there, it holds beyond, for it only gets better.
    """
    (times, law), dtype = jax.lax.stop_gradient((times, law)), times.idle.dtype
    last = law.log_factor - math.log(LEAST_INVERTED[str(dtype)])
    places = last * jnp.linspace(0.5, 1, _PLACES, dtype=dtype)
    reached = jax.lax.map(lambda at: cdf(times, at / law.rate), places)
    off = jnp.abs(jnp.log1p(-reached) - law.log_factor + places)
    return jnp.all(off <= _QUANTILE_ERROR * places)


def _inverted_quantile(times: Times, q: Scalar, beyond: Scalar) -> Scalar:
    """The root of P(W + S <= x) = q, or the jump that passes q."""
    times = stable_times(times)
    services, own = times.services, times.own
    sits, low, high = jax.lax.stop_gradient(_bracket(times, q))
    at_jump = jnp.any(sits)
    place = jnp.sum(jnp.where(sits, own.time, 0)) / jnp.maximum(jnp.sum(sits.astype(q.dtype)), 1)
    # Looked for in units of the mean system time; q of all take at most 1 / (1 - q) of it (Markov).
    spread = 0 if services.variability is None else services.variability
    second = jnp.sum(services.mix * (1 + spread) * jnp.square(services.time))
    mean = jnp.sum(own.mix * own.time) + times.rate * second / (2 * times.idle)
    unit = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1))
    least = low / unit * (1 + 4 * jnp.finfo(q.dtype).eps)  # no rounding back below a jump
    most = jnp.maximum(jnp.minimum(high / unit, 1 / (1 - jnp.minimum(q, 1))), least)

    def excess(z: Scalar) -> Scalar:
        return jnp.where(at_jump, z - place / unit, cdf(times, z * unit) - q)

    return jnp.where(at_jump, place, increasing_root(excess, least, most) * unit)


def _bracket(times: Times, q: Scalar) -> tuple[Flag, Scalar, Scalar]:
    """Which service times are the quantile, and else between which of them it lies."""
    own = times.own
    fixed = own.fixed & (own.mix > 0)
    after = jax.lax.map(lambda x: cdf(times, x), own.time)
    before = after - jumps(times)
    sits = fixed & (before < q) & (q <= after)
    first = jnp.min(jnp.where(sits, own.time, jnp.inf))  # rounding may let two claim it
    sits &= own.time == first
    low = jnp.max(jnp.where(fixed & (after < q), own.time, 0))
    high = jnp.min(jnp.where(fixed & (before >= q), own.time, jnp.inf))
    at_jump = jnp.any(sits)
    return sits, jnp.where(at_jump, first, low), jnp.where(at_jump, first, high)
