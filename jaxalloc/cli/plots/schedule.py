"""Policies side by side: what `jaxalloc schedule --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogFormatter, StrMethodFormatter

from jaxalloc.cli.plots.style import canvas, look
from jaxalloc.scheduling.policies import by_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 60


def schedule_figure(
    curves: dict[str, list[tuple[float, float]]],
    occupancy: dict[str, tuple[Any, float]],
    document: dict[str, Any],
) -> Figure:
    """Mean latency against interval width, and tokens held over time, for every policy.

    Args:
      curves: (mean width, mean latency) by policy; an infinite latency is not drawn.
      occupancy: [rounds] tokens held, and the time at which the last round ended, by policy.
      document: the document of `jaxalloc schedule`.
    """
    unit, capacity = document["unit"], document["capacity"]
    finished = {row["policy"] for row in document["policies"] if row["finished"]}
    ends = [occupancy[name][1] for name in occupancy if name in finished or not finished]
    with canvas((11, 4.8), "", (1, 2)) as (figure, (left, right)):
        for k, name in enumerate(curves):
            _draw_curve(left, curves[name], k, name)
            _draw_occupancy(right, *occupancy[name], k)
        left.set(
            xscale="symlog",
            yscale="log",
            xlabel="mean width of the prediction intervals, tokens",
            ylabel=f"mean latency, {unit}",
            title="Latency against the quality of predictions",
        )
        left.set_xlim(left=0)
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        label = f"capacity, {capacity:,} tokens"
        right.axhline(capacity, color="#555555", lw=1.2, ls=":", label=label)
        right.set(xlabel=f"time, {unit}", ylabel="tokens held", title="The cache over time")
        right.set(xlim=(0, max(ends)), ylim=(0, None))
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def _draw_curve(axes: Axes, curve: list[tuple[float, float]], k: int, name: str) -> None:
    width, latency = np.array(curve).T
    known = np.isfinite(latency)
    label = by_name[name].label + " (unfinished)" * (not known.any())
    # An empty line that is not clipped would take room at the corner of the picture.
    style = look(k) | {"label": label, "ls": _dashes(k), "clip_on": not known.any()}
    axes.plot(width[known], latency[known], lw=1.4, ms=5, **style)


def _dashes(k: int) -> str:
    """Solid for the first round of colours, dashed after it."""
    return "-" if look(k)["color"] not in [look(j)["color"] for j in range(k)] else "--"


def _draw_occupancy(axes: Axes, held: Any, makespan: float, k: int) -> None:
    """Means over a few dozen stretches of time, so that eight policies stay readable."""
    parts = np.array_split(held, min(_POINTS, len(held))) if len(held) else []
    ends = np.cumsum([len(part) for part in parts]) / max(len(held), 1) * makespan
    style = {"color": look(k)["color"], "ls": _dashes(k)}
    axes.plot(ends, [part.mean() for part in parts], lw=1.3, alpha=0.9, **style)
