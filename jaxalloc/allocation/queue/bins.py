"""Histograms of times over 28 octaves, with bins that need no search.

A time over a scale is rounded to float32; its upper bits, exponent and the first mantissa bits, are
the number of its bin. So every octave has the same number of bins, each less than 1 / that number
of its time wide. What lies below the first octave falls into the first bin, which therefore begins
at 0, what lies above the last into the last, which ends at inf.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxalloc.allocation.model.workload import Scalar

Edges = Float[Array, "bins"]

_FIRST_OCTAVE, _LAST_OCTAVE = -12, 16
_MANTISSA, _BIAS = 23, 127  # of a float32
_FINE, _COARSE = 9, 6  # bits: bins of at most 0.2 % and 1.6 %
_MOST_TYPES_FINE = 16


def resolution_bits(num_types: int) -> int:
    """log2 of the bins of an octave: fewer for many types, whose histograms must fit in memory."""
    return _FINE if num_types <= _MOST_TYPES_FINE else _COARSE


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
