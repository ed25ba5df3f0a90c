"""Measured ratios of A_min and A_max to H-SF, beside log(1/α), over α = lower / upper.

    python benchmarks/scheduling_ratio_study.py

500 requests with prompts of 1 and outputs in [1, u], u = 1/α from 1 to 1,000, M = 20 (u + 1), all
at 0, the same interval [1, u] for all. Outputs are geometric with mean u/4 (cut off at u), or two
points: 1 with probability 0.9, else u. Means over 20 seeds. Writes ratio_study.json and
../figures/schedule-ratios.png.
"""

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

jax.config.update("jax_enable_x64", True)

import common  # noqa: E402

from jaxalloc import Requests, policies, simulate_batch  # noqa: E402
from jaxalloc.cli.plots.style import STYLE, look, save  # noqa: E402
from jaxalloc.traces.generators import Law  # noqa: E402

SEEDS, NUM = 20, 500
LONGEST = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def law(name, longest):
    if name == "two-point":
        return Law(name="two_point", least=1, most=longest, weight=0.9)
    return Law(name="geometric", mean=max(longest / 4, 1.001), most=longest)


def ratios(name, longest):
    output = law(name, longest).draw(np.random.default_rng(longest), SEEDS * NUM)
    requests = Requests.create(prompt=1, output=output.reshape(SEEDS, NUM), lower=1, upper=longest)
    capacity = 20 * (longest + 1)
    best = simulate_batch(requests, capacity, policies.HindsightShortestFirst()).total_latency
    row = {"law": name, "alpha": 1 / longest, "log": float(np.log(longest))}
    for policy in (policies.AMin(), policies.AMax()):
        schedule = simulate_batch(requests, capacity, policy)
        assert (schedule.status == 0).all()
        ratio = np.asarray(schedule.total_latency / best)
        row[type(policy).__name__] = float(ratio.mean())
        row[f"{type(policy).__name__} worst"] = float(ratio.max())
    return row


def draw(rows):
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, ("geometric", "two-point"), strict=True):
            chosen = [row for row in rows if row["law"] == name]
            inverse = [1 / row["alpha"] for row in chosen]
            for k, (policy, label) in enumerate((("AMin", "A_min"), ("AMax", "A_max"))):
                axes.plot(inverse, [r[policy] for r in chosen], label=label, ms=5, **look(k))
            axes.plot(
                inverse, [1 + r["log"] for r in chosen], "--", color="#555555",
                label="1 + log(1/α)",
            )  # fmt: skip
            axes.set(xscale="log", xlabel="1/α = upper / lower", title=name)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axes.legend(frameon=False)
        figure.axes[0].set_ylabel("total latency / that of H-SF")
        figure.axes[0].set_ylim(bottom=0)
    save(figure, common.FIGURES / "schedule-ratios.png")


def main():
    rows = [ratios(name, longest) for name in ("geometric", "two-point") for longest in LONGEST]
    for row in rows:
        print({k: v if isinstance(v, str) else round(v, 4) for k, v in row.items()})
    draw(rows)
    common.save("scheduling_study_ratio", {"seeds": SEEDS, "requests": NUM, "rows": rows})


if __name__ == "__main__":
    main()
