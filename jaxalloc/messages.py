"""Values and names in messages of one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def shown(value: Any, most: int = 60) -> str:
    """A value on one line of at most so many characters, text in quotes.

    >>> shown("a very long line", 10)
    "'a very l…"
    """
    text = one_line(repr(value))
    return text if len(text) <= most else text[: most - 1] + "…"


def one_line(text: Any) -> str:
    r"""Text with single spaces for what separates words.

    >>> one_line("two\nlines")
    'two lines'
    """
    return " ".join(str(text).split())


def choices(known: Iterable[str]) -> str:
    """All there is.

    >>> choices(["s", "ms"])
    'choose from s, ms'
    """
    return f"choose from {', '.join(known)}"


def suggest(word: str, known: Iterable[str]) -> str:
    """What was probably meant, else all there is.

    >>> suggest("decey", ["decay", "gain"]), suggest("x", ["decay", "gain"])
    ('did you mean decay?', 'choose from decay, gain')
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else choices(known)
