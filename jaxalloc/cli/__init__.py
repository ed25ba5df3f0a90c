"""The command line: the only room that prints tables and draws pictures."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 the answer is a failure, 2 bad input.

    Args:
      arguments: words after `jaxalloc`; None takes them from the shell.
    """
    from jaxalloc.cli.app import run

    return run(arguments)
