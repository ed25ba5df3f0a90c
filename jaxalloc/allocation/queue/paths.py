"""Sample paths of the queue: Lindley's recursion, chunk after chunk, replications side by side.

With S_n the service of query n and A_n the gap to the next arrival, waits follow
W_{n+1} = max(W_n + S_n - A_n, 0) (Lindley, 1952): in prefix form, with X the running sum of S - A
from W_0 on, W_n = X_n - min(0, X_1, ..., X_n). A chunk holds 64 queries of every replication. On an
accelerator it is a running sum and a running minimum over the chunk; a CPU is quicker with the
recursion itself, whose every step serves all replications. Either way only the wait is carried from
chunk to chunk, never a clock: rounding errors are of the size of a wait, no step magnifies them,
and each time the queue empties they are forgotten. So float32 does not drift.

Times are counted over 28 octaves, in bins that need no search: a time over a scale is rounded to
float32, whose upper bits, exponent and first bits of the mantissa, are the number of its bin. So
every octave has the same number of bins, each less than 1 / that number of its time wide. What lies
below the first octave falls into the first bin, which therefore begins at 0, what lies above the
last into the last, which ends at inf.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxalloc.allocation.model.workload import Scalar, Tokens
from jaxalloc.allocation.queue.arrivals import Arrivals, Poisson, Renewal
from jaxalloc.allocation.queue.draws import (
    MOST_TYPES_UNROLLED,
    Cells,
    exponential,
    gamma,
    look_up,
    read_cells,
    two_words,
)
from jaxalloc.numerics import Sum

CHUNK = 64  # queries of a replication
_FIRST_OCTAVE, _LAST_OCTAVE = -12, 16
_MANTISSA, _BIAS = 23, 127  # of a float32

Waits = Float[Array, "R"]  # of one query a replication
PerGroup = Float[Array, "G"]
Blocks = Int[Array, "B"]
Block = Float[Array, "T R"]  # T queries of a chunk, R replications
Edges = Float[Array, "bins"]


class Shape(NamedTuple):
    """What is fixed at compile time."""

    lanes: int  # replications of a block
    groups: int  # sets of replications that are told apart in the totals
    queries: int  # counted ones of a replication
    bits: int  # log2 of the histogram's bins of an octave
    random_service: bool  # whether any type's service time varies


class Scenario(NamedTuple):
    """What a path depends on."""

    arrivals: Arrivals
    mean_gap: Scalar  # 1 / λ, s
    cells: Cells  # types and answers
    time: Tokens  # mean service times, s
    variability: Tokens  # squared coefficients of variation of the service times
    scale: Scalar  # unit of the histograms, s
    warm_up: Int[Array, ""]  # queries of every replication before the first that counts


class Totals(NamedTuple):
    """What is summed over the counted queries, for every group and type."""

    sums: Float[Array, "G K 3"]  # waits (s), service times (s), right answers
    gaps: PerGroup  # times between arrivals, s
    waits: Int[Array, "G bins"]  # histogram
    system_times: Int[Array, "G K bins"]  # histograms


class _Queries(NamedTuple):
    """A chunk's random numbers."""

    gap: Block
    kind: Int[Array, "T R"]
    service: Block
    right: Bool[Array, "T R"]


def num_bins(bits: int) -> int:
    """Bins of all octaves."""
    return (_LAST_OCTAVE - _FIRST_OCTAVE) << bits


def bin_of(ratio: Float[Array, "..."], bits: int) -> Int[Array, "..."]:
    """The bin of a time over the scale."""
    pattern = lax.bitcast_convert_type(ratio.astype(jnp.float32), jnp.int32)
    number = (pattern >> (_MANTISSA - bits)) - ((_BIAS + _FIRST_OCTAVE) << bits)
    return jnp.clip(number, 0, num_bins(bits) - 1)


def upper_edges(scale: Scalar, bits: int) -> Edges:
    """Where each bin ends; the next begins there."""
    numbers = jnp.arange(1, num_bins(bits), dtype=jnp.int32) + ((_BIAS + _FIRST_OCTAVE) << bits)
    inner = lax.bitcast_convert_type(numbers << (_MANTISSA - bits), jnp.float32)
    edges = scale * inner.astype(scale.dtype)
    return jnp.concatenate([edges, jnp.full((1,), jnp.inf, scale.dtype)])


@functools.partial(jax.jit, static_argnames=("shape", "impl"))
def run_blocks(
    scenario: Scenario, blocks: Blocks, key_data: Any, shape: Shape, impl: Any
) -> Totals:
    """Totals of the given blocks, with a leading axis."""
    key = jax.random.wrap_key_data(key_data, impl=impl)

    def run(block: Int[Array, ""]) -> Totals:
        return run_block(scenario, jax.random.fold_in(key, block), shape)

    return lax.platform_dependent(blocks, cpu=lambda b: lax.map(run, b), default=jax.vmap(run))


def run_block(scenario: Scenario, key: Array, shape: Shape) -> Totals:
    """One block of replications, from an empty queue."""
    groups, types, bins = shape.groups, len(scenario.time), num_bins(shape.bits)
    group = (jnp.arange(shape.lanes, dtype=jnp.int32) // (shape.lanes // groups))[None, :]

    def warm(chunk: Int[Array, ""], wait: Waits) -> Waits:
        queries = _draw(scenario, key, chunk, shape)
        return _walk(wait, queries.service - queries.gap)[1]

    def count(chunk: Int[Array, ""], state: Any) -> Any:
        wait, sums, gaps, waits, system_times = state
        queries = _draw(scenario, key, chunk, shape)
        before, wait = _walk(wait, queries.service - queries.gap)
        counted = jnp.array(True)
        if shape.queries % CHUNK:
            counted = (chunk * CHUNK + jnp.arange(CHUNK) < shape.queries)[:, None]
        added, elapsed = _sums(queries, before, counted, groups, types)
        place = group * bins + bin_of(before / scenario.scale, shape.bits)
        waits = _tally(waits, place, counted)
        number = bin_of((before + queries.service) / scenario.scale, shape.bits)
        place = (group * types + queries.kind) * bins + number
        system_times = _tally(system_times, place, counted)
        return wait, sums.add(added), gaps.add(elapsed), waits, system_times

    # Chunks before the first that counts have negative numbers, so that what counts meets the same
    # random numbers however long the queue takes to warm up.
    wait = jnp.zeros(shape.lanes, scenario.time.dtype)
    wait = lax.fori_loop(-((scenario.warm_up + CHUNK - 1) // CHUNK), 0, warm, wait)
    zeros = jnp.zeros((groups, types, 3), wait.dtype)
    first = (
        wait,
        Sum(zeros, zeros),
        Sum(zeros[:, 0, 0], zeros[:, 0, 0]),
        jnp.zeros(groups * bins, jnp.int32),
        jnp.zeros(groups * types * bins, jnp.int32),
    )
    chunks = -(-shape.queries // CHUNK)
    _, sums, gaps, waits, system_times = lax.fori_loop(0, chunks, count, first)
    waits, system_times = waits.reshape(groups, bins), system_times.reshape(groups, types, bins)
    return Totals(sums.total, gaps.total, waits, system_times)


def _draw(scenario: Scenario, key: Array, chunk: Int[Array, ""], shape: Shape) -> _Queries:
    """The random numbers of a chunk, which depend on the key, the chunk and the shape alone."""
    dtype, block, law = scenario.time.dtype, (CHUNK, shape.lanes), scenario.arrivals
    key = jax.random.fold_in(key, chunk.astype(jnp.uint32))
    for_bits, for_gaps, for_service = jax.random.split(key, 3)
    bits = two_words(for_bits, block)
    kind, right = read_cells(scenario.cells, bits[1])
    service = look_up(scenario.time, kind)
    if shape.random_service:
        service = service * gamma(for_service, look_up(scenario.variability, kind))
    if isinstance(law, Poisson):
        gap = exponential(bits[0], dtype) * scenario.mean_gap
    elif isinstance(law, Renewal):
        variability = jnp.square(jnp.asarray(law.cv, dtype))
        gap = gamma(for_gaps, jnp.broadcast_to(variability, block)) * scenario.mean_gap
    else:  # up to the end of the last chunk; nobody waits for what comes later
        gaps = jnp.pad(jnp.asarray(law.gaps, dtype), (0, -law.gaps.shape[0] % CHUNK + CHUNK))
        gap = lax.dynamic_slice(gaps, (chunk * CHUNK,), (CHUNK,))
        gap = jnp.broadcast_to(gap[:, None], block)
    return _Queries(gap, kind, service, right)


def _walk(wait: Waits, change: Block) -> tuple[Block, Waits]:
    """The wait of every query of a chunk, and that of the first query after it."""
    waits, last = lax.platform_dependent(wait, change, cpu=_recursion, default=_prefix)
    return waits, last


def _recursion(wait: Waits, change: Block) -> tuple[Block, Waits]:
    def step(wait: Waits, change: Waits) -> tuple[Any, Any]:
        return jnp.maximum(wait + change, 0), wait

    last, waits = lax.scan(step, wait, change)
    return waits, last


def _prefix(wait: Waits, change: Block) -> tuple[Block, Waits]:
    free = jnp.cumsum(jnp.concatenate([wait[None], change]), axis=0)
    waits = free - jnp.minimum(lax.cummin(free, axis=0), 0)
    return waits[:-1], waits[-1]


def _sums(
    queries: _Queries, wait: Block, counted: Any, groups: int, types: int
) -> tuple[Float[Array, "G K 3"], PerGroup]:
    """Waits, services and right answers of each group and type, and the time that went by."""

    def by_group(values: Block) -> PerGroup:
        return values.sum(axis=0).reshape(groups, -1).sum(axis=1)

    drawn = queries.gap, wait, queries.service, queries.right.astype(wait.dtype)
    gap, *values = (jnp.where(counted, x, 0) for x in drawn)
    if types > MOST_TYPES_UNROLLED:
        group = jnp.repeat(jnp.arange(groups), wait.shape[1] // groups)
        group = jnp.broadcast_to(group[None], wait.shape)
        zeros = jnp.zeros((groups, types, 3), wait.dtype)
        sums = zeros.at[group, queries.kind].add(jnp.stack(values, axis=-1))
    else:
        masks = (queries.kind == k for k in range(types))
        of_types = [[by_group(jnp.where(mask, x, 0)) for x in values] for mask in masks]
        sums = jnp.moveaxis(jnp.array(of_types), -1, 0)
    return sums, by_group(gap)


def _tally(histogram: Any, place: Int[Array, "T R"], counted: Any) -> Any:
    """One more in each bin that a counted query names."""
    one = jnp.broadcast_to(counted, place.shape).astype(jnp.int32)
    return histogram.at[place.reshape(-1)].add(one.reshape(-1))
