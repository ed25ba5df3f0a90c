"""2,000 requests of the Azure conversation trace, M = 16,492, over the width of the intervals.

    JAXALLOC_DATA=../shared/data python benchmarks/scheduling_azure_study.py

Left: all at 0, in rounds. Right: arrivals as in the trace, in seconds, with the batch times of
Llama2-70B on two A100. The interval of an output is its bin, of 1 to 1,000 bins; MC-SF predicts the
middle of it. Writes azure_study.json and ../figures/schedule-azure.png.
"""

import os
from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

ROOT = Path(__file__).parents[1]
jax.config.update("jax_enable_x64", True)

import common  # noqa: E402

from jaxalloc import BatchTime, ScheduleStatus, policies, simulate  # noqa: E402
from jaxalloc.cli.plots.style import STYLE, look, save  # noqa: E402
from jaxalloc.traces.intervals import bins  # noqa: E402
from jaxalloc.traces.readers import read_trace  # noqa: E402
from jaxalloc.traces.trace import to_requests  # noqa: E402

DATA = Path(os.environ.get("JAXALLOC_DATA", ROOT.parent / "shared" / "data"))
NUM, CAPACITY = 2_000, 16_492
BINS = (1, 2, 3, 5, 10, 20, 50, 100, 1000)
POLICIES = {
    "H-SF (hindsight)": policies.HindsightShortestFirst(),
    "A_max": policies.AMax(),
    "A_min": policies.AMin(),
    "MC-SF, middle of the interval": policies.MCSF(),
    "vLLM, first come": policies.VLLMFirstCome(),
}
BLIND = ("H-SF (hindsight)", "vLLM, first come")  # they read no prediction


def measure(trace, in_seconds):
    model = BatchTime.llama2_70b() if in_seconds else None
    arrival = trace.arrival if in_seconds else 0
    rows, known = [], {}
    for count in BINS:
        made = bins(trace.output, count)
        requests = to_requests(trace, arrival=arrival, **vars(made))
        width = float(np.mean(made.upper - made.lower))
        for name, policy in POLICIES.items():
            if name not in known:
                schedule = simulate(requests, CAPACITY, policy, batch_time=model)
                row = {
                    "policy": name,
                    "status": ScheduleStatus(int(schedule.status)).name,
                    "mean_latency": float(schedule.mean_latency),
                    "p95_latency": float(schedule.latency_percentile(95)),
                    "mean_time_to_first_token": float(schedule.mean_time_to_first_token),
                    "makespan": float(schedule.makespan),
                    "evictions": int(schedule.total_evictions),
                    "wasted": int(schedule.total_wasted),
                    "mean_occupancy": float(schedule.mean_occupancy),
                }
                assert row["status"] == "FINISHED"
                if name in BLIND:
                    known[name] = row
            rows.append({"bins": count, "mean_width": width, **known.get(name, row)})
            print(rows[-1], flush=True)
    return rows


def draw(answers):
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        panels = zip(figure.subplots(1, 2), answers.items(), strict=True)
        for axes, (unit, rows) in panels:
            for k, name in enumerate(POLICIES):
                line = [(r["mean_width"], r["mean_latency"]) for r in rows if r["policy"] == name]
                label = name if unit == "rounds" else None
                axes.plot(*np.array(line).T, label=label, ms=5, lw=1.4, **look(k))
            arrivals = "all at once" if unit == "rounds" else "arrivals of the trace, Llama2-70B"
            axes.set(
                xscale="symlog", title=arrivals, ylabel=f"mean latency, {unit}",
                xlabel="mean width of the prediction intervals, tokens",
            )  # fmt: skip
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        figure.legend(loc="outside lower center", ncols=5, frameon=False)
    save(figure, common.FIGURES / "schedule-azure.png")


def main():
    whole = read_trace(DATA / "AzureLLMInferenceTrace_conv.csv")
    trace = whole.fitting(CAPACITY).head(NUM)
    answers = {"rounds": measure(trace, False), "seconds": measure(trace, True)}
    draw(answers)
    common.save("scheduling_study_azure", {"requests": NUM, "capacity": CAPACITY, **answers})


if __name__ == "__main__":
    main()
