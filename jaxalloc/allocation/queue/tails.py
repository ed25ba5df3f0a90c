"""The distribution of waits and of system times, by inverting the Pollaczek-Khinchine transform.

With B(s) the transform of the service time and G(s) = λ (1 - B(s)) / s, the wait has the transform
(1 - ρ) / (1 - G) = (1 - ρ) Σ Gⁿ (Pollaczek & Khinchine): no wait with probability 1 - ρ, else a
geometric number of residual services. Deterministic service makes it rough: F jumps at 0, its
density jumps at every t_k, the next derivative at every t_j + t_k. So the terms n = 0, 1, 2 are
written out (for n = 2 the pairs of deterministic types) and only what is left, smooth and of
transform r(s) = O(s^-4), is inverted, by the trapezoidal rule on the Bromwich integral (Abate &
Whitt, 1992): with a = A / 2 and s_k = (a + iπk) / x,

    F(x) ≈ explicit(x) + e^a / x [r(s_0) / 2 + Σ_{k=1}^N (-1)^k Re r(s_k)] - r(∞) / (e^A - 1).

Errors, for probabilities (derived here):
- aliasing is Σ_j e^{-jA} times the rest's value at (2j + 1) x; with its limit r(∞) subtracted, at
  most e^-A P(wait > 2x);
- cutting off at Ω = πN/x leaves, as |1 - B| <= 2, at most (2λ/Ω)³ / (3π (1 - 2λ/Ω)) where service
  is deterministic: 3e-9 at λx = 20, 4e-7 at 100; in practice far less, for there the terms that
  make kinks at x are those of n >= x / max t, and the last terms are averaged (Euler);
- rounding is e^a times that of the sum; near saturation 1 - G is d + (ρ - G), with all digits of d
  and ρ - G = λ Σ π t φ(s t), φ(z) = 1 - (1 - B) / z, in a series where z is small.
In float64 A = 23; in float32 A = 11 and 1e-4. Gamma service is smoother but for the density at 0
(cv > 1); mixed with deterministic types only n = 1 is written out in full, and the bound becomes
(2λ/Ω)² / (2π), met only next to the kinks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaincc
from jaxtyping import Array

from jaxalloc.allocation.model.checks import number, workload_and_tokens
from jaxalloc.allocation.model.mg1 import queue, service_time
from jaxalloc.allocation.model.workload import Mask, Scalar, Tokens, Workload

_TERMS = 4096
_AVERAGED = 12  # of the last terms
_ALIASING = {"float64": 23.0, "float32": 11.0}  # A
_SERIES_BELOW = 0.3  # |z|
_EXP_TERMS, _LOG_TERMS = 12, 30  # in float64; float32 needs half of them


class Services(NamedTuple):
    """A mixture of service times: deterministic or gamma."""

    mix: Tokens  # probabilities
    time: Tokens  # means, s
    # Squared coefficients of variation; None where all are known to be 0, which halves the work.
    variability: Tokens | None

    @property
    def fixed(self) -> Mask:
        """[K] whether the service takes the same time whenever it comes."""
        if self.variability is None:
            return jnp.ones_like(self.time, bool)
        return self.variability == 0


class Times(NamedTuple):
    """The law of W + S: a wait in the queue, and a service that does not depend on it."""

    rate: Scalar  # λ, queries / s
    idle: Scalar  # d = 1 - ρ; the queue is stable iff it is positive
    services: Services  # what is waited for
    own: Services  # S


def system_times(workload: Workload, tokens: Tokens) -> Times:
    """The law of the system time of an arriving query, with all digits of d."""
    time, cv = service_time(workload, tokens), workload.service_cv
    fixed = not isinstance(cv, jax.core.Tracer) and not np.any(np.asarray(cv))
    services = Services(workload.mix, time, None if fixed else jnp.square(cv))
    return Times(workload.arrival_rate, queue(workload, tokens).idle, services, services)


def waits(workload: Workload, tokens: Tokens) -> Times:
    """The law of the wait: of a system time whose own service takes no time."""
    times = system_times(workload, tokens)
    nothing = jnp.zeros_like(times.own.time)  # of the same shape, to be compiled once for both
    variability = None if times.own.variability is None else nothing
    return times._replace(own=Services(nothing.at[0].set(1), nothing, variability))


def wait_cdf(workload: Workload, tokens: Tokens, seconds: Any) -> Scalar:
    """P(wait <= seconds); 1 - ρ at 0, and 0 for any time where the queue is unstable.

    Works under `jax.jit`, `jax.vmap` and differentiation; by `seconds` that gives the density.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> tokens = jaxalloc.solve(workload).tokens
    >>> print([f"{jaxalloc.wait_cdf(workload, tokens, x):.3f}" for x in (0.0, 1.0, 9.0)])
    ['0.779', '0.850', '0.999']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return cdf(waits(workload, tokens), number("seconds", seconds, workload))


def system_time_cdf(workload: Workload, tokens: Tokens, seconds: Any) -> Scalar:
    """P(system time <= seconds); with deterministic service it jumps by π_k (1 - ρ) at t_k.

    Works under `jax.jit`, `jax.vmap` and differentiation; by `seconds` that gives the density
    between the jumps.

    >>> import jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> tokens = jaxalloc.solve(workload).tokens
    >>> print([f"{jaxalloc.system_time_cdf(workload, tokens, x):.3f}" for x in (1.0, 9.0)])
    ['0.322', '0.994']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    return cdf(system_times(workload, tokens), number("seconds", seconds, workload))


@jax.jit
def cdf(times: Times, seconds: Scalar) -> Scalar:
    """P(W + S <= seconds)."""
    stable, positive = times.idle > 0, seconds > 0
    x = jnp.where(positive & jnp.isfinite(seconds), seconds, 1)
    own, safe = times.own, stable_times(times)
    at_zero = safe.idle * jnp.sum(jnp.where(own.time == 0, own.mix, 0))
    value = jnp.where(positive, _written_and_inverted(safe, x), at_zero)
    value = jnp.where((seconds >= 0) & stable, jnp.clip(value, 0, 1), 0)
    return jnp.where(jnp.isposinf(seconds) & stable, jnp.sum(own.mix), value)


def stable_times(times: Times) -> Times:
    """The same where the queue is stable, elsewhere those of an idle server."""
    stable = times.idle > 0
    return times._replace(
        rate=jnp.where(stable, times.rate, 0), idle=jnp.where(stable, times.idle, 1)
    )


def jumps(times: Times) -> Tokens:
    """[K] by how much the distribution jumps at the mean of each type's own service."""
    own = times.own
    same = own.time[:, None] == own.time[None, :]
    fixed = jnp.where(own.fixed, own.mix, 0)
    return times.idle * jnp.where(own.fixed, jnp.where(same, fixed[None], 0).sum(1), 0)


def _written_and_inverted(times: Times, x: Scalar) -> Scalar:
    """The terms that are written out, and by inversion what they leave of the whole."""
    rate, idle, services, own = times
    certain, weights = jnp.where(own.fixed, own.mix, 0), rate * services.mix
    pairs, time = jnp.where(services.fixed, weights, 0), services.time

    def after(y: Scalar) -> Scalar:
        """One residual service, or two deterministic ones, within y."""
        y = jnp.maximum(y, 0)
        one = jnp.sum(weights * _mean_within(services, y))
        y = jnp.minimum(y, time[:, None] + time[None, :])  # beyond, all of t_j t_k is reached
        corner = _triangle(y) - _triangle(y - time[:, None]) - _triangle(y - time[None, :])
        return one + jnp.sum(pairs[:, None] * pairs[None, :] * corner)

    written = jnp.sum(own.mix * _within(own, x)) + jnp.sum(certain * jax.vmap(after)(x - own.time))
    all_later = jnp.sum(certain) * (1 - idle + jnp.square(jnp.sum(pairs * time)))
    missing = jnp.sum(own.mix) * (1 - idle) - idle * all_later  # at infinity
    return idle * written + _invert(times, x, missing)


def _triangle(y: Array) -> Array:
    """The area of u, v >= 0, u + v <= y."""
    return jnp.square(jnp.maximum(y, 0)) / 2


def _gamma(services: Services) -> tuple[Mask, Tokens, Tokens]:
    """Which services are gamma, with shape and scale; ones for the others."""
    variability = services.variability
    assert variability is not None
    random = (variability > 0) & (services.time > 0)
    variability = jnp.where(random, variability, 1)
    return random, 1 / variability, jnp.where(random, services.time, 1) * variability


def _within(services: Services, x: Scalar) -> Tokens:
    """[K] P(S_k <= x)."""
    reached = (services.time <= x).astype(services.time.dtype)
    if services.variability is None:
        return reached
    random, shape, scale = _gamma(services)
    return jnp.where(random, gammainc(shape, x / scale), reached)


def _mean_within(services: Services, y: Scalar) -> Tokens:
    """[K] ∫_0^y P(S_k > u) du = E[min(S_k, y)]."""
    least = jnp.minimum(y, services.time)
    if services.variability is None:
        return least
    random, shape, scale = _gamma(services)
    safe = jnp.where(y > 0, y, 1) / scale
    mean = services.time * gammainc(shape + 1, safe) + y * gammaincc(shape, safe)
    return jnp.where(random, jnp.where(y > 0, mean, 0), least)


def _invert(times: Times, x: Scalar, missing: Scalar) -> Scalar:
    """What is not written out, at x; it lacks `missing` of the whole at infinity."""
    rate, idle, services, own = times
    double, numbers = _ALIASING[str(x.dtype)], np.arange(_TERMS + 1)
    dtype = np.result_type(x.dtype, np.complex64)
    s = jnp.asarray(double / 2 + 1j * np.pi * numbers, dtype)

    def row(reals: Tokens) -> Array:  # strict promotion would mix no reals with complex numbers
        return reals.astype(dtype)[None, :]

    lacks, short = transforms(services, s[:, None] * row(services.time / x))
    loads = row(rate * x * services.mix) * lacks / s[:, None]
    g = loads.sum(1)
    waiting = g / (idle.astype(dtype) + (row(rate * services.mix * services.time) * short).sum(1))
    ends = row(own.mix) * (1 - transforms(own, s[:, None] * row(own.time / x))[0])
    certain = jnp.where(own.fixed[None, :], ends, 0).sum(1)
    rest = certain * g * g * waiting
    if services.variability is not None:  # what only pairs of deterministic types have less of
        of_pairs = jnp.where(services.fixed[None, :], loads, 0).sum(1)
        rest += certain * (g + of_pairs) * (g - of_pairs) + (ends.sum(1) - certain) * waiting
    total = jnp.sum(jnp.asarray(_weights(), x.dtype) * (rest / s).real)
    return idle * math.exp(double / 2) * total - missing / math.expm1(double)


def _weights() -> np.ndarray[Any, Any]:
    """Alternating signs, half of the first term, and binomial averages of the last sums (Euler)."""
    weights = np.where(np.arange(_TERMS + 1) % 2, -1.0, 1.0)
    weights[0] = 0.5
    row = np.array([1.0])
    for _ in range(_AVERAGED):
        row = np.convolve(row, [0.5, 0.5])
    weights[-_AVERAGED:] *= np.cumsum(row[::-1])[::-1][1:]
    return weights


def transforms(services: Services, z: Array) -> tuple[Array, Array]:
    """1 - B and 1 - (1 - B) / z at z = s t [..., K], real or complex, with B = E[e^{-s S_k}].

    Neither cancels. For gamma service B is e^{-y}, y = z L(z cv²), L(w) = ln(1 + w) / w.
    """
    more = jnp.zeros_like(z)
    if services.variability is not None:
        more = _log_excess(z * jnp.broadcast_to(services.variability, z.shape).astype(z.dtype))
    y = z * (1 + more)
    return -jnp.expm1(-y), -more - (1 + more) * _exp_excess(-y)


def _exp_excess(z: Array) -> Array:
    """(e^z - 1) / z - 1, without cancellation."""
    return _excess(z, [1 / math.factorial(n + 2) for n in range(_EXP_TERMS)], jnp.expm1)


def _log_excess(z: Array) -> Array:
    """ln(1 + z) / z - 1, without cancellation; NaN of reals below -1."""
    return _excess(z, [-((-1) ** n) / (n + 2) for n in range(_LOG_TERMS)], jnp.log1p)


def _excess(z: Array, series: list[float], function: Any) -> Array:
    """function(z) / z - 1, by the series Σ_n c_n z^{n + 1} where z is small."""
    small = jnp.abs(z) < _SERIES_BELOW
    near, far = jnp.where(small, z, 0), jnp.where(small, 1, z)
    total = jnp.zeros_like(z)
    if jnp.finfo(z.dtype).bits == 32:
        series = series[: len(series) // 2]
    for coefficient in reversed(series):
        total = (total + coefficient) * near
    return jnp.where(small, total, function(far) / far - 1)
