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

from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.allocation.model.workload import Flag, Scalar
from jaxalloc.allocation.queue.bins import upper_edges
from jaxalloc.allocation.queue.paths import Totals

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
    """The two-sided quantile of Student's t (Abramowitz & Stegun, 26.7.5: to 1e-5 from 20 on).

    >>> round(student_quantile(0.99, 31), 3)
    2.744
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def measure(
    totals: Totals, levels: PerLevel, scale: Scalar, stable: Flag, confidence: float, bits: int
) -> tuple[Measures, Measures, Measures]:
    """Estimates and both ends of their intervals."""
    dtype = totals.sums.dtype
    of_type = totals.system_times.sum(axis=-1).astype(dtype)  # [G, K]
    waits, services, right = jnp.moveaxis(totals.sums, -1, 0)
    everyone = of_type.sum(axis=-1)
    t = student_quantile(confidence, everyone.shape[0] - 1)
    edges = upper_edges(scale, bits)

    def ratio(above: Array, below: Array) -> Interval:
        return _ratio(above, below, t)

    def percentile(histogram: Array) -> Interval:
        return _percentiles(histogram, levels, edges, t)

    timely = {
        "mean_system_time": ratio((waits + services).sum(axis=-1), everyone),
        "mean_wait": ratio(waits.sum(axis=-1), everyone),
        "system_time_percentiles": percentile(totals.system_times.sum(axis=1)),
        "wait_percentiles": percentile(totals.waits),
        "type_mean_wait": ratio(waits, of_type),
        "type_mean_system_time": ratio(waits + services, of_type),
        "type_system_time_percentiles": jax.vmap(percentile, 1)(totals.system_times),
    }
    timeless = {
        "fraction_correct": ratio(right.sum(axis=-1), everyone),
        "utilization": ratio(services.sum(axis=-1), totals.gaps),
        "type_fraction_correct": ratio(right, of_type),
    }
    # Without a stationary law the path only says how long it was.
    timely = {
        name: jax.tree.map(lambda value: jnp.where(stable, value, jnp.inf), interval)
        for name, interval in timely.items()
    }
    found = timely | timeless
    estimate, low, high = (
        Measures(**{name: interval[end] for name, interval in found.items()}) for end in range(3)
    )
    return estimate, low, high


def _ratio(above: Array, below: Array, t: float) -> Interval:
    """Totals over totals, from [G, ...] sums of the groups."""
    groups = above.shape[0]
    total = below.sum(axis=0)
    value = above.sum(axis=0) / total
    residual = above - value[None] * below
    variance = jnp.square(residual).sum(axis=0) * (groups / (groups - 1))
    half = t * jnp.sqrt(variance) / total
    return Interval(value, value - half, value + half)


def paired_difference(first: Array, second: Array, confidence: float) -> Interval:
    """Mean difference of two [G] sets of group means with common random numbers."""
    difference = first - second
    t = student_quantile(confidence, difference.shape[0] - 1)
    half = t * jnp.std(difference, ddof=1) / jnp.sqrt(difference.shape[0])
    return Interval(difference.mean(), difference.mean() - half, difference.mean() + half)


def _percentiles(histogram: Array, levels: PerLevel, edges: Array, t: float) -> Interval:
    """Percentiles of the times in [G, bins] histograms."""
    dtype = edges.dtype
    # Counts of one group fit into 32 bits, those of all may not: they are added as floats.
    below = jnp.cumsum(histogram, axis=1).astype(dtype).sum(axis=0)  # the upper edge of every bin
    total = below[-1]
    starts = jnp.concatenate([jnp.zeros_like(edges[:1]), edges[:-1]])
    size = histogram.sum(axis=1).astype(dtype)
    shares = levels / 100
    here = jnp.searchsorted(below, shares * total)  # the bin in which the level is passed
    # Group by group: how many are below the lower and below the upper edge of that bin.
    number = jnp.arange(len(edges), dtype=here.dtype)[None, :]
    ends = (here[:, None] > number, here[:, None] >= number)
    counts = [jnp.einsum("gb,pb->pg", histogram, mask.astype(histogram.dtype)) for mask in ends]
    spread = [_spread(count.astype(dtype), size) for count in counts]
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


def _spread(counts: Array, size: Array) -> Array:
    """[P] standard error of the share that [P, G] counts are of the groups' sizes."""
    groups = size.shape[0]
    residual = counts - (counts.sum(axis=1) / size.sum())[:, None] * size[None, :]
    return jnp.sqrt(jnp.square(residual).sum(axis=1) * (groups / (groups - 1))) / size.sum()
