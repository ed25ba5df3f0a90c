"""How long queries wait and stay: what `jaxalloc queue --plot` draws."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from jaxalloc.cli.plots.style import STYLE, look, shorten

_MARKS = 24  # of the sample path along a curve
_SHALLOWEST, _DEEPEST = 1.3, 7e-5


def queue_figure(document: dict[str, Any], curves: dict[str, Any], title: str) -> Figure:
    """The share of queries beyond a time: formula as a line, sample path as marks.

    Args:
      document: the document of `jaxalloc queue`.
      curves: seconds, simulated and formula for the system time and for the wait.
      title: the name of the workload.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        for k, (kind, curve) in enumerate(curves.items()):
            style = look(k)
            axes.plot(
                curve["seconds"],
                curve["formula"],
                color=style["color"],
                lw=1.6,
                label=f"{kind}, M/G/1 formula",
            )
            every = slice(None, None, max(1, len(curve["seconds"]) // _MARKS))
            axes.plot(
                curve["seconds"][every],
                curve["simulated"][every],
                **style,
                ls="none",
                ms=5,
                mec="white",
                mew=0.6,
                label=f"{kind}, simulated",
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(_DEEPEST, _SHALLOWEST)
        axes.set_xlim(left=0)
        axes.set_xlabel("time, s")
        axes.set_ylabel("share of queries beyond")
        axes.legend(frameon=False, fontsize=9)
        axes.set_title(
            f"{shorten(title)}: utilization {document['measures']['utilization']['formula']:.2f}, "
            f"{document['arrivals']} arrivals"
        )
    return figure
