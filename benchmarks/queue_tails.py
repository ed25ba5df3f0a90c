"""The analytic percentiles are those of long sample paths, the waits those of closed forms.

    python benchmarks/queue_tails.py [--quick]

p50, p95 and p99 of the system time on ten workloads, 1e8 queries each (2e8 at utilization 0.9):
inside the 99 % interval or not. And the largest error of the wait distribution against M/M/1 and
M/D/1. `--quick`: 1e6 queries each.
"""

import common
import jax
import numpy as np
from queue_coverage import exact_wait, loaded, one_queue

import jaxalloc

LOADS = np.array([0.1, 0.3, 0.5, 0.6, 0.7, 0.7, 0.8, 0.9, 0.9, 0.9])
PERCENTILES = (50.0, 95.0, 99.0)


def percentiles(queries):
    rows = []
    for lane, (workload, tokens) in enumerate(loaded(21, 10, LOADS, 0.3)):
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
            common.show(rows[-1])
    inside = sum(row["inside"] for row in rows)
    return {"queries": queries, "inside": inside, "of": len(rows), "rows": rows}


def closed_forms():
    x = np.concatenate([np.linspace(0, 10, 401), np.array([1, 2, 3]) * (1 - 1e-9)])
    cdf = jax.jit(jax.vmap(jaxalloc.wait_cdf, in_axes=(None, None, 0)))
    rows = []
    for load in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99):
        row = {"load": load}
        for name, cv in (("mm1", 1.0), ("md1", 0.0)):
            exact = [exact_wait(load, cv, y) for y in x]
            row[name] = np.max(np.abs(cdf(one_queue(load, cv), np.zeros(1), x) - np.array(exact)))
        rows.append(row)
        common.show(row)
    return rows


def measure(quick):
    return {
        "closed_forms_largest_error": closed_forms(),
        "percentiles": percentiles(10**6 if quick else 10**8),
    }


if __name__ == "__main__":
    common.main(__file__, measure)
