"""Do 95 % intervals hold the truth in 95 % of the cases, and are hopeless data named?

    python benchmarks/calibration_coverage.py [--tasks 1000] [--sets 4]

Tasks are drawn around those of the two built-in workloads: the floor raised by up to 0.1, the gain
and the decay multiplied by normal factors. Each has 30 to 500 questions, each answered three times
at eight budgets: independently, or alike (correlation 0.4 of the normal numbers behind the answers
to one question). Intervals of answers that are alike are made with and without knowing the
questions. Coverage is counted over the tasks that the fit calls CONVERGED, and over those that are
identifiable by their truth: D and 1 - A - D at least 0.03, standard error of ln b from the expected
information below 0.3. Written to coverage.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import jax
import numpy as np
from calibration_synthetic import LEVELS, SAMPLES, answers

FIELDS = ("gain", "decay", "floor")


def truths(rng: Any, number: int) -> np.ndarray:
    """[number, 3] gain, decay, floor."""
    from jaxalloc.workloads.files import builtin_names, load

    tasks = [task for name in builtin_names() for task in load(name).task]
    base = np.array([[task.gain, task.decay, task.floor] for task in tasks])
    gain, decay, floor = base[rng.integers(len(base), size=number)].T
    floor = floor + 0.1 * rng.random(number)
    gain = np.minimum(gain * np.exp(0.2 * rng.standard_normal(number)), 0.99 - floor)
    return np.stack([gain, decay * np.exp(0.3 * rng.standard_normal(number)), floor], axis=1)


def curve(truth: np.ndarray) -> np.ndarray:
    """[number, L] accuracy."""
    gain, decay, floor = truth.T[..., None]
    return floor - gain * np.expm1(-decay * LEVELS)


def draw(rng: Any, accuracy: np.ndarray, questions: np.ndarray, alike: float) -> np.ndarray:
    """[number, G, L] correct answers, 0 beyond each task's questions."""
    table = np.zeros((len(accuracy), questions.max(), len(LEVELS)))
    for row, own, number in zip(table, accuracy, questions, strict=True):
        row[:number] = answers(rng, own, number, alike)
    return table


def expected_error(truth: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """[number] standard error of ln b by the expected information of independent answers."""
    gain, decay, _ = truth.T[..., None]
    x = decay * LEVELS
    slopes = np.stack([1 - np.exp(-x), gain * x * np.exp(-x), np.ones_like(x)], axis=-1)
    p = curve(truth)
    information = np.einsum("nl,nli,nlj->nij", trials / (p * (1 - p)), slopes, slopes)
    return np.sqrt(np.linalg.inv(information)[:, 1, 1])


def counts(table: np.ndarray, questions: np.ndarray) -> tuple[Any, Any]:
    """The same data as levels, and as rows by question."""
    from jaxalloc.calibration.evidence import Rows
    from jaxalloc.calibration.likelihood import Counts

    number, size, width = table.shape
    asked = np.arange(size) < questions[:, None]
    trials = np.broadcast_to(SAMPLES * asked[..., None], table.shape).astype(float)
    tokens = np.broadcast_to(LEVELS.astype(float), table.shape)
    levels = Counts(tokens[:, 0], table.sum(axis=1), trials.sum(axis=1))
    question = np.broadcast_to(np.repeat(np.arange(size), width), (number, size * width))
    rows = Rows(Counts(*(x.reshape(number, -1) for x in (tokens, table, trials))), question)
    return jax.tree.map(jax.numpy.asarray, (levels, rows))


def fits(levels: Any, rows: Any) -> tuple[Any, Any]:
    """Fits and profile intervals of many tasks."""
    from jaxalloc.calibration.accuracy import fit_counts
    from jaxalloc.calibration.intervals import count_intervals

    if rows is None:
        fit = jax.vmap(lambda own: fit_counts(own))(levels)
    else:
        fit = jax.vmap(fit_counts)(levels, rows)
    return jax.tree.map(np.asarray, (fit, jax.vmap(count_intervals)(fit, levels)))


def covered(intervals: Any, truth: np.ndarray) -> np.ndarray:
    """[number, 3] whether each interval holds the truth."""
    low, high = np.moveaxis(np.stack([getattr(intervals, name) for name in FIELDS], 1), -1, 0)
    return (low <= truth) & (truth <= high)


def study(seed: int, number: int, alike: float) -> list[dict]:
    """Per task: what was true, what was found, what was covered."""
    rng = np.random.default_rng(seed)
    truth = truths(rng, number)
    questions = rng.integers(30, 501, number)
    table = draw(rng, curve(truth), questions, alike)
    levels, rows = counts(table, questions)
    trials = np.asarray(levels.trials)
    gain, _, floor = truth.T
    inside = (floor >= 0.03) & (1 - gain - floor >= 0.03)
    identifiable = inside & (expected_error(truth, trials) < 0.3)
    found = {"profile": fits(levels, rows if alike else None)}
    if alike:
        found["profile, questions not known"] = fits(levels, None)
    return [
        {
            "method": method,
            "status": fit.status,
            "identifiable": identifiable,
            "inside": inside,
            "covered": covered(ends, truth),
            "error": np.stack([getattr(fit, name) for name in FIELDS], 1) / truth - 1,
        }
        for method, (fit, ends) in found.items()
    ]


def summarize(parts: list[dict]) -> dict:
    """Coverage and bias over the tasks of several sets."""
    from jaxalloc.calibration.status import FitStatus

    join = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
        if name != "method"
    }
    status, usable = join["status"], join["status"] <= FitStatus.AT_BOUND
    chosen = {
        "CONVERGED": status == FitStatus.CONVERGED,
        "CONVERGED and inside by truth": (status == FitStatus.CONVERGED) & join["inside"],
        "identifiable by truth": join["identifiable"] & usable,
        "usable": usable,
    }
    return {
        "statuses": {s.name: int(np.sum(status == s)) for s in FitStatus if np.any(status == s)},
        "outside of the identifiable, flagged": float(
            np.mean(status[~join["inside"]] != FitStatus.CONVERGED)
        ),
        "coverage": {
            name: {
                "tasks": int(mask.sum()),
                **{f: float(join["covered"][mask, i].mean()) for i, f in enumerate(FIELDS)},
                "all": float(join["covered"][mask].mean()),
                "median relative error": [float(x) for x in np.median(join["error"][mask], axis=0)],
                "mean relative error": [float(x) for x in np.mean(join["error"][mask], axis=0)],
            }
            for name, mask in chosen.items()
        },
    }


def planted(number: int) -> dict:
    """How many of the data that determine no curve are called by their name."""
    from jaxalloc.calibration.status import FitStatus

    rng = np.random.default_rng(99)
    questions = rng.integers(30, 501, number)
    level = np.broadcast_to(rng.uniform(0.05, 0.95, number)[:, None], (number, len(LEVELS)))
    falling = level * np.linspace(1, 0.7, len(LEVELS))
    steep = np.where(LEVELS > 0, level[:, :1] / 2 + 0.45, level[:, :1] / 2)
    cases = {
        "flat": (level, FitStatus.FLAT),
        "falling": (falling, FitStatus.FLAT),
        "all correct": (np.ones_like(level), FitStatus.ALL_CORRECT),
        "all wrong": (np.zeros_like(level), FitStatus.ALL_WRONG),
        "risen before the first budget": (steep, FitStatus.DECAY_UNKNOWN),
        "one level": (level, FitStatus.FEW_LEVELS),
        "two levels": (level, FitStatus.FEW_LEVELS),
    }
    named = {}
    for name, (accuracy, expected) in cases.items():
        for alike in (0.0, 0.4):
            table = draw(rng, accuracy, questions, alike)
            levels, rows = counts(table, questions)
            kept = {"one level": 1, "two levels": 2}.get(name)
            if kept:
                levels, rows = jax.tree.map(lambda x: x, (levels, rows))
                mask = np.isin(np.asarray(levels.tokens), LEVELS[-kept:])
                levels = levels._replace(correct=levels.correct * mask, trials=levels.trials * mask)
                own = np.isin(np.asarray(rows.counts.tokens), LEVELS[-kept:])
                rows = rows._replace(
                    counts=rows.counts._replace(
                        correct=rows.counts.correct * own, trials=rows.counts.trials * own
                    )
                )
            fit, _ = fits(levels, rows if alike else None)
            label = f"{name}, {'alike' if alike else 'independent'}"
            found = {
                s.name: int(np.sum(fit.status == s)) for s in FitStatus if np.any(fit.status == s)
            }
            named[label] = {
                "as": expected.name,
                "share": float(np.mean(fit.status == expected)),
                "found": found,
            }
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--sets", type=int, default=4)
    parser.add_argument("--planted", type=int, default=500)
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    document: dict[str, Any] = {"tasks": given.tasks, "sets": given.sets, "designs": {}}
    for alike in (0.0, 0.4):
        sets = [study(7 + i, given.tasks, alike) for i in range(given.sets)]
        document["designs"]["alike" if alike else "independent"] = {
            parts[0]["method"]: {
                "first set": summarize(list(parts[:1])),
                "all sets": summarize(list(parts)),
            }
            for parts in zip(*sets, strict=True)
        }
    document["planted"] = {"number of each": given.planted, "named": planted(given.planted)}
    common.save("calibration_coverage", document)


if __name__ == "__main__":
    main()
