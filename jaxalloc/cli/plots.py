"""Pictures: one figure a function, Matplotlib without a display.

Colours are those of Okabe & Ito and of cividis, which the colour-blind can tell apart, and every
series differs in its marker or its place too, so that a grey print is readable.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jaxalloc.allocation.workload import Workload
    from jaxalloc.sweep.grid import Axis, Grid

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
    "svg.hashsalt": "jaxalloc",
}
_DPI = 160
_CURVE_POINTS = 400
_MAX_CURVES = 40
_LABELLED_CURVES = 6


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix; the file appears only when complete."""
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=_DPI)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def solve_figure(workload: Workload, answer: dict[str, Any], title: str) -> Figure:
    """Accuracy against tokens with the optimum marked; service time and load beside it.

    Args:
      workload: one workload.
      answer: the document of `jaxalloc solve`: `tasks` and the totals.
      title: the name of the workload.
    """
    with mpl.rc_context(_STYLE):
        tasks = answer["tasks"]
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        curves, bars = figure.subplots(1, 2, width_ratios=(1.7, 1))
        _draw_accuracy(curves, workload, tasks)
        _draw_load(bars, tasks)
        figure.legend(loc="outside lower left", ncols=5, frameon=False, fontsize=9)
        figure.suptitle(
            f"{title}: {float(workload.arrival_rate):g} queries/s, "
            f"utilization {answer['utilization']:.2f}, accuracy {answer['mean_accuracy']:.3f}, "
            f"mean system time {answer['mean_system_time']:.3g} s",
            fontsize=11,
        )
    return figure


def _draw_accuracy(axes: Axes, workload: Workload, tasks: list[dict[str, Any]]) -> None:
    gain, decay, floor, low, high = (
        np.asarray(getattr(workload, name))
        for name in ("gain", "decay", "floor", "min_tokens", "max_tokens")
    )
    for k, task in enumerate(tasks):
        colour, marker = _COLOURS[k % len(_COLOURS)], _MARKERS[k % len(_MARKERS)]
        # Even spacing on the axis, whose scale is the square root.
        tokens = np.linspace(np.sqrt(low[k]), np.sqrt(high[k]), _CURVE_POINTS) ** 2
        axes.plot(tokens, floor[k] - gain[k] * np.expm1(-decay[k] * tokens), color=colour, lw=1.4)
        axes.plot(
            task["tokens"],
            task["accuracy"],
            marker,
            ms=9,
            color=colour,
            mec="white",
            mew=1.2,
            label=f"{task['name']}: {task['tokens']:,.0f} tokens",
            zorder=3,
            clip_on=False,
        )
    axes.set_xscale("function", functions=(_root, np.square))
    longest = float(high.max()) or 1.0
    axes.set_xlim(0, longest)
    axes.set_xticks([longest * share for share in (0, 1 / 64, 1 / 16, 1 / 4, 9 / 16, 1)])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(0, 1)
    axes.set_xlabel("thinking tokens (square-root scale)")
    axes.set_ylabel("accuracy")
    axes.set_title("accuracy of each task, optimum marked")


def _root(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Square root; Matplotlib also asks for margins left of 0."""
    roots: np.ndarray[Any, Any] = np.sqrt(np.maximum(tokens, 0))
    return roots


def _draw_load(axes: Axes, tasks: list[dict[str, Any]]) -> None:
    places = np.arange(len(tasks))
    share = np.nan_to_num([100 * task["load_share"] for task in tasks])
    colours = [_COLOURS[k % len(_COLOURS)] for k in range(len(tasks))]
    axes.barh(places, share, color=colours, height=0.62)
    for place, task, width in zip(places, tasks, share, strict=True):
        axes.annotate(
            f"{task['service_time']:.3g} s",
            (width, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(places, [task["name"] for task in tasks])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.22 * max(share.max(), 1e-9))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the load, %")
    axes.set_title("load and service time of each task")


def frontier_figure(grid: Grid, columns: dict[str, Any], title: str) -> Figure:
    """Mean accuracy against mean system time along the accuracy weight.

    One curve for every combination of the other axes, coloured by the arrival rate or, where that
    does not vary, by the first axis that does. Only configurations that converged are drawn.

    Args:
      grid: the grid, with an axis `accuracy_weight`.
      columns: [grid.size] `mean_system_time`, `mean_accuracy` and `status`.
      title: the name of the workload.
    """
    along = next(i for i, axis in enumerate(grid.axes) if axis.field == "accuracy_weight")
    solved = columns["status"] == "CONVERGED"
    points = np.stack(
        [np.where(solved, columns[name], np.nan) for name in ("mean_system_time", "mean_accuracy")],
        axis=-1,
    ).reshape(*grid.shape, 2)
    curves = np.moveaxis(points, along, -2)
    others = [axis for i, axis in enumerate(grid.axes) if i != along]
    coloured = _coloured_axis(others)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        if coloured is None:
            _draw_single(axes, curves.reshape(-1, *curves.shape[-2:])[0])
        else:
            place = others.index(coloured)
            shape = curves.shape[:-2]
            value = np.broadcast_to(
                coloured.values.reshape([-1 if i == place else 1 for i in range(len(shape))]), shape
            )
            _draw_family(
                figure, axes, curves.reshape(-1, *curves.shape[-2:]), value.ravel(), coloured
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("mean system time, s")
        axes.set_ylabel("mean accuracy")
        weight = grid.axes[along].values
        axes.set_title(
            f"{title}: what accuracy costs in time\n"
            f"along each curve: accuracy weight from {weight.min():g} to {weight.max():g} s"
        )
    return figure


def _coloured_axis(others: list[Axis]) -> Axis | None:
    """The axis that colours the curves: the arrival rate, else the first that varies."""
    varying = [axis for axis in others if len(axis.values) > 1]
    rates = [axis for axis in varying if axis.field == "arrival_rate"]
    return next(iter(rates + varying), None)


def _draw_single(axes: Axes, curve: np.ndarray[Any, Any]) -> None:
    axes.plot(*curve.T, color=_COLOURS[0], lw=2)


def _draw_family(
    figure: Figure,
    axes: Axes,
    curves: np.ndarray[Any, Any],
    value: np.ndarray[Any, Any],
    axis: Axis,
) -> None:
    """Thin curves for the family, thick labelled ones for a few of its members."""
    drawn = np.flatnonzero(np.isfinite(curves).all(-1).any(-1))
    if not len(drawn):
        axes.annotate("no configuration converged", (0.5, 0.5), xycoords="axes fraction")
        return
    if len(drawn) > _MAX_CURVES:
        drawn = drawn[np.linspace(0, len(drawn) - 1, _MAX_CURVES).round().astype(int)]
    norm = (LogNorm if axis.log else Normalize)(axis.values.min(), axis.values.max())
    family = LineCollection(
        list(curves[drawn]), cmap=_readable_map(), norm=norm, linewidths=0.7, array=value[drawn]
    )
    axes.add_collection(family)
    axes.autoscale()
    bar = figure.colorbar(family, ax=axes, pad=0.02, format="{x:g}")
    bar.set_label(_name(axis))
    ends = {int(i): curves[i][np.isfinite(curves[i]).all(-1)][-1] for i in drawn}
    for index in _spread(ends):
        axes.plot(*curves[index].T, color=family.cmap(norm(value[index])), lw=2.4)
        axes.annotate(
            f"{value[index]:.2g}",
            ends[index],
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=9,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )


def _readable_map() -> ListedColormap:
    """Cividis without its lightest end, which white paper swallows."""
    return ListedColormap(mpl.colormaps["cividis"](np.linspace(0, 0.88, 256)))


def _spread(ends: dict[int, np.ndarray[Any, Any]]) -> set[int]:
    """A few of the curves, with ends [2] so far apart in height that labels do not collide."""
    heights = np.array([end[1] for end in ends.values()])
    wanted = np.linspace(heights.min(), heights.max(), _LABELLED_CURVES)
    return {list(ends)[int(np.abs(heights - height).argmin())] for height in wanted}


def _name(axis: Axis) -> str:
    from jaxalloc.workloads.fields import FIELDS

    meaning = FIELDS[axis.field].meaning
    return meaning if axis.task is None else f"{axis.task}: {meaning}"
