"""Claim: the analytic percentiles are those of long sample paths, the waits those of closed forms.

    python benchmarks/queue_tails.py [--quick]

p50, p95 and p99 of the system time on ten workloads, 1e8 queries each (2e8 at utilization 0.9):
inside the 99 % interval or not. And the largest error of the wait distribution against M/M/1 and
M/D/1. Writes tails.json.
"""

import argparse
import time

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import common  # noqa: E402
from queue_coverage import erlang, loaded  # noqa: E402

import jaxalloc  # noqa: E402

LOADS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.7, 0.8, 0.9, 0.9, 0.9)
PERCENTILES = (50.0, 95.0, 99.0)


def percentiles(queries):
    rows = []
    for lane, (workload, tokens) in enumerate(loaded(21, 10, np.array(LOADS), 5, 0.3)):
        num = queries if LOADS[lane] < 0.9 else 2 * queries
        path = jaxalloc.simulate_fifo(jax.random.key(100 + lane), workload, tokens, num)
        for i, level in enumerate(PERCENTILES):
            exact = float(jaxalloc.system_time_quantile(workload, tokens, level / 100))
            low, value, high = (
                float(side.system_time_percentiles[i])
                for side in (path.low, path.estimate, path.high)
            )
            rows.append(
                {
                    "load": LOADS[lane],
                    "random_service": bool(np.any(np.asarray(workload.service_cv) > 0)),
                    "percentile": level,
                    "analytic": exact,
                    "simulated": value,
                    "low": low,
                    "high": high,
                    "half_width": (high - low) / 2 / value,
                    "inside": low <= exact <= high,
                }
            )
            print(rows[-1], flush=True)
    inside = sum(row["inside"] for row in rows)
    return {"queries": queries, "inside": inside, "of": len(rows), "rows": rows}


def closed_forms():
    rows = []
    for load in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99):
        x = np.concatenate([np.linspace(0, 10, 401), np.array([1, 2, 3]) * (1 - 1e-9)])
        row = {"load": load}
        for name, cv in (("mm1", 1.0), ("md1", 0.0)):
            workload = jaxalloc.Workload.create(
                arrival_rate=load, mix=[1.0], gain=0.5, decay=1e-3, floor=0.0, base_time=1.0,
                time_per_token=1e-3, max_tokens=1.0, accuracy_weight=1.0, service_cv=cv,
            )  # fmt: skip
            got = [float(jaxalloc.wait_cdf(workload, np.zeros(1), y)) for y in x]
            exact = [1 - load * np.exp(-(1 - load) * y) if cv else erlang(load, y) for y in x]
            row[name] = float(np.max(np.abs(np.array(got) - exact)))
        rows.append(row)
        print(row, flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1e6 queries each")
    quick = parser.parse_args().quick
    begin = time.perf_counter()
    document = {
        "closed_forms_largest_error": closed_forms(),
        "percentiles": percentiles(10**6 if quick else 10**8),
    }
    document["seconds"] = time.perf_counter() - begin
    common.save("queue_tails", document, quick)


if __name__ == "__main__":
    main()
