"""The precision and the device of the commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from jaxalloc.cli.errors import BadInput


@contextmanager
def float64() -> Iterator[None]:
    """Compute in float64 inside the block, whatever was set before, in its threads too.

    Raises:
      BadInput: JAX finds no device to compute on.
    """
    import jax

    problem = device_error()
    if problem:
        raise BadInput(problem)
    before = jax.config.values["jax_enable_x64"]
    # A thread that the block starts sees the global flag, not the context of this thread.
    jax.config.update("jax_enable_x64", True)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        jax.config.update("jax_enable_x64", before)


def device_error() -> str | None:
    """Why JAX cannot compute at all, and the fix; None if it can."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion where a platform has no device
        chosen = os.environ.get("JAX_PLATFORMS", "")
        said = f" ({' '.join(str(error).split())})" if str(error) else ""
        if chosen:
            return f"JAX_PLATFORMS = {chosen!r}: JAX finds no such device{said}: unset it"
        return f"JAX finds no device{said}: see jaxalloc doctor"
    return None
