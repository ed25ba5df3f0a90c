"""Many configurations: which ones, solving them in chunks anywhere, keeping the answers.

`plan` says what is to be done, `run` does it, `open` reads what was done. Each is imported when it
is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxalloc.sweep.plans import plan as plan
    from jaxalloc.sweep.running import run as run
    from jaxalloc.sweep.stored import open as open

_HOMES = {"plan": "plans", "run": "running", "open": "stored"}
__all__ = sorted(_HOMES)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name from its home."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
