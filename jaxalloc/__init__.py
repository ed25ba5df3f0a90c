"""jaxalloc: thinking-token budgets and KV-cache schedules for LLM servers, exact and batched.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that a command
which needs no JAX (`jaxalloc --help`) does not wait for it.
"""

import ast
import importlib
import pathlib
from typing import TYPE_CHECKING, Any

_MAP = ast.parse(pathlib.Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_HOMES = {
    alias.name: str(node.module)
    for node in _MAP.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_HOMES)

if not TYPE_CHECKING:  # which would take it for a promise of any name

    def __getattr__(name: str) -> Any:
        """Import a public name from its home."""
        if name == "__version__":
            metadata = importlib.import_module("importlib.metadata")  # slow to import
            return metadata.version(__name__)
        if name not in _HOMES:
            raise AttributeError(f"module 'jaxalloc' has no attribute {name!r}")
        if _HOMES[name] == __name__:  # a room, of which no name is on the map
            return importlib.import_module(f"{__name__}.{name}")
        home = importlib.import_module(_HOMES[name])
        value = getattr(home, name, None) or importlib.import_module(f"{home.__name__}.{name}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
