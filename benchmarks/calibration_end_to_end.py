"""Is the regret of a fitted workload what its report says?

    python benchmarks/calibration_end_to_end.py [--logs 400]

Every log is a synthetic table of runs of the five built-in Qwen3-8B tasks (see `synthetic.py`) with
2,000 arrivals. It goes through `fit` as a file would; the budgets of the fitted workload are then
judged by the true one. Counted is how often the true optimum's objective lies in the reported
interval [J(l̂), J(l̂) + regret_high], J being the true objective, and how often the reported
intervals hold the true optimum's tokens, accuracy and system time. Written to end_to_end.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import calibration_synthetic as synthetic
import common
import jax
import numpy as np

TOTALS = ("mean_accuracy", "mean_system_time", "objective")


def table(columns: dict) -> Any:
    """Columns of runs as `read_runs` gives them."""
    from jaxalloc.measurements.runs import Runs

    tasks, task = np.unique(columns["task"], return_inverse=True)
    _, question = np.unique(columns["question"], return_inverse=True)
    numbers = (np.asarray(columns[name], float) for name in ("tokens", "correct", "seconds"))
    return Runs(tuple(str(name) for name in tasks), task, *numbers, question)


def log(columns: dict) -> Any:
    from jaxalloc.measurements.runs import Arrivals

    tasks, task = np.unique(columns["task"], return_inverse=True)
    return Arrivals(np.asarray(columns["time"]), tuple(str(name) for name in tasks), task)


def once(file: Any, workload: Any, truth: Any, seed: int) -> dict:
    """One log: what was reported and what is true."""
    import jaxalloc
    from jaxalloc.calibration.decision import solve_uncertain
    from jaxalloc.cli.fit_answer import describe_decision
    from jaxalloc.workloads.uncertainty import to_covariances

    runs = table(synthetic.runs(file, 2 * seed + 1))
    arrivals = log(synthetic.arrivals(file, 2 * seed + 2, 2000))
    fits = jaxalloc.fit_runs(runs, arrivals, min_tokens=0.0, max_tokens=16384.0, partial=True)
    fitted = fits.file
    known = to_covariances(fitted)
    decision = solve_uncertain(jax.random.key(seed), fitted.workload, known, 4000)
    said = describe_decision(fits, decision)
    if fitted.names != file.names:
        return {"left out": sorted(set(file.names) - set(fitted.names))}
    tokens = np.array([task["tokens"]["value"] for task in said["tasks"]])
    regret = float(truth["objective"] - jaxalloc.objective(workload, tokens))
    inside = {
        f"tokens.{task['name']}": task["tokens"]["low"] <= best <= task["tokens"]["high"]
        for task, best in zip(said["tasks"], truth["tokens"], strict=True)
    }
    inside |= {name: said[name]["low"] <= truth[name] <= said[name]["high"] for name in TOTALS}
    return {
        "regret": regret,
        "mean": said["regret"]["mean"],
        "high": said["regret"]["high"],
        "inside": {name: bool(value) for name, value in inside.items()},
        "statuses": [task.complaints for task in fits.tasks],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=400)
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    import jaxalloc
    from jaxalloc.workloads.files import load, override

    file = load("qwen3-8b")
    # The logs have random service times: so has the truth.
    times = override(file, {"service_cv": synthetic.SERVICE_CV}, "qwen3-8b")
    workload = times.workload
    best = jaxalloc.solve(workload)
    truth = {"tokens": np.asarray(best.tokens), "objective": float(best.objective)}
    truth |= {name: float(getattr(jaxalloc, name)(workload, best.tokens)) for name in TOTALS[:2]}
    found = [once(file, workload, truth, seed) for seed in range(given.logs)]
    kept = [one for one in found if "regret" in one]
    regret, mean, high = (np.array([one[k] for one in kept]) for k in ("regret", "mean", "high"))
    document = {
        "logs": given.logs,
        "logs with a task left out": len(found) - len(kept),
        "left out": sorted({name for one in found for name in one.get("left out", [])}),
        "true optimum within the regret interval": float(np.mean(regret <= high)),
        "nominal": 0.95,
        "true regret, s": {"mean": float(regret.mean()), "95 %": float(np.quantile(regret, 0.95))},
        "reported regret, s": {"mean": float(mean.mean()), "high, median": float(np.median(high))},
        "truth inside the reported interval": {
            name: float(np.mean([one["inside"][name] for one in kept]))
            for name in kept[0]["inside"]
        },
    }
    common.save("calibration_end_to_end", document)


if __name__ == "__main__":
    main()
