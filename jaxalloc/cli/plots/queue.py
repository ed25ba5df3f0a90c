"""How long queries wait and stay: what `jaxalloc queue --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import jaxalloc
from jaxalloc.cli.plots.style import STYLE, look, shorten

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload

_POINTS = 240  # of a curve
_MARKS = 24  # of the sample path along it
_SHALLOWEST, _DEEPEST = 1.3, 7e-5
_RAREST = 1e-4  # the share beyond which a tail is not drawn


def queue_figure(
    document: dict[str, Any], workload: Workload, tokens: Any, path: Any, title: str
) -> Figure:
    """The share of queries beyond a time: formula as a line, sample path as marks.

    Args:
      document: the document of `jaxalloc queue`.
      workload: one workload.
      tokens: [K] its budgets.
      path: what `simulate_fifo` returned.
      title: the name of the workload.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        for k, (kind, counts, cdf) in enumerate(
            (
                ("system time", path.system_time_counts.sum(axis=0), jaxalloc.system_time_cdf),
                ("wait", path.wait_counts, jaxalloc.wait_cdf),
            )
        ):
            beyond = 1 - np.cumsum(counts) / counts.sum()
            last = path.edges[np.flatnonzero(beyond >= _RAREST).max(initial=0)]
            wanted = np.searchsorted(path.edges, np.linspace(0, last, _POINTS))
            times = path.edges[np.unique(wanted)]
            tail = np.interp(times, path.edges[:-1], beyond[:-1])
            exact = 1 - jax.lax.map(
                lambda x, cdf=cdf: cdf(workload, tokens, x), times, batch_size=16
            )
            style = look(k)
            color = style["color"]
            axes.plot(times, exact, color=color, lw=1.6, label=f"{kind}, M/G/1 formula")
            every = slice(None, None, max(1, len(times) // _MARKS))
            marks: Any = style | {"ls": "none", "ms": 5, "mec": "white", "mew": 0.6}
            axes.plot(times[every], tail[every], label=f"{kind}, simulated", **marks)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(xlim=(0, None), ylim=(_DEEPEST, _SHALLOWEST))
        axes.set(xlabel="time, s", ylabel="share of queries beyond")
        axes.legend(frameon=False, fontsize=9)
        axes.set_title(
            f"{shorten(title)}: utilization {document['measures']['utilization']['formula']:.2f}, "
            f"{document['arrivals']} arrivals"
        )
    return figure
