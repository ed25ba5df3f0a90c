"""One frontier and the budgets along it: what `jaxalloc frontier --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from jaxalloc.cli.plots.style import STYLE, look, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKED_WEIGHTS = 7
_MOST_TASKS = 12
_ROOM = 0.15  # for the last label, of the width
_MEANING = {"system_time": "time", "accuracy": "accuracy", "mean_tokens": "mean tokens"}


def pareto_figure(document: dict[str, Any], title: str) -> Figure:
    """Mean accuracy against mean system time, and the budgets of each task along the way.

    Points that did not converge are left out.

    Args:
      document: the document of `jaxalloc frontier`.
      title: the name of the workload.
    """
    points = [point for point in document["points"] if point["status"] == "CONVERGED"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        curve, budgets = figure.subplots(1, 2)
        for axes in (curve, budgets):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.set_xlabel("mean system time, s")
        figure.suptitle(f"{shorten(title)}: what accuracy costs in time", fontsize=11)
        if points:
            time = np.array([point["mean_system_time"] for point in points])
            _draw_curve(curve, points, time, document["targets"])
            _draw_budgets(budgets, points, time)
            for axes in (curve, budgets):  # below the axes, where no data are
                handles, labels = axes.get_legend_handles_labels()
                if handles:
                    axes.legend(
                        handles,
                        labels,
                        loc="upper center",
                        bbox_to_anchor=(0.5, -0.15),
                        ncols=3,
                        frameon=False,
                        fontsize=9,
                    )
        else:
            curve.annotate("no point converged", (0.35, 0.5), xycoords="axes fraction")
        curve.set_ylabel("mean accuracy")
        budgets.set_ylabel("thinking tokens")
    return figure


def _draw_curve(
    axes: Axes, points: list[dict[str, Any]], time: np.ndarray[Any, Any], targets: dict[str, Any]
) -> None:
    accuracy = np.array([point["mean_accuracy"] for point in points])
    axes.plot(time, accuracy, color=look(0)["color"], lw=2)
    heights = np.linspace(accuracy[0], accuracy[-1], _MARKED_WEIGHTS)
    for index in sorted({int(np.abs(accuracy - height).argmin()) for height in heights}):
        axes.plot(time[index], accuracy[index], "o", color=look(0)["color"], ms=5)
        axes.annotate(
            f"{points[index]['accuracy_weight']:,.4g} s",
            (time[index], accuracy[index]),
            xytext=(7, -9),
            textcoords="offset points",
            fontsize=8.5,
        )
    axes.set_xlim(right=time[-1] * (time[-1] / time[0]) ** _ROOM)
    for number, (key, entry) in enumerate(targets.items(), start=1):
        if entry["status"] != "CONVERGED":
            continue
        axes.plot(
            entry["mean_system_time"],
            entry["mean_accuracy"],
            **look(number),
            ms=10,
            mfc="none",
            mew=1.8,
            ls="none",
            label=f"target: {_MEANING[key]} {entry['target']:g}",
        )
    axes.set_title("the frontier; labels: accuracy weight, its slope")


def _draw_budgets(axes: Axes, points: list[dict[str, Any]], time: np.ndarray[Any, Any]) -> None:
    names = list(points[0]["tokens"])
    tokens = np.array([[point["tokens"][name] for name in names] for point in points])
    shown = np.sort(np.argsort(-tokens.max(axis=0), kind="stable")[:_MOST_TASKS])
    for k in shown:
        axes.plot(
            time, tokens[:, k], lw=1.6, ms=4, markevery=0.1, label=shorten(names[k]), **look(int(k))
        )
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    axes.set_title(
        "budgets along it" if len(shown) == len(names) else f"the {len(shown)} largest budgets"
    )
