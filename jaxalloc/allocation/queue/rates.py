"""The largest arrival rate at which the mean or a percentile of the system time meets a target.

A percentile of the optimum is not concave in the tokens, nor are the tokens that keep one under a
target a convex set: so nothing here optimizes under such a constraint. What is offered is monotone
in one number: the arrival rate at given tokens, also at those of every point of a frontier.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.allocation.model.checks import number, one_workload, share, workload_and_tokens
from jaxalloc.allocation.model.mg1 import service_moments
from jaxalloc.allocation.model.root import increasing_root
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload, as_array
from jaxalloc.allocation.queue.quantiles import LEAST_INVERTED, holds, levels, tail_law
from jaxalloc.allocation.queue.tails import Times, cdf, system_times
from jaxalloc.numerics import cast

_LEAST_LOAD = 1e-9  # where a deep target is looked for from: an idle server has no law of the tail

PerPoint = Float[Array, "W"]


def largest_arrival_rate(workload: Workload, tokens: Tokens, seconds: Any, q: Any = None) -> Scalar:
    """The largest arrival rate at which the system time stays under a target, queries / s.

    Its mean, `m1 + λ V / (2 (1 - λ m1)) <= seconds` solved for λ (derived here), or with q given
    its q-quantile, `P(system time <= seconds) >= q`, a root in λ. The workload's own arrival rate
    plays no part. NaN where not even single queries meet the target. Differentiable, under
    `jax.jit` and `jax.vmap`.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> tokens = jaxalloc.solve(workload).tokens
    >>> rates = [jaxalloc.largest_arrival_rate(workload, tokens, 9.0, q) for q in (None, 0.95)]
    >>> print([f"{rate:.3f} / s" for rate in rates])
    ['0.366 / s', '0.215 / s']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    target = number("seconds", seconds, workload)
    first, second = service_moments(workload, tokens)
    if q is None:
        room = target - first
        return jnp.where(room >= 0, 2 * room / (second + 2 * first * room), jnp.nan)
    return _rate_of_quantile(system_times(workload, tokens), first, target, *levels(q, workload))


@jax.jit
def _rate_of_quantile(
    times: Times, first: Scalar, target: Scalar, q: Scalar, beyond: Scalar
) -> Scalar:
    served = first > 0  # else no rate is too large
    first = jnp.where(served, first, 1)

    def at(load: Scalar) -> Times:
        return times._replace(rate=load / first, idle=1 - load)

    reachable = cdf(at(jnp.zeros_like(first)), target) >= q
    deep = (beyond < LEAST_INVERTED[str(q.dtype)]) & (beyond > 0)

    def late(load: Scalar) -> Scalar:
        """How many too many are late, at utilization `load`; it rises from q - P(S <= target)."""
        return q - cdf(at(load), target)

    def deeply_late(load: Scalar) -> Scalar:
        """The same by the law of the tail, in logarithms."""
        law = tail_law(at(load))
        return law.log_factor - law.rate * target - jnp.log(jnp.where(deep, beyond, 1))

    def excess(load: Scalar) -> Scalar:
        value = jax.lax.cond(deep, deeply_late, late, load)
        return jnp.where(reachable, value, load)

    least = jnp.where(deep, _LEAST_LOAD, 0).astype(first.dtype)
    load = increasing_root(excess, least, jnp.ones_like(first))
    good = jax.lax.cond(
        deep, lambda there: holds(there, tail_law(there)), lambda _: jnp.array(True), at(load)
    )
    rate = jnp.where(served, jnp.where(good, load / first, jnp.nan), jnp.inf)
    return jnp.where(reachable & (q > 0), rate, jnp.nan)


def largest_rates_along(workload: Workload, tokens: Any, seconds: Any, q: Any = None) -> PerPoint:
    """`largest_arrival_rate` at each of [W, K] tokens, such as those of a `Frontier`.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> curve = jaxalloc.frontier(workload, [4.0, 8.0])
    >>> rates = jaxalloc.largest_rates_along(workload, curve.allocation.tokens, 2.0)
    >>> print([f"{rate:.2f}" for rate in rates])  # the more accurate, the fewer
    ['3.47', '3.38']
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
