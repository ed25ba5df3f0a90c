"""Claim: whole tokens cost next to nothing, and never more than the certified bound.

    python benchmarks/queue_rounding_study.py [--quick]

1,000 configurations of Qwen3-8B: 40 arrival rates by 25 accuracy weights. The loss of nearest,
floor and best-neighbour rounding against the mean tokens at the optimum, with its bound; on 20 of
them also the loss on sample paths with common random numbers. Writes rounding_study.json and
../figures/rounding_loss.png.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

jax.config.update("jax_enable_x64", True)

import common  # noqa: E402

import jaxalloc  # noqa: E402
from jaxalloc.cli.plots.style import STYLE, look, save  # noqa: E402
from jaxalloc.workloads.files import load, to_workload  # noqa: E402

WAYS = ("nearest", "floor", "best")


def grid(rates, weights):
    base = to_workload(load("qwen3-8b"))
    rate, weight = np.meshgrid(
        np.geomspace(0.01, 4, rates), np.geomspace(1, 300, weights), indexing="ij"
    )
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rate.size, *jnp.shape(leaf))), base)
    return dataclasses.replace(
        many, arrival_rate=jnp.asarray(rate.ravel()), accuracy_weight=jnp.asarray(weight.ravel())
    )


def simulated(workloads, count, queries):
    rows = []
    for lane in np.linspace(0, len(workloads.arrival_rate) - 1, count).astype(int):
        one = jax.tree.map(lambda leaf, lane=lane: leaf[lane], workloads)
        lost = jaxalloc.rounding_loss(one, jax.random.key(int(lane)), queries)
        for way in WAYS:
            loss = getattr(lost, way)
            rows.append(
                {
                    "lane": int(lane),
                    "rounding": way,
                    **{
                        name: float(getattr(loss, name))
                        for name in ("loss", "bound", "simulated", "low", "high")
                    },
                }
            )
        print(rows[-1], flush=True)
    return rows


def draw(tokens, lost):
    """Configurations in which nobody thinks lose nothing and are left out."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        panels = zip(figure.subplots(1, 2, sharey=True), ("floor", "best"), strict=True)
        for axes, way in panels:
            loss = getattr(lost, way)
            shown = (tokens > 1) & (loss.loss > 0)
            x = tokens[shown]
            axes.vlines(x, loss.loss[shown], loss.bound[shown], color="#cccccc", lw=0.5)
            for k, (values, label) in enumerate(((loss.bound, "bound"), (loss.loss, "loss"))):
                axes.plot(x, values[shown], ls="none", ms=2.2, mew=0, label=label, **look(k))
            axes.set(xscale="log", yscale="log", xlabel="mean tokens at the optimum")
            axes.set_ylim(bottom=1e-13)
            axes.set_title({"floor": "rounded down", "best": "best neighbour"}[way])
            axes.legend(frameon=False, markerscale=3)
        figure.axes[0].set_ylabel("loss of objective, s")
    save(figure, common.FIGURES / "rounding_loss.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 configurations, 2 simulated")
    quick = parser.parse_args().quick
    workloads = grid(*((8, 5) if quick else (40, 25)))
    lost = jax.jit(jax.vmap(jaxalloc.rounding_loss))(workloads)
    lost = jax.tree.map(np.asarray, lost)
    tokens = np.sum(np.asarray(workloads.mix) * lost.tokens, axis=1)
    found = lost.status == jaxalloc.Status.CONVERGED
    rows = {}
    for way in WAYS:
        loss = getattr(lost, way)
        kept = found & (loss.bound < np.inf)
        rows[way] = {
            "lanes": int(kept.sum()),
            "unstable": int(np.sum(found & ~(loss.loss < np.inf))),
            "above_bound": int(np.sum(loss.loss[kept] > loss.bound[kept])),
            "loss": {"p50": float(np.median(loss.loss[kept])), "max": float(loss.loss[kept].max())},
            "largest_share_of_objective": float(
                np.max(loss.loss[kept] / np.abs(lost.objective[kept]))
            ),
            "loss_over_bound": {
                "p50": float(np.median(loss.loss[kept] / np.maximum(loss.bound[kept], 1e-300))),
                "max": float(np.max(loss.loss[kept] / np.maximum(loss.bound[kept], 1e-300))),
            },
        }
        print(way, rows[way])
    on_paths = simulated(workloads, 2 if quick else 20, 1_000_000)
    inside = sum(row["low"] <= row["loss"] <= row["high"] for row in on_paths)
    document = {
        "configurations": int(found.size),
        "converged": int(found.sum()),
        "rounding": rows,
        "simulated": {
            "queries": 1_000_000,
            "inside": inside,
            "of": len(on_paths),
            "rows": on_paths,
        },
    }
    if not quick:
        draw(tokens, lost)
    common.save("queue_rounding", document, quick)


if __name__ == "__main__":
    main()
