"""What the terminal gets: whole names and numbers at any width, nothing that it would obey."""

import operator
import re

import pytest

from jaxalloc.cli.errors import complain
from jaxalloc.cli.report import Column, Table, show
from jaxalloc.workloads import files as workloads

HEADS = ("task", "of queries", "tokens", "service time", "of load")
ROWS = [
    ("AIME24", "20.0%", "4,072.46", "3.366 s", "30.5%"),
    ("a long name of a task", "1.0%", "14,072.46", "0.3366 s", "3.5%"),
]
RANKS = {"of load": 2, "of queries": 1}


@pytest.mark.parametrize("width", [*range(10, 80, 3), 200])
def test_names_never_wrap_and_numbers_are_never_cut(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [
        Column(head, operator.itemgetter(i), rank=RANKS.get(head, 0))
        for i, head in enumerate(HEADS)
    ]
    show(Table(columns, ROWS))
    out = capsys.readouterr().out
    flat = " ".join(out.split())
    left = flat.partition("left out, as the terminal is narrow: ")[2].partition(" (--json")[0]
    dropped = left.split(", ") if left else []
    assert dropped == [head for head in HEADS if head in dropped]
    for row in ROWS:
        (line,) = [line for line in out.splitlines() if row[0] in line]
        shown = [cell for head, cell in zip(HEADS, row, strict=True) if head not in dropped]
        assert re.split(r"\s{2,}", line.strip()) == shown
    if "of queries" in dropped:
        assert "of load" in dropped
    assert "tokens" not in dropped
    if dropped[2:] == []:
        assert max(map(len, out.splitlines())) <= max(width, 34)


def test_a_column_formats_what_its_cell_finds():
    row = {"a": 1234.5, "b": None, "c": float("-inf")}
    columns = [Column("", "a", ",.2f", " s"), Column("", "b", ".1f"), Column("", "c", ".1f", " s")]
    assert [column.text(row) for column in columns] == ["1,234.50 s", "–", "-∞ s"]
    assert Column("", lambda row: 2 * row["a"], ".0f").text(row) == "2469"


def test_long_values_wrap_at_spaces(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    facts = [("accuracy", "0.3889; these budgets bring 0.365 to 0.415")]
    show(facts, "wrote /a/path/that/is/longer/than/the/terminal/is/wide.png")
    assert capsys.readouterr().out.splitlines() == [
        "accuracy  0.3889; these budgets bring",
        "          0.365 to 0.415",
        "wrote",
        "/a/path/that/is/longer/than/the/terminal/is/wide.png",
    ]


def test_what_a_terminal_would_obey_is_spelt_out(capsys):
    rows = [{"task": "\x1b[2Ja\x9b1m[red]", "n": 1}]
    table = Table((Column("task", "task"), Column("n", "n")), rows)
    show(table, [("b\x07", "c\x1b]0;x\x07")], "d\x1b[31m")
    complain("e\x1b[31m\nf")
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()
    for text in (r"\x1b[2Ja\x9b1m[red]", r"b\x07", r"c\x1b]0;x\x07", r"d\x1b[31m"):
        assert text in out
    assert err == "jaxalloc: e\\x1b[31m f\n"


def test_names_that_do_not_print_are_refused(command, tmp_path):
    text = workloads.builtin_text("qwen3-8b").replace("AIME24", r"\u001b[2J")
    (tmp_path / "a.toml").write_text(text)
    code, out, err = command("solve a.toml")
    assert (code, out) == (2, "")
    assert err.startswith(r"jaxalloc: a.toml: task 1: name = '\x1b[2J' has characters")
