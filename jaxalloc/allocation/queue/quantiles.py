"""Percentiles of waits and system times, and the arrival rate at which they meet a target.

With deterministic service the system time of type k is at least t_k, and exactly t_k for those who
do not wait. So its distribution jumps by π_k (1 - ρ) at each t_k, and as a function of the tokens a
quantile has kinks: where it begins or ceases to sit at a jump (there it moves with that type's own
service time alone, dq/dl_k = c_k), and, more faintly, where it passes a jump or t_j + t_k, at which
the density jumps. A derivative there is that of one side. A quantile of the wait is 0 up to the
level 1 - ρ.

A percentile of the optimum is not concave in the tokens, nor are the tokens that keep one under a
target a convex set: so nothing here optimizes under such a constraint. What is offered is monotone
in one number: the arrival rate at given tokens, also at those of every point of a frontier.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.allocation.model.checks import number, one_workload, share, workload_and_tokens
from jaxalloc.allocation.model.mg1 import service_moments
from jaxalloc.allocation.model.root import increasing_root
from jaxalloc.allocation.model.workload import Flag, Scalar, Tokens, Workload, as_array
from jaxalloc.allocation.queue.tail_law import tail_law
from jaxalloc.allocation.queue.tails import (
    Services,
    Traffic,
    jumps,
    no_service,
    services_of,
    system_cdf,
    traffic_of,
)
from jaxalloc.numerics import cast

# The least 1 - q that inversion tells: its error is near 1e-10 in float64, 1e-5 in float32.
_LEAST_INVERTED = {"float64": 1e-7, "float32": 2e-3}
_QUANTILE_ERROR = 0.02  # the most that the law of the tail may be off, relative
_PLACES = 8  # where it is compared with the inversion
_LEAST_LOAD = 1e-9  # where a target is met by so few queries only, that many are found

PerType = Float[Array, "K"]
PerPoint = Float[Array, "W"]


def wait_quantile(workload: Workload, tokens: Tokens, q: Any) -> Scalar:
    """The least time that a share q of the queries do not wait longer than, s.

    Differentiable, under `jax.jit` and `jax.vmap`; 0 up to 1 - ρ, inf where ρ >= 1; far in the tail
    as `system_time_quantile` says.

    >>> import jaxalloc, jax.numpy as jnp
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> print([f"{jaxalloc.wait_quantile(workload, jnp.array([900.0]), q):.3f}" for q in (.5, .9)])
    ['0.000', '1.516']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    services, levels = services_of(workload, tokens), _levels(q, workload)
    return _quantile(traffic_of(workload, tokens), services, no_service(services), *levels)


def system_time_quantile(workload: Workload, tokens: Tokens, q: Any) -> Scalar:
    """The least time within which a share q of the queries is answered, s.

    Differentiable in the tokens and all else, under `jax.jit` and `jax.vmap`; the module says where
    it has kinks. It is inf where ρ >= 1. Beyond q = 1 - 1e-7 (float32: 0.998) it is that of the law
    of the tail, or NaN where that does not hold; a Python q keeps the digits of 1 - q.

    >>> import jaxalloc, jax.numpy as jnp
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> print(f"{jaxalloc.system_time_quantile(workload, jnp.array([900.0]), 0.9):.3f} s")
    2.516 s
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    services, levels = services_of(workload, tokens), _levels(q, workload)
    return _quantile(traffic_of(workload, tokens), services, services, *levels)


def type_system_time_quantiles(workload: Workload, tokens: Tokens, q: Any) -> PerType:
    """The same for every type alone, s.

    >>> import jaxalloc, jax.numpy as jnp
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> print([f"{x:.3f}" for x in type_system_time_quantiles(workload, jnp.array([900.0]), 0.9)])
    ['2.516']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    services, levels = services_of(workload, tokens), _levels(q, workload)
    return _quantiles_of_types(traffic_of(workload, tokens), services, *levels)


def _holds(traffic: Traffic, services: Services, own: Services, least: float) -> Flag:
    """Whether the law of the tail agrees with the inversion, up to where it says `least` remain.

    What it is off by swings within bounds that fall: so it is looked at in several places, from
    half of that time on.
    """
    law = tail_law(traffic, services, own)
    places = (law.log_factor - math.log(least)) * jnp.linspace(
        0.5, 1, _PLACES, dtype=own.time.dtype
    )
    reached = jax.lax.map(lambda at: system_cdf(traffic, services, own, at / law.rate), places)
    off = jnp.abs(jnp.log1p(-reached) - law.log_factor + places)
    return jnp.all(off <= _QUANTILE_ERROR * places)


def _levels(q: Any, workload: Workload) -> tuple[Scalar, Scalar]:
    """q and 1 - q, which a number known to more digits than the dtype has keeps."""
    return share("q", q, workload), number("1 - q", 1 - q, workload)


@jax.jit
def _quantiles_of_types(traffic: Traffic, services: Services, q: Scalar, beyond: Scalar) -> PerType:
    def one(mix: Tokens) -> Scalar:
        return _quantile(traffic, services, services._replace(mix=mix), q, beyond)

    return jax.lax.map(one, jnp.eye(len(services.time), dtype=services.time.dtype))


@jax.jit
def _quantile(
    traffic: Traffic, services: Services, own: Services, q: Scalar, beyond: Scalar
) -> Scalar:
    """The root of P(W + S > x) = beyond = 1 - q, by inversion or deep in the tail by its law."""
    least = _LEAST_INVERTED[str(q.dtype)]
    deep = beyond < least
    inverted = _inverted_quantile(traffic, services, own, jnp.where(deep, 0, q))
    law = tail_law(traffic, services, own)
    # Good where it already holds at the last level that is inverted, for it only gets better.
    good = jax.lax.stop_gradient(_holds(traffic, services, own, least))
    far = (law.log_factor - jnp.log(jnp.where(deep & (beyond > 0), beyond, least))) / law.rate
    found = jnp.where(deep, jnp.where(good, far, jnp.nan), inverted)
    valid = (q >= 0) & (beyond >= 0)
    stable = traffic.idle > 0
    return jnp.where(valid, jnp.where(stable & (beyond > 0), found, jnp.inf), jnp.nan)


def _inverted_quantile(traffic: Traffic, services: Services, own: Services, q: Scalar) -> Scalar:
    """The root of P(W + S <= x) = q, or the jump that passes q."""
    stable = traffic.idle > 0
    traffic = Traffic(jnp.where(stable, traffic.rate, 0), jnp.where(stable, traffic.idle, 1))
    sits, low, high = jax.lax.stop_gradient(_bracket(traffic, services, own, q))
    at_jump = jnp.any(sits)
    place = jnp.sum(jnp.where(sits, own.time, 0)) / jnp.maximum(jnp.sum(sits.astype(q.dtype)), 1)
    # Looked for in units of the mean system time; q of all take at most 1 / (1 - q) of it (Markov).
    spread = 0 if services.variability is None else services.variability
    second = jnp.sum(services.mix * (1 + spread) * jnp.square(services.time))
    mean = jnp.sum(own.mix * own.time) + traffic.rate * second / (2 * traffic.idle)
    unit = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1))
    least = low / unit * (1 + 4 * jnp.finfo(q.dtype).eps)  # no rounding back below a jump
    most = jnp.maximum(jnp.minimum(high / unit, 1 / (1 - jnp.minimum(q, 1))), least)

    def excess(z: Scalar) -> Scalar:
        between = system_cdf(traffic, services, own, z * unit) - q
        return jnp.where(at_jump, z - place / unit, between)

    return jnp.where(at_jump, place, increasing_root(excess, least, most) * unit)


def _bracket(
    traffic: Traffic, services: Services, own: Services, q: Scalar
) -> tuple[Flag, Scalar, Scalar]:
    """Which service times are the quantile, and else between which of them it lies."""
    fixed = own.fixed & (own.mix > 0)
    after = jax.lax.map(lambda x: system_cdf(traffic, services, own, x), own.time)
    before = after - jumps(traffic.idle, own)
    sits = fixed & (before < q) & (q <= after)
    first = jnp.min(jnp.where(sits, own.time, jnp.inf))  # rounding may let two claim it
    sits &= own.time == first
    low = jnp.max(jnp.where(fixed & (after < q), own.time, 0))
    high = jnp.min(jnp.where(fixed & (before >= q), own.time, jnp.inf))
    at_jump = jnp.any(sits)
    return sits, jnp.where(at_jump, first, low), jnp.where(at_jump, first, high)


def largest_arrival_rate(workload: Workload, tokens: Tokens, seconds: Any, q: Any = None) -> Scalar:
    """The largest arrival rate at which the system time stays under a target, queries / s.

    Its mean, `m1 + λ V / (2 (1 - λ m1)) <= seconds` solved for λ (derived here), or with q given
    its q-quantile, `P(system time <= seconds) >= q`, a root in λ. The workload's own arrival rate
    plays no part. NaN where not even single queries meet the target. Differentiable, under
    `jax.jit` and `jax.vmap`.

    >>> import jaxalloc, jax.numpy as jnp
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> tokens = jnp.array([900.0])  # 1 s of service
    >>> print(f"{jaxalloc.largest_arrival_rate(workload, tokens, 2.0):.4f} / s")
    0.6667 / s
    >>> print(f"{jaxalloc.largest_arrival_rate(workload, tokens, 2.0, q=0.95):.4f} / s")
    0.2870 / s
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    target = number("seconds", seconds, workload)
    first, second = service_moments(workload, tokens)
    if q is None:
        room = target - first
        return jnp.where(room >= 0, 2 * room / (second + 2 * first * room), jnp.nan)
    return _rate_of_quantile(services_of(workload, tokens), first, target, *_levels(q, workload))


@jax.jit
def _rate_of_quantile(
    services: Services, first: Scalar, target: Scalar, q: Scalar, beyond: Scalar
) -> Scalar:
    alone = Traffic(jnp.zeros_like(first), jnp.ones_like(first))
    reachable = system_cdf(alone, services, services, target) >= q
    served = first > 0  # else no rate is too large
    first = jnp.where(served, first, 1)

    def late(load: Scalar) -> Scalar:
        """How many too many are late, at utilization `load`; it rises from q - P(S <= target)."""
        late = q - system_cdf(Traffic(load / first, 1 - load), services, services, target)
        return jnp.where(reachable & ~deep, late, load)

    def deeply_late(load: Scalar) -> Scalar:
        """The same by the law of the tail, in logarithms."""
        law = tail_law(Traffic(load / first, 1 - load), services, services)
        late = law.log_factor - law.rate * target - jnp.log(jnp.where(deep, beyond, least))
        return jnp.where(reachable & deep, late, load)

    least = _LEAST_INVERTED[str(q.dtype)]
    deep = (beyond < least) & (beyond > 0)
    load = increasing_root(late, jnp.zeros_like(first), jnp.ones_like(first))
    by_law = increasing_root(deeply_late, jnp.full_like(first, _LEAST_LOAD), jnp.ones_like(first))
    there = Traffic(by_law / first, 1 - by_law)
    good = jax.lax.stop_gradient(_holds(there, services, services, least))
    load = jnp.where(deep, jnp.where(good, by_law, jnp.nan), load)
    rate = jnp.where(served, load / first, jnp.inf)
    return jnp.where(reachable & (q > 0), rate, jnp.nan)


def largest_rates_along(workload: Workload, tokens: Any, seconds: Any, q: Any = None) -> PerPoint:
    """`largest_arrival_rate` at each of [W, K] tokens, such as those of a `Frontier`.

    >>> import jaxalloc, jax.numpy as jnp
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> curve = jaxalloc.frontier(workload, jnp.array([4.0, 8.0]))
    >>> rates = jaxalloc.largest_rates_along(workload, curve.allocation.tokens, 2.0)
    >>> print([f"{rate:.2f}" for rate in rates])  # the more accurate, the fewer
    ['1.80', '0.90']
    """
    workload = one_workload(workload)
    points = cast(as_array("tokens", tokens), workload.dtype)
    if points.ndim != 2:
        raise ValueError(f"tokens has shape {points.shape}: give tokens at W points, (W, K)")
    target = number("seconds", seconds, workload)
    return _rates_along(workload, points, target, None if q is None else share("q", q, workload))


@jax.jit
def _rates_along(workload: Workload, points: Any, target: Scalar, q: Scalar | None) -> PerPoint:
    return jax.lax.map(lambda one: largest_arrival_rate(workload, one, target, q), points)
