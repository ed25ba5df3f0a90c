"""Do 95 % intervals hold the truth in 95 % of the cases, and are hopeless data named?

    python benchmarks/calibration_coverage.py [--quick]

Tasks are drawn around those of the two built-in workloads: the floor raised by up to 0.1, the gain
and the decay multiplied by normal factors. Each has 30 to 500 questions, each answered three times
at eight budgets: independently, or alike (correlation 0.4 of the normal numbers behind the answers
to one question). Intervals of answers that are alike are made with and without knowing the
questions. Coverage is counted over the tasks that the fit calls CONVERGED, and over all that it
fits at all. `--quick`: a twentieth of the tasks.
"""

import common
import jax
import numpy as np
from calibration_synthetic import LEVELS, SAMPLES, answers

from jaxalloc import load
from jaxalloc.calibration.accuracy import fit_counts
from jaxalloc.calibration.evidence import Rows
from jaxalloc.calibration.intervals import count_intervals
from jaxalloc.calibration.likelihood import Counts
from jaxalloc.calibration.status import FitStatus
from jaxalloc.workloads.files import builtin_names

FIELDS = ("gain", "decay", "floor")
EVERY = len(LEVELS)


def truths(rng, number):
    """[number, 3] gain, decay, floor."""
    workloads = [load(name).workload for name in builtin_names()]
    base = np.concatenate([np.stack([getattr(w, name) for name in FIELDS], 1) for w in workloads])
    gain, decay, floor = base[rng.integers(len(base), size=number)].T
    floor = floor + 0.1 * rng.random(number)
    gain = np.minimum(gain * np.exp(0.2 * rng.standard_normal(number)), 0.99 - floor)
    return np.stack([gain, decay * np.exp(0.3 * rng.standard_normal(number)), floor], axis=1)


def curve(truth):
    """[number, L] accuracy."""
    gain, decay, floor = truth.T[..., None]
    return floor - gain * np.expm1(-decay * LEVELS)


def draw(rng, accuracy, questions, alike, kept=EVERY):
    """Correct answers as counts by level, and as rows by question; of the last `kept` levels."""
    number, size, width = len(accuracy), questions.max(), EVERY
    table = np.zeros((number, size, width))
    for row, own, asked in zip(table, accuracy, questions, strict=True):
        row[:asked] = answers(rng, own, asked, alike)
    seen = (np.arange(size) < questions[:, None])[..., None] & (np.arange(width) >= width - kept)
    trials, table = SAMPLES * seen.astype(float), table * seen
    tokens = np.broadcast_to(LEVELS.astype(float), table.shape)
    levels = Counts(tokens[:, 0], table.sum(axis=1), trials.sum(axis=1))
    question = np.broadcast_to(np.repeat(np.arange(size), width), (number, size * width))
    rows = Rows(Counts(*(x.reshape(number, -1) for x in (tokens, table, trials))), question)
    return jax.tree.map(jax.numpy.asarray, (levels, rows))


def fits(levels, rows=None):
    """Fits of many tasks."""
    if rows is None:
        return jax.vmap(lambda own: fit_counts(own))(levels)
    return jax.vmap(fit_counts)(levels, rows)


def study(seed, number, alike):
    """By method: the status of every task, what was covered, and how far off the fit is."""
    rng = np.random.default_rng(seed)
    truth, questions = truths(rng, number), rng.integers(30, 501, number)
    levels, rows = draw(rng, curve(truth), questions, alike)
    found = {"profile": fits(levels, rows if alike else None)}
    if alike:
        found["profile, questions not known"] = fits(levels)
    answer = {}
    for method, fit in found.items():
        ends = jax.vmap(count_intervals)(fit, levels)
        low, high = np.moveaxis(np.stack([getattr(ends, name) for name in FIELDS], 1), -1, 0)
        estimate = np.stack([getattr(fit, name) for name in FIELDS], 1)
        inside = (low <= truth) & (truth <= high)
        answer[method] = np.asarray(fit.status), inside, estimate / truth - 1
    return answer


def summarize(parts):
    """Coverage and bias over the tasks of several sets."""
    status, covered, error = (np.concatenate(part) for part in zip(*parts, strict=True))
    chosen = {"CONVERGED": status == FitStatus.CONVERGED, "usable": status <= FitStatus.AT_BOUND}
    return {
        "statuses": tally(status),
        "coverage": {
            name: {
                "tasks": mask.sum(),
                **dict(zip(FIELDS, covered[mask].mean(axis=0), strict=True)),
                "median relative error": np.median(error[mask], axis=0),
                "mean relative error": np.mean(error[mask], axis=0),
            }
            for name, mask in chosen.items()
        },
    }


def tally(status):
    return {s.name: np.sum(status == s) for s in FitStatus if np.any(status == s)}


def planted(number):
    """How many of the data that determine no curve are called by their name."""
    rng = np.random.default_rng(99)
    questions = rng.integers(30, 501, number)
    level = np.broadcast_to(rng.uniform(0.05, 0.95, number)[:, None], (number, EVERY))
    steep = np.where(LEVELS > 0, level[:, :1] / 2 + 0.45, level[:, :1] / 2)
    cases = {
        "flat": (level, EVERY, FitStatus.FLAT),
        "falling": (level * np.linspace(1, 0.7, EVERY), EVERY, FitStatus.FLAT),
        "all correct": (np.ones_like(level), EVERY, FitStatus.ALL_CORRECT),
        "all wrong": (np.zeros_like(level), EVERY, FitStatus.ALL_WRONG),
        "risen before the first budget": (steep, EVERY, FitStatus.DECAY_UNKNOWN),
        "one level": (level, 1, FitStatus.FEW_LEVELS),
        "two levels": (level, 2, FitStatus.FEW_LEVELS),
    }
    named = {}
    for name, (accuracy, kept, expected) in cases.items():
        for label, alike in (("independent", 0.0), ("alike", 0.4)):
            levels, rows = draw(rng, accuracy, questions, alike, kept)
            status = np.asarray(fits(levels, rows if alike else None).status)
            share = np.mean(status == expected)
            row = {"as": expected.name, "share": share, "found": tally(status)}
            named[f"{name}, {label}"] = row
            common.show(row)
    return named


def measure(quick):
    tasks, sets, each = (50, 2, 25) if quick else (1000, 4, 500)
    designs = {}
    for label, alike in (("independent", 0.0), ("alike", 0.4)):
        found = [study(7 + i, tasks, alike) for i in range(sets)]
        designs[label] = {
            method: {
                "first set": summarize([found[0][method]]),
                "all sets": summarize([one[method] for one in found]),
            }
            for method in found[0]
        }
        common.show(designs[label])
    named = {"number of each": each, "named": planted(each)}
    return {"tasks": tasks, "sets": sets, "designs": designs, "planted": named}


if __name__ == "__main__":
    common.main(__file__, measure)
