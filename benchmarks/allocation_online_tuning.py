"""Online tuning: the arrival rate drifts over a day, the allocation follows by gradient.

The operator promises a mean system time. He sees only how many queries came in each interval. At
every interval he (1) updates the estimate of the rate, exponentially weighted, (2) moves the
logarithm of the accuracy weight one Adam step down the squared relative error of the predicted
system time, the gradient passing through the solver, and (3) solves again from the tokens he has.
Beside him stand budgets fixed at the day's mean rate, and an oracle that knows the true rate and
finds the weight that meets the promise exactly.

    python benchmarks/allocation_online_tuning.py [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxalloc
from jaxalloc.workloads.files import load, to_workload

PROMISE = 2.0  # mean system time, s
INTERVAL = 300.0  # s
MEMORY = 0.15  # weight of the newest interval in the estimate of the rate
LEARNING_RATE = 0.1
MEAN_RATE = 0.25  # queries / s


class Operator(NamedTuple):
    """What is carried from interval to interval."""

    rate: Any
    log_weight: Any
    tokens: Any
    adam: Any


def true_rates(intervals: int) -> np.ndarray:
    """Queries / s: a day's wave, a burst after noon, a step down in the evening."""
    day = np.arange(intervals) / intervals
    wave = 1 - 0.6 * np.cos(2 * np.pi * day)
    burst = 0.8 * np.exp(-(((day - 0.62) / 0.03) ** 2))
    return MEAN_RATE * (wave + burst) * np.where(day > 0.8, 0.6, 1.0)


OPTIMIZER = optax.adam(LEARNING_RATE)


def at(workload: Any, rate: Any, weight: Any) -> Any:
    return dataclasses.replace(workload, arrival_rate=rate, accuracy_weight=weight)


def follow(operator: Operator, count: Any, workload: Any, layer: bool = True) -> Any:
    """One interval: look, take one gradient step, solve from the tokens at hand."""
    rate = (1 - MEMORY) * operator.rate + MEMORY * count / INTERVAL

    def error(log_weight: Any) -> Any:
        now = at(workload, rate, jnp.exp(log_weight))
        best = jaxalloc.solve(now, initial=operator.tokens)
        return jnp.square(jnp.log(jaxalloc.mean_system_time(now, best.tokens) / PROMISE))

    log_weight, adam = operator.log_weight, operator.adam
    if layer:
        slope = jax.grad(error)(log_weight)
        change, adam = OPTIMIZER.update(slope, adam)
        log_weight = optax.apply_updates(log_weight, change)
    now = at(workload, rate, jnp.exp(log_weight))
    warm = jaxalloc.solve(now, initial=operator.tokens)
    cold = jaxalloc.solve(now)
    next_operator = Operator(rate, log_weight, warm.tokens, adam)
    return next_operator, {"tokens": warm.tokens, "warm": warm.steps, "cold": cold.steps}


def first_operator(workload: Any) -> Operator:
    """Right about the first interval."""
    weight, best = jaxalloc.solve_for_system_time(workload, PROMISE)
    log_weight = jnp.log(weight)
    return Operator(workload.arrival_rate, log_weight, best.tokens, OPTIMIZER.init(log_weight))


def judge(workload: Any, rates: Any, tokens: Any) -> dict[str, np.ndarray]:
    """What the true rates make of the budgets [T, K]."""
    lanes = jax.vmap(lambda rate: at(workload, rate, workload.accuracy_weight))(rates)
    return {
        name: np.asarray(jax.vmap(getattr(jaxalloc, name))(lanes, tokens))
        for name in ("mean_system_time", "mean_accuracy")
    }


def run_day(seed: int, intervals: int) -> dict[str, Any]:
    """The three operators over one day, and what a step costs."""
    rates = jnp.asarray(true_rates(intervals))
    counts = jnp.asarray(np.random.default_rng(seed).poisson(np.asarray(rates) * INTERVAL) * 1.0)
    base = to_workload(load("qwen3-8b"))
    workload = at(base, rates[0], base.accuracy_weight)
    start = first_operator(workload)
    step = lambda operator, count: follow(operator, count, workload)  # noqa: E731
    _, followed = jax.jit(lambda counts: jax.lax.scan(step, start, counts))(counts)

    mean = at(base, jnp.mean(rates), base.accuracy_weight)
    fixed = jaxalloc.solve_for_system_time(mean, PROMISE)[1].tokens
    lanes = jax.vmap(lambda rate: at(base, rate, base.accuracy_weight))(rates)
    meet = jax.jit(jax.vmap(lambda w: jaxalloc.solve_for_system_time(w, PROMISE)[1]))
    oracle = meet(lanes)
    assert jaxalloc.status_fractions(oracle)["CONVERGED"] == 1
    tokens = {
        "fixed": jnp.broadcast_to(fixed, oracle.tokens.shape),
        "followed": followed["tokens"],
        "oracle": oracle.tokens,
    }
    return {
        "rates": rates,
        "sides": {name: judge(base, rates, budgets) for name, budgets in tokens.items()},
        "steps": {name: float(np.mean(followed[name])) for name in ("warm", "cold")},
        "seconds_per_step": step_cost(start, counts, workload),
    }


def step_cost(start: Operator, counts: Any, workload: Any) -> dict[str, float]:
    """Median seconds of one compiled interval, with the gradient step and without."""
    costs = {}
    for name, layer in (("with the layer", True), ("without", False)):
        step = jax.jit(lambda o, c, layer=layer: follow(o, c, workload, layer))
        operator, _ = jax.block_until_ready(step(start, counts[0]))
        seconds = []
        for count in counts[:100]:
            begin = time.perf_counter()
            operator, _ = jax.block_until_ready(step(operator, count))
            seconds.append(time.perf_counter() - begin)
        costs[name] = float(np.median(seconds))
    return costs


def summary(day: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Traffic-weighted means: of system time, of accuracy, and of the miss of the promise."""
    weight = np.asarray(day["rates"] / jnp.sum(day["rates"]))
    rows = {}
    for name, side in day["sides"].items():
        time_, accuracy = side["mean_system_time"], side["mean_accuracy"]
        rows[name] = {
            "mean_system_time": float(np.sum(weight * time_)),
            "worst_system_time": float(np.max(time_)),
            "miss": float(np.sum(weight * np.abs(time_ - PROMISE))),
            "mean_accuracy": float(np.sum(weight * accuracy)),
        }
    return rows


def draw(day: dict[str, Any]) -> None:
    """Rate, system time and accuracy over the day."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from jaxalloc.cli.plots.style import STYLE, look, save

    names = {"fixed": "fixed budgets", "followed": "followed by gradient", "oracle": "oracle"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 6.4), layout="constrained")
        rate, seconds, accuracy = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.6, 1.6))
        hours = np.linspace(0, 24, len(day["rates"]), endpoint=False)
        rate.plot(hours, day["rates"], color="#555555", lw=1.6)
        rate.set_ylabel("queries / s")
        rate.set_ylim(bottom=0)
        rate.set_title("a drifting arrival rate; qwen3-8b; promised: a mean system time of 2 s")
        styles = {"fixed": "--", "followed": "-", "oracle": ":"}
        for k, (name, label) in enumerate(names.items()):
            line: Any = {"color": look(k)["color"], "ls": styles[name], "lw": 1.8, "label": label}
            seconds.plot(hours, day["sides"][name]["mean_system_time"], **line)
            accuracy.plot(hours, day["sides"][name]["mean_accuracy"], **line)
        seconds.set_ylabel("mean system time, s")
        seconds.set_ylim(bottom=0)
        seconds.legend(frameon=False, ncols=3, loc="upper left")
        accuracy.set_ylabel("mean accuracy")
        accuracy.set_xlabel("hour of the day")
        accuracy.set_xlim(0, 24)
        accuracy.set_xticks(range(0, 25, 4))
        common.FIGURES.mkdir(parents=True, exist_ok=True)
        save(figure, common.FIGURES / "online_tuning.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short day, no files")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    day = run_day(0, 48 if quick else 288)
    rows = summary(day)
    for name, row in rows.items():
        print(
            f"{name:9} system time {row['mean_system_time']:.3f} s (worst "
            f"{row['worst_system_time']:.2f} s), misses the promise by {row['miss']:.3f} s, "
            f"accuracy {row['mean_accuracy']:.4f}"
        )
    steps, cost = day["steps"], day["seconds_per_step"]
    print(
        f"solver steps: {steps['warm']:.2f} warm, {steps['cold']:.2f} cold; an interval takes "
        f"{cost['without'] * 1e6:.0f} µs without the layer, {cost['with the layer'] * 1e6:.0f} µs "
        "with it"
    )
    common.save(
        "allocation_online_tuning",
        quick=quick,
        document={
            "promise": PROMISE,
            "sides": rows,
            "solver_steps": steps,
            "seconds_per_step": cost,
        },
    )
    if not quick:
        draw(day)


if __name__ == "__main__":
    main()
