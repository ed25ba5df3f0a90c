"""Prediction against replay: what `jaxalloc trust --plot` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxalloc.cli.plots.style import canvas, label_log, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAR = 14  # points: the width of a band at one utilization
# What is drawn: its key in a comparison, its label, its dashes.
_PATHS = (
    ("shuffled", "gaps and services in random order", "--"),
    ("replayed", "the trace", "-"),
    ("gaps_shuffled", "gaps in random order", ":"),
    ("services_shuffled", "services in random order", "-."),
)


def trust_figure(document: dict[str, Any]) -> Figure:
    """Mean system time of the replay over the M/G/1 mean, and what a short trace may show.

    Args:
      document: the document of `jaxalloc trust`.
    """
    rows = sorted(document["comparisons"], key=lambda one: one["utilization"])
    loads = [one["utilization"] for one in rows]

    def over_prediction(key: str) -> list[float]:
        return [one[key] / one["predicted"] for one in rows]

    with canvas((7.2, 5.2)) as (figure, axes):
        band: dict[str, Any] = {"color": "#cccccc", "label": "99 % of M/G/1 paths of this length"}
        low, high = over_prediction("low"), over_prediction("high")
        if len(loads) > 1:
            axes.fill_between(loads, low, high, **band)
        else:
            axes.vlines(loads, low, high, lw=_BAR, **band)
        axes.axhline(1, color="#555555", lw=1, label="the M/G/1 mean")
        for k, (key, label, dashes) in enumerate(_PATHS):
            axes.plot(loads, over_prediction(key), label=label, ms=6, ls=dashes, **look(k))
        axes.set_yscale("log")
        label_log(axes.yaxis)
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, 0.45), max(top, 2.2))
        axes.set(xlabel="utilization", ylabel="mean system time / M/G/1 mean")
        figure.legend(loc="outside lower center", ncols=2)
        axes.set_title(f"cv of the gaps {document['arrival_cv']:.2f}: {document['verdict']}")
    return figure
