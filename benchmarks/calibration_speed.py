"""Likelihoods against SciPy's, and the time of fits.

    python benchmarks/calibration_speed.py [--quick]

Agreement: the same counts are fitted by `fit_accuracy` and by SciPy's `minimize` (L-BFGS-B on the
likelihood with its gradient, from a start as users write and from our answer); on benign tasks and
on hard ones (few answers, random budgets, any curve). Counted are the fits where both say they
converged. Time: 10,000 tasks; SciPy's loop is timed on a sample of them. `--quick`: a tenth.
"""

import time

import common
import jax
import jax.numpy as jnp
import numpy as np
from calibration_coverage import curve, truths
from calibration_synthetic import LEVELS, SAMPLES
from scipy.optimize import minimize
from scipy.special import xlog1py, xlogy

from jaxalloc.calibration.accuracy import fit_counts
from jaxalloc.calibration.likelihood import Counts
from jaxalloc.calibration.status import FitStatus

LEAST = 1e-12  # SciPy's bounds away from 0 and 1, where its logarithms end
FOUND = [0, 1, 2, FitStatus.FLAT, FitStatus.DECAY_UNKNOWN]
OPTIONS = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}


def likelihood(point, tokens, correct, trials):
    """The log-likelihood of (A, ln b, D), without the binomial coefficients."""
    gain, rate, floor = point
    p = np.clip(floor - gain * np.expm1(-np.exp(rate) * tokens), 0, 1)
    return float(np.sum(xlogy(correct, p) + xlog1py(trials - correct, -p)))


def by_scipy(start, tokens, correct, trials):
    """L-BFGS-B in (share of the ceiling that is floor, ceiling, ln b), which keeps A + D <= 1."""

    def negative(z):
        part, ceiling, rate = z
        x = np.exp(rate) * tokens
        left = np.exp(-x)
        shape = 1 - (1 - part) * left
        p = np.clip(ceiling * shape, LEAST, 1 - LEAST)
        value = np.sum(correct * np.log(p) + (trials - correct) * np.log1p(-p))
        pull = correct / p - (trials - correct) / (1 - p)
        slopes = np.stack([ceiling * left, shape, ceiling * (1 - part) * x * left])
        return -value, -slopes @ pull

    gain, rate, floor = start
    ceiling = np.clip(gain + floor, 1e-6, 1)
    z = np.array([np.clip(floor / ceiling, 0, 1), ceiling, rate])
    low, high = np.log(1e-4 / tokens.max()), np.log(40 / tokens[tokens > 0].min())
    bounds = [(0, 1), (1e-9, 1), (low, high)]
    found = minimize(negative, z, jac=True, method="L-BFGS-B", bounds=bounds, options=OPTIONS)
    part, ceiling, rate = found.x
    return found.success, np.array([ceiling * (1 - part), rate, ceiling * part])


def usual_start(tokens, correct, trials):
    return np.array([0.5, -np.log(np.median(tokens[tokens > 0])), correct[0] / trials[0] / 2])


def hard(rng, number):
    """Any curve, 8 random budgets, 1 to 200 answers each."""
    grid = np.array([0, *2.0 ** np.array([4, 6, 8, 9, 10, 11, 12, 13, 14, 15])])
    tokens = np.stack([np.sort(rng.choice(grid, 8, replace=False)) for _ in range(number)])
    gain, decay = rng.random(number), np.exp(rng.uniform(np.log(1e-5), np.log(1e-1), number))
    floor = rng.random(number) * (1 - gain)
    trials = rng.integers(1, 201, tokens.shape)
    p = floor[:, None] - gain[:, None] * np.expm1(-decay[:, None] * tokens)
    return tokens, rng.binomial(trials, p).astype(float), trials.astype(float)


def benign(rng, number):
    trials = np.broadcast_to(SAMPLES * rng.integers(30, 501, (number, 1)), (number, len(LEVELS)))
    correct = rng.binomial(trials, curve(truths(rng, number)))
    tokens = np.broadcast_to(LEVELS, trials.shape)
    return tuple(np.ascontiguousarray(x, float) for x in (tokens, correct, trials))


fit_many = jax.jit(jax.vmap(lambda own: fit_counts(own)))


def agreement(data):
    """Our log-likelihood less SciPy's, where both converged."""
    fits = jax.tree.map(np.asarray, fit_many(Counts(*map(jnp.asarray, data))))
    ours = np.isin(fits.status, FOUND)
    points = np.stack([fits.gain, np.log(fits.decay), fits.floor], 1)
    result = {"tasks": len(ours), "ours converged": ours.mean()}
    for name, from_ours in (("from a usual start", False), ("from our answer", True)):
        gaps, began = [], time.perf_counter()
        for i in np.flatnonzero(ours):
            row = tuple(x[i] for x in data)
            success, point = by_scipy(points[i] if from_ours else usual_start(*row), *row)
            if success:
                gaps.append(likelihood(points[i], *row) - likelihood(point, *row))
        gap = np.array(gaps)
        result[f"minimize {name}"] = {
            "both converged": len(gap),
            "within 1e-6": np.mean(np.abs(gap) <= 1e-6),
            "ours higher by more than 1e-6": np.mean(gap > 1e-6),
            "ours lower by more than 1e-9": np.mean(gap < -1e-9),
            "largest shortfall of ours": max(-gap.min(), 0),
            "seconds a fit": (time.perf_counter() - began) / max(int(ours.sum()), 1),
        }
    common.show(result)
    return result


def timings(fits):
    """Seconds for many fits, compilation apart."""
    data, sample = benign(np.random.default_rng(3), fits), min(500, fits)
    levels = Counts(*map(jnp.asarray, data))
    times = common.interleave({"": lambda: fit_many(levels)}, 5)[""]
    began = time.perf_counter()
    for row in zip(*(x[:sample] for x in data), strict=True):
        by_scipy(usual_start(*row), *row)
    each = (time.perf_counter() - began) / sample
    return {
        "fits": fits,
        "first call, with compilation, s": times["first_call_seconds"],
        "s": times["wall"]["median"],
        "µs a fit": 1e6 * times["wall"]["median"] / fits,
        "SciPy minimize, µs a fit": 1e6 * each,
    }


def measure(quick):
    few = 10 if quick else 1
    kinds = {"benign": benign, "hard": hard}
    return {
        "timings": timings(10_000 // few),
        "agreement": {
            name: agreement(kind(np.random.default_rng(i), 2_000 // few))
            for i, (name, kind) in enumerate(kinds.items(), 1)
        },
    }


if __name__ == "__main__":
    common.main(__file__, measure)
