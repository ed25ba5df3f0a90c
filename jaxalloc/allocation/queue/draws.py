"""Random numbers of a sample path, few bits a query and the same for every allocation.

A query takes 64 random bits. The first 32 become its exponential gap, -ln(u) at one of 2^32 values
of u: the mean is off by a relative ln(2)/2 · 2^-32 (derived here, by Stirling's formula) and the
largest gap is 22.9 means. The other 32 fall into one of 2K cells, type and answer, whose widths are
the probabilities π_k p_k and π_k (1 - p_k), to 2^-32 or to the resolution of the dtype if that is
coarser. The cells of a type lie together and begin where they begin whatever the tokens: with one
key, two allocations see the same arrivals and types, and answers that differ as little as possible.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxalloc.allocation.model.workload import Tokens

_TWO_32 = 2.0**32
_MOST_ATTEMPTS = 64  # each succeeds with probability 0.95 or more
MOST_TYPES_UNROLLED = 16
_LEAST_VARIABILITY = 1e-8  # a squared coefficient of variation below it counts as none

Words = UInt32[Array, "K"]
Draws = Float[Array, "..."]
_Attempts = tuple[Int[Array, ""], Bool[Array, "..."], Draws]  # how many, which succeeded, values


def two_words(key: Array, shape: tuple[int, ...]) -> UInt32[Array, "2 ..."]:
    """Twice 32 random bits an entry.

    With JAX's default generator they are both halves of one block of Threefry, of which
    `jax.random.bits` would give one.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return jax.random.bits(key, (2, *shape), jnp.uint32)
    counters = lax.iota(jnp.uint32, 2 * math.prod(shape))
    return threefry_2x32(jax.random.key_data(key), counters).reshape(2, *shape)


class Cells(NamedTuple):
    """Where 32 random bits change their meaning."""

    starts: Words  # the first value of each type; that of the first type is 0
    wrong: Words  # the first value of each type's wrong answers


def make_cells(mix: Tokens, accuracy: Tokens) -> Cells:
    """The cells of types with probabilities π_k and of right answers with p_k."""
    ends = jnp.cumsum(mix)
    starts = ends - mix
    # The last type takes what rounding left of the mix.
    starts = starts.at[0].set(0)
    wrong = starts + mix * jnp.clip(accuracy, 0, 1)
    return Cells(_to_bits(starts), _to_bits(wrong))


def _to_bits(probability: Tokens) -> Words:
    below_one = 1 - jnp.finfo(probability.dtype).epsneg
    return (jnp.clip(probability, 0, jnp.maximum(below_one, 0)) * _TWO_32).astype(jnp.uint32)


def read_cells(
    cells: Cells, bits: UInt32[Array, "..."]
) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
    """Type and whether the answer is right."""
    num_types = cells.starts.shape[0]
    if num_types > MOST_TYPES_UNROLLED:
        kind = jnp.searchsorted(cells.starts, bits, side="right").astype(jnp.int32) - 1
        return kind, bits < cells.wrong[kind]
    kind, wrong = jnp.zeros(bits.shape, jnp.int32), jnp.broadcast_to(cells.wrong[0], bits.shape)
    for k in range(1, num_types):
        reached = bits >= cells.starts[k]
        kind, wrong = jnp.where(reached, k, kind), jnp.where(reached, cells.wrong[k], wrong)
    return kind, bits < wrong


def look_up(values: Tokens, kind: Int[Array, "..."]) -> Draws:
    """`values[kind]`; a few comparisons are quicker than a gather."""
    if values.shape[0] > MOST_TYPES_UNROLLED:
        return values[kind]
    found = jnp.broadcast_to(values[0], kind.shape)
    for k in range(1, values.shape[0]):
        found = jnp.where(kind == k, values[k], found)
    return found


def exponential(bits: UInt32[Array, "..."], dtype: jnp.dtype) -> Draws:
    """Exponential draws of mean 1 from 32 bits each."""
    return -jnp.log((bits.astype(dtype) + 0.5) * (1 / _TWO_32))


def gamma(key: Array, variability: Draws) -> Draws:
    """Gamma draws of mean 1 and the given squared coefficients of variation; 0 gives 1.

    Marsaglia & Tsang (2000): the cube of a shifted normal, accepted or drawn again; shapes below 1
    by way of the shape above.
    """
    dtype, shape = variability.dtype, variability.shape
    alpha = 1 / jnp.maximum(variability, _LEAST_VARIABILITY)
    raised = jnp.where(alpha < 1, alpha + 1, alpha)
    d = raised - 1 / 3
    attempts, boost = jax.random.split(key)

    def unfinished(state: _Attempts) -> Bool[Array, ""]:
        return (state[0] < _MOST_ATTEMPTS) & ~jnp.all(state[1])

    def attempt(state: _Attempts) -> _Attempts:
        count, done, value = state
        for_normal, for_test = jax.random.split(jax.random.fold_in(attempts, count))
        x = jax.random.normal(for_normal, shape, dtype)
        test = exponential(jax.random.bits(for_test, shape, jnp.uint32), dtype)
        root = 1 + x / jnp.sqrt(9 * d)
        cube = jnp.where(root > 0, root, 1) ** 3
        accepted = (root > 0) & (-test < jnp.square(x) / 2 + d * (1 - cube + jnp.log(cube)))
        return count + 1, done | accepted, jnp.where(done, value, d * cube)

    first = (jnp.int32(0), jnp.zeros(shape, bool), jnp.zeros(shape, dtype))
    value = lax.while_loop(unfinished, attempt, first)[2]
    power = -exponential(jax.random.bits(boost, shape, jnp.uint32), dtype) / alpha
    value = jnp.where(alpha < 1, value * jnp.exp(power), value) / alpha
    return jnp.where(variability > _LEAST_VARIABILITY, value, 1)
