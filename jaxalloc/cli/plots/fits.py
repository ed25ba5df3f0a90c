"""Measured and fitted accuracy of every task: what `jaxalloc fit --plot` draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalloc.calibration.status import FitStatus
from jaxalloc.cli.plots.style import canvas, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxalloc.measurements.fits import TaskFit

_MOST_COLUMNS = 3
_MOST_PANELS = 30
_CURVE_POINTS = 300
_NORMAL = 1.96


def fits_figure(tasks: list[TaskFit], title: str) -> Figure:
    """One panel a task: observed shares with intervals, the fitted curve with its band.

    The band is the delta method's, point by point, at 95 %. A task that the data do not determine
    has no band and says why. At most 30 tasks are drawn.

    Args:
      tasks: the fits.
      title: the name of the workload.
    """
    drawn = tasks[:_MOST_PANELS]
    columns = min(_MOST_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    more = f" (the first {_MOST_PANELS} of {len(tasks)} tasks)" * (len(tasks) > len(drawn))
    above = f"{title}: measured and fitted accuracy, 95 % intervals{more}"
    size = (max(3.4 * columns, 5.0), 2.7 * rows + 0.7)
    with canvas(size, above, (rows, columns), squeeze=False, sharey=True) as (figure, grid):
        for k, (axes, task) in enumerate(zip(grid.flat, drawn, strict=False)):
            _draw(axes, task, look(k))
            if k + columns >= len(drawn):
                axes.set_xlabel("thinking tokens")
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy")
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
    return figure


def _draw(axes: Axes, task: TaskFit, style: dict[str, Any]) -> None:
    status = FitStatus(int(task.curve.status))
    axes.set_title(task.name + f": {status.name}" * (status != FitStatus.CONVERGED))
    longest = task.max_tokens or 1.0
    axes.set(xlim=(0, 1.04 * longest), ylim=(-0.02, 1.02))
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(labelsize=8)
    bins = task.bins
    if bins is None:
        middle: Any = {"xycoords": "axes fraction", "ha": "center", "fontsize": 9}
        axes.annotate("no curve can be fitted", (0.5, 0.5), **middle)
        return
    spread = np.abs(np.stack([bins.low, bins.high]) - bins.observed)
    dots: Any = style | {"ls": "none", "ms": 4.5, "lw": 1.1, "zorder": 3, "clip_on": False}
    axes.errorbar(bins.tokens, bins.observed, spread, capsize=2, **dots)
    tokens = np.linspace(0, np.sqrt(longest), _CURVE_POINTS) ** 2
    accuracy, error = _curve(task, tokens)
    usable = status.usable
    axes.plot(tokens, accuracy, color=style["color"], lw=1.6, ls="-" if usable else ":")
    if usable:
        low, high = (np.clip(accuracy + side * _NORMAL * error, 0, 1) for side in (-1, 1))
        axes.fill_between(tokens, low, high, color=style["color"], alpha=0.2, lw=0)


def _curve(task: TaskFit, tokens: Any) -> tuple[Any, Any]:
    """The curve at some budgets and its standard error there."""
    curve = task.curve
    left = np.exp(-curve.decay * tokens)
    slopes = np.stack([1 - left, curve.gain * tokens * left, np.ones_like(tokens)], axis=-1)
    variance = np.einsum("ti,ij,tj->t", slopes, curve.covariance, slopes)
    return curve.floor + curve.gain * (1 - left), np.sqrt(np.maximum(variance, 0))
