"""Measured and fitted accuracy of every task: what `jaxalloc fit --plot` draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from jaxalloc.calibration.status import USABLE, FitStatus
from jaxalloc.cli.plots.style import STYLE, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(3.4 * columns, 5.0), 2.7 * rows + 0.7), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for k, (axes, task) in enumerate(zip(grid.flat, drawn, strict=False)):
            _draw(axes, task, look(k))
            if k + columns >= len(drawn):
                axes.set_xlabel("thinking tokens (square-root scale)")
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy")
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
        left = len(tasks) - len(drawn)
        more = f" (the first {_MOST_PANELS} of {len(tasks)} tasks)" if left else ""
        figure.suptitle(f"{title}: measured and fitted accuracy, 95 % intervals{more}", fontsize=11)
    return figure


def _draw(axes: Axes, task: TaskFit, style: dict[str, Any]) -> None:
    status = FitStatus(int(task.curve.status))
    name = task.name if status == FitStatus.CONVERGED else f"{task.name}: {status.name}"
    axes.set_title(name)
    axes.set_ylim(-0.02, 1.02)
    longest = task.max_tokens or 1.0
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set_xlim(0, 1.04 * longest)
    axes.set_xticks([longest * share for share in (0, 1 / 16, 1 / 4, 9 / 16, 1)])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(labelsize=8)
    bins = task.bins
    if bins is None:
        axes.annotate(
            "no curve can be fitted", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=9
        )
        return
    spread = np.abs(np.stack([bins.low, bins.high]) - bins.observed)
    axes.errorbar(
        bins.tokens,
        bins.observed,
        spread,
        ls="none",
        ms=4.5,
        lw=1.1,
        capsize=2,
        zorder=3,
        clip_on=False,
        **style,
    )
    tokens = np.linspace(0, np.sqrt(longest), _CURVE_POINTS) ** 2
    accuracy, error = _curve(task, tokens)
    usable = status in USABLE
    axes.plot(tokens, accuracy, color=style["color"], lw=1.6, ls="-" if usable else ":")
    if usable:
        low, high = (np.clip(accuracy + side * _NORMAL * error, 0, 1) for side in (-1, 1))
        axes.fill_between(tokens, low, high, color=style["color"], alpha=0.2, lw=0)


def _root(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Square root; Matplotlib also asks for margins left of 0."""
    roots: np.ndarray[Any, Any] = np.sqrt(np.maximum(tokens, 0))
    return roots


def _curve(task: TaskFit, tokens: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """The curve at some budgets and its standard error there."""
    curve = task.curve
    left = np.exp(-curve.decay * tokens)
    slopes = np.stack([1 - left, curve.gain * tokens * left, np.ones_like(tokens)], axis=-1)
    variance = np.einsum("ti,ij,tj->t", slopes, curve.covariance, slopes)
    return curve.floor + curve.gain * (1 - left), np.sqrt(np.maximum(variance, 0))
