"""Tables row by row, until `fit`, `sweep` and `trust` say theirs in columns (see `report`)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from jaxalloc.cli.errors import complain
from jaxalloc.cli.report import Column, Table, print_json, show

__all__ = ["complain", "make_table", "make_totals", "print_json", "show"]


class _Table(Table):
    def add_row(self, *cells: str) -> None:
        list.append(self.rows, cells)  # type: ignore[arg-type]


class _Totals(list[tuple[str, str]]):
    rows = property(lambda self: self)

    def add_row(self, name: str, value: str) -> None:
        self.append((name, value))


def make_table(*heads: str, least: Sequence[str] = ()) -> Any:
    """A table to add rows to."""
    ranks = {head: len(least) - i for i, head in enumerate(least)}
    columns = [
        Column(head, operator.itemgetter(i), rank=ranks.get(head, 0))
        for i, head in enumerate(heads)
    ]
    return _Table(columns, [])


def make_totals() -> Any:
    """Names and values to add to."""
    return _Totals()
