"""What accuracy costs in time: what `jaxalloc sweep --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize

from jaxalloc.cli.plots.style import canvas, label_log, look, shorten, title_of, wrapped
from jaxalloc.cli.plots.sweep import along

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxalloc.cli.plots.sweep import Along
    from jaxalloc.sweep.stored import Stored

_WEIGHT = "accuracy_weight"
_MAX_CURVES = 40
_FEW_CURVES = 15


def frontier_figure(stored: Stored, title: str) -> Figure:
    """Mean accuracy against mean system time along the accuracy weight.

    One curve for every combination of the other axes, coloured by the arrival rate or, where that
    does not vary, by the first axis that does. Only configurations that converged are drawn, and at
    most 40 curves, evenly chosen.

    Args:
      stored: a grid with an axis `accuracy_weight`.
      title: the name of the workload.
    """
    arrays = stored.to_xarray(["status", "mean_system_time", "mean_accuracy"])
    others = [axis for axis in stored.axes if axis != _WEIGHT]
    solved = arrays.where(arrays["status"] == "CONVERGED").transpose(*others, _WEIGHT)
    points = np.stack([solved["mean_system_time"], solved["mean_accuracy"]], axis=-1)
    curves = points.reshape(-1, *points.shape[-2:])
    varying = [axis for axis in others if arrays.sizes[axis] > 1]
    coloured = "arrival_rate" if "arrival_rate" in varying else next(iter(varying), None)
    drawn = np.flatnonzero(np.isfinite(curves).all(-1).any(-1))
    if len(drawn) > _MAX_CURVES:
        drawn = drawn[np.linspace(0, len(drawn) - 1, _MAX_CURVES).round().astype(int)]
    weight = arrays[_WEIGHT].values
    with canvas((8, 5)) as (figure, axes):
        if not len(drawn):
            axes.annotate("no configuration converged", (0.5, 0.5), xycoords="axes fraction")
        elif coloured is None:
            axes.plot(*curves[0].T, color=look(0)["color"], lw=2)
        else:
            one = solved["mean_accuracy"].isel({_WEIGHT: 0}, drop=True)
            values = arrays[coloured].broadcast_like(one).transpose(*others).values.ravel()
            axis = along(stored, coloured, arrays[coloured].values)
            _draw(figure, axes, curves[drawn], values[drawn], axis)
        axes.set(xscale="log", xlabel="mean system time, s", ylabel="mean accuracy")
        label_log(axes.xaxis)
        axes.set_title(
            f"{shorten(title)}: what accuracy costs in time\n"
            f"along each curve: accuracy weight from {weight.min():g} to {weight.max():g} s"
        )
    return figure


def _draw(figure: Figure, axes: Axes, curves: Any, values: Any, axis: Along) -> None:
    """The curves, and the bar that tells their colours."""
    norm = (LogNorm if axis.log else Normalize)(axis.values.min(), axis.values.max())
    # Cividis without its lightest end, which white paper swallows.
    colours = ListedColormap(mpl.colormaps["cividis"](np.linspace(0, 0.88, 256)))
    width = 1.4 if len(curves) <= _FEW_CURVES else 0.7
    style: Any = {"cmap": colours, "norm": norm, "linewidths": width, "array": values}
    lines = axes.add_collection(LineCollection(list(curves), **style))
    axes.autoscale()
    bar = figure.colorbar(lines, ax=axes, pad=0.02)
    if axis.log:
        label_log(bar.ax.yaxis)
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.set_label(wrapped(title_of(axis.name)))
