"""Whole tokens cost next to nothing, and never more than the certified bound.

    python benchmarks/queue_rounding.py [--quick]

1,000 configurations of Qwen3-8B: 40 arrival rates by 25 accuracy weights. The loss of nearest,
floor and best-neighbour rounding against the mean tokens at the optimum, with its bound; on 20 of
them also the loss on sample paths with common random numbers. `--quick`: 40 configurations.
"""

import dataclasses

import common
import jax
import jax.numpy as jnp
import numpy as np

import jaxalloc
from jaxalloc import load

WAYS = ("nearest", "floor", "best")
QUERIES = 1_000_000


def grid(rates, weights):
    base = load("qwen3-8b").workload
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
        common.show(rows[-1])
    return rows


def summary(loss, kept, objective):
    """Of one way to round, over the lanes that are kept."""
    lost, bound = loss.loss[kept], loss.bound[kept]
    share = lost / np.maximum(bound, 1e-300)
    return {
        "lanes": kept.sum(),
        "above_bound": np.sum(lost > bound),
        "loss": {"p50": np.median(lost), "max": lost.max()},
        "largest_share_of_objective": np.max(lost / np.abs(objective[kept])),
        "loss_over_bound": {"p50": np.median(share), "max": share.max()},
    }


def measure(quick):
    workloads = grid(*((8, 5) if quick else (40, 25)))
    lost = jax.tree.map(np.asarray, jax.jit(jax.vmap(jaxalloc.rounding_loss))(workloads))
    found = lost.status == jaxalloc.Status.CONVERGED
    rows = {}
    for way in WAYS:
        loss = getattr(lost, way)
        rows[way] = summary(loss, found & (loss.bound < np.inf), lost.objective)
        rows[way]["unstable"] = np.sum(found & ~(loss.loss < np.inf))
        common.show({way: rows[way]})
    on_paths = simulated(workloads, 2 if quick else 20, QUERIES)
    return {
        "configurations": found.size,
        "converged": found.sum(),
        "rounding": rows,
        "simulated": {
            "queries": QUERIES,
            "inside": sum(row["low"] <= row["loss"] <= row["high"] for row in on_paths),
            "of": len(on_paths),
            "rows": on_paths,
        },
        "points": {
            "mean_tokens": np.sum(np.asarray(workloads.mix) * lost.tokens, axis=1),
            **{way: {k: getattr(getattr(lost, way), k) for k in ("loss", "bound")} for way in WAYS},
        },
    }


if __name__ == "__main__":
    common.main(__file__, measure)
