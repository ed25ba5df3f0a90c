"""Prediction against replay: what `jaxalloc trust --plot` draws."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from jaxalloc.cli.plots.style import STYLE, look


def trust_figure(document: dict[str, Any]) -> Figure:
    """Mean system time of the replay over the M/G/1 mean, and what a short trace may show.

    Args:
      document: the document of `jaxalloc trust`.
    """
    rows = sorted(document["comparisons"], key=lambda one: one["utilization"])
    loads = [one["utilization"] for one in rows]

    def over_prediction(key: str) -> list[float]:
        return [one[key] / one["predicted"] for one in rows]

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(
            loads,
            over_prediction("low"),
            over_prediction("high"),
            color="#cccccc",
            label="99 % of M/G/1 paths of this length",
        )
        axes.axhline(1, color="#555555", lw=1)
        axes.plot(loads, over_prediction("replayed"), label="the trace", ms=7, **look(1))
        axes.plot(
            loads,
            over_prediction("shuffled"),
            label="the trace in random order",
            ms=6,
            ls="--",
            **look(0),
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xlabel("utilization")
        axes.set_ylabel("mean system time / M/G/1 mean")
        axes.legend(frameon=False, loc="upper left")
        axes.set_title(f"cv of the gaps {document['arrival_cv']:.2f}: {document['verdict']}")
    return figure
