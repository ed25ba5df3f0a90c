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
- rounding is e^a times that of the sum; near saturation 1 - G is d + (ρ - G), with d in double
  words and ρ - G = λ Σ π t φ(s t), φ(z) = 1 - (1 - e^{-z}) / z, in a series where z is small.
In float64 A = 23; in float32 A = 11 and 1e-4. Gamma service is smoother
but for the density at 0 (cv > 1); mixed with deterministic types only n = 1 is written out in full,
and the bound becomes (2λ/Ω)² / (2π), met only next to the kinks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaincc
from jaxtyping import Array, Float

from jaxalloc.allocation.model.checks import number, workload_and_tokens
from jaxalloc.allocation.model.mg1 import queue, service_time
from jaxalloc.allocation.model.workload import Mask, Scalar, Tokens, Workload
from jaxalloc.allocation.queue.complex_parts import (
    SERIES_TERMS,
    Complex,
    is_small,
    log_over,
    series,
)

_TERMS = 4096
_AVERAGED = 12  # of the last terms
_ALIASING = {"float64": 23.0, "float32": 11.0}  # A

PerTerm = Float[Array, "N"]


class Services(NamedTuple):
    """A mixture of service times: deterministic or gamma.

    Attributes:
      mix: [K] probabilities.
      time: [K] means, s.
      variability: [K] squared coefficients of variation; None where all are known to be 0, which
        leaves half of the work undone.
    """

    mix: Tokens
    time: Tokens
    variability: Tokens | None

    @property
    def fixed(self) -> Mask:
        """[K] whether the service takes the same time whenever it comes."""
        if self.variability is None:
            return jnp.ones_like(self.time, bool)
        return self.variability == 0


def services_of(workload: Workload, tokens: Tokens) -> Services:
    """The service times of an arriving query."""
    time, cv = service_time(workload, tokens), workload.service_cv
    fixed = not isinstance(cv, jax.core.Tracer) and not np.any(np.asarray(cv))
    return Services(workload.mix, time, None if fixed else jnp.square(cv))


class Traffic(NamedTuple):
    """How often the services are asked for.

    Attributes:
      rate: λ, queries / s.
      idle: d = 1 - ρ; the queue is stable iff it is positive.
    """

    rate: Scalar
    idle: Scalar


def traffic_of(workload: Workload, tokens: Tokens) -> Traffic:
    """The traffic, with all digits of d."""
    return Traffic(workload.arrival_rate, queue(workload, tokens).idle)


def no_service(services: Services) -> Services:
    """A service that takes no time: the system time is then the wait."""
    nothing = jnp.zeros_like(services.time)  # of the same shape, to be compiled once for both
    variability = None if services.variability is None else nothing
    return Services(nothing.at[0].set(1), nothing, variability)


def wait_cdf(workload: Workload, tokens: Tokens, seconds: Any) -> Scalar:
    """P(wait <= seconds); 1 - ρ at 0, and 0 for any time where the queue is unstable.

    Works under `jax.jit`, `jax.vmap` and differentiation; by `seconds` that gives the density.

    >>> import jaxalloc, jax.numpy as jnp
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> print(f"{jaxalloc.wait_cdf(workload, jnp.array([900.0]), 1.0):.4f}")  # e^0.5 / 2
    0.8244
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    services, x = services_of(workload, tokens), number("seconds", seconds, workload)
    return system_cdf(traffic_of(workload, tokens), services, no_service(services), x)


def system_time_cdf(workload: Workload, tokens: Tokens, seconds: Any) -> Scalar:
    """P(system time <= seconds); with deterministic service it jumps by π_k (1 - ρ) at t_k.

    Works under `jax.jit`, `jax.vmap` and differentiation; by `seconds` that gives the density
    between the jumps.

    >>> import jaxalloc, jax.numpy as jnp
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.5, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=1.0)
    >>> tokens = jnp.array([900.0])
    >>> print([f"{jaxalloc.system_time_cdf(workload, tokens, x):.4f}" for x in (0.99, 1.0, 2.0)])
    ['0.0000', '0.5000', '0.8244']
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    services, x = services_of(workload, tokens), number("seconds", seconds, workload)
    return system_cdf(traffic_of(workload, tokens), services, services, x)


@jax.jit
def system_cdf(traffic: Traffic, services: Services, own: Services, seconds: Any) -> Scalar:
    """P(W + S <= seconds): W waits for `services` in the given traffic, S is one of `own`."""
    dtype = services.time.dtype
    x = jnp.asarray(seconds, dtype)
    stable, positive = traffic.idle > 0, x > 0
    rate = jnp.where(stable, traffic.rate, 0)
    idle = jnp.where(stable, traffic.idle, 1)
    safe = jnp.where(positive & jnp.isfinite(x), x, 1)
    written, missing = _explicit(rate, idle, services, own, safe)
    rest = _invert(rate, idle, services, own, safe, missing)
    value = jnp.where(positive, written + rest, idle * _jump_at_zero(own))
    value = jnp.where((x >= 0) & stable, jnp.clip(value, 0, 1), 0)
    return jnp.where(jnp.isposinf(x) & stable, jnp.sum(own.mix), value)


def jumps(idle: Scalar, own: Services) -> Tokens:
    """[K] by how much the distribution of the system time jumps at each mean service time."""
    same = own.time[:, None] == own.time[None, :]
    fixed = jnp.where(own.fixed, own.mix, 0)
    return idle * jnp.where(own.fixed, jnp.where(same, fixed[None], 0).sum(1), 0)


def _jump_at_zero(own: Services) -> Scalar:
    """The probability that a service takes no time."""
    return jnp.sum(jnp.where(own.time == 0, own.mix, 0))


def _explicit(
    rate: Scalar, idle: Scalar, services: Services, own: Services, x: Scalar
) -> tuple[Scalar, Scalar]:
    """The terms that are written out, at x and what they lack of the whole at infinity."""
    certain = jnp.where(own.fixed, own.mix, 0)
    pairs = jnp.where(services.fixed, rate * services.mix, 0)
    y = x - own.time
    none = jnp.sum(own.mix * _service_cdf(own, x))
    weights = rate * services.mix

    def after(y: Scalar) -> Scalar:
        y = jnp.maximum(y, 0)
        one = jnp.sum(weights * _residual(services, y))
        time = services.time
        y = jnp.minimum(y, time[:, None] + time[None, :])  # beyond, all of t_j t_k is reached
        corner = _ramp(y) - _ramp(y - time[:, None]) - _ramp(y - time[None, :])
        return one + jnp.sum(pairs[:, None] * pairs[None, :] * corner)

    later = jnp.sum(certain * jax.vmap(after)(y))
    whole = jnp.sum(own.mix) + jnp.sum(certain) * (
        1 - idle + jnp.square(jnp.sum(pairs * services.time))
    )
    return idle * (none + later), jnp.sum(own.mix) - idle * whole


def _ramp(y: Array) -> Array:
    """∫∫ over the triangle u, v >= 0, u + v <= y: half of its square."""
    return jnp.square(jnp.maximum(y, 0)) / 2


def _gamma(time: Tokens, variability: Tokens) -> tuple[Mask, Tokens, Tokens]:
    """Which services are gamma, with shape and scale; ones for the others."""
    random = (variability > 0) & (time > 0)
    variability = jnp.where(random, variability, 1)
    return random, 1 / variability, jnp.where(random, time, 1) * variability


def _service_cdf(services: Services, x: Scalar) -> Tokens:
    """[K] P(S_k <= x)."""
    reached = (services.time <= x).astype(services.time.dtype)
    if services.variability is None:
        return reached
    random, shape, scale = _gamma(services.time, services.variability)
    return jnp.where(random, gammainc(shape, x / scale), reached)


def _residual(services: Services, y: Scalar) -> Tokens:
    """[K] ∫_0^y P(S_k > u) du = E[min(S_k, y)]."""
    least = jnp.minimum(y, services.time)
    if services.variability is None:
        return least
    random, shape, scale = _gamma(services.time, services.variability)
    safe = jnp.where(y > 0, y, 1) / scale
    mean = services.time * gammainc(shape + 1, safe) + y * gammaincc(shape, safe)
    return jnp.where(random, jnp.where(y > 0, mean, 0), least)


def _transforms(
    services: Services, a: Scalar, frequency: PerTerm, x: Scalar
) -> tuple[Complex, Complex]:
    """[N, K] 1 - B and 1 - (1 - B) / z at z = s t, B = E[e^{-s S_k}], s = (a + i frequency) / x.

    Neither cancels. For gamma service B is e^{-y}, y = z L(z cv²), L(w) = ln(1 + w) / w.
    """
    unit = services.time / x
    z = y = Complex((a * unit)[None, :], frequency[:, None] * unit[None, :])
    lost, kept = z.scaled(0), Complex(1.0, 0.0)  # 1 - L and L
    if services.variability is not None:
        random = (services.variability > 0)[None, :]
        w = z.scaled(jnp.where(random, services.variability[None, :], 1))
        of_w = log_over(w)
        kept, lost = of_w[0].where(random, kept), of_w[1].where(random, lost)
        y = z * kept
    size = jnp.exp(-y.real)
    lacks = Complex(
        -jnp.expm1(-y.real) + 2 * size * jnp.square(jnp.sin(y.imag / 2)), size * jnp.sin(y.imag)
    )
    terms = SERIES_TERMS[str(x.dtype)][0]
    small = series(y, [-((-1.0) ** n) / math.factorial(n + 1) for n in range(1, terms)])
    tiny = is_small(y)
    direct = Complex(1.0, 0.0) - lacks.over(Complex(1.0, 0.0).where(tiny, y))
    return lacks, lost + kept * small.where(tiny, direct)


def _mixed(weights: Tokens, parts: Complex) -> Complex:
    return Complex((weights[None, :] * parts.real).sum(1), (weights[None, :] * parts.imag).sum(1))


def _invert(
    rate: Scalar, idle: Scalar, services: Services, own: Services, x: Scalar, missing: Scalar
) -> Scalar:
    """What is not written out, at x."""
    dtype = x.dtype
    double = _ALIASING[str(dtype)]
    number = np.arange(_TERMS + 1)
    frequency = jnp.asarray(np.pi * number, dtype)
    s = Complex(jnp.full_like(frequency, double / 2), frequency)  # times x
    lacks, short = _transforms(services, s.real[0], frequency, x)
    g = _mixed(rate * x * services.mix, lacks).over(s)
    not_g = _mixed(rate * services.mix * services.time, short) + Complex(idle, 0.0)
    own_lacks, _ = _transforms(own, s.real[0], frequency, x)
    certain = jnp.where(own.fixed, own.mix, 0)
    one = Complex(jnp.ones_like(frequency), jnp.zeros_like(frequency))
    waiting = g.over(not_g)  # G + G² + ...
    rest = (one.scaled(jnp.sum(certain)) - _mixed(certain, own_lacks)) * g * g * waiting
    if services.variability is not None:
        g_fixed = _mixed(rate * x * jnp.where(services.fixed, services.mix, 0), lacks).over(s)
        random = own.mix - certain
        steady = one.scaled(jnp.sum(certain)) - _mixed(certain, own_lacks)
        varied = one.scaled(jnp.sum(random)) - _mixed(random, own_lacks)
        rest = rest + steady * (g + g_fixed) * (g - g_fixed) + varied * waiting
    rest = rest.over(s)
    weights = jnp.asarray(_weights(), dtype)
    total = idle * jnp.exp(jnp.asarray(double / 2, dtype)) * jnp.sum(weights * rest.real)
    return total - missing / jnp.expm1(jnp.asarray(double, dtype))


def _weights() -> np.ndarray[Any, Any]:
    """Alternating signs, half of the first term, and binomial averages of the last sums (Euler)."""
    weights = np.where(np.arange(_TERMS + 1) % 2, -1.0, 1.0)
    weights[0] = 0.5
    row = np.array([1.0])
    for _ in range(_AVERAGED):
        row = np.convolve(row, [0.5, 0.5])
    weights[-_AVERAGED:] *= np.cumsum(row[::-1])[::-1][1:]
    return weights
