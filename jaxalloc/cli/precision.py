"""The precision of the commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def float64() -> Iterator[None]:
    """Compute in float64 inside the block, whatever was set before, in its threads too."""
    import jax

    before = jax.config.values["jax_enable_x64"]
    # A thread that the block starts sees the global flag, not the context of this thread.
    jax.config.update("jax_enable_x64", True)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        jax.config.update("jax_enable_x64", before)
