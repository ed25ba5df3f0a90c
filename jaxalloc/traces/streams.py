"""Streams of random numbers by name: draws for different ends share a seed and nothing else.

A bare `default_rng(seed)` is what draws a synthetic trace; whatever else is drawn beside it bears a
name. (`default_rng([seed, 0])` is no other stream than `default_rng(seed)`: NumPy pads with zeros.)
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """The stream of a seed for one end, such as "gaps", of replication `index`.

    >>> first, same, other = (stream(0, name).random() for name in ("gaps", "gaps", "noise"))
    >>> first == same, first == other
    (True, False)
    """
    return np.random.default_rng([zlib.crc32(name.encode()), index, seed])
