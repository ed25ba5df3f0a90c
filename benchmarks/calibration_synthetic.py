"""Synthetic measurements with a known truth: runs of the built-in tasks, and a log of arrivals.

    python benchmarks/calibration_synthetic.py runs.csv arrivals.csv

Every question is answered three times at each of eight budgets. Answers to one question resemble
each other: they are correct where a normal number, with a part that belongs to the question, is
below the quantile of the accuracy curve, so that the mean over questions is on the curve exactly.
Service times are gamma distributed around the affine law; arrivals are Poisson's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

LEVELS = np.array([0, 256, 512, 1024, 2048, 4096, 8192, 16384])
QUESTIONS = {"AIME24": 60, "AIME25": 60, "GPQA-D": 198, "GSM8K": 250, "HMMT25": 60}
SAMPLES = 3
ALIKE = 0.4  # correlation of the normal numbers of one question
SERVICE_CV = 0.2


def answers(rng: Any, accuracy: np.ndarray, questions: int, alike: float) -> np.ndarray:
    """[questions, levels] correct answers out of `SAMPLES`, of accuracy [levels] on average."""
    own = np.sqrt(alike) * rng.standard_normal((questions, 1, 1))
    rest = np.sqrt(1 - alike) * rng.standard_normal((questions, len(accuracy), SAMPLES))
    return np.sum(own + rest < ndtri(accuracy)[:, None], axis=-1)


def runs(file: Any, seed: int, alike: float = ALIKE, questions: dict | None = None) -> dict:
    """Columns of a table of runs of the tasks of a workload file, `SERVICE_CV` around its times."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in ("task", "question", "tokens", "correct")}
    columns["seconds"] = []
    for task in file.task:
        number = (questions or QUESTIONS)[task.name]
        accuracy = task.floor - task.gain * np.expm1(-task.decay * LEVELS)
        hits = answers(rng, accuracy, number, alike)
        correct = np.arange(SAMPLES) < hits[..., None]
        tokens = np.broadcast_to(LEVELS[:, None], correct.shape).ravel()
        shape = 1 / SERVICE_CV**2
        time = (task.base_time + task.time_per_token * tokens) * rng.gamma(
            shape, 1 / shape, tokens.size
        )
        names = np.repeat([f"{task.name}-{i}" for i in range(number)], tokens.size // number)
        columns["task"] += [task.name] * tokens.size
        columns["question"] += names.tolist()
        columns["tokens"] += tokens.tolist()
        columns["correct"] += correct.ravel().astype(int).tolist()
        columns["seconds"] += np.round(time, 4).tolist()
    return columns


def arrivals(file: Any, seed: int, number: int) -> dict:
    """Columns of a log of Poisson arrivals of the tasks of a workload file."""
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.exponential(1 / file.arrival_rate, number))
    task = rng.choice(file.names, number, p=[task.mix for task in file.task])
    return {"time": np.round(time, 3).tolist(), "task": task.tolist()}


def main() -> None:
    import pyarrow as pa
    from pyarrow import csv

    from jaxalloc.workloads.files import load

    file = load("qwen3-8b")
    first, second = (Path(word) for word in sys.argv[1:3])
    csv.write_csv(pa.table(runs(file, seed=1)), first)
    csv.write_csv(pa.table(arrivals(file, seed=2, number=2000)), second)


if __name__ == "__main__":
    main()
