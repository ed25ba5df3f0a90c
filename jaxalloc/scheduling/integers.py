"""Integers of any dtype in the 32 bits that the loop counts in; nothing wraps around."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

LARGEST = (1 << 31) - 1
# What stands for anything that is no whole number; no field allows it.
NOT_WHOLE = -(1 << 31)


def as_int32(name: str, value: Any) -> Any:
    """`value` in 32 bits: larger numbers become `LARGEST`, fractions and NaN `NOT_WHOLE`.

    So a domain can be checked after it, in one dtype. A JAX array stays where it is; anything else
    is cast on the host, before JAX would cut it to 32 bits.

    Raises:
      TypeError: it is no number, named by `name`.
    """
    xp: Any = jnp if isinstance(value, jax.Array) else np
    if isinstance(value, int):
        value = max(min(value, LARGEST), NOT_WHOLE)
    array = xp.asarray(value)
    if array.dtype in (np.int32, bool):
        return array.astype(np.int32)
    if jnp.issubdtype(array.dtype, jnp.floating):
        number = array.astype(np.float32) if array.dtype.itemsize < 4 else array
        large = number >= 2.0**31
        whole = (number == xp.floor(number)) & (number > -(2.0**31)) & ~large
        small = xp.where(whole, number, xp.zeros_like(number)).astype(np.int32)
        return xp.where(whole, small, xp.where(large, np.int32(LARGEST), np.int32(NOT_WHOLE)))
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} = {value!r} is not a number: give numbers or arrays of them")
    limits = jnp.iinfo(array.dtype)
    if limits.max > LARGEST:
        array = xp.minimum(array, np.asarray(LARGEST, array.dtype))
    if limits.min < NOT_WHOLE:
        array = xp.maximum(array, np.asarray(NOT_WHOLE, array.dtype))
    return array.astype(np.int32)


def share_of(value: Int[Array, "..."], billionths: int) -> Int[Array, "..."]:
    """⌊value · billionths / 10⁹⌋ exactly, for a value ≥ 0 and at most 10⁹ billionths.

    Their product takes 60 bits; so a binary digit of the value at a time, as in long division.
    """
    whole, share, rest = jnp.uint32(10**9), jnp.uint32(0), jnp.uint32(0)
    bits = value.astype(jnp.uint32)
    for place in reversed(range(31)):
        rest = 2 * rest + jnp.uint32(billionths) * ((bits >> place) & 1)
        more = rest // whole
        share, rest = 2 * share + more, rest - more * whole
    return share.astype(jnp.int32)


def tie_bits(num_requests: int) -> int:
    """Bits of the largest index of so many requests, which packed keys carry below the key."""
    return max(num_requests - 1, 1).bit_length()


class Rule(NamedTuple):
    """What must hold of a field: its entries that are `valid`, and in words."""

    name: str
    value: Any
    valid: Any
    text: str

    def check(self) -> None:
        """Raise a ValueError that names the first entry that is not valid."""
        if np.all(self.valid):
            return
        index = tuple(int(i) for i in np.argwhere(~np.asarray(self.valid))[0])
        place = f"[{', '.join(map(str, index))}]" if index else ""
        number = float(np.asarray(self.value)[index])
        raise ValueError(f"{self.name}{place} = {number:.10g} {self.text}")
