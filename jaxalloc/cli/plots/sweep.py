"""What a sweep has found: maps over two axes, and policies side by side; `jaxalloc plot`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxalloc.cli.plots.style import NO_ANSWER, canvas, look, title_of, wrapped
from jaxalloc.scheduling.policies import by_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxalloc.sweep.stored import Stored

Array = np.ndarray[Any, Any]

_MOST_CELLS = 400  # along an axis: more cannot be seen
_COLUMNS = 4


class Along(NamedTuple):
    """An axis of a picture: the name of the axis of the sweep, its values, whether it is log."""

    name: str
    values: Array
    log: bool = False


def along(stored: Stored, axis: str, values: Array) -> Along:
    """An axis of a sweep with these values, spaced as its plan says."""
    described = stored.plan.get("axes", {})
    log = isinstance(described, dict) and described.get(axis, {}).get("spacing") == "log"
    return Along(axis, values, log)


def maps_figure(panels: Mapping[str, Array], across: Along, up: Along, title: str) -> Figure:
    """One map a column over two axes; where there is no answer it is grey, or has a cross.

    Args:
      panels: by column, NaN for no answer: [up, across] values of a grid, or [n] values at points.
      across, up: the axes: [across] and [up] values, or [n] coordinates.
      title: what is fixed.
    """
    columns = len(panels) if len(panels) <= _COLUMNS else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    size = (max(3.3 * columns + 0.6, 5.0), 2.9 * rows + 0.5)
    shared: Any = {"squeeze": False, "sharex": True, "sharey": True}
    with canvas(size, title, (rows, columns), **shared) as (figure, grid):
        places = list(grid.flat)
        for spare in places[len(panels) :]:
            spare.set_axis_off()
        for axes, (name, values) in zip(places, panels.items(), strict=False):
            axes.grid(visible=False)
            drawn = (_draw_points if values.ndim == 1 else _draw_cells)(axes, values, across, up)
            axes.set(xscale="log" if across.log else "linear", yscale="log" if up.log else "linear")
            for axis, along in ((axes.xaxis, across), (axes.yaxis, up)):
                if along.log:
                    axis.set_major_formatter("{x:g}")
                axis.set_label_text(wrapped(title_of(along.name)))
            axes.set_title(title_of(name), fontsize=10)
            axes.label_outer()
            figure.colorbar(drawn, ax=axes, pad=0.02).outline.set_visible(False)
    return figure


def _draw_cells(axes: Axes, values: Array, across: Along, up: Along) -> Any:
    rows, columns = _few(len(up.values)), _few(len(across.values))
    axes.set_facecolor(NO_ANSWER)
    shown = np.ma.masked_invalid(values[np.ix_(rows, columns)])
    style: Any = {"cmap": "cividis", "shading": "nearest", "rasterized": True}
    return axes.pcolormesh(across.values[columns], up.values[rows], shown, **style)


def _few(count: int) -> Array:
    """Places evenly along an axis, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_CELLS)).round().astype(int))


def _draw_points(axes: Axes, values: Array, across: Along, up: Along) -> Any:
    size = float(np.clip(16000 / max(len(values), 1), 2, 30))
    missing = np.isnan(values)
    axes.plot(across.values[missing], up.values[missing], "x", color="#999999", ms=3)
    style: Any = {"s": size, "cmap": "cividis", "linewidths": 0, "rasterized": True}
    known = (across.values[~missing], up.values[~missing])
    return axes.scatter(*known, c=values[~missing], **style)


def policies_figure(
    curves: Mapping[Any, Mapping[str, tuple[Array, Array]]],
    along: Along,
    panel: str | None,
    value: str,
    averaged: Sequence[str],
    unit: str,
) -> Figure:
    """One line a policy against an axis, one panel a value of another; bars: standard errors.

    Args:
      curves: by value of the panels' axis and policy, [n] means and standard errors.
      along: the axis across; texts are drawn in their order.
      panel: the axis of the panels; None for one panel.
      value: the column.
      averaged: the axes over which the means are taken.
      unit: of the column, as it is written behind its name.
    """
    over = f"; mean over {', '.join(averaged)}, bars: standard error" if averaged else ""
    above = f"Policies compared: {title_of(value)}{over}"
    texts = along.values.dtype.kind == "U"
    across = np.arange(len(along.values)) if texts else along.values
    size = (max(4.2 * len(curves) + 0.8, 6.0), 4.4)
    with canvas(size, above, (1, len(curves)), squeeze=False, sharey=True) as (figure, grid):
        for axes, (at, lines) in zip(grid.flat, curves.items(), strict=True):
            for k, (policy, (mean, error)) in enumerate(lines.items()):
                known = np.isfinite(mean)
                name = by_name[policy].label + " (unfinished)" * (not known.any())
                bars = error[known] if np.any(error[known] > 0) else None
                style: Any = look(k) | {"lw": 1.4, "ms": 5, "capsize": 2, "label": name}
                axes.errorbar(across[known], mean[known], bars, **style)
            if texts:
                axes.set_xticks(across, along.values.tolist(), rotation=30, ha="right")
            if panel is not None:
                axes.set_title(at if isinstance(at, str) else f"{title_of(panel)}: {at:g}")
            axes.set_xlabel(wrapped(title_of(along.name)))
        first = grid.flat[0]
        first.set_ylabel(f"{title_of(value)}{unit}")
        first.set_ylim(bottom=0)
        figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
