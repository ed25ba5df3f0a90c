"""Elasticities of the optimum as a heat map: what `jaxalloc sensitivity --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import SymLogNorm

from jaxalloc.cli.plots.style import NO_ANSWER, canvas, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 60
_LINEAR_BELOW = 0.1
_NEGLIGIBLE = 5e-3  # shown as 0.00
_PALE = 0.36  # of the colours on either side of the middle: black on them is readable


def heat_figure(document: dict[str, Any], title: str) -> Figure:
    """Elasticity of every output (columns) to every parameter (rows), with the numbers.

    Rows without any effect are left out, and beyond 60 rows those of least effect. A grey field has
    no elasticity, since its output is 0.

    Args:
      document: the document of `jaxalloc sensitivity`.
      title: the name of the workload.
    """
    entries, outputs = document["parameters"], list(document["values"])
    values = np.array([[entry["elasticity"][name] for name in outputs] for entry in entries])
    effect = np.nan_to_num(np.abs(values)).max(axis=1)
    shown = np.flatnonzero(effect > _NEGLIGIBLE)
    if len(shown) > _MOST_ROWS:
        shown = np.sort(shown[np.argsort(-effect[shown])[:_MOST_ROWS]])
    size = max(3.2 + 0.72 * len(outputs), 6.5), max(3.0, 1.9 + 0.21 * len(shown))
    above = f"{shorten(title)}: change of the optimum, % per 1 % of a parameter" * bool(len(shown))
    with canvas(size, above) as (figure, axes):
        if not len(shown):
            axes.annotate("no parameter moves the optimum", (0.3, 0.5), xycoords="axes fraction")
            axes.set_axis_off()
            return figure
        values = values[shown]
        largest = max(float(np.nanmax(np.abs(values))), _LINEAR_BELOW)
        norm = SymLogNorm(_LINEAR_BELOW, vmin=-largest, vmax=largest)
        colours = mpl.colormaps["PuOr_r"].with_extremes(bad=NO_ANSWER)
        image = axes.imshow(values, cmap=colours, norm=norm, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value) and abs(value) >= _NEGLIGIBLE:
                text = f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
                color = "white" if abs(norm(value) - 0.5) > _PALE else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        rows = [shorten(entries[row]["parameter"]) for row in shown]
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        heads = [
            f"tokens\n{shorten(name[7:])}"
            if name.startswith("tokens.")
            else name.removeprefix("mean_").replace("_", " ")
            for name in outputs
        ]
        axes.set_xticks(range(len(outputs)), heads, fontsize=8, rotation=30, ha="left")
        axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=40, label="elasticity")
        powers = [tick for tick in (0.1, 1.0, 10.0, 100.0) if tick <= largest]
        bar.set_ticks([-tick for tick in reversed(powers)] + [0.0, *powers])
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.minorticks_off()
    return figure
