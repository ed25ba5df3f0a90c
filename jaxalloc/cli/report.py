"""What a command gives back: tables or one JSON document on stdout, pictures, lines on stderr."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from jaxalloc.cli.errors import complain, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAILED = 1
_ANY_WIDTH = 10_000  # of what is no terminal: nothing has to give way there
_LEAST_WIDTH = 20  # of a value beside its name


class Column(NamedTuple):
    """One figure of every row of a table, or one line of the facts.

    Attributes:
      title: its head; where that is too wide it breaks at spaces.
      cell: its key in a row, or a function from a row to its number or text.
      spec: how a number is formatted.
      unit: what stands behind a number.
      rank: where a terminal is narrow the highest is left out first; of equals, the last.
    """

    title: str
    cell: str | Callable[[Any], Any]
    spec: str = ""
    unit: str = ""
    rank: int = 0

    def text(self, row: Any) -> str:
        """What stands in a row."""
        value = row[self.cell] if isinstance(self.cell, str) else self.cell(row)
        text = value if isinstance(value, str) else number(value, self.spec, self.unit)
        return printable(text).replace("\n", " ")


class Table(NamedTuple):
    """Rows under heads: the first column is text, the others are numbers.

    Names never wrap and numbers are never cut: where the terminal is too narrow the heads are
    folded, then columns are left out, two at least staying, and that is said.
    """

    columns: Sequence[Column]
    rows: Sequence[Any]


# What is told of an allocation: functions of a workload and its tokens.
MEASURES = {
    "utilization": Column("utilization", "utilization", ".4f"),
    "mean_wait": Column("mean wait", "mean_wait", ".4g", " s"),
    "mean_system_time": Column("mean system time", "mean_system_time", ".4g", " s"),
    "mean_accuracy": Column("accuracy", "mean_accuracy", ".4f"),
    "objective": Column("objective", "objective", ".6g", " s"),
}
Facts = Sequence[tuple[str, str]]  # names and texts
Part = str | Table | Facts


def facts(row: Mapping[str, Any], *columns: Column) -> list[tuple[str, str]]:
    """The columns of one row as names and texts."""
    return [(column.title, column.text(row)) for column in columns]


def rows(**columns: Any) -> list[dict[str, Any]]:
    """Columns of equal length, arrays or lists, as rows of plain Python.

    >>> rows(name=["a", "b"], tokens=[1.0, 2.0])
    [{'name': 'a', 'tokens': 1.0}, {'name': 'b', 'tokens': 2.0}]
    """
    plain = [
        column.tolist() if hasattr(column, "tolist") else column for column in columns.values()
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


def number(value: float | None, spec: str = "", unit: str = "") -> str:
    """A number with its unit, or a dash where there is none.

    >>> number(2.5, ".2f", " s"), number(float("nan"), ".2f", " s")
    ('2.50 s', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{spec}}{unit}" if math.isfinite(value) else f"{'-' if value < 0 else ''}∞{unit}"


def deliver(
    document: dict[str, Any],
    tables: Iterable[Part],
    *,
    figure: Callable[[], Figure] | None = None,
    plot: Path | None = None,
    as_json: bool = False,
    lines: Iterable[str] = (),
    failed: bool = False,
) -> None:
    """Give back an answer: the picture, then the document or the tables, then what is to be said.

    Args:
      document: what `--json` prints; a picture adds its name.
      tables: what a terminal gets instead.
      figure: draws the picture.
      plot: where it goes, if anywhere.
      as_json: whether `--json` was given.
      lines: failures and doubts, for stderr.
      failed: whether the answer is a failure; the command then exits with 1.
    """
    if plot is not None and figure is not None:
        from jaxalloc.cli.plots.style import save

        save(figure(), plot)
        document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        show(*tables)
        if "plot" in document:
            show(f"wrote {plot}")
    for line in lines:
        complain(line)
    if failed:
        raise typer.Exit(FAILED)


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


def show(*parts: Part) -> None:
    """Print tables, facts and lines on stdout."""
    width = shutil.get_terminal_size((_ANY_WIDTH, 0)).columns
    for part in parts:
        if isinstance(part, Table):
            _print_table(part, width)
        elif isinstance(part, str):
            for line in printable(part).split("\n"):
                _print_lines(_wrap(line, width))
        else:
            _print_facts(part, width)


def _print_facts(facts: Facts, width: int) -> None:
    """Names in a column of their own; long texts wrap beside them."""
    from rich.text import Text

    named = [(printable(name), printable(value)) for name, value in facts]
    indent = max((len(name) for name, _ in named), default=0) + 2
    for name, value in named:
        first, *others = _wrap(value, max(width - indent, _LEAST_WIDTH))
        line = Text.assemble((name.ljust(indent), "dim"), first)
        _print_lines([line, *(" " * indent + other for other in others)])


def _wrap(text: str, width: int) -> list[str]:
    """Lines that break at spaces only."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _print_lines(lines: Iterable[Any]) -> None:
    for line in lines:
        _console(_ANY_WIDTH).print(line, soft_wrap=True)


def _print_table(table: Table, width: int) -> None:
    """Print what fits into `width` characters."""
    cells = [[column.text(row) for row in table.rows] for column in table.columns]
    heads = [column.title for column in table.columns]
    kept = list(range(len(heads)))

    def wide() -> int:
        return int(_console(_ANY_WIDTH).measure(_grid(heads, cells, kept)).maximum)

    if wide() > width:
        heads = [head.replace(" ", "\n") for head in heads]
    droppable = sorted(kept[1:], key=lambda i: (-table.columns[i].rank, -i))
    while wide() > width and len(kept) > 2:
        kept.remove(droppable.pop(0))
    _console(max(width, wide())).print(_grid(heads, cells, kept))
    left = [column.title for i, column in enumerate(table.columns) if i not in kept]
    if left:
        names = ", ".join(" ".join(title.split()) or "the last" for title in left)
        show(f"left out, as the terminal is narrow: {names} (--json has all)")


def _grid(heads: list[str], cells: list[list[str]], kept: list[int]) -> Any:
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i in kept:
        grid.add_column(heads[i], justify="right" if i else "left", no_wrap=True)
    for row in zip(*(cells[i] for i in kept), strict=True):
        grid.add_row(*row)
    return grid


def _console(width: int) -> Any:
    from rich.console import Console

    # Names of tasks and files are text, whatever brackets and colons they hold.
    return Console(width=width, highlight=False, markup=False, emoji=False)
