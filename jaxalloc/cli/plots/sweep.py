"""What a sweep has found: maps over two axes, and policies side by side; `jaxalloc plot`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from jaxalloc.cli.plots.schedule import NAMES
from jaxalloc.cli.plots.style import STYLE, look, title_of, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, Any]

_MOST_CELLS = 400  # along an axis: more cannot be seen
_COLUMNS = 4
_NO_ANSWER = "#d9d9d9"


def heat_figure(
    panels: Mapping[str, Array],
    across: tuple[str, Array, bool],
    up: tuple[str, Array, bool],
    title: str,
) -> Figure:
    """One map a column over two axes of a grid; grey where nothing converged.

    Args:
      panels: [up, across] values by column, NaN for no answer.
      across, up: name, values and whether in the logarithm, of the two axes.
      title: what is fixed.
    """
    with mpl.rc_context(STYLE):
        figure, places = _panels(len(panels), title)
        thin = tuple(_few(len(values)) for _, values, _ in (up, across))
        for axes, (name, values) in zip(places, panels.items(), strict=True):
            axes.set_facecolor(_NO_ANSWER)
            shown = np.ma.masked_invalid(values[np.ix_(*thin)])
            mesh = axes.pcolormesh(
                across[1][thin[1]], up[1][thin[0]], shown, cmap="cividis", shading="nearest"
            )
            mesh.set_rasterized(True)
            _finish(figure, axes, mesh, name, across, up)
    return figure


def scatter_figure(
    panels: Mapping[str, Array],
    across: tuple[str, Array, bool],
    up: tuple[str, Array, bool],
    title: str,
) -> Figure:
    """The same for points that lie anywhere: [n] values, coordinates across and up."""
    with mpl.rc_context(STYLE):
        figure, places = _panels(len(panels), title)
        size = float(np.clip(16000 / max(len(across[1]), 1), 2, 30))
        for axes, (name, values) in zip(places, panels.items(), strict=True):
            missing = np.isnan(values)
            axes.plot(across[1][missing], up[1][missing], "x", color="#999999", ms=3)
            points = axes.scatter(
                across[1][~missing],
                up[1][~missing],
                c=values[~missing],
                s=size,
                cmap="cividis",
                linewidths=0,
                rasterized=True,
            )
            _finish(figure, axes, points, name, across, up)
    return figure


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = count if count <= _COLUMNS else -(-count // 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(3.3 * columns + 0.6, 5.0), 2.9 * rows + 0.5), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for spare in places[count:]:
        spare.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure, list(places[:count])


def _few(count: int) -> Array:
    """Places evenly along an axis, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_CELLS)).round().astype(int))


def _finish(
    figure: Figure,
    axes: Axes,
    drawn: Any,
    name: str,
    across: tuple[str, Array, bool],
    up: tuple[str, Array, bool],
) -> None:
    """Scales, labels at the outer edges, the colour bar."""
    if across[2]:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    if up[2]:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(title_of(name), fontsize=10)
    axes.grid(visible=False)
    axes.set(xlabel=wrapped(title_of(across[0])), ylabel=wrapped(title_of(up[0])))
    axes.label_outer()
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.outline.set_visible(False)


def policies_figure(
    curves: Mapping[Any, Mapping[str, tuple[Array, Array]]],
    along: tuple[str, Array],
    panel: str | None,
    value: str,
    averaged: Sequence[str],
    unit: str,
) -> Figure:
    """One line a policy against an axis, one panel a value of another; bars: standard errors.

    Args:
      curves: by value of the panels' axis and policy, [n] means and standard errors.
      along: name and [n] values of the axis across; texts are drawn in their order.
      panel: the axis of the panels; None for one panel.
      value: the column.
      averaged: the axes over which the means are taken.
      unit: of the column, as it is written behind its name.
    """
    with mpl.rc_context(STYLE):
        width = 4.2 * len(curves) + 0.8
        figure = Figure(figsize=(max(width, 6.0), 4.4), layout="constrained")
        places = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
        texts = along[1].dtype.kind == "U"
        across = np.arange(len(along[1])) if texts else along[1]
        for axes, (at, lines) in zip(places, curves.items(), strict=True):
            for k, (policy, (mean, error)) in enumerate(lines.items()):
                _draw_policy(axes, across, mean, error, k, NAMES.get(policy, policy))
            if texts:
                axes.set_xticks(across, along[1].tolist(), rotation=30, ha="right")
            if panel is not None:
                axes.set_title(f"{title_of(panel)}: {at:g}" if not isinstance(at, str) else at)
            axes.set_xlabel(wrapped(title_of(along[0])))
        places[0].set_ylabel(f"{title_of(value)}{unit}")
        places[0].set_ylim(bottom=0)
        over = f"; mean over {', '.join(averaged)}, bars: standard error" if averaged else ""
        figure.suptitle(f"Policies compared: {title_of(value)}{over}", fontsize=11)
        figure.legend(
            *places[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
    return figure


def _draw_policy(axes: Axes, across: Array, mean: Array, error: Array, k: int, name: str) -> None:
    known = np.isfinite(mean)
    axes.errorbar(
        across[known],
        mean[known],
        yerr=error[known] if np.any(error[known] > 0) else None,
        lw=1.4,
        ms=5,
        capsize=2,
        label=name if known.any() else f"{name} (unfinished)",
        **look(k),
    )
