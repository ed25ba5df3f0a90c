"""The optimal budgets of one workload: what `jaxalloc solve --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from jaxalloc.cli.plots.style import canvas, look, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxalloc.allocation.model.workload import Workload

_CURVE_POINTS = 400
_DOT: Any = {"ms": 8.5, "mec": "white", "mew": 1.1, "ls": "none", "zorder": 3, "clip_on": False}


def solve_figure(workload: Workload, answer: dict[str, Any], title: str) -> Figure:
    """Accuracy against tokens with the optimum marked; tokens, service time and load beside it.

    Args:
      workload: one workload.
      answer: the document of `jaxalloc solve`.
      title: the name of the workload.
    """
    tasks = answer["tasks"]
    above = (
        f"{shorten(title)}: {float(workload.arrival_rate):g} queries/s, "
        f"utilization {answer['utilization']:.2f}, accuracy {answer['mean_accuracy']:.3f}, "
        f"mean system time {answer['mean_system_time']:.3g} s"
    )
    size = (10, max(4.4, 1.4 + 0.24 * len(tasks)))
    with canvas(size, above, (1, 2), width_ratios=(1.5, 1)) as (figure, (curves, bars)):
        _draw_accuracy(curves, workload, tasks)
        _draw_load(bars, tasks)
    return figure


def _draw_accuracy(axes: Axes, workload: Workload, tasks: list[dict[str, Any]]) -> None:
    gain, decay, floor, low, high = (
        np.asarray(getattr(workload, name))
        for name in ("gain", "decay", "floor", "min_tokens", "max_tokens")
    )
    for k, task in enumerate(tasks):
        # Denser where the curves bend.
        tokens = low[k] + (high[k] - low[k]) * np.linspace(0, 1, _CURVE_POINTS) ** 2
        accuracy = floor[k] - gain[k] * np.expm1(-decay[k] * tokens)
        axes.plot(tokens, accuracy, color=look(k)["color"], lw=1.4)
        axes.plot(task["tokens"], task["accuracy"], **look(k), **_DOT)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.set(xlim=(0, float(high.max()) or 1.0), ylim=(0, 1))
    axes.set(xlabel="thinking tokens", ylabel="accuracy")
    axes.set_title("accuracy of each task, optimum marked")


def _draw_load(axes: Axes, tasks: list[dict[str, Any]]) -> None:
    """A bar a task that starts with its marker: the legend of the curves too."""
    share = np.nan_to_num([100 * task["load_share"] for task in tasks])
    for k, task in enumerate(tasks):
        axes.barh(k, share[k], color=look(k)["color"], height=0.5)
        axes.plot(0, k, **look(k), **_DOT)
        beside: Any = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        text = f"{task['tokens']:,.0f} tokens, {task['service_time']:.3g} s"
        axes.annotate(text, (share[k], k), fontsize=9, **beside)
    axes.set_yticks(range(len(tasks)), [shorten(task["name"]) for task in tasks])
    axes.tick_params(axis="y", length=0, pad=10)
    axes.set(ylim=(len(tasks) - 0.4, -0.6), xlim=(0, 1.75 * max(share.max(), 1e-9)))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the load, %")
    axes.set_title("tokens and service time of each task")
