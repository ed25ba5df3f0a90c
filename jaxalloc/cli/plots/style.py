"""What the pictures have in common.

Colours are those of Okabe & Ito and of cividis, which the colour-blind can tell apart, and every
series differs in its marker or its place too, so that a grey print is readable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jaxalloc.cli.errors import BadInput
from jaxalloc.files import new_file

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
STYLE: Any = {
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
    "svg.hashsalt": "jaxalloc",
}
_DPI = 160


def look(k: int) -> dict[str, Any]:
    """Colour and marker of series k: 49 different ones."""
    rounds, colour = divmod(k, len(_COLOURS))
    return {"color": _COLOURS[colour], "marker": _MARKERS[(colour + rounds) % len(_MARKERS)]}


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix; the file appears only when complete."""
    try:
        with new_file(path) as file:
            figure.savefig(file, dpi=_DPI, format=path.suffix[1:].lower())
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"{path} was not drawn ({reason}): make room or give another") from None
