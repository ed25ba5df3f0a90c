"""Elasticities of the optimum as a heat map: what `jaxalloc sensitivity --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from jaxalloc.cli.plots.style import STYLE, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ROWS = 60
_LINEAR_BELOW = 0.1
_NEGLIGIBLE = 5e-3  # shown as 0.00
_NAMES = {
    "mean_accuracy": "accuracy",
    "mean_system_time": "system time",
    "utilization": "utilization",
    "objective": "objective",
}


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
    rows = np.flatnonzero(effect > _NEGLIGIBLE)
    if len(rows) > _MOST_ROWS:
        rows = np.sort(rows[np.argsort(-effect[rows])[:_MOST_ROWS]])
    with mpl.rc_context(STYLE):
        height, width = max(3.0, 1.9 + 0.21 * len(rows)), 3.2 + 0.72 * len(outputs)
        figure = Figure(figsize=(max(width, 6.5), height), layout="constrained")
        axes = figure.subplots()
        if not len(rows):
            axes.annotate("no parameter moves the optimum", (0.3, 0.5), xycoords="axes fraction")
            axes.set_axis_off()
            return figure
        _draw(figure, axes, values[rows], [entries[row]["parameter"] for row in rows], outputs)
        figure.suptitle(
            f"{shorten(title)}: change of the optimum, % per 1 % of a parameter", fontsize=11
        )
    return figure


def _draw(
    figure: Figure, axes: Axes, values: np.ndarray[Any, Any], rows: list[str], outputs: list[str]
) -> None:
    largest = max(float(np.nanmax(np.abs(values))), _LINEAR_BELOW)
    norm = SymLogNorm(_LINEAR_BELOW, vmin=-largest, vmax=largest)
    colours = mpl.colormaps["PuOr_r"].with_extremes(bad="#d9d9d9")
    image = axes.imshow(values, cmap=colours, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and abs(value) >= _NEGLIGIBLE:
            dark = abs(norm(value) - 0.5) > 0.36
            text = f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    axes.set_yticks(range(len(rows)), [shorten(row) for row in rows], fontsize=8)
    labels = [_NAMES.get(name, f"tokens\n{shorten(name[7:])}") for name in outputs]
    axes.set_xticks(range(len(outputs)), labels, fontsize=8, rotation=30, ha="left")
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=40)
    bar.set_label("elasticity")
    powers = [tick for tick in (0.1, 1.0, 10.0, 100.0) if tick <= largest]
    bar.set_ticks([-tick for tick in reversed(powers)] + [0.0, *powers])
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.minorticks_off()
