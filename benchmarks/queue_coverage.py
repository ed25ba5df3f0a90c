"""Sample paths agree with Pollaczek-Khinchine and the closed forms, and intervals cover.

    python benchmarks/queue_coverage.py [--quick]

300 random workloads of five types, utilization uniform in 0.05 to 0.95, half with gamma service,
1e6 queries each: how often the analytic value lies in the interval, at several confidences. And the
Kolmogorov distance of 1e8 simulated waits to M/M/1 and M/D/1. `--quick`: 30 workloads, 1e6 waits.
"""

import math

import common
import jax
import numpy as np
import problems

import jaxalloc
from jaxalloc.allocation.queue.estimates import student_quantile

CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)
MEASURES = {
    "mean_system_time": jaxalloc.mean_system_time,
    "mean_wait": jaxalloc.mean_wait,
    "fraction_correct": jaxalloc.mean_accuracy,
    "utilization": jaxalloc.utilization,
}


def loaded(seed, count, loads, random_service=0.5):
    """Random workloads of five types, and tokens at which the utilization is as wished."""
    fields = problems.random_workloads(seed, count, 5)
    rng = np.random.default_rng([seed, 1])
    share = rng.uniform(0, 0.2, fields["mix"].shape)
    tokens = fields["min_tokens"] + share * (fields["max_tokens"] - fields["min_tokens"])
    time = fields["base_time"] + fields["time_per_token"] * tokens
    fields["arrival_rate"] = loads / np.sum(fields["mix"] * time, axis=1)
    varied = rng.random((count, 1)) < random_service
    fields["service_cv"] = np.where(varied, rng.uniform(0.1, 1.5, time.shape), 0.0)
    for lane in range(count):
        yield common.workloads(problems.lanes(fields, lane)), jax.numpy.asarray(tokens[lane])


def coverage(lanes, queries):
    """How many standard errors each estimate is off, [lanes] a measure."""
    loads = np.random.default_rng(2).uniform(0.05, 0.95, lanes)
    off, fewest, width = {name: [] for name in MEASURES}, np.inf, []
    for lane, (workload, tokens) in enumerate(loaded(11, lanes, loads)):
        path = jaxalloc.simulate_fifo(jax.random.key(lane), workload, tokens, queries)
        fewest = min(fewest, float(path.relaxations))
        for name, exact in MEASURES.items():
            value, high = (float(getattr(side, name)) for side in (path.estimate, path.high))
            off[name].append(abs(value - float(exact(workload, tokens))) / (high - value))
        width.append(float(path.high.mean_system_time / path.mean_system_time - 1))
    scale = student_quantile(0.99, 31)
    errors = {name: np.array(values) * scale for name, values in off.items()}
    return {
        "workloads": lanes,
        "queries": queries,
        "mean_system_time_inside_99": int(np.sum(np.array(off["mean_system_time"]) <= 1)),
        "covered_at": {
            name: {f"{c:g}": np.mean(values <= student_quantile(c, 31)) for c in CONFIDENCES}
            for name, values in errors.items()
        },
        "half_width_of_mean": {"p50": np.median(width), "max": max(width)},
        "fewest_relaxations": fewest,
    }


def one_queue(load, cv):
    """M/M/1 (cv = 1) or M/D/1 (cv = 0) with services of mean 1 at no tokens."""
    return jaxalloc.Workload.create(
        arrival_rate=load, mix=[1.0], gain=0.5, decay=1e-3, floor=0.0, base_time=1.0,
        time_per_token=1e-3, max_tokens=1.0, accuracy_weight=1.0, service_cv=cv,
    )  # fmt: skip


def exact_wait(load, cv, x):
    """P(W <= x) of the same; of M/D/1 by Erlang (1909)."""
    if cv:
        return 1 - load * math.exp(-(1 - load) * x)
    terms = (
        math.exp(load * (x - k)) * (load * (k - x)) ** k / math.factorial(k)
        for k in range(math.floor(x) + 1)
    )
    return (1 - load) * math.fsum(terms)


def kolmogorov(queries):
    """Largest difference of the distribution functions at the histogram's edges, x <= 10."""
    rows = []
    for name, cv in (("M/M/1", 1.0), ("M/D/1", 0.0)):
        for load in (0.3, 0.7):
            key, tokens = jax.random.key(5), np.zeros(1)
            path = jaxalloc.simulate_fifo(key, one_queue(load, cv), tokens, queries)
            edges = np.asarray(path.edges)
            edges = edges[edges <= 10]
            seen = np.cumsum(path.wait_counts)[: len(edges)] / float(path.num_queries)
            off = np.abs(seen - [exact_wait(load, cv, x) for x in edges])
            rows.append({"queue": name, "load": load, "distance": off.max()})
            common.show(rows[-1])
    return {"queries": queries, "rows": rows}


def measure(quick):
    return {
        "coverage": coverage(30 if quick else 300, 1_000_000),
        "kolmogorov": kolmogorov(10**6 if quick else 10**8),
    }


if __name__ == "__main__":
    common.main(__file__, measure)
