"""Is the regret of a fitted workload what its report says?

    python benchmarks/calibration_end_to_end.py [--quick] [--logs 400]

Every log is a synthetic table of runs of the five built-in Qwen3-8B tasks (see
`calibration_synthetic.py`) with 2,000 arrivals. It goes through `fit_runs` as a file would; the
budgets of the fitted workload are then judged by the true one. Counted is how often the true
optimum's objective lies in the reported interval [J(l̂), J(l̂) + regret_high], J being the true
objective, and how often the reported intervals hold the true optimum's tokens, accuracy and system
time. `--quick`: one log.
"""

import calibration_synthetic as synthetic
import common
import jax
import numpy as np

import jaxalloc
from jaxalloc.measurements.runs import Arrivals, Runs
from jaxalloc.workloads.files import override
from jaxalloc.workloads.uncertainty import to_covariances

TOTALS = ("mean_accuracy", "mean_system_time", "objective")
SAMPLES = 4000


def named(words):
    """Names in order, and the number of each word's."""
    names, places = np.unique(words, return_inverse=True)
    return tuple(map(str, names)), places


def once(file, workload, truth, seed):
    """One log: what was reported and what is true."""
    columns = synthetic.runs(file, 2 * seed + 1)
    numbers = (np.asarray(columns[name], float) for name in ("tokens", "correct", "seconds"))
    runs = Runs(*named(columns["task"]), *numbers, named(columns["question"])[1])
    columns = synthetic.arrivals(file, 2 * seed + 2, 2000)
    arrivals = Arrivals(np.asarray(columns["time"]), *named(columns["task"]))
    fitted = jaxalloc.fit_runs(runs, arrivals, min_tokens=0.0, max_tokens=16384.0, partial=True)
    if fitted.file.names != file.names:
        return {"left out": sorted(set(file.names) - set(fitted.file.names))}
    key, covariances = jax.random.key(seed), to_covariances(fitted.file)
    said = jaxalloc.solve_uncertain(key, fitted.file.workload, covariances, SAMPLES)
    tokens = said.values.tokens
    inside = {
        name: (getattr(said.low, name) <= true) & (true <= getattr(said.high, name))
        for name, true in truth.items()
    }
    by_task = dict(zip(file.names, inside.pop("tokens"), strict=True))
    inside |= {f"tokens.{name}": held for name, held in by_task.items()}
    return {
        "regret": float(truth["objective"] - jaxalloc.objective(workload, tokens)),
        "mean": float(said.regret),
        "high": float(said.regret_high),
        "inside": {name: bool(held) for name, held in inside.items()},
    }


def measure(quick, logs):
    file = jaxalloc.load("qwen3-8b")
    # The logs have random service times: so has the truth.
    workload = override(file, {"service_cv": synthetic.SERVICE_CV}, "qwen3-8b").workload
    tokens = jaxalloc.solve(workload).tokens
    truth = {name: getattr(jaxalloc, name)(workload, tokens) for name in TOTALS}
    truth["tokens"] = tokens
    found = [once(file, workload, truth, seed) for seed in range(1 if quick else logs)]
    kept = [one for one in found if "regret" in one]
    regret, mean, high = (np.array([one[k] for one in kept]) for k in ("regret", "mean", "high"))
    return {
        "logs": len(found),
        "logs with a task left out": len(found) - len(kept),
        "left out": sorted({name for one in found for name in one.get("left out", [])}),
        "true optimum within the regret interval": np.mean(regret <= high),
        "nominal": 0.95,
        "true regret, s": {"mean": regret.mean(), "95 %": np.quantile(regret, 0.95)},
        "reported regret, s": {"mean": mean.mean(), "high, median": np.median(high)},
        "truth inside the reported interval": {
            name: np.mean([one["inside"][name] for one in kept]) for name in kept[0]["inside"]
        },
    }


if __name__ == "__main__":
    common.main(__file__, measure, logs=400)
