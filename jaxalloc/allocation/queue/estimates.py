"""From the totals of groups of replications to estimates and intervals.

The groups are independent and of equal length, so a mean over them is followed by an interval of
Student's t. A ratio (a mean per query of a type, or service time over time) is that of the totals,
its interval from the groups' residuals y_g - r x_g (the delta method). A percentile's interval
runs between the percentiles of the levels q - h and q + h, where h is the half-width of the share
of queries below it (Woodruff, 1952); it ends at edges of bins, outward, and so covers where the
distribution has atoms or gaps too. h is never less than for independent queries: where fewer than
about t² of the queries lie beyond a percentile, it has no upper end (inf).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.allocation.model.workload import Flag, Scalar
from jaxalloc.allocation.queue.paths import Totals, upper_edges

GROUPS = 32  # of replications

PerType = Float[Array, "K"]
PerLevel = Float[Array, "P"]


class Measures(NamedTuple):
    """What a sample path tells; NaN for a type that never came, times are inf where ρ >= 1.

    Attributes:
      mean_system_time: from arrival to answer, s.
      mean_wait: before service, s.
      fraction_correct: of the answers.
      utilization: service time over time.
      system_time_percentiles: [P] s.
      wait_percentiles: [P] s.
      type_mean_wait: [K] s.
      type_mean_system_time: [K] s.
      type_fraction_correct: [K].
      type_system_time_percentiles: [K, P] s.
    """

    mean_system_time: Scalar
    mean_wait: Scalar
    fraction_correct: Scalar
    utilization: Scalar
    system_time_percentiles: PerLevel
    wait_percentiles: PerLevel
    type_mean_wait: PerType
    type_mean_system_time: PerType
    type_fraction_correct: PerType
    type_system_time_percentiles: Float[Array, "K P"]


class Interval(NamedTuple):
    """An estimate between the ends of its interval."""

    estimate: Array
    low: Array
    high: Array


def student_quantile(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t.

    >>> round(student_quantile(0.99, 31), 3)
    2.744
    """
    from scipy.special import stdtrit  # which JAX brings, and only a simulation wants

    return float(stdtrit(freedom, (1 + confidence) / 2))


@functools.partial(jax.jit, static_argnames=("confidence", "bits"))
def measure(
    totals: Totals, levels: PerLevel, scale: Scalar, stable: Flag, confidence: float, bits: int
) -> dict[str, Any]:
    """What `FifoResult` says of the totals: estimates and both ends of their intervals, counts.

    Counts are in the floating dtype, which holds more than 2^31.
    """
    dtype = totals.sums.dtype
    of_type = totals.system_times.sum(axis=-1).astype(dtype)  # [G, K]
    waits, services, right = jnp.moveaxis(totals.sums, -1, 0)
    everyone = of_type.sum(axis=-1)
    t = student_quantile(confidence, GROUPS - 1)
    edges = upper_edges(scale, bits)

    def ratio(above: Array, below: Array) -> Interval:
        value, error = _ratio(above, below)
        return Interval(value, value - t * error, value + t * error)

    def timely(interval: Interval) -> Interval:
        """Without a stationary law the path only says how long it was."""
        return Interval(*(jnp.where(stable, value, jnp.inf) for value in interval))

    def percentile(histogram: Array) -> Interval:
        return timely(_percentiles(histogram, levels, edges, t))

    found = {
        "mean_system_time": timely(ratio((waits + services).sum(axis=-1), everyone)),
        "mean_wait": timely(ratio(waits.sum(axis=-1), everyone)),
        "fraction_correct": ratio(right.sum(axis=-1), everyone),
        "utilization": ratio(services.sum(axis=-1), totals.gaps),
        "system_time_percentiles": percentile(totals.system_times.sum(axis=1)),
        "wait_percentiles": percentile(totals.waits),
        "type_mean_wait": timely(ratio(waits, of_type)),
        "type_mean_system_time": timely(ratio(waits + services, of_type)),
        "type_fraction_correct": ratio(right, of_type),
        "type_system_time_percentiles": jax.vmap(percentile, 1)(totals.system_times),
    }
    ends = {
        end: Measures(**{name: getattr(interval, end) for name, interval in found.items()})
        for end in Interval._fields
    }
    means = (waits + services).sum(axis=-1) / everyone, right.sum(axis=-1) / everyone
    return ends | {
        "edges": edges,
        "num_queries": everyone.sum(),
        "num_of_type": of_type.sum(axis=0),
        "wait_counts": totals.waits.sum(axis=0, dtype=dtype),
        "system_time_counts": totals.system_times.sum(axis=0, dtype=dtype),
        "group_means": jnp.stack(means, axis=-1),
        "group_types": of_type / everyone[:, None],
    }


def paired_difference(first: Array, second: Array, confidence: float) -> Interval:
    """Mean difference of two [G] sets of group means with common random numbers."""
    value, error = _ratio(first - second, jnp.ones_like(first))
    half = student_quantile(confidence, first.shape[0] - 1) * error
    return Interval(value, value - half, value + half)


def _ratio(above: Array, below: Array) -> tuple[Array, Array]:
    """Totals over totals, from [G, ...] sums of the groups, and the standard error."""
    groups, total = above.shape[0], below.sum(axis=0)
    value = above.sum(axis=0) / total
    squares = jnp.square(above - value[None] * below).sum(axis=0)
    return value, jnp.sqrt(squares * (groups / (groups - 1))) / total


def _percentiles(histogram: Array, levels: PerLevel, edges: Array, t: float) -> Interval:
    """Percentiles of the times in [G, bins] histograms."""
    dtype = edges.dtype
    # Counts of one group fit into 32 bits, those of all may not: they are added as floats.
    below = jnp.cumsum(histogram, axis=1).astype(dtype).sum(axis=0)  # the upper edge of every bin
    total = below[-1]
    starts = jnp.concatenate([jnp.zeros_like(edges[:1]), edges[:-1]])
    size = jnp.broadcast_to(histogram.sum(axis=1).astype(dtype)[:, None], (GROUPS, len(levels)))
    shares = levels / 100
    here = jnp.searchsorted(below, shares * total)  # the bin in which the level is passed
    # Group by group: how many are below the lower and below the upper edge of that bin.
    number = jnp.arange(len(edges), dtype=here.dtype)[None, :]
    ends = (here[:, None] > number, here[:, None] >= number)
    counts = [jnp.einsum("gb,pb->gp", histogram, mask.astype(histogram.dtype)) for mask in ends]
    spread = [_ratio(count.astype(dtype), size)[1] for count in counts]
    independent = jnp.sqrt(shares * (1 - shares) / total)
    half = t * jnp.maximum(jnp.maximum(*spread), independent)
    low = starts[jnp.searchsorted(below, (shares - half) * total)]
    beyond = jnp.searchsorted(below, (shares + half) * total)
    high = jnp.where(beyond < len(edges), edges[jnp.minimum(beyond, len(edges) - 1)], jnp.inf)
    before = jnp.where(here > 0, below[here - 1], 0)
    part = (shares * total - before) / jnp.maximum(below[here] - before, 1)
    inside = starts[here] + part * (edges[here] - starts[here])
    # The first bin holds those who did not wait, the last has no end.
    value = jnp.where((here == 0) | (edges[here] == jnp.inf), starts[here], inside)
    return Interval(*(jnp.where(total > 0, x, jnp.nan) for x in (value, low, high)))
