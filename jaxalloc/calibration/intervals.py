"""Profile-likelihood intervals of an accuracy curve.

The interval of one parameter holds the values at which the likelihood, maximized over the other
two, stays within q² d / 2 of its maximum, in logarithms: q is the quantile of Student's t (of the
normal distribution without questions) and d the design effect, robust over plain variance, with
which the profile ratio of a misspecified likelihood is distributed as d χ²₁ (Kent, 1982, Biometrika
69). It follows a likelihood that is not a parabola, and ends where a bound does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalloc.backend.dispatch import dispatch
from jaxalloc.calibration.accuracy import AccuracyFit, as_counts, gather, scale_of
from jaxalloc.calibration.likelihood import Counts, Scalar, Vector
from jaxalloc.calibration.maximum import Box, maximize, whole_box
from jaxalloc.calibration.quantiles import student_quantile
from jaxalloc.calibration.rows import check_level
from jaxalloc.calibration.status import has_covariance
from jaxalloc.numerics import without_derivative

Ends = Float[Array, "2"]

_MAX_ROUNDS = 40
_NO_DERIVATIVE = (
    "accuracy_intervals has no derivative, since it searches: differentiate what `fit_accuracy` "
    "returns, or put the call under jax.lax.stop_gradient"
)
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3}  # relative, of the root of the ratio
_MOST_GROWTH = 3.0  # of the distance to the maximum, in one round
_GAIN, _RATE = 0, 1  # places of parameters; the floor's is 2
_INSIDE = 1e-3  # of the room, from bounds at which a likelihood may be -inf: where to start


class Intervals(NamedTuple):
    """Intervals of an accuracy curve, lower and upper end; NaN where the fit has no covariance.

    Attributes:
      gain: [2] of A.
      decay: [2] of b, 1 / token; 0 and inf where the data set no end.
      floor: [2] of D.
    """

    gain: Ends
    decay: Ends
    floor: Ends


class _Lane(NamedTuple):
    """One end to find: data, maximum, which parameter, where the profile is to fall to."""

    counts: Counts
    top: Vector  # (A, ln b, D)
    value: Scalar
    parameter: Int[Array, ""]
    first: Scalar  # the first guess, on the side that is wanted
    root: Scalar  # of twice the fall of the log-likelihood
    wanted: Bool[Array, ""]


class _Hunt(NamedTuple):
    """Where the hunt stands: `inner` is still inside the interval, `outer` is not."""

    at: Scalar
    inner: Scalar
    outer: Scalar
    nuisance: Vector  # (D, v, ln b) of the last profile
    done: Bool[Array, ""]
    rounds: Int[Array, ""]


def accuracy_intervals(
    fit: AccuracyFit, tokens: Any, correct: Any, trials: Any = None, level: float = 0.95
) -> Intervals:
    """Profile-likelihood intervals of the gain, the decay and the floor of one fit.

    Works under `jax.jit` and `jax.vmap`. In `jaxalloc`'s own trials they hold the truth as often as
    they say where the fit is CONVERGED (`benchmarks/calibration_coverage.py`).

    Args:
      fit: what `fit_accuracy` says of the same rows, with or without questions.
      tokens, correct, trials: [N] as for `fit_accuracy`.
      level: the probability that an interval holds the truth.

    >>> rows = [0, 256, 1024, 4096], [30, 58, 82, 90], [100, 100, 100, 100]
    >>> from jaxalloc.calibration.accuracy import fit_accuracy
    >>> low, high = accuracy_intervals(fit_accuracy(*rows), *rows).floor
    >>> print(f"{low:.2f} to {high:.2f}")
    0.22 to 0.40
    """
    check_level(level)
    counts, concrete = as_counts(tokens, correct, trials)
    return count_intervals(fit, gather(counts) if concrete else counts, level)


def count_intervals(fit: AccuracyFit, counts: Counts, level: Any = 0.95) -> Intervals:
    """`accuracy_intervals` of counts [L] at each budget."""
    return without_derivative(
        lambda given: _count_intervals(*given), (fit, counts, level), _NO_DERIVATIVE
    )


@jax.jit
def _count_intervals(fit: AccuracyFit, counts: Counts, level: Any) -> Intervals:
    scale = scale_of(counts)
    scaled = counts._replace(tokens=counts.tokens / scale)
    wanted = has_covariance(fit.status)
    top = jnp.stack([fit.gain, jnp.log(fit.decay * scale), fit.floor])
    one = jnp.ones_like(scale)
    error = fit.standard_error / jnp.stack([one, fit.decay, one])
    quantile = student_quantile((1 + level) / 2, fit.dof)
    roots = quantile * jnp.sqrt(fit.design_effect)

    def end(parameter: Int[Array, ""], side: Scalar) -> Scalar:
        first = top[parameter] + side * quantile * error[parameter]
        value = fit.log_likelihood
        return dispatch(
            _hunt, _Lane(scaled, top, value, parameter, first, roots[parameter], wanted)
        )

    sides = jnp.asarray([-1.0, 1.0], top.dtype)
    ends = jax.vmap(lambda k: jax.vmap(lambda side: end(k, side))(sides))(jnp.arange(3))
    ends = jnp.where(wanted, ends, jnp.nan)
    return Intervals(ends[0], jnp.exp(ends[1]) / scale, ends[2])


def _hunt(lane: _Lane) -> Scalar:
    """The end of an interval: a secant on the root of the ratio, safeguarded by bisection."""
    top, whole = lane.top[lane.parameter], whole_box(lane.counts)
    upwards = lane.first > top
    limit = jnp.where(upwards, 1, 0).astype(top.dtype)
    far = jnp.where(upwards, whole.high[2], whole.low[2])
    limit = jnp.where(lane.parameter == _RATE, far, limit)
    inf = jnp.where(upwards, jnp.inf, -jnp.inf).astype(top.dtype)
    tolerance = _TOLERANCE[str(top.dtype)]

    def unfinished(hunt: _Hunt) -> Bool[Array, ""]:
        return lane.wanted & ~hunt.done & (hunt.rounds < _MAX_ROUNDS)

    def advance(hunt: _Hunt) -> _Hunt:
        profile = maximize(lane.counts, *_pinned(lane, whole, hunt.at, hunt.nuisance))
        fall = jnp.sqrt(jnp.maximum(2 * (lane.value - profile.value), 0))
        inside = fall < lane.root
        inner, outer = (
            jnp.where(inside, hunt.at, hunt.inner),
            jnp.where(inside, hunt.outer, hunt.at),
        )
        # The root of the ratio is nearly proportional to the distance from the maximum.
        stretch = jnp.clip(lane.root / jnp.maximum(fall, 1e-30), 1 / _MOST_GROWTH, _MOST_GROWTH)
        guess = top + (hunt.at - top) * stretch
        open_end = jnp.isinf(outer)
        beyond = jnp.where(open_end, limit, outer)
        low, high = jnp.minimum(inner, beyond), jnp.maximum(inner, beyond)
        middle = jnp.where(open_end, beyond, (inner + beyond) / 2)
        following = jnp.where((guess > low) & (guess < high), guess, middle)
        done = jnp.abs(fall - lane.root) <= tolerance * lane.root
        done |= high - low <= tolerance * jnp.abs(lane.first - top)
        done |= inside & (hunt.at == limit)
        at = jnp.where(done, hunt.at, following)
        return _Hunt(at, inner, outer, profile.point, done, hunt.rounds + 1)

    first = jnp.where(upwards, jnp.minimum(lane.first, limit), jnp.maximum(lane.first, limit))
    gain, rate, floor = lane.top
    nuisance = jnp.stack([floor, gain + floor, rate])
    start = _Hunt(first, top, inf, nuisance, jnp.array(False), jnp.int32(0))
    last = jax.lax.while_loop(unfinished, advance, start)
    return jnp.where((lane.parameter == _RATE) & (last.at == limit), inf, last.at)


def _pinned(lane: _Lane, whole: Box, value: Scalar, last: Vector) -> tuple[Vector, Box]:
    """A start within bounds that pin the parameter to `value`, and these bounds."""
    of_gain, of_rate = lane.parameter == _GAIN, lane.parameter == _RATE
    of_floor = ~(of_gain | of_rate)
    pinned = jnp.stack([of_floor, of_gain, of_rate])
    top = whole.high.at[0].add(jnp.where(of_gain, -value, 0))  # D is at most 1 - A
    low, high = jnp.where(pinned, value, whole.low), jnp.where(pinned, value, top)
    kappa = jnp.where(of_gain, 0, 1).astype(value.dtype)
    margin = _INSIDE * (high - low)
    floor, second, rate = jnp.clip(last, low + margin, high - margin)
    apart = jnp.where(of_gain, second, jnp.maximum(second, floor + 1e-2 * (1 - floor)))
    return jnp.stack([floor, jnp.minimum(apart, high[1]), rate]), Box(low, high, kappa)
