"""The command line: the only room that prints tables and draws pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 the answer is a failure, 2 bad input.

    Args:
      arguments: words after `jaxalloc`; None takes them from the shell.
    """
    from jaxalloc.cli.errors import explain

    try:
        from jaxalloc.cli.app import run

        return run(arguments)
    except ImportError as error:  # of the app itself; those of a command are met there
        sys.stderr.write(f"jaxalloc: {explain(error) or error}\n")
        return 2
