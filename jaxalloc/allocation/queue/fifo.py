"""Sample paths of the queue: means, percentiles and right answers, with intervals that cover.

A path is cut into independent replications, which run side by side. Each begins with an empty queue
and discards a warm-up: 12 relaxation times of

    τ = ρ (C_a² + C_s²) / (2.8 (1 - √ρ)²)  queries      (Odoni & Roth, 1983)

with the squared coefficients of variation of gaps and services, after which what is left of the
empty start is a factor e^-12 (at most `_MOST_WARM_UP` queries: `relaxations` tells whether that was
enough). The replications form 32 groups; the intervals are Student's, from the 32 group means (for
ratios by the delta method, for percentiles by Woodruff's, outward to the edges of the histogram's
bins, so that they hold at atoms too).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalloc.allocation.model.checks import workload_and_tokens
from jaxalloc.allocation.model.mg1 import service_moments, service_time, utilization
from jaxalloc.allocation.model.objective import accuracy
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload
from jaxalloc.allocation.queue.arrivals import (
    Arrivals,
    Poisson,
    Replay,
    check_arrivals,
    gap_variability,
)
from jaxalloc.allocation.queue.draws import make_cells
from jaxalloc.allocation.queue.estimates import GROUPS, Measures, PerLevel, measure
from jaxalloc.allocation.queue.paths import (
    CHUNK,
    Edges,
    Scenario,
    Shape,
    Totals,
    run_blocks,
)
from jaxalloc.backend.chunks import in_chunks, platform_of
from jaxalloc.numerics import as_key, cast, without_derivative

_MOST_LANES, _MOST_LANES_OF_A_BLOCK = 8192, 256
_FEWEST_QUERIES_OF_A_LANE = 1 << 14  # where num_queries allows more than one lane a group
_RELAXATIONS, _ODONI_ROTH = 12.0, 2.8
_MOST_WARM_UP = 1 << 22
_LEAST_RATE = 1e-30  # queries / s; a rate of 0 has gaps of 1e30 s
_NO_DERIVATIVE = (
    "simulate_fifo has no derivative, since it counts: differentiate mean_system_time or "
    "mean_accuracy, or put the call under jax.lax.stop_gradient"
)
_MOST_QUERIES = 1 << 35  # the counts of a group stay below 2^31
_MOST_TYPES_FINE, _FINE, _COARSE = 16, 9, 6  # log2 of bins of an octave, of 0.2 % and of 1.6 %


class FifoResult(NamedTuple):
    """What `simulate_fifo` returns.

    Attributes:
      estimate: the `Measures` themselves.
      low: lower ends of their intervals.
      high: upper ends of their intervals.
      levels: [P] the percentiles' levels, %.
      num_queries: queries counted.
      num_of_type: [K] of them, of each type.
      warm_up: queries discarded by each replication.
      relaxations: length of a replication, warm-up included, in relaxation times: below about 20
        the means are biased towards the empty start and the intervals too narrow; inf of a replay.
      edges: [bins] where the bins of the histograms end, s; the first begins at 0.
      wait_counts: [bins] queries by their wait.
      system_time_counts: [K, bins] queries by type and system time.
      group_means: [32, 2] mean system time and fraction correct of every group: with one key, the
        differences of two allocations are paired.
      group_types: [32, K] share of each type in every group.
    """

    estimate: Measures
    low: Measures
    high: Measures
    levels: PerLevel
    num_queries: Scalar
    num_of_type: Tokens
    warm_up: Int[Array, ""]
    relaxations: Scalar
    edges: Edges
    wait_counts: Edges
    system_time_counts: Float[Array, "K bins"]
    group_means: Float[Array, "32 2"]
    group_types: Float[Array, "32 K"]

    @property
    def mean_system_time(self) -> Scalar:
        """Mean time from arrival to answer over all queries, s."""
        return self.estimate.mean_system_time


def simulate_fifo(
    key: Array,
    workload: Workload,
    tokens: Tokens,
    num_queries: int = 1_000_000,
    *,
    arrivals: Arrivals = Poisson(),
    percentiles: tuple[float, ...] = (50.0, 95.0, 99.0),
    confidence: float = 0.99,
) -> FifoResult:
    """Simulate the queue at given token budgets, first come first served.

    The arrivals, the types and the luck of every answer are fixed by the key, whatever the tokens.
    Works under `jax.jit` and `jax.vmap`; called with concrete arrays it keeps all cores of a CPU
    busy. Memory does not grow with `num_queries`.

    Args:
      key: a random key; another implementation than the default one gives other draws.
      workload: one workload; gamma-distributed service where `service_cv` is not 0.
      tokens: [K] token budgets.
      num_queries: how many to count at least; rounded up to 32 to 8192 replications of a
        multiple of 64 queries. With `Replay` to whole replays.
      arrivals: `arrivals.Poisson()`, `arrivals.Renewal(cv)` or `arrivals.Replay(gaps)`. A replay
        starts empty and discards nothing: its intervals are for the given arrivals.
      percentiles: the levels wanted, %.
      confidence: of the intervals.

    Raises:
      ValueError: a number or a shape is out of its range; names it, its value and the fix.

    >>> import jax, jaxalloc
    >>> workload = jaxalloc.load("qwen3-8b").workload
    >>> tokens = jaxalloc.solve(workload).tokens
    >>> path = jaxalloc.simulate_fifo(jax.random.key(0), workload, tokens, num_queries=100_000)
    >>> mean = jaxalloc.mean_system_time(workload, tokens)
    >>> bool(path.low.mean_system_time < mean < path.high.mean_system_time)
    True
    """
    workload, tokens = workload_and_tokens(workload, tokens)
    key = as_key(key)
    _check(num_queries, percentiles, confidence)
    check_arrivals(arrivals)

    levels = cast(list(percentiles), workload.dtype)

    def simulated(given: tuple[Workload, Tokens, Arrivals]) -> FifoResult:
        workload, tokens, arrivals = given
        shape, blocks = _layout(workload, int(num_queries), arrivals)
        scenario, relaxation = _scenario(workload, tokens, arrivals)
        totals = _run(key, scenario, shape, blocks)
        stable = (utilization(workload, tokens) < 1) | isinstance(arrivals, Replay)
        return FifoResult(
            levels=levels,
            warm_up=scenario.warm_up,
            relaxations=(scenario.warm_up + shape.queries).astype(workload.dtype) / relaxation,
            **measure(totals, levels, scenario.scale, stable, confidence, shape.bits),
        )

    return without_derivative(simulated, (workload, tokens, arrivals), _NO_DERIVATIVE)


def _run(key: Array, scenario: Scenario, shape: Shape, blocks: int) -> Totals:
    """Totals of all groups, the blocks dealt to the cores where arrays are concrete."""
    run = functools.partial(
        run_blocks,
        scenario,
        key_data=jax.random.key_data(key),
        shape=shape,
        impl=jax.random.key_impl(key),
    )
    numbers = np.arange(blocks, dtype=np.int32)
    if platform_of((scenario, key)) is None:
        totals = run(numbers)
    else:
        totals = in_chunks(run, numbers, cpu=1, accelerator=blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(GROUPS, *leaf.shape[2:]), totals)


def _layout(workload: Workload, num_queries: int, arrivals: Arrivals) -> tuple[Shape, int]:
    """How the path is cut: the shape of a block, and the number of blocks."""
    replay = isinstance(arrivals, Replay)
    queries = len(arrivals.gaps) + 1 if isinstance(arrivals, Replay) else 0
    lanes = -(-num_queries // queries) if replay else num_queries // _FEWEST_QUERIES_OF_A_LANE
    lanes = min(max(GROUPS, 1 << max(lanes - 1, 0).bit_length()), _MOST_LANES)
    blocks = max(1, lanes // _MOST_LANES_OF_A_BLOCK)
    cv = workload.service_cv
    shape = Shape(
        lanes=lanes // blocks,
        groups=GROUPS // blocks,
        queries=queries or -(-num_queries // (lanes * CHUNK)) * CHUNK,
        bits=_FINE if workload.num_types <= _MOST_TYPES_FINE else _COARSE,
        random_service=isinstance(cv, jax.core.Tracer) or bool(np.any(np.asarray(cv) > 0)),
    )
    return shape, blocks


def _scenario(workload: Workload, tokens: Tokens, arrivals: Arrivals) -> tuple[Scenario, Scalar]:
    """What the paths depend on, and the relaxation time in queries; a replay forgets nothing."""
    first, second = service_moments(workload, tokens)
    load = jnp.minimum(workload.arrival_rate * first, 1)
    spread = gap_variability(arrivals) + second / jnp.square(first) - 1
    relaxation = load * spread / (_ODONI_ROTH * jnp.square(1 - jnp.sqrt(load)))
    relaxation = jnp.where(first > 0, jnp.maximum(relaxation, 1), 1)
    if isinstance(arrivals, Replay):
        relaxation = jnp.zeros_like(relaxation)
    warm_up = jnp.minimum(jnp.ceil(_RELAXATIONS * relaxation), _MOST_WARM_UP)
    warm_up = jnp.where(load < 1, warm_up, 0)  # nothing of an unstable path is kept
    scenario = Scenario(
        arrivals=arrivals,
        mean_gap=1 / jnp.maximum(workload.arrival_rate, _LEAST_RATE),
        cells=make_cells(workload.mix, accuracy(workload, tokens)),
        time=service_time(workload, tokens),
        variability=jnp.square(workload.service_cv),
        scale=jnp.where(first > 0, first, 1),
        warm_up=warm_up.astype(jnp.int32),
    )
    return scenario, relaxation


def _check(num_queries: int, percentiles: tuple[float, ...], confidence: float) -> None:
    """Raise ValueError for what no path can be drawn with."""
    if not 1 <= num_queries <= _MOST_QUERIES or num_queries != int(num_queries):
        raise ValueError(f"num_queries = {num_queries} must be from 1 to 2^35: give a whole number")
    for level in percentiles:
        if not 0 < level < 100:
            raise ValueError(f"percentiles: {level:g} must be between 0 and 100: give a level in %")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence:g} must be between 0 and 1: try 0.99")
