"""What accuracy costs in time: what `jaxalloc sweep --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from jaxalloc.cli.plots.style import STYLE, look, shorten, title_of, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jaxalloc.sweep.axes import Axis
    from jaxalloc.sweep.designs import Design

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


def frontier_figure(grid: Design, columns: dict[str, Any], title: str) -> Figure:
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
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        if not len(family.curves):
            axes.annotate("no configuration converged", (0.5, 0.5), xycoords="axes fraction")
        elif family.axis is None:
            axes.plot(*family.curves[0].T, color=look(0)["color"], lw=2)
        else:
            _draw(figure, axes, family, family.axis)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("mean system time, s")
        axes.set_ylabel("mean accuracy")
        axes.set_title(
            f"{shorten(title)}: what accuracy costs in time\n"
            f"along each curve: accuracy weight from {weight.min():g} to {weight.max():g} s"
        )
    return figure


def _family(grid: Design, columns: dict[str, Any]) -> _Family:
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
    lines = LineCollection(
        list(family.curves),
        cmap=_readable_map(),
        norm=norm,
        linewidths=1.4 if len(family.curves) <= _FEW_CURVES else 0.7,
        array=family.values,
    )
    axes.add_collection(lines)
    axes.autoscale()
    bar = figure.colorbar(lines, ax=axes, pad=0.02)
    if axis.log:
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_minor_formatter("")
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.set_label(wrapped(title_of(axis.label)))


def _readable_map() -> ListedColormap:
    """Cividis without its lightest end, which white paper swallows."""
    return ListedColormap(mpl.colormaps["cividis"](np.linspace(0, 0.88, 256)))
