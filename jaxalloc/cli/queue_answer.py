"""What `jaxalloc queue` computes and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxalloc
from jaxalloc.allocation.model.mg1 import service_time
from jaxalloc.allocation.queue.arrivals import Arrivals, Poisson, Renewal, Replay
from jaxalloc.cli.output import make_table, make_totals, number, show
from jaxalloc.traces.readers import read_trace
from jaxalloc.workloads.files import to_workload

if TYPE_CHECKING:
    from jaxalloc.workloads.files import WorkloadFile

ROUNDINGS = ("nearest", "floor", "best")
MOST_POINTS = 240  # of a curve in a picture
DEEPEST = 1e-4  # the share beyond which no picture shows a tail


class Setup(NamedTuple):
    """What the command line asked for."""

    file: WorkloadFile
    integer: bool
    queries: int
    levels: tuple[float, ...]
    arrivals: Arrivals
    target: float | None
    confidence: float
    seed: int
    curves: bool


def read_arrivals(words: str, rate: float) -> Arrivals:
    """`poisson`, `cv:X` or `trace:FILE`."""
    name, _, rest = words.partition(":")
    if words == "poisson":
        return Poisson()
    if name == "cv":
        try:
            cv = float(rest)
        except ValueError:
            raise ValueError(f"--arrivals = {words}: {rest!r} is not a number: try cv:2") from None
        if not 0 <= cv <= 100:
            raise ValueError(f"--arrivals = {words}: the cv must be from 0 to 100: try cv:2")
        return Renewal(cv)
    if name == "trace":
        if not rate > 0:
            raise ValueError(f"--arrivals = {words} needs an arrival rate above 0: --arrival-rate")
        return Replay.at(read_trace(rest, needed=("arrival",)).arrival, rate)
    raise ValueError(f"--arrivals = {words} must be poisson, cv:X or trace:FILE")


def compute(setup: Setup) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The document that `--json` prints, and the curves of the picture."""
    workload = to_workload(setup.file)
    best = jax.jit(jaxalloc.solve)(workload)
    status, tokens = best.status, best.tokens
    key = jax.random.key(setup.seed)
    document: dict[str, Any] = {}
    if setup.integer:
        poisson = isinstance(setup.arrivals, Poisson)
        lost = jaxalloc.rounding_loss(
            workload, key if poisson else None, setup.queries, confidence=setup.confidence
        )
        status, tokens = lost.status, lost.best.tokens
        document["rounding"] = {name: _loss(getattr(lost, name)) for name in ROUNDINGS}
    name = jaxalloc.Status(int(status)).name
    if name != "CONVERGED":
        return {"status": name}, None
    path = jaxalloc.simulate_fifo(
        key,
        workload,
        tokens,
        setup.queries,
        arrivals=setup.arrivals,
        percentiles=setup.levels,
        confidence=setup.confidence,
    )
    path = jax.tree.map(np.asarray, path)
    names = setup.file.task_names
    document = {
        "status": name,
        "queries": float(path.num_queries),
        "queries_asked": setup.queries,
        "confidence": setup.confidence,
        "warm_up": int(path.warm_up),
        "relaxations": float(path.relaxations),
        "measures": _measures(setup, workload, tokens, path),
        "tasks": _tasks(setup, workload, tokens, path, names),
        **document,
    }
    if setup.target is not None:
        document["largest_arrival_rates"] = _rates(setup, workload, tokens)
    return document, _curves(workload, tokens, path) if setup.curves else None


def _loss(loss: Any) -> dict[str, Any]:
    return {
        "tokens": loss.tokens.tolist(),
        **{key: float(getattr(loss, key)) for key in ("loss", "bound", "simulated", "low", "high")},
    }


def _measures(setup: Setup, workload: Any, tokens: Any, path: Any) -> dict[str, dict[str, float]]:
    """Formula, estimate and interval of everything over all queries."""
    exact: dict[str, Any] = {
        "mean_system_time": jaxalloc.mean_system_time(workload, tokens),
        "mean_wait": jaxalloc.mean_wait(workload, tokens),
        "fraction_correct": jaxalloc.mean_accuracy(workload, tokens),
        "utilization": jaxalloc.utilization(workload, tokens),
    }
    measures = {
        name: _row(value, *(getattr(side, name) for side in (path.estimate, path.low, path.high)))
        for name, value in exact.items()
    }
    for kind, function in (
        ("system_time", jaxalloc.system_time_quantile),
        ("wait", jaxalloc.wait_quantile),
    ):
        sides = [getattr(s, f"{kind}_percentiles") for s in (path.estimate, path.low, path.high)]
        for i, level in enumerate(setup.levels):
            value = function(workload, tokens, level / 100)
            measures[f"{kind}_p{level:.12g}"] = _row(value, *(side[i] for side in sides))
    return measures


def _row(formula: Any, estimate: Any, low: Any, high: Any) -> dict[str, float]:
    return {
        "formula": float(formula),
        "simulated": float(estimate),
        "low": float(low),
        "high": float(high),
    }


def _tasks(
    setup: Setup, workload: Any, tokens: Any, path: Any, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    estimate, time = path.estimate, service_time(workload, tokens)
    return [
        {
            "name": name,
            "queries": float(path.num_of_type[k]),
            "tokens": float(tokens[k]),
            "service_time": float(time[k]),
            "mean_wait": float(estimate.type_mean_wait[k]),
            "mean_system_time": float(estimate.type_mean_system_time[k]),
            "fraction_correct": float(estimate.type_fraction_correct[k]),
            **{
                f"system_time_p{level:.12g}": float(estimate.type_system_time_percentiles[k, i])
                for i, level in enumerate(setup.levels)
            },
        }
        for k, name in enumerate(names)
    ]


def _rates(setup: Setup, workload: Any, tokens: Any) -> dict[str, float]:
    """The rate at which each measure meets the target, at these tokens."""
    rates = {"mean": float(jaxalloc.largest_arrival_rate(workload, tokens, setup.target))}
    for level in setup.levels:
        rate = jaxalloc.largest_arrival_rate(workload, tokens, setup.target, q=level / 100)
        rates[f"p{level:.12g}"] = float(rate)
    return {"target": float(setup.target or 0), **rates}


def _curves(workload: Any, tokens: Any, path: Any) -> dict[str, Any]:
    """Shares of queries beyond a time, on the sample path and by formula."""
    curves = {}
    for kind, counts, cdf in (
        ("system time", path.system_time_counts.sum(axis=0), jaxalloc.system_time_cdf),
        ("wait", path.wait_counts, jaxalloc.wait_cdf),
    ):
        beyond = 1 - np.cumsum(counts) / counts.sum()
        last = path.edges[np.flatnonzero(beyond >= DEEPEST).max(initial=0)]
        wanted = np.searchsorted(path.edges, np.linspace(0, last, MOST_POINTS))
        edges = path.edges[np.unique(wanted)]
        tail = np.interp(edges, path.edges[:-1], beyond[:-1])
        exact = 1 - jax.lax.map(
            lambda x, cdf=cdf: cdf(workload, tokens, x), jnp.asarray(edges), batch_size=16
        )
        curves[kind] = {"seconds": edges, "simulated": tail, "formula": np.asarray(exact)}
    return curves


def show_answer(document: dict[str, Any]) -> None:
    """The tables."""
    if document["status"] != "CONVERGED":
        return
    confidence = f"{100 * document['confidence']:.6g}% interval"
    table = make_table("", "M/G/1 formula", "simulated", confidence)
    for name, row in document["measures"].items():
        unit = "" if name in ("fraction_correct", "utilization") else " s"
        interval = f"{number(row['low'], '.5g')} – {number(row['high'], '.5g')}{unit}"
        table.add_row(
            name.replace("_", " "),
            number(row["formula"], ".5g", unit),
            number(row["simulated"], ".5g", unit),
            interval,
        )
    levels = [key for key in document["tasks"][0] if key.startswith("system_time_p")]
    heads = (f"p{key.removeprefix('system_time_p')}" for key in levels)
    tasks = make_table("task", "tokens", "service", "wait", "total", *heads, "correct")
    for task in document["tasks"]:
        tasks.add_row(
            task["name"],
            f"{task['tokens']:,.0f}",
            *(
                number(task[key], ".4g")
                for key in ("service_time", "mean_wait", "mean_system_time", *levels)
            ),
            number(task["fraction_correct"], ".4f"),
        )
    paths = f"{document['queries']:,.0f} queries"
    if document["queries"] != document["queries_asked"]:
        paths += f" ({document['queries_asked']:,} asked, rounded up to whole replications)"
    paths += f", {document['arrivals']} arrivals"
    show(table, f"{paths}; of each task, simulated, in s:", tasks)
    if "rounding" in document:
        show("loss of whole tokens against the continuous optimum:", _rounding(document))
    if "largest_arrival_rates" in document:
        rates = dict(document["largest_arrival_rates"])
        totals = make_totals()
        totals.add_row("target", f"{rates.pop('target'):g} s of system time")
        for name, rate in rates.items():
            met = f"{rate:.5g} queries / s" if rate == rate else "not even at an idle server"
            totals.add_row(f"largest arrival rate, {name}", met)
        show("at these tokens:", totals)
    if "plot" in document:
        show(f"\nwrote {document['plot']}")


def _rounding(document: dict[str, Any]) -> Any:
    table = make_table("rounding", "loss", "at most", "simulated", "interval")
    for name, loss in document["rounding"].items():
        simulated = "–" if loss["simulated"] != loss["simulated"] else f"{loss['simulated']:.3g} s"
        table.add_row(
            name,
            f"{loss['loss']:.3g} s",
            f"{loss['bound']:.3g} s",
            simulated,
            "" if simulated == "–" else f"{loss['low']:.3g} – {loss['high']:.3g} s",
        )
    return table
