"""What `jaxalloc queue` computes: formulas and sample paths of the queue at the optimum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax

import jaxalloc
from jaxalloc.allocation.model.mg1 import service_time
from jaxalloc.allocation.queue.arrivals import Arrivals, Poisson, Renewal, Replay
from jaxalloc.cli.report import rows
from jaxalloc.traces.readers import read_trace

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload

MOST_CV = 100
ROUNDINGS = ("nearest", "floor", "best")
MEANS = ("mean_system_time", "mean_wait", "fraction_correct", "utilization")


class Wishes(NamedTuple):
    """What the command line asked for; percentiles are in %."""

    integer: bool
    queries: int
    percentiles: tuple[float, ...]
    arrivals: Arrivals
    target: float | None
    confidence: float
    seed: int


def read_arrivals(words: str, rate: float) -> Arrivals:
    """`poisson`, `cv:X` or `trace:FILE`."""
    name, _, rest = words.partition(":")
    if words == "poisson":
        return Poisson()
    if name == "cv":
        try:
            cv = float(rest)
        except ValueError:
            cv = float("nan")
        if not 0 <= cv <= MOST_CV:
            raise ValueError(f"arrivals = {words}: the cv must be from 0 to {MOST_CV}: try cv:2")
        return Renewal(cv)
    if name == "trace":
        if not rate > 0:
            raise ValueError(f"arrivals = {words} needs an arrival rate above 0: --arrival-rate")
        return Replay.at(read_trace(rest, needed=("arrival",)).arrival, rate)
    raise ValueError(f"arrivals = {words} must be poisson, cv:X or trace:FILE")


def answer(
    workload: Workload, names: tuple[str, ...], wishes: Wishes
) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """What `--json` prints; and the tokens and the sample path, for the picture."""
    best = jax.jit(jaxalloc.solve)(workload)
    status, tokens = best.status, best.tokens
    key = jax.random.key(wishes.seed)
    more: dict[str, Any] = {}
    if wishes.integer:
        drawn = key if isinstance(wishes.arrivals, Poisson) else None
        lost = jaxalloc.rounding_loss(workload, drawn, wishes.queries, confidence=wishes.confidence)
        status, tokens = lost.status, lost.best.tokens
        more["rounding"] = {name: _loss(getattr(lost, name)) for name in ROUNDINGS}
    name = jaxalloc.Status(int(status)).name
    if name != "CONVERGED":
        return {"status": name}, (None, None)
    path = jax.device_get(
        jaxalloc.simulate_fifo(
            key,
            workload,
            tokens,
            wishes.queries,
            arrivals=wishes.arrivals,
            percentiles=wishes.percentiles,
            confidence=wishes.confidence,
        )
    )
    levels = {f"p{level:.12g}": level for level in wishes.percentiles}
    if wishes.target is not None:
        found = {"mean": jaxalloc.largest_arrival_rate(workload, tokens, wishes.target)}
        for level, percent in levels.items():
            found[level] = jaxalloc.largest_arrival_rate(
                workload, tokens, wishes.target, q=percent / 100
            )
        rates = {level: float(rate) for level, rate in found.items()}
        more["largest_arrival_rates"] = {"target": wishes.target} | rates
    document = {
        "status": name,
        "queries": float(path.num_queries),
        "queries_asked": wishes.queries,
        "confidence": wishes.confidence,
        "warm_up": int(path.warm_up),
        "relaxations": float(path.relaxations),
        "measures": _measures(workload, tokens, path, levels),
        "tasks": _tasks(names, tokens, service_time(workload, tokens), path, [*levels]),
    }
    return document | more, (tokens, path)


def _loss(loss: Any) -> dict[str, Any]:
    names = ("loss", "bound", "simulated", "low", "high")
    return {"tokens": loss.tokens.tolist()} | {key: float(getattr(loss, key)) for key in names}


def _measures(
    workload: Workload, tokens: Any, path: Any, levels: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Formula, estimate and interval of everything over all queries."""

    def simulated(side: Any) -> list[Any]:
        means = [getattr(side, name) for name in MEANS]
        return [*means, *side.system_time_percentiles, *side.wait_percentiles]

    # Not under one jit: every percentile runs the same compiled search.
    quantiles = (jaxalloc.system_time_quantile, jaxalloc.wait_quantile)
    percentiles = [q(workload, tokens, p / 100) for q in quantiles for p in levels.values()]
    columns = {
        "formula": [*jax.jit(_means)(workload, tokens), *percentiles],
        "simulated": simulated(path.estimate),
        "low": simulated(path.low),
        "high": simulated(path.high),
    }
    names = [*MEANS, *(f"{kind}_{level}" for kind in ("system_time", "wait") for level in levels)]
    return {
        name: {key: float(column[i]) for key, column in columns.items()}
        for i, name in enumerate(names)
    }


def _means(workload: Workload, tokens: Any) -> list[Any]:
    """What the formulas say of `MEANS`."""
    means = (
        jaxalloc.mean_system_time,
        jaxalloc.mean_wait,
        jaxalloc.mean_accuracy,
        jaxalloc.utilization,
    )
    return [mean(workload, tokens) for mean in means]


def _tasks(
    names: tuple[str, ...], tokens: Any, time: Any, path: Any, levels: list[str]
) -> list[dict[str, Any]]:
    mean = path.estimate
    columns = {
        "queries": path.num_of_type,
        "tokens": tokens,
        "service_time": time,
        "mean_wait": mean.type_mean_wait,
        "mean_system_time": mean.type_mean_system_time,
        "fraction_correct": mean.type_fraction_correct,
    }
    for i, level in enumerate(levels):
        columns[f"system_time_{level}"] = mean.type_system_time_percentiles[:, i]
    return rows(name=names, **columns)
