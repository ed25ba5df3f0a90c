"""Online tuning: the arrival rate drifts over a day, the allocation follows by gradient.

The operator promises a mean system time. He sees only how many queries came in each interval. At
every interval he (1) updates the estimate of the rate, exponentially weighted, (2) moves the
logarithm of the accuracy weight one Adam step down the squared relative error of the predicted
system time, the gradient passing through the solver, and (3) solves again from the tokens he has.
Beside him stand budgets fixed at the day's mean rate, and an oracle that knows the true rate and
finds the weight that meets the promise exactly.

    python benchmarks/allocation_online_tuning.py [--quick]

`--quick`: a short day.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxalloc
from jaxalloc import load

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


def true_rates(intervals):
    """Queries / s: a day's wave, a burst after noon, a step down in the evening."""
    day = np.arange(intervals) / intervals
    wave = 1 - 0.6 * np.cos(2 * np.pi * day)
    burst = 0.8 * np.exp(-(((day - 0.62) / 0.03) ** 2))
    return MEAN_RATE * (wave + burst) * np.where(day > 0.8, 0.6, 1.0)


OPTIMIZER = optax.adam(LEARNING_RATE)


def at(workload, rate, weight):
    return dataclasses.replace(workload, arrival_rate=rate, accuracy_weight=weight)


def follow(operator, count, workload):
    """One interval: look, take one gradient step, solve from the tokens at hand."""
    rate = (1 - MEMORY) * operator.rate + MEMORY * count / INTERVAL

    def error(log_weight):
        now = at(workload, rate, jnp.exp(log_weight))
        best = jaxalloc.solve(now, initial=operator.tokens)
        return jnp.square(jnp.log(jaxalloc.mean_system_time(now, best.tokens) / PROMISE))

    change, adam = OPTIMIZER.update(jax.grad(error)(operator.log_weight), operator.adam)
    log_weight = optax.apply_updates(operator.log_weight, change)
    now = at(workload, rate, jnp.exp(log_weight))
    warm = jaxalloc.solve(now, initial=operator.tokens)
    cold = jaxalloc.solve(now)
    steps = {"warm": warm.steps, "cold": cold.steps}
    return Operator(rate, log_weight, warm.tokens, adam), {"tokens": warm.tokens, **steps}


def judge(lanes, tokens):
    """What the true rates make of the budgets [T, K]."""
    measures = (jaxalloc.mean_system_time, jaxalloc.mean_accuracy)
    return {m.__name__: np.asarray(jax.vmap(m)(lanes, tokens)) for m in measures}


def run_day(seed, intervals):
    """The three operators over one day: fixed budgets, the one who follows, and the oracle."""
    rates = true_rates(intervals)
    counts = jnp.asarray(np.random.default_rng(seed).poisson(rates * INTERVAL) * 1.0)
    base = load("qwen3-8b").workload
    lanes = jax.vmap(lambda rate: at(base, rate, base.accuracy_weight))(
        jnp.asarray([*rates, np.mean(rates)])
    )
    meet = jax.jit(jax.vmap(lambda w: jaxalloc.solve_for_system_time(w, PROMISE)))
    weights, met = meet(lanes)
    assert jaxalloc.status_fractions(met)["CONVERGED"] == 1
    log_weight = jnp.log(weights[0])  # he is right about the first interval
    start = Operator(lanes.arrival_rate[0], log_weight, met.tokens[0], OPTIMIZER.init(log_weight))
    workload = at(base, lanes.arrival_rate[0], base.accuracy_weight)
    step = functools.partial(follow, workload=workload)
    _, followed = jax.jit(lambda counts: jax.lax.scan(step, start, counts))(counts)
    tokens = {
        "fixed": jnp.broadcast_to(met.tokens[-1], met.tokens[:-1].shape),
        "followed": followed["tokens"],
        "oracle": met.tokens[:-1],
    }
    day = jax.tree.map(lambda leaf: leaf[:-1], lanes)
    return {
        "rates": rates,
        "sides": {name: judge(day, budgets) for name, budgets in tokens.items()},
        "steps": {name: np.mean(followed[name]) for name in ("warm", "cold")},
    }


def summary(day):
    """Traffic-weighted means: of system time, of accuracy, and of the miss of the promise."""

    def mean(values):
        return np.average(values, weights=day["rates"])

    return {
        name: {
            "mean_system_time": mean(side["mean_system_time"]),
            "worst_system_time": np.max(side["mean_system_time"]),
            "miss": mean(np.abs(side["mean_system_time"] - PROMISE)),
            "mean_accuracy": mean(side["mean_accuracy"]),
        }
        for name, side in day["sides"].items()
    }


def measure(quick):
    day = run_day(0, 48 if quick else 288)
    return {
        "promise": PROMISE,
        "sides": summary(day),
        "solver_steps": day["steps"],
        "day": {"rates": np.round(day["rates"], 5), "sides": day["sides"]},
    }


if __name__ == "__main__":
    common.main(__file__, measure)
