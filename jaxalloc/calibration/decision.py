"""What not knowing the parameters does to the decision: intervals, regret, what to measure next.

Two ways. The delta method takes the covariance of the parameters through the derivative of the
optimum. Sampling draws parameters, solves each workload anew, and compares: the regret of a draw is
what its own optimum has over the budgets that were chosen, J_θ(l*(θ)) - J_θ(l̂). To second order it
is a quadratic form in the error of the parameters, so what is drawn around the estimate is
distributed as what the estimate suffers around the truth (derived here).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalloc.allocation.decisions.sensitivity import Outputs, sensitivity
from jaxalloc.allocation.model.checks import number, one_workload
from jaxalloc.allocation.model.mg1 import mean_system_time, utilization
from jaxalloc.allocation.model.objective import mean_accuracy, objective
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload
from jaxalloc.allocation.optimum.batch import solve_batch
from jaxalloc.allocation.optimum.solve import Allocation
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.calibration.covariances import Covariances
from jaxalloc.calibration.rows import check_level
from jaxalloc.numerics import as_key, cast

_CURVE = ("gain", "decay", "floor")
_SERVICE = ("base_time", "time_per_token")
PER_TASK = (*_CURVE, *_SERVICE, "service_cv", "mix")
_ROUNDS = 4  # of the draws of the whole covariance: each part of it gets a quarter


class Decision(NamedTuple):
    """The optimum of an uncertain workload, and how far it can be trusted.

    Attributes:
      allocation: the optimum l̂ of the estimated parameters.
      values: `Outputs` at l̂ with these parameters.
      standard_error: `Outputs`, those of the optimum by the delta method.
      low, high: `Outputs`, ends of the intervals of the optimum by sampling.
      chosen_accuracy, chosen_system_time: [2] what l̂ itself brings, under the parameters drawn.
      regret: its mean over the draws, s of objective.
      regret_high: the upper end of its one-sided interval: [0, regret_high].
      regret_by_task: [K] mean regret if all but the parameters of one task were known. The task to
        measure next is where it is largest.
      regret_by_parameter: a `Workload` of the same for single parameters.
      solved: share of the draws whose optimum CONVERGED; the others are left out.
    """

    allocation: Allocation
    values: Outputs
    standard_error: Outputs
    low: Outputs
    high: Outputs
    chosen_accuracy: Float[Array, "2"]
    chosen_system_time: Float[Array, "2"]
    regret: Scalar
    regret_high: Scalar
    regret_by_task: Tokens
    regret_by_parameter: Workload
    solved: Scalar


def solve_uncertain(
    key: Any,
    workload: Workload,
    covariances: Covariances,
    samples: int = 1000,
    level: float = 0.95,
) -> Decision:
    """The optimum of one workload with the uncertainty of its parameters carried through.

    Draws are normal in ln gain, ln decay, floor, base_time, ln time_per_token, service_cv, mix and
    ln arrival_rate, brought back into the domain where they leave it. Works under `jax.jit` and
    `jax.vmap`.

    Args:
      key: of `jax.random`.
      workload: the estimates.
      covariances: theirs.
      samples: draws; a quarter of them for each of the parts that are known apart.
      level: the probability that an interval holds the truth.

    >>> import jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.1, mix=[1.0], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> known = jaxalloc.exactly_known(workload)
    >>> rate_only = known._replace(curve=known.curve.at[0, 1, 1].set(1e-4**2))
    >>> decision = solve_uncertain(jax.random.key(0), workload, rate_only)
    >>> print(f"{decision.values.tokens[0]:.0f} ± {decision.standard_error.tokens[0]:.0f} tokens")
    2034 ± 89 tokens
    """
    check_level(level)
    if samples < 1:
        raise ValueError(f"samples = {samples} must be at least 1: try 1000")
    workload = one_workload(workload)
    covariances = jax.tree.map(lambda leaf: cast(leaf, workload.dtype), covariances)
    limit = number("level", level, workload)
    return _solve_uncertain(as_key(key), workload, covariances, limit, samples)


@functools.partial(jax.jit, static_argnames="samples")
def _solve_uncertain(
    key: Any, workload: Workload, covariances: Covariances, level: Scalar, samples: int
) -> Decision:
    report = sensitivity(workload)
    variances = Outputs(*(_delta(slopes, covariances) for slopes in report.derivatives))
    tokens, k = report.allocation.tokens, workload.num_types

    # One batch: the whole covariance in `_ROUNDS` lanes of draws, then a lane for each part of it.
    size = max(samples // _ROUNDS, 1)
    keys = jax.random.split(key, _ROUNDS + 1)

    def lanes_of(whole: Array, part: Array) -> Array:
        return jnp.concatenate([jnp.broadcast_to(whole, (_ROUNDS, *whole.shape)), part])

    lanes = jax.tree.map(lanes_of, covariances, _parts(covariances))
    places = jnp.minimum(jnp.arange(lanes.arrival_rate.shape[0]), _ROUNDS)
    drawn = jax.vmap(lambda key, lane: draw(key, workload, lane, size))(keys[places], lanes)
    drawn = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)
    best = solve_batch(drawn)
    ok = best.status == Status.CONVERGED
    regret = best.objective - jax.vmap(objective, (0, None))(drawn, tokens)
    regret = jnp.where(ok, jnp.maximum(regret, 0), jnp.nan)
    apart = jnp.nanmean(regret[_ROUNDS * size :].reshape(-1, size), axis=1)

    whole, optimum = jax.tree.map(lambda x: x[: _ROUNDS * size], (drawn, best))
    tails = jnp.stack([(1 - level) / 2, (1 + level) / 2])

    def ends(values: Any) -> Any:
        kept = ok[: _ROUNDS * size].reshape(-1, *(1,) * (values.ndim - 1))
        return jnp.nanquantile(jnp.where(kept, values, jnp.nan), tails, axis=0)

    def measured(measure: Any, axis: int | None, at: Any) -> Any:
        return ends(jax.vmap(measure, (0, axis))(whole, at))

    intervals = [
        ends(optimum.tokens),
        *(measured(m, 0, optimum.tokens) for m in (mean_accuracy, mean_system_time, utilization)),
        ends(optimum.objective),
    ]
    return Decision(
        allocation=report.allocation,
        values=report.values,
        standard_error=jax.tree.map(jnp.sqrt, variances),
        low=Outputs(*(pair[0] for pair in intervals)),
        high=Outputs(*(pair[1] for pair in intervals)),
        chosen_accuracy=measured(mean_accuracy, None, tokens),
        chosen_system_time=measured(mean_system_time, None, tokens),
        regret=jnp.nanmean(regret[: _ROUNDS * size]),
        regret_high=jnp.nanquantile(regret[: _ROUNDS * size], level),
        regret_by_task=apart[:k],
        regret_by_parameter=_by_field(workload, apart[k:]),
        solved=jnp.mean(ok[: _ROUNDS * size].astype(workload.dtype)),
    )


def _delta(slopes: Workload, covariances: Covariances) -> Any:
    """The variance of an output, of any shape, from its derivatives: gᵀ Σ g."""
    total = jnp.square(slopes.arrival_rate) * covariances.arrival_rate
    total = total + jnp.einsum("...k,k->...", jnp.square(slopes.service_cv), covariances.service_cv)
    total = total + jnp.einsum("...i,ij,...j->...", slopes.mix, covariances.mix, slopes.mix)
    blocks = ((_CURVE, covariances.curve), (_SERVICE, covariances.service))
    for names, covariance in blocks:
        own = jnp.stack([getattr(slopes, name) for name in names], axis=-1)
        total = total + jnp.einsum("...ki,kij,...kj->...", own, covariance, own)
    return total


def draw(key: Any, workload: Workload, covariances: Covariances, samples: int) -> Workload:
    """`samples` workloads, a leading axis, drawn around one."""
    keys = jax.random.split(key, 5)
    k = workload.num_types

    def normal(index: int, covariance: Any, shape: tuple[int, ...]) -> Any:
        values, vectors = jnp.linalg.eigh(covariance)
        scaled = vectors * jnp.sqrt(jnp.maximum(values, 0))[..., None, :]
        noise = jax.random.normal(keys[index], (samples, *shape), covariance.dtype)
        return jnp.einsum("...ij,s...j->s...i", scaled, noise)

    def logarithmic(covariance: Any, units: Any) -> Any:
        return covariance / units[:, :, None] / units[:, None, :]

    one = jnp.ones_like(workload.decay)
    some = jnp.where(workload.gain > 0, workload.gain, 1)
    curve = normal(
        0, logarithmic(covariances.curve, jnp.stack([some, workload.decay, one], -1)), (k, 3)
    )
    floor = jnp.clip(workload.floor[None] + curve[..., 2], 0, 1)
    free = workload.gain[None] * jnp.exp(curve[..., 0])
    gain = jnp.minimum(free, 1 - floor)
    # What the data know best is the first slope, A b: it stays where a gain is cut off.
    faster = jnp.where(gain > 0, free / jnp.where(gain > 0, gain, 1), 1)
    service = normal(
        1, logarithmic(covariances.service, jnp.stack([one, workload.time_per_token], -1)), (k, 2)
    )
    noise = jax.random.normal(keys[2], (samples, k), one.dtype)
    cv = workload.service_cv[None] + noise * jnp.sqrt(covariances.service_cv)[None]
    mix = jnp.maximum(workload.mix[None] + normal(3, covariances.mix, (k,)), 0)
    rate = workload.arrival_rate
    relative = jnp.sqrt(covariances.arrival_rate) / jnp.where(rate > 0, rate, 1)
    rates = rate * jnp.exp(relative * jax.random.normal(keys[4], (samples,), one.dtype))

    def many(value: Any) -> Any:
        return jnp.broadcast_to(value, (samples, *value.shape))

    return Workload(
        arrival_rate=rates,
        mix=mix / jnp.sum(mix, axis=-1, keepdims=True),
        gain=gain,
        decay=workload.decay[None] * jnp.exp(curve[..., 1]) * faster,
        floor=floor,
        base_time=jnp.maximum(workload.base_time[None] + service[..., 0], 0),
        time_per_token=workload.time_per_token[None] * jnp.exp(service[..., 1]),
        min_tokens=many(workload.min_tokens),
        max_tokens=many(workload.max_tokens),
        accuracy_weight=many(workload.accuracy_weight),
        service_cv=jnp.maximum(cv, 0),
        token_price=many(workload.token_price),
    )


def _parts(covariances: Covariances) -> Covariances:
    """A leading axis of what is left of the covariances if little is not known.

    First each task's own parameters, then single ones: those of the curves, of the service, its CV
    and the share of each task, and the arrival rate, in the order of `_by_field`.
    """
    k = covariances.curve.shape[0]
    groups = [k] * (1 + len(PER_TASK)) + [1]
    total = sum(groups)
    task = np.concatenate([np.arange(size) for size in groups])
    group = np.repeat(np.arange(len(groups)), groups)
    own = task[:, None] == np.arange(k)
    all_of = (group == 0)[:, None] & own

    def block(first: int, size: int) -> Any:
        """1 where an entry of the covariance of `size` parameters, the first-th on, is kept."""
        single = np.eye(size)[None] * (group[:, None] == first + np.arange(size))[:, None, :]
        kept = all_of[..., None, None] + own[..., None, None] * single[:, None]
        return jnp.asarray(kept, covariances.curve.dtype)

    mix = covariances.mix
    # A share moves as it does on average: the others with it, by their covariance.
    share = jnp.diagonal(mix)
    along = mix / jnp.sqrt(jnp.where(share > 0, share, 1))[None, :]
    mixes = jnp.zeros((total, k, k), mix.dtype)
    mixes = mixes.at[np.flatnonzero(group == PER_TASK.index("mix") + 1)].set(
        along.T[:, :, None] * along.T[:, None, :]
    )
    cv = all_of | (own & (group == PER_TASK.index("service_cv") + 1)[:, None])
    return Covariances(
        curve=covariances.curve[None] * block(1, len(_CURVE)),
        service=covariances.service[None] * block(1 + len(_CURVE), len(_SERVICE)),
        service_cv=covariances.service_cv[None] * jnp.asarray(cv, mix.dtype),
        mix=mixes,
        arrival_rate=covariances.arrival_rate * jnp.asarray(group == len(groups) - 1, mix.dtype),
    )


def _by_field(workload: Workload, values: Any) -> Workload:
    """Numbers for single parameters as a workload; 0 for fields that are known."""
    k = workload.num_types
    fields = {name: values[i * k : (i + 1) * k] for i, name in enumerate(PER_TASK)}
    none = jax.tree.map(jnp.zeros_like, workload)
    return dataclasses.replace(none, **fields, arrival_rate=values[-1])
