"""Tables and JSON documents on stdout."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def print_json(document: Any) -> None:
    """Print one JSON document; numbers in full, null for those that JSON lacks (inf and NaN)."""
    sys.stdout.write(json.dumps(_plain(document), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def make_table(*columns: str) -> Table:
    """A table whose first column is text and the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    first, *numbers = columns
    table.add_column(first, overflow="fold")  # only names give way on a narrow terminal
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def make_totals() -> Table:
    """A table of two columns, name and value, without a heading."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    return table


def show(*tables: Any) -> None:
    """Print tables and lines on stdout."""
    from rich.console import Console

    # Names of tasks and files are text, whatever brackets and colons they hold.
    console = Console(highlight=False, markup=False, emoji=False)
    for table in tables:
        console.print(table)
