"""One call of every public function, so that a property can be asked of all of them.

A call takes a `Given`: inputs in the dtype under test, of one shape for all tests, which so share
what they compile. Every number is a power of two or nearly so: all dtypes hold it exactly. Every
answer is a healthy one, without NaN.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxalloc
from jaxalloc import policies

FIELDS = {
    "arrival_rate": 0.5,
    "mix": [0.75, 0.25],
    "gain": [0.5, 0.625],
    "decay": [2.0**-10, 2.0**-9],
    "floor": [0.25, 0.125],
    "base_time": [0.125, 0.25],
    "time_per_token": [2.0**-10, 2.0**-11],
    "min_tokens": [0.0, 16.0],
    "max_tokens": [4096.0, 2048.0],
    "accuracy_weight": 16.0,
    "service_cv": [0.0, 0.5],
    "token_price": 2.0**-12,
}
TOKENS = [512.0, 256.0]
ROWS = ([0, 16, 64, 127], [30, 58, 82, 90], [100, 100, 100, 100])
SECONDS = [1, 15, 68, 125]
REQUESTS = {
    "prompt": [1, 2, 3, 1, 2, 3, 1, 2],
    "output": [2, 4, 3, 5, 2, 2, 6, 1],
    "lower": [1] * 8,
    "upper": [6] * 8,
    "predicted": [2, 4, 3, 5, 2, 2, 6, 1],
    "arrival": [0, 0, 1, 1, 2, 2, 3, 3],
}


@dataclasses.dataclass(frozen=True)
class Given:
    """What a call may use.

    Attributes:
      real: makes what is given as floating numbers, single ones or lists.
      whole: the same of whole numbers.
    """

    real: Callable[[Any], Any] = np.asarray
    whole: Callable[[Any], Any] = np.asarray

    @property
    def workload(self) -> jaxalloc.Workload:
        return jaxalloc.Workload(**{name: self.real(value) for name, value in FIELDS.items()})

    @property
    def many(self) -> jaxalloc.Workload:
        return jaxalloc.Workload(**{name: self.real([value] * 3) for name, value in FIELDS.items()})

    @property
    def tokens(self) -> Any:
        return self.real(TOKENS)

    @property
    def rows(self) -> tuple[Any, ...]:
        return tuple(map(self.whole, ROWS))

    @property
    def times(self) -> tuple[Any, ...]:
        return self.whole(ROWS[0]), self.whole(SECONDS)

    @property
    def requests(self) -> jaxalloc.Requests:
        return jaxalloc.Requests(**{name: self.whole(value) for name, value in REQUESTS.items()})

    def of_tokens(self, function: Callable[..., Any], *numbers: float) -> Any:
        return function(self.workload, self.tokens, *map(self.real, numbers))


class Trace:
    """Arrivals and lengths as `trust` takes them."""

    arrival = np.cumsum(np.random.default_rng(0).exponential(size=1000))
    output = np.random.default_rng(1).integers(1, 500, 1000)


def key() -> jax.Array:
    return jax.random.key(0)


def twice(field: Any) -> Any:
    """A field of two equal instances, of the kind that it is."""
    return [field, field] if isinstance(field, list) else jnp.stack([jnp.asarray(field)] * 2)


def told(answer: Any) -> Any:
    """What an allocation promises, be it of a solver or of a search."""
    if isinstance(answer, jaxalloc.Allocation):
        return answer.tokens, answer.objective, answer.status
    return answer[0], told(answer[1])


# Functions of one workload, which all refuse a batch.
OF_ONE_WORKLOAD = {
    "contraction_bound": lambda g: jaxalloc.contraction_bound(g.workload),
    "exactly_known": lambda g: jaxalloc.exactly_known(g.workload),
    "frontier": lambda g: jaxalloc.frontier(g.workload, g.real([4.0, 8.0]))[:4],
    "largest_arrival_rate": lambda g: (
        g.of_tokens(jaxalloc.largest_arrival_rate, 2.0),
        g.of_tokens(jaxalloc.largest_arrival_rate, 2.0, 0.75),
    ),
    "largest_rates_along": lambda g: jaxalloc.largest_rates_along(
        g.workload, g.real([TOKENS, TOKENS]), g.real(2.0), g.real(0.75)
    ),
    "lipschitz_bound": lambda g: jaxalloc.lipschitz_bound(g.workload),
    "mean_accuracy": lambda g: g.of_tokens(jaxalloc.mean_accuracy),
    "mean_system_time": lambda g: g.of_tokens(jaxalloc.mean_system_time),
    "mean_wait": lambda g: g.of_tokens(jaxalloc.mean_wait),
    "objective": lambda g: g.of_tokens(jaxalloc.objective),
    "round_tokens": lambda g: (
        jaxalloc.round_tokens(g.workload, jaxalloc.solve(Given().workload)).best
    ),
    "rounding_loss": lambda g: jaxalloc.rounding_loss(g.workload).best.loss,
    "sensitivity": lambda g: jaxalloc.sensitivity(g.workload).derivatives,
    "simulate_fifo": lambda g: jaxalloc.simulate_fifo(key(), g.workload, g.tokens, 4096).estimate[
        :4
    ],
    "solve": lambda g: told(jaxalloc.solve(g.workload, initial=g.tokens)),
    "solve_for_accuracy": lambda g: told(jaxalloc.solve_for_accuracy(g.workload, g.real(0.5))),
    "solve_for_mean_tokens": lambda g: (
        told(jaxalloc.solve_for_mean_tokens(g.workload, g.real(128.0))),
        told(jaxalloc.solve_for_mean_tokens(g.workload, price_per_token=g.real(0.0078125))),
    ),
    "solve_for_system_time": lambda g: told(
        jaxalloc.solve_for_system_time(g.workload, g.real(0.75))
    ),
    "solve_uncertain": lambda g: (
        jaxalloc.solve_uncertain(
            key(), g.workload, jaxalloc.exactly_known(g.workload), samples=8
        ).values
    ),
    "system_time_cdf": lambda g: g.of_tokens(jaxalloc.system_time_cdf, 1.0),
    "system_time_quantile": lambda g: g.of_tokens(jaxalloc.system_time_quantile, 0.75),
    "type_system_time_quantiles": lambda g: g.of_tokens(jaxalloc.type_system_time_quantiles, 0.75),
    "utilization": lambda g: g.of_tokens(jaxalloc.utilization),
    "wait_cdf": lambda g: g.of_tokens(jaxalloc.wait_cdf, 1.0),
    "wait_quantile": lambda g: g.of_tokens(jaxalloc.wait_quantile, 0.75),
}
OF_MANY_WORKLOADS = {
    "mask_failed": lambda g: jaxalloc.mask_failed(g.many, g.whole([0, 3, 0])),
    "solve_batch": lambda g: told(jaxalloc.solve_batch(g.many, initial=g.tokens)),
    "status_fractions": lambda g: jaxalloc.status_fractions(jaxalloc.solve_batch(g.many)),
}
OF_MEASUREMENTS = {
    "accuracy_intervals": lambda g: jaxalloc.accuracy_intervals(
        jaxalloc.fit_accuracy(*g.rows), *g.rows
    ),
    "fit_accuracy": lambda g: (
        jaxalloc.fit_accuracy(*g.rows),
        jaxalloc.fit_accuracy(*g.rows, question=g.whole([1, 2, 3, 4])),
    ),
    "fit_arrivals": lambda g: jaxalloc.fit_arrivals(g.rows[0]),
    "fit_mix": lambda g: jaxalloc.fit_mix(g.rows[1]),
    "fit_service_time": lambda g: (
        jaxalloc.fit_service_time(*g.times),
        jaxalloc.fit_service_time(*g.times, robust=True, question=[1, 2, 3, 4]),
    ),
    "service_intervals": lambda g: jaxalloc.service_intervals(jaxalloc.fit_service_time(*g.times)),
    "trust": lambda g: jaxalloc.trust(Trace(), utilizations=[0.5]).arrival_rate,
}
OF_REQUESTS = {
    "latency_bound": lambda g: jaxalloc.latency_bound(g.requests, g.whole(16)),
    "simulate": lambda g: (
        jaxalloc.simulate(g.requests, g.whole(16), policies.AMin()),
        jaxalloc.simulate(
            g.requests,
            g.whole(16),
            policies.AlphaBetaClearing(alpha=0.125, beta=0.5),
            batch_time=jaxalloc.BatchTime(base=g.real(0.5), per_token=g.real(0.25)),
        ),
    ),
    "simulate_batch": lambda g: jaxalloc.simulate_batch(
        jax.tree.map(twice, g.requests, is_leaf=lambda x: isinstance(x, list)),
        g.whole(16),
        policies.MCSF(),
        max_rounds=g.whole(100),
    ),
}
CALLS = OF_ONE_WORKLOAD | OF_MANY_WORKLOADS | OF_MEASUREMENTS | OF_REQUESTS


OF_FILES = {
    "fit_runs",
    "load",
    "read_arrivals",
    "read_runs",
    "read_trace",
    "save",
}  # which take no numbers


def public_functions() -> set[str]:
    """The names on the map that are functions of numbers."""
    named = {name for name in jaxalloc.__all__ if inspect.isroutine(getattr(jaxalloc, name))}
    return named - OF_FILES
