"""One frontier and the budgets along it: what `jaxalloc frontier --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalloc.cli.plots.style import canvas, label_log, look, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKED_WEIGHTS = 7
_MOST_TASKS = 12
_ROOM = 0.2  # for the last label, of the width
_MEANING = {"system_time": "time", "accuracy": "accuracy", "mean_tokens": "mean tokens"}


def pareto_figure(document: dict[str, Any], title: str) -> Figure:
    """Mean accuracy against mean system time, and the budgets of each task along the way.

    Points that did not converge are left out.

    Args:
      document: the document of `jaxalloc frontier`.
      title: the name of the workload.
    """
    points = [point for point in document["points"] if point["status"] == "CONVERGED"]
    above = f"{shorten(title)}: what accuracy costs in time"
    with canvas((10, 5), above, (1, 2)) as (figure, (curve, budgets)):
        for axes, label in ((curve, "mean accuracy"), (budgets, "thinking tokens")):
            axes.set(xscale="log", xlabel="mean system time, s", ylabel=label)
            label_log(axes.xaxis)
        if not points:
            curve.annotate("no point converged", (0.35, 0.5), xycoords="axes fraction")
            return figure
        time = np.array([point["mean_system_time"] for point in points])
        _draw_curve(curve, points, time, document["targets"])
        _draw_budgets(budgets, points, time)
        for axes in (curve, budgets):
            if axes.get_legend_handles_labels()[0]:  # below the axes, where no data are
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    return figure


def _draw_curve(
    axes: Axes, points: list[dict[str, Any]], time: Any, targets: dict[str, Any]
) -> None:
    accuracy = np.array([point["mean_accuracy"] for point in points])
    colour = look(0)["color"]
    axes.plot(time, accuracy, color=colour, lw=2)
    heights = np.linspace(accuracy[0], accuracy[-1], _MARKED_WEIGHTS)
    for index in sorted({int(np.abs(accuracy - height).argmin()) for height in heights}):
        place = (time[index], accuracy[index])
        axes.plot(*place, "o", color=colour, ms=5)
        beside: Any = {"xytext": (7, -9), "textcoords": "offset points"}
        axes.annotate(f"{points[index]['accuracy_weight']:,.4g} s", place, fontsize=8.5, **beside)
    axes.set_xlim(right=time[-1] * (time[-1] / time[0]) ** _ROOM)
    ring: Any = {"ms": 10, "mfc": "none", "mew": 1.8, "ls": "none"}
    for number, (key, entry) in enumerate(targets.items(), start=1):
        if entry["status"] == "CONVERGED":
            label = f"target: {_MEANING[key]} {entry['target']:g}"
            place = (entry["mean_system_time"], entry["mean_accuracy"])
            axes.plot(*place, label=label, **look(number), **ring)
    axes.set_title("the frontier; labels: accuracy weight, its slope")


def _draw_budgets(axes: Axes, points: list[dict[str, Any]], time: Any) -> None:
    names = list(points[0]["tokens"])
    tokens = np.array([[point["tokens"][name] for name in names] for point in points])
    shown = np.sort(np.argsort(-tokens.max(axis=0), kind="stable")[:_MOST_TASKS])
    line: Any = {"lw": 1.6, "ms": 4, "markevery": 0.1}
    for k in shown.tolist():
        axes.plot(time, tokens[:, k], label=shorten(names[k]), **line, **look(k))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    whole = len(shown) == len(names)
    axes.set_title("budgets along it" if whole else f"the {len(shown)} largest budgets")
