"""Draws the pictures of the pages out of the results.

python benchmarks/figures.py [NAME …]
"""

import sys

import common
import numpy as np
import tables
from matplotlib.ticker import StrMethodFormatter

from jaxalloc.cli.plots.style import canvas, look, save


def decision_focused(results):
    """Regret along the training, and its end for every seed."""
    seeds = results["allocation_decision_focused"].seeds
    labels = {"parameter error": "trained on parameter error", "regret": "through the solver"}
    ends = []
    with canvas((9.5, 4), grid=(1, 2), width_ratios=(1.6, 1)) as (figure, (curves, last)):
        for k, (name, label) in enumerate(labels.items()):
            regret = np.array([seed[name].held_out_regret for seed in seeds])
            steps = np.linspace(0, results["allocation_decision_focused"].steps, regret.shape[1])
            curves.plot(steps, np.median(regret, axis=0), label=label, **look(k))
            low, high = regret.min(axis=0), regret.max(axis=0)
            curves.fill_between(steps, low, high, color=look(k)["color"], alpha=0.15)
            ends.append(regret[:, -1])
            last.plot(np.full(len(seeds), k), regret[:, -1], ls="none", **look(k))
        curves.set(xlabel="training steps", ylabel="held-out regret, s")
        curves.set(title=f"median and range over {len(seeds)} seeds", ylim=(0, 1.6 * np.max(ends)))
        curves.legend()
        last.plot([0, 1], ends, color="#888888", lw=1, zorder=1)
        last.set(xticks=[0, 1], xticklabels=["parameter\nerror", "through\nthe solver"])
        last.set(xlim=(-0.4, 1.4), title="at the end, seed by seed", ylim=(0, None))
    return figure


def online_tuning(results):
    """Rate, system time and accuracy over the day."""
    found = results["allocation_online_tuning"]
    labels = {"fixed": "fixed budgets", "followed": "followed by gradient", "oracle": "oracle"}
    hours = np.linspace(0, 24, len(found.day.rates), endpoint=False)
    options = {"sharex": True, "height_ratios": (1, 1.6, 1.6)}
    title = f"qwen3-8b, promised: a mean system time of {found.promise:g} s"
    with canvas((9, 6.4), title, grid=(3, 1), **options) as (figure, (rate, time, accuracy)):
        rate.plot(hours, found.day.rates, color="#555555")
        for k, (name, label) in enumerate(labels.items()):
            line = {"color": look(k)["color"], "ls": ("--", "-", ":")[k], "label": label}
            time.plot(hours, found.day.sides[name].mean_system_time, **line)
            accuracy.plot(hours, found.day.sides[name].mean_accuracy, **line)
        rate.set(ylabel="queries / s", ylim=(0, None))
        time.set(ylabel="mean system time, s", ylim=(0, None))
        time.legend(ncols=3, loc="upper left")
        accuracy.set(ylabel="mean accuracy", xlabel="hour of the day", xlim=(0, 24))
        accuracy.set_xticks(range(0, 25, 4))
    return figure


def schedule_azure(results):
    """Mean latency of every policy over the width of the intervals."""
    found = results["scheduling_azure"]
    titles = {"rounds": "all at once", "seconds": "arrivals of the trace, Llama2-70B"}
    with canvas((10, 4.4), grid=(1, 2)) as (figure, panels):
        for axes, (unit, title) in zip(panels, titles.items(), strict=True):
            for k, name in enumerate(dict.fromkeys(row.policy for row in found[unit])):
                own = [row for row in found[unit] if row.policy == name]
                pairs = zip(*((row.mean_width, row.mean_latency) for row in own), strict=True)
                axes.plot(*pairs, label=name if unit == "rounds" else None, **look(k))
            axes.set(xscale="symlog", title=title, ylabel=f"mean latency, {unit}", ylim=(0, None))
            axes.set(xlabel="mean width of the prediction intervals, tokens", xlim=(0, None))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        figure.legend(loc="outside lower center", ncols=5)
    return figure


def schedule_ratios(results):
    """Total latency over hindsight's, beside 1 + log(1/α)."""
    rows = results["scheduling_ratios"].rows
    with canvas((9, 4), grid=(1, 2), sharey=True) as (figure, panels):
        for axes, name in zip(panels, ("geometric", "two-point"), strict=True):
            own = [row for row in rows if row.law == name]
            inverse = [1 / row.alpha for row in own]
            for k, (policy, label) in enumerate((("AMin", "A_min"), ("AMax", "A_max"))):
                axes.plot(inverse, [row[policy] for row in own], label=label, **look(k))
            bound = [1 + row["log"] for row in own]
            axes.plot(inverse, bound, "--", color="#555555", label="1 + log(1/α)")
            axes.set(xscale="log", xlabel="1/α = upper / lower", title=name, ylim=(0, None))
            axes.legend()
        panels[0].set_ylabel("total latency / that of H-SF")
    return figure


def gpu(results):
    """Throughput over size, both jobs, where there is a result of a GPU."""
    found = results["gpu"]
    panels = {"allocation": ("lanes", "workloads_per_second")}
    panels["scheduling"] = ("instances", "requests_per_second")
    with canvas((10, 4), found.environment.device, grid=(1, 2)) as (figure, axes):
        for panel, (job, (size, speed)) in zip(axes, panels.items(), strict=True):
            for k, part in enumerate(p for p in found.parts if p.part.startswith(job)):
                own = [row for row in part.rows if speed in row]
                style = "--" if "plain" in part.part else "-"
                sizes, speeds = [row[size] for row in own], [row[speed] for row in own]
                panel.loglog(sizes, speeds, style, label=part.part, **look(k))
            for row in (r for p in found.parts if p.part == "numba" for r in p.rows):
                if row.job == job:
                    panel.axhline(row[speed], color="#888888", ls=":")
            panel.set(xlabel=size, ylabel=speed.replace("_", " "), title=f"{job}; dotted: numba")
            panel.legend()
    return figure


PICTURES = {"decision_focused": decision_focused, "online_tuning": online_tuning, "gpu": gpu}
PICTURES |= {"schedule-azure": schedule_azure, "schedule-ratios": schedule_ratios}


def main():
    results = tables.read_results()
    usual = [name for name in PICTURES if name != "gpu" or "gpu" in results]
    for name in sys.argv[1:] or usual:
        save(PICTURES[name](results), common.FIGURES / f"{name}.png")


if __name__ == "__main__":
    main()
