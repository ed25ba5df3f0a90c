"""How long queries wait and stay: what `jaxalloc queue --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import jaxalloc
from jaxalloc.cli.plots.style import canvas, look, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    kinds = (
        ("system time", path.system_time_counts.sum(axis=0), jaxalloc.system_time_cdf),
        ("wait", path.wait_counts, jaxalloc.wait_cdf),
    )
    load = document["measures"]["utilization"]["formula"]
    with canvas((7.2, 4.6)) as (figure, axes):
        for k, (kind, counts, cdf) in enumerate(kinds):
            beyond = 1 - np.cumsum(counts) / counts.sum()
            last = path.edges[np.flatnonzero(beyond >= _RAREST).max(initial=0)]
            places = np.searchsorted(path.edges, np.linspace(0, last, _POINTS))
            times = path.edges[np.unique(places)]
            tail = np.interp(times, path.edges[:-1], beyond[:-1])
            exact = 1 - jax.lax.map(
                lambda x, cdf=cdf: cdf(workload, tokens, x), times, batch_size=16
            )
            line: Any = {"color": look(k)["color"], "lw": 1.6, "label": f"{kind}, M/G/1 formula"}
            axes.plot(times, exact, **line)
            every = slice(None, None, max(1, len(times) // _MARKS))
            marks: Any = look(k) | {"ls": "none", "ms": 5, "mec": "white", "mew": 0.6}
            axes.plot(times[every], tail[every], label=f"{kind}, simulated", **marks)
        axes.set(yscale="log", xlim=(0, None), ylim=(_DEEPEST, _SHALLOWEST))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="time, s", ylabel="share of queries beyond")
        axes.legend()
        arrivals = document["arrivals"]
        axes.set_title(f"{shorten(title)}: utilization {load:.2f}, {arrivals} arrivals")
    return figure
