"""Values and names in messages of one line, and pairs of them in words."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any


def shown(value: Any, most: int = 60) -> str:
    """A value on one line of at most so many characters, text in quotes.

    >>> shown("a very long line", 10)
    "'a very l…"
    """
    try:
        text = one_line(repr(value))
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
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


@contextlib.contextmanager
def within(place: str) -> Iterator[None]:
    """A ValueError raised inside says where.

    >>> with within("task 1"):
    ...     raise ValueError("mix is missing: add it")
    Traceback (most recent call last):
    ValueError: task 1: mix is missing: add it
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def read_pairs(words: str) -> dict[str, str]:
    """`a=1,b=2` as pairs.

    >>> read_pairs("prompt=In, output=Out")
    {'prompt': 'In', 'output': 'Out'}
    """
    pairs: dict[str, str] = {}
    for part in filter(str.strip, words.split(",")):
        key, sign, value = map(str.strip, part.partition("="))
        if not sign or not key or not value:
            raise ValueError(f"{part!r} must be FIELD=NAME, such as output=Out")
        if key in pairs:
            raise ValueError(f"{words} says {key} twice: drop one")
        pairs[key] = value
    return pairs
