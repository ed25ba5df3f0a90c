"""Where and how the commands compute: float64, and compiled programs kept from run to run."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxalloc.cli.errors import BadInput

MOST_KEPT = 256 * 2**20  # bytes of compiled programs
_LEAST_COMPILE_SECONDS = 0.05  # what compiles quicker is not worth a file


@contextmanager
def computing() -> Iterator[None]:
    """Compute in float64 inside the block, in its threads too; keep what is compiled there.

    What was set before is set again after it, so that a caller in Python keeps its own.

    Raises:
      BadInput: JAX finds no device to compute on.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    problem = device_error()
    if problem:
        raise BadInput(problem)
    kept = _kept_programs()
    # A thread that the block starts sees the global flags, not the context of this thread.
    wanted = {"jax_enable_x64": True} | kept
    with contextlib.ExitStack() as undo, warnings.catch_warnings():
        # A program that can be neither read nor kept is compiled anew, and that is all.
        warnings.filterwarnings("ignore", message=".*persistent compilation cache")
        if kept:
            undo.callback(compilation_cache.reset_cache)  # or JAX would go on with it
        for name, value in wanted.items():
            undo.callback(jax.config.update, name, jax.config.values[name])
            jax.config.update(name, value)
        with jax.enable_x64(True):
            yield


def _kept_programs() -> dict[str, object]:
    """The flags that have JAX keep programs in the user's cache; none where that is not wanted.

    `JAXALLOC_CACHE=0` turns it off, and a cache that the user gave to JAX is left as it is.
    """
    import jax

    if os.environ.get("JAXALLOC_CACHE") == "0" or jax.config.values["jax_compilation_cache_dir"]:
        return {}
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "jaxalloc"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs of others could do harm
        _drop_oldest(folder)
    except (OSError, RuntimeError):  # no home, or it cannot be written
        return {}
    return {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": _LEAST_COMPILE_SECONDS,
    }


def _drop_oldest(folder: Path) -> None:
    """Keep the newest programs; JAX could too, but locks a file at every look for it."""
    files = sorted(folder.glob("*-cache"), key=lambda file: file.stat().st_mtime, reverse=True)
    kept = 0
    for file in files:
        kept += file.stat().st_size
        if kept > MOST_KEPT:
            file.unlink(missing_ok=True)


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
