"""The law of long waits: P(wait > x) ~ C e^{-θx}, which holds where no inversion has a digit left.

With M the moment generating function of the service time, θ > 0 is the root of
`λ (M(θ) - 1) = θ`: there the transform of the wait has its first pole, a simple one, and

    P(W > x) = C e^{-θx} + O(e^{-ηx}),  C = (1 - ρ) / (λ M′(θ) - 1),  η > θ the next pole

(Cramér & Lundberg; Asmussen, Applied Probability and Queues, 2003, XIII.5); a system time, W and an
independent service of generating function M_own, has C M_own(θ). For M/M/1 this is exact at every
x; in general the relative error e^{-(η - θ)x} falls with x, so a law that agrees with the inversion
at one level holds beyond it. Near saturation θ ~ 2 d / (λ V) and all is written in d = 1 - ρ itself
(derived here, with z = θ t, w = z cv², y = -ln(1 - w) / cv², which is z where cv = 0):

    λ (M(θ) - 1) / θ - 1 = -d + λ Σ π t ((e^y - 1) / z - 1)
    λ M′(θ) - 1 = -d + λ Σ π t (e^y / (1 - w) - 1)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxalloc.allocation.model.root import increasing_root
from jaxalloc.allocation.model.workload import Scalar, Tokens
from jaxalloc.allocation.queue.tails import Services, Traffic

_SERIES_BELOW = 0.1
_TERMS = 16


class TailLaw(NamedTuple):
    """P(time > x) ~ e^{log_factor - rate x}; NaN where there is none."""

    rate: Scalar  # θ, 1 / s
    log_factor: Scalar  # ln C


def tail_law(traffic: Traffic, services: Services, own: Services) -> TailLaw:
    """The law of W + S: W waits for `services` in the given traffic, S is one of `own`."""
    lasting = jnp.where(services.mix > 0, services.time, 0)
    unit = jnp.max(lasting)
    served = (unit > 0) & (traffic.rate > 0) & (traffic.idle > 0)
    unit = jnp.where(served, unit, 1)
    share = jnp.where(served, traffic.rate, 1 / unit) * services.mix * lasting
    idle = jnp.where(served, traffic.idle, 0.5)

    # Looked for in u = -ln(1 - w) / a of the widest gamma service, which has no pole.
    spread = jnp.zeros_like(unit)
    if services.variability is not None:
        spread = jnp.max(lasting * services.variability) / unit
    wide = jnp.where(spread > 0, spread, 1)

    def theta_of(u: Scalar) -> Scalar:
        return jnp.where(spread > 0, -jnp.expm1(-wide * u) / wide, u)

    def excess(u: Scalar) -> Scalar:
        growth = _growth(services, theta_of(u) * lasting / unit)
        return jnp.log1p(jnp.sum(share * growth) - idle)

    u = increasing_root(excess, jnp.zeros_like(unit), jnp.full_like(unit, jnp.inf))
    theta = theta_of(u)
    y, w = _exponents(services, theta * lasting / unit)
    slope = jnp.sum(share * jnp.expm1(y - jnp.log1p(-w))) - idle
    y, _ = _exponents(own, theta * jnp.where(own.mix > 0, own.time, 0) / unit)
    factor = jnp.log(idle / slope) + jnp.log(jnp.sum(own.mix * jnp.exp(y)))
    known = jnp.where(served & (slope > 0), 1.0, jnp.nan).astype(unit.dtype)
    return TailLaw(theta / unit * known, factor * known)


def _exponents(services: Services, z: Tokens) -> tuple[Tokens, Tokens]:
    """y = ln M and w; NaN beyond the pole of a gamma service."""
    if services.variability is None:
        return z, jnp.zeros_like(z)
    w = z * services.variability
    return z * (1 + _log_beyond(w)), w


def _growth(services: Services, z: Tokens) -> Tokens:
    """(e^y - 1) / z - 1 = (ψ(y) - 1) y / z + (y / z - 1), ψ(y) = (e^y - 1) / y."""
    if services.variability is None:
        return _exp_beyond(z)
    more = _log_beyond(z * services.variability)
    return _exp_beyond(z * (1 + more)) * (1 + more) + more


def _exp_beyond(y: Tokens) -> Tokens:
    """(e^y - 1) / y - 1, without cancellation."""
    small = y < _SERIES_BELOW
    near = jnp.where(small, y, 0)
    term, total = jnp.ones_like(y), jnp.zeros_like(y)
    for n in range(1, _TERMS):
        term = term * near / (n + 1)
        total = total + term
    safe = jnp.where(small, 1, y)
    return jnp.where(small, total, (jnp.expm1(safe) - safe) / safe)


def _log_beyond(w: Tokens) -> Any:
    """-ln(1 - w) / w - 1, without cancellation; NaN from 1 on."""
    small = w < _SERIES_BELOW
    near = jnp.where(small, w, 0)
    total = jnp.zeros_like(w)
    for n in range(_TERMS, 0, -1):
        total = (total + 1 / (n + 1)) * near
    safe = jnp.where(small, 0.5, w)
    beyond = jnp.where(safe < 1, -jnp.log1p(-jnp.where(safe < 1, safe, 0)), jnp.nan)
    return jnp.where(small, total, (beyond - safe) / safe)
