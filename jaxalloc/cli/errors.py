"""What a command raises when its input is bad, and the one line on stderr of any failure."""

from __future__ import annotations

import sys
import traceback

# A ValueError that one of these raises is a fault of the program, not of its input.
_NUMERICAL = {"jax", "jaxlib", "numpy", "scipy"}


class BadInput(ValueError):
    """Bad input: one line that names the field, the value and the fix; the command exits with 2."""


def explain(error: BaseException) -> str | None:
    """One line for bad input, or for what the machine lacks; None for any other error."""
    if isinstance(error, ImportError):
        package = (error.name or str(error)).partition(".")[0]
        if package != "jaxalloc":
            return f"the package {package} is missing or broken ({error}): install jaxalloc again"
    if isinstance(error, RecursionError):
        return "the input is nested too deep: flatten it"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "the memory is full: ask for less at a time"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}: make room, or give another file"
    if isinstance(error, ValueError):
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].partition(".")[0] not in _NUMERICAL:
            return str(error)
    return None


def printable(text: str) -> str:
    r"""The text with what a terminal would obey, and not show, spelt out.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"jaxalloc: {printable(' '.join(message.split()))}\n")
