"""Likelihoods against SciPy's, and the time of fits.

    python benchmarks/calibration_speed.py [--fits 10000]

Agreement: the same counts are fitted by `fit_accuracy` and by SciPy's `curve_fit` (least squares
within bounds, weighted anew until at rest, where it solves the equations of the likelihood) and
`minimize` (L-BFGS-B on the likelihood with its gradient, from a start as users write and from our
answer); on benign tasks and on hard ones (few answers, random budgets, any curve). Counted are the
fits where both say they converged. Time: 10,000 tasks of
independent answers; SciPy's loop is timed on a sample of them. Written to speed.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from calibration_coverage import counts, curve, draw, truths
from calibration_synthetic import LEVELS, SAMPLES
from scipy.optimize import curve_fit, minimize
from scipy.special import xlog1py, xlogy

ROUNDS = 40
LEAST = 1e-12  # SciPy's bounds away from 0 and 1, where its logarithms end


def likelihood(point: np.ndarray, tokens: Any, correct: Any, trials: Any) -> float:
    """The log-likelihood of (A, ln b, D), without the binomial coefficients."""
    gain, rate, floor = point
    p = np.clip(floor - gain * np.expm1(-np.exp(rate) * tokens), 0, 1)
    return float(np.sum(xlogy(correct, p) + xlog1py(trials - correct, -p)))


def by_minimize(start: np.ndarray, data: tuple) -> Any:
    """L-BFGS-B in (share of the ceiling that is floor, ceiling, ln b), which keeps A + D <= 1."""
    tokens, correct, trials = data

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
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
    found = minimize(
        negative, z, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
    )  # fmt: skip
    part, ceiling, rate = found.x
    return found.success, np.array([ceiling * (1 - part), rate, ceiling * part])


def by_curve_fit(start: np.ndarray, data: tuple) -> Any:
    """Least squares within bounds, weighted anew by the fitted shares until at rest."""
    tokens, correct, trials = data
    share = correct / trials

    def law(at: Any, gain: float, rate: float, floor: float) -> Any:
        return floor - gain * np.expm1(-np.exp(rate) * at)

    low, high = np.log(1e-4 / tokens.max()), np.log(40 / tokens[tokens > 0].min())
    bounds, point, p = ([0, low, 0], [1, high, 1]), start, (correct + 0.5) / (trials + 1)
    for _ in range(ROUNDS):
        sigma = np.sqrt(np.clip(p * (1 - p), 1e-9, None) / trials)
        try:
            new, _ = curve_fit(
                law, tokens, share, point, sigma, bounds=bounds, ftol=1e-13, xtol=1e-13, gtol=1e-13
            )
        except RuntimeError:
            return False, start
        settled, point = np.max(np.abs(new - point)) <= 1e-7, np.clip(new, *bounds)
        p = law(tokens, *point)
        if settled:
            return point[0] + point[2] <= 1, point
    return False, point


def hard(rng: Any, number: int) -> tuple:
    """Any curve, 8 random budgets, 1 to 200 answers each."""
    grid = np.array([0, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768.0])
    tokens = np.stack([np.sort(rng.choice(grid, 8, replace=False)) for _ in range(number)])
    gain, decay = rng.random(number), np.exp(rng.uniform(np.log(1e-5), np.log(1e-1), number))
    floor = rng.random(number) * (1 - gain)
    trials = rng.integers(1, 201, tokens.shape)
    p = floor[:, None] - gain[:, None] * np.expm1(-decay[:, None] * tokens)
    return tokens, rng.binomial(trials, p).astype(float), trials.astype(float)


def benign(rng: Any, number: int) -> tuple:
    trials = np.broadcast_to(SAMPLES * rng.integers(30, 501, (number, 1)), (number, len(LEVELS)))
    correct = rng.binomial(trials, curve(truths(rng, number)))
    tokens = np.broadcast_to(LEVELS, trials.shape)
    return tuple(np.ascontiguousarray(x, float) for x in (tokens, correct, trials))


def agreement(data: tuple) -> dict:
    """Our log-likelihood less SciPy's, where both converged."""
    from jaxalloc.calibration.accuracy import fit_counts
    from jaxalloc.calibration.likelihood import Counts
    from jaxalloc.calibration.status import FitStatus

    fits = jax.vmap(lambda own: fit_counts(own))(Counts(*map(jnp.asarray, data)))
    fits = jax.tree.map(np.asarray, fits)
    ours = np.isin(fits.status, [0, 1, 2, FitStatus.FLAT, FitStatus.DECAY_UNKNOWN])
    methods = {
        "minimize from a usual start": (by_minimize, False),
        "minimize from our answer": (by_minimize, True),
        "curve_fit": (by_curve_fit, False),
    }
    warnings.simplefilter("ignore")  # of `curve_fit`, on covariances that are not used
    result: dict[str, Any] = {"tasks": len(ours), "ours converged": float(ours.mean())}
    for name, (method, from_ours) in methods.items():
        gaps, began = [], time.perf_counter()
        for i in np.flatnonzero(ours):
            row = tuple(x[i] for x in data)
            own = np.array([fits.gain[i], np.log(fits.decay[i]), fits.floor[i]])
            usual = np.array(
                [0.5, -np.log(np.median(row[0][row[0] > 0])), row[1][0] / row[2][0] / 2]
            )
            success, point = method(own if from_ours else usual, row)
            if success:
                gaps.append(likelihood(own, *row) - likelihood(point, *row))
        gap = np.array(gaps)
        result[name] = {
            "both converged": len(gap),
            "within 1e-6": float(np.mean(np.abs(gap) <= 1e-6)),
            "ours higher by more than 1e-6": float(np.mean(gap > 1e-6)),
            "ours lower by more than 1e-9": float(np.mean(gap < -1e-9)),
            "largest shortfall of ours": float(max(-gap.min(), 0)),
            "seconds a fit": (time.perf_counter() - began) / max(int(ours.sum()), 1),
        }
    return result


def timings(fits: int) -> dict:
    """Seconds for many fits, compilation apart."""
    from jaxalloc.calibration.accuracy import fit_counts

    rng = np.random.default_rng(3)
    levels, _ = counts(
        draw(rng, curve(truths(rng, fits)), np.full(fits, 100), 0.4), np.full(fits, 100)
    )
    many = jax.jit(jax.vmap(lambda own: fit_counts(own)))

    def run() -> float:
        began = time.perf_counter()
        jax.block_until_ready(many(levels))
        return time.perf_counter() - began

    first, second = run(), run()
    sample = 500
    began = time.perf_counter()
    for i in range(sample):
        row = tuple(np.asarray(x[i]) for x in levels)
        by_minimize(np.array([0.5, -np.log(2048), row[1][0] / row[2][0] / 2]), row)
    each = (time.perf_counter() - began) / sample
    return {
        "fits": fits,
        "first call, with compilation, s": first,
        "s": second,
        "µs a fit": 1e6 * second / fits,
        "SciPy minimize, µs a fit": 1e6 * each,
        "SciPy minimize in a loop, all fits, s (extrapolated)": each * fits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=10_000)
    parser.add_argument("--compared", type=int, default=2000)
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    document = {
        "timings": timings(given.fits),
        "agreement": {
            "benign": agreement(benign(np.random.default_rng(1), given.compared)),
            "hard": agreement(hard(np.random.default_rng(2), given.compared)),
        },
    }
    common.save("calibration_speed", document)


if __name__ == "__main__":
    main()
