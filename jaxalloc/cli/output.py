"""Tables and JSON documents on stdout, complaints on stderr."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

_ANY_WIDTH = 10_000  # of what is no terminal: nothing has to give way there
_LEAST_WIDTH = 20  # of a value beside its name


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


def printable(text: str) -> str:
    r"""The text with what a terminal would obey, and not show, spelt out.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def number(value: float, spec: str, unit: str = "") -> str:
    """A number with its unit, or a dash where there is none.

    >>> number(2.5, ".2f", " s"), number(float("nan"), ".2f", " s")
    ('2.50 s', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{value:{spec}}{unit}" if math.isfinite(value) else f"{'-' if value < 0 else ''}∞{unit}"


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"jaxalloc: {printable(' '.join(message.split()))}\n")


class Columns:
    """A table whose first column is text and the others numbers.

    Names never wrap and numbers are never cut: where the terminal is too narrow the heads are
    folded, then columns are left out from the right, `least` before all others, and that is said.
    """

    def __init__(self, *heads: str, least: Sequence[str] = ()) -> None:
        self._heads = heads
        self._rows: list[tuple[str, ...]] = []
        self._order = [heads.index(head) for head in least]
        self._order += [i for i in reversed(range(2, len(heads))) if i not in self._order]

    def add_row(self, *cells: str) -> None:
        """Add a row: one cell a column."""
        assert len(cells) == len(self._heads)
        self._rows.append(tuple(printable(cell).replace("\n", " ") for cell in cells))

    def print(self, width: int) -> None:
        """Print what fits into `width` characters."""
        heads, kept, dropped = list(self._heads), list(range(len(self._heads))), []
        if self._width(heads, kept) > width:
            heads = [head.replace(" ", "\n") for head in heads]
        for column in self._order:
            if len(kept) == 2 or self._width(heads, kept) <= width:
                break
            kept.remove(column)
            dropped.append(column)
        table = self._table(heads, kept)
        _console(max(width, self._width(heads, kept))).print(table)
        if dropped:
            names = ", ".join(
                " ".join(self._heads[i].split()) or "the last" for i in sorted(dropped)
            )
            _print_text(f"left out, as the terminal is narrow: {names} (--json has all)", width)

    def _width(self, heads: list[str], kept: list[int]) -> int:
        return int(_console(_ANY_WIDTH).measure(self._table(heads, kept)).maximum)

    def _table(self, heads: list[str], kept: list[int]) -> Any:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for i in kept:
            table.add_column(heads[i], justify="right" if i else "left", no_wrap=True)
        for row in self._rows:
            table.add_row(*(row[i] for i in kept))
        return table


class Totals:
    """A table of two columns, name and value, without a heading; long values wrap at spaces."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def add_row(self, name: str, value: str) -> None:
        """Add a row."""
        self.rows.append((printable(name), printable(value)))

    def print(self, width: int) -> None:
        """Print every row."""
        from rich.text import Text

        indent = max((len(name) for name, _ in self.rows), default=0) + 2
        for name, value in self.rows:
            first, *others = _wrap(value, max(width - indent, _LEAST_WIDTH))
            line = Text.assemble((name.ljust(indent), "dim"), first)
            _console(width).print(line, soft_wrap=True)
            for other in others:
                _console(width).print(" " * indent + other, soft_wrap=True)


def _wrap(text: str, width: int) -> list[str]:
    """Lines that break at spaces only."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def make_table(*heads: str, least: Sequence[str] = ()) -> Columns:
    """A table for `show`."""
    return Columns(*heads, least=least)


def make_totals() -> Totals:
    """A table of names and values for `show`."""
    return Totals()


def show(*parts: Columns | Totals | str) -> None:
    """Print tables and lines on stdout."""
    width = shutil.get_terminal_size((_ANY_WIDTH, 0)).columns
    for part in parts:
        if isinstance(part, str):
            _print_text(part, width)
        else:
            part.print(width)


def _print_text(text: str, width: int) -> None:
    for line in printable(text).split("\n"):
        for piece in _wrap(line, width):
            _console(width).print(piece, soft_wrap=True)


def _console(width: int) -> Any:
    from rich.console import Console

    # Names of tasks and files are text, whatever brackets and colons they hold.
    return Console(width=width, highlight=False, markup=False, emoji=False)
