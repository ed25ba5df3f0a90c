"""Claim: sample paths agree with Pollaczek-Khinchine and the closed forms, and intervals cover.

    python benchmarks/queue_coverage.py [--quick]

300 random workloads of five types, utilization uniform in 0.05 to 0.95, half with gamma service,
1e6 queries each: how often the analytic value lies in the interval, at several confidences. And the
Kolmogorov distance of 1e8 simulated waits to M/M/1 and M/D/1. Writes coverage.json.
"""

import argparse
import math
import time

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import common  # noqa: E402
import problems  # noqa: E402

import jaxalloc  # noqa: E402
from jaxalloc.allocation.queue.estimates import student_quantile  # noqa: E402

CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)
MEASURES = {
    "mean_system_time": jaxalloc.mean_system_time,
    "mean_wait": jaxalloc.mean_wait,
    "fraction_correct": jaxalloc.mean_accuracy,
    "utilization": jaxalloc.utilization,
}


def loaded(seed, count, loads, num_types=5, random_service=0.5):
    """Random workloads and tokens at which the utilization is as wished; [N] of each."""
    fields = problems.random_workloads(seed, count, num_types)
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
    off, shortest = {name: [] for name in MEASURES}, np.inf
    width = []
    for lane, (workload, tokens) in enumerate(loaded(11, lanes, loads)):
        path = jaxalloc.simulate_fifo(jax.random.key(lane), workload, tokens, queries)
        shortest = min(shortest, float(path.relaxations))
        for name, exact in MEASURES.items():
            value, high = (float(getattr(side, name)) for side in (path.estimate, path.high))
            off[name].append(abs(value - float(exact(workload, tokens))) / (high - value))
        width.append(float(path.high.mean_system_time / path.mean_system_time - 1))
        if lane % 50 == 49:
            print(lane + 1, flush=True)
    scale = student_quantile(0.99, 31)
    rows = {
        name: {
            f"{confidence:g}": float(
                np.mean(np.array(values) * scale <= student_quantile(confidence, 31))
            )
            for confidence in CONFIDENCES
        }
        for name, values in off.items()
    }
    inside = int(np.sum(np.array(off["mean_system_time"]) <= 1))
    return {
        "workloads": lanes,
        "queries": queries,
        "mean_system_time_inside_99": inside,
        "covered_at": rows,
        "half_width_of_mean": {"p50": float(np.median(width)), "max": max(width)},
        "fewest_relaxations": shortest,
    }


def erlang(load, x):
    """P(W <= x) of M/D/1 with service 1 (Erlang, 1909)."""
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
            workload = jaxalloc.Workload.create(
                arrival_rate=load, mix=[1.0], gain=0.5, decay=1e-3, floor=0.0, base_time=1.0,
                time_per_token=1e-3, max_tokens=1.0, accuracy_weight=1.0, service_cv=cv,
            )  # fmt: skip
            path = jaxalloc.simulate_fifo(jax.random.key(5), workload, np.zeros(1), queries)
            edges = np.asarray(path.edges)
            kept = edges <= 10
            seen = np.cumsum(path.wait_counts)[kept] / float(path.num_queries)
            if cv:
                exact = 1 - load * np.exp(-(1 - load) * edges[kept])
            else:
                exact = np.array([erlang(load, x) for x in edges[kept]])
            rows.append(
                {"queue": name, "load": load, "distance": float(np.abs(seen - exact).max())}
            )
            print(rows[-1], flush=True)
    return {"queries": queries, "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="30 workloads, 1e6 waits")
    quick = parser.parse_args().quick
    begin = time.perf_counter()
    document = {
        "coverage": coverage(30 if quick else 300, 1_000_000),
        "kolmogorov": kolmogorov(10**6 if quick else 10**8),
    }
    document["seconds"] = time.perf_counter() - begin
    common.save("queue_coverage", document, quick)


if __name__ == "__main__":
    main()
