"""What accuracy costs in time: what `jaxalloc sweep --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize

from jaxalloc.cli.plots.style import canvas, label_log, look, shorten, title_of, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxalloc.sweep.axes import Axis
    from jaxalloc.sweep.designs import Grid

_MAX_CURVES = 40
_FEW_CURVES = 15


class _Family(NamedTuple):
    """Curves of one grid: C of them with n points each.

    Attributes:
      curves: [C, n, 2] mean system time and mean accuracy; NaN where nothing converged.
      values: [C] the value of `axis`.
      axis: the axis that colours the curves; None where there is one curve only.
    """

    curves: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    axis: Axis | None


def frontier_figure(grid: Grid, columns: dict[str, Any], title: str) -> Figure:
    """Mean accuracy against mean system time along the accuracy weight.

    One curve for every combination of the other axes, coloured by the arrival rate or, where that
    does not vary, by the first axis that does. Only configurations that converged are drawn, and at
    most 40 curves, evenly chosen.

    Args:
      grid: the grid, with an axis `accuracy_weight`.
      columns: [grid.size] `mean_system_time`, `mean_accuracy` and `status`.
      title: the name of the workload.
    """
    family = _family(grid, columns)
    weight = next(axis.values for axis in grid.axes if axis.field == "accuracy_weight")
    with canvas((8, 5)) as (figure, axes):
        if not len(family.curves):
            axes.annotate("no configuration converged", (0.5, 0.5), xycoords="axes fraction")
        elif family.axis is None:
            axes.plot(*family.curves[0].T, color=look(0)["color"], lw=2)
        else:
            _draw(figure, axes, family, family.axis)
        axes.set(xscale="log", xlabel="mean system time, s", ylabel="mean accuracy")
        label_log(axes.xaxis)
        axes.set_title(
            f"{shorten(title)}: what accuracy costs in time\n"
            f"along each curve: accuracy weight from {weight.min():g} to {weight.max():g} s"
        )
    return figure


def _family(grid: Grid, columns: dict[str, Any]) -> _Family:
    """The curves to draw."""
    along = next(i for i, axis in enumerate(grid.axes) if axis.field == "accuracy_weight")
    solved = columns["status"] == "CONVERGED"
    points = [
        np.where(solved, columns[key], np.nan) for key in ("mean_system_time", "mean_accuracy")
    ]
    curves = np.moveaxis(np.stack(points, axis=-1).reshape(*grid.shape, 2), along, -2)
    others = [axis for i, axis in enumerate(grid.axes) if i != along]
    varying = [axis for axis in others if len(axis.values) > 1]
    coloured = next((a for a in varying if a.field == "arrival_rate"), next(iter(varying), None))
    values = np.zeros(curves.shape[:-2])
    if coloured is not None:
        shape = [len(axis.values) if axis is coloured else 1 for axis in others]
        values += coloured.values.reshape(shape)
    curves = curves.reshape(-1, *curves.shape[-2:])
    drawn = np.flatnonzero(np.isfinite(curves).all(-1).any(-1))
    if len(drawn) > _MAX_CURVES:
        drawn = drawn[np.linspace(0, len(drawn) - 1, _MAX_CURVES).round().astype(int)]
    return _Family(curves[drawn], values.ravel()[drawn], coloured)


def _draw(figure: Figure, axes: Axes, family: _Family, axis: Axis) -> None:
    """The curves, and the bar that tells their colours."""
    norm = (LogNorm if axis.log else Normalize)(axis.values.min(), axis.values.max())
    # Cividis without its lightest end, which white paper swallows.
    colours = ListedColormap(mpl.colormaps["cividis"](np.linspace(0, 0.88, 256)))
    width = 1.4 if len(family.curves) <= _FEW_CURVES else 0.7
    style: Any = {"cmap": colours, "norm": norm, "linewidths": width, "array": family.values}
    lines = LineCollection(list(family.curves), **style)
    axes.add_collection(lines)
    axes.autoscale()
    bar = figure.colorbar(lines, ax=axes, pad=0.02)
    if axis.log:
        label_log(bar.ax.yaxis)
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.set_label(wrapped(title_of(axis.label)))
