"""What the pictures have in common.

Colours are those of Okabe & Ito and of cividis, which the colour-blind can tell apart, and every
series differs in its marker or its place too, so that a grey print is readable.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator

from jaxalloc.allocation.model.domain import FIELDS
from jaxalloc.cli.errors import BadInput, complain
from jaxalloc.files import new_file

if TYPE_CHECKING:
    from matplotlib.axis import Axis

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#555555",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "jaxalloc",
}
NO_ANSWER = "#d9d9d9"
_DPI = 160
_NAME_LENGTH = 30
_LINE_LENGTH = 34  # characters along an axis
_TITLES = {
    "mean_accuracy": "mean accuracy",
    "mean_system_time": "mean system time, s",
    "mean_wait": "mean wait, s",
    "mean_latency": "mean latency",
    "interval_width": "interval width x: (1 ± x) times the output",
    "capacity": "KV-cache capacity, tokens",
}


@contextmanager
def canvas(
    size: tuple[float, float], title: str = "", grid: tuple[int, int] = (1, 1), **options: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure under a title and its panels, as `Figure.subplots` gives them, in this style."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        if title:
            figure.suptitle(title)
        yield figure, figure.subplots(*grid, **options)


def label_log(axis: Axis) -> None:
    """Put labels of a logarithmic axis at 1, 2 and 5 times powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def shorten(name: str) -> str:
    """A name that leaves room for the picture."""
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def title_of(name: str) -> str:
    """What a column or an axis is called in a picture."""
    if name in _TITLES:
        return _TITLES[name]
    field, _, task = name.partition(".")
    if field == "tokens":
        return f"tokens, {shorten(task)}"
    meaning = FIELDS[field].meaning if field in FIELDS else field.replace("_", " ")
    meaning = meaning.partition(";")[0]
    return f"{shorten(task)}: {meaning}" if task else meaning


def wrapped(label: str) -> str:
    """A label in lines that fit along the axis of a small panel."""
    return textwrap.fill(label, _LINE_LENGTH)


def look(k: int) -> dict[str, Any]:
    """Colour and marker of series k: 49 different ones."""
    rounds, colour = divmod(k, len(_COLOURS))
    return {"color": _COLOURS[colour], "marker": _MARKERS[(colour + rounds) % len(_MARKERS)]}


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix; the file appears only when complete."""
    for text in figure.findobj(Text):
        if text.get_text():  # a name is no formula; the ticks have no text yet
            text.set_parse_math(False)
    lacking = "missing from font"
    try:
        with new_file(path) as file, warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", message=f".*{lacking}")
            figure.savefig(file, dpi=_DPI, format=path.suffix[1:].lower())
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"{path} was not drawn ({reason}): make room or give another") from None
    if any(lacking in str(warning.message) for warning in caught):
        complain("some characters of the names are not in the font: the picture has boxes there")
