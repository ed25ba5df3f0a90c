"""Synthetic answers of known curves, what SciPy makes of them, and fits of many in one program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtri, xlog1py, xlogy

from jaxalloc.calibration.accuracy import fit_counts
from jaxalloc.calibration.evidence import Rows
from jaxalloc.calibration.intervals import count_intervals
from jaxalloc.calibration.likelihood import Counts

LEVELS = np.array([0, 256, 512, 1024, 2048, 4096, 8192, 16384.0])
# gain, decay, floor: identifiable ones, near those of the built-in workloads.
CURVES = np.array(
    [
        [0.50, 1.5e-4, 0.08],
        [0.62, 2.5e-4, 0.05],
        [0.23, 4.0e-4, 0.35],
        [0.65, 2.6e-3, 0.28],
        [0.30, 3.0e-4, 0.10],
        [0.70, 1.0e-3, 0.12],
    ]
)
LANES = 100  # of a compiled program


def share(curves, tokens=LEVELS):
    gain, decay, floor = np.asarray(curves).T[..., None]
    return floor - gain * np.expm1(-decay * tokens)


def answers(seed, number, questions=300):
    """[number, L] tokens, correct, trials of tasks that repeat `CURVES`; and the truths."""
    rng = np.random.default_rng(seed)
    truth = CURVES[np.arange(number) % len(CURVES)]
    trials = np.full((number, len(LEVELS)), 3.0 * questions)
    correct = rng.binomial(trials.astype(int), share(truth)).astype(float)
    return np.broadcast_to(LEVELS, trials.shape).copy(), correct, trials, truth


def alike(seed, accuracy, questions, correlation=0.4, samples=3):
    """[number, G, L] correct answers of questions whose answers resemble each other."""
    rng = np.random.default_rng(seed)
    number = len(accuracy)
    own = np.sqrt(correlation) * rng.standard_normal((number, questions, 1, 1))
    rest = np.sqrt(1 - correlation) * rng.standard_normal((number, questions, len(LEVELS), samples))
    return (own + rest < ndtri(accuracy)[:, None, :, None]).sum(axis=-1).astype(float)


def by_question(table):
    """[N] tokens, correct, trials, question of a [G, L] table of three answers a cell."""
    tokens = np.broadcast_to(LEVELS, table.shape).ravel()
    question = np.repeat(np.arange(len(table)), len(LEVELS))
    return tokens, table.ravel(), np.full(table.size, 3.0), question


@functools.partial(jax.jit, static_argnames="asked")
@functools.partial(jax.vmap, in_axes=(0, None))
def _fit(rows, asked):
    levels = Counts(*rows[:3])
    fit = fit_counts(levels, Rows(Counts(*rows[3:6]), rows[6]) if asked else None)
    return fit, count_intervals(fit, levels)


def fit_many(*rows):
    """Fits and intervals of [B, L] tokens, correct, trials; and of [B, N] rows by question."""
    number = len(rows[0])
    parts = []
    for start in range(0, number, LANES):
        own = np.arange(start, start + LANES) % number
        parts.append(_fit(tuple(jnp.asarray(x[own]) for x in rows), len(rows) > 3))
    joined = jax.tree.map(lambda *x: np.concatenate(x)[:number], *parts)
    return joined


def fit_tables(tables):
    """`fit_many` of [B, G, L] tables: with the questions, and without."""
    number = len(tables)
    rows = [np.stack(x) for x in zip(*map(by_question, tables), strict=True)]
    levels = (
        np.broadcast_to(LEVELS, (number, 8)),
        tables.sum(1),
        np.full((number, 8), 3.0 * tables.shape[1]),
    )
    return fit_many(*levels, *rows), fit_many(*levels)


def log_likelihood(point, tokens, correct, trials):
    gain, decay, floor = point
    p = np.clip(floor - gain * np.expm1(-decay * tokens), 0, 1)
    return float(np.sum(xlogy(correct, p) + xlog1py(trials - correct, -p)))


def scipy_maximum(tokens, correct, trials, starts=5):
    """The best log-likelihood that SciPy's SLSQP finds from several starts, A + D <= 1."""
    best = -np.inf
    for decay in np.geomspace(0.1 / tokens.max(), 2 / tokens[tokens > 0].min(), starts):
        found = minimize(
            lambda z: -log_likelihood((z[0], np.exp(z[1]), z[2]), tokens, correct, trials),
            [0.4, np.log(decay), 0.2],
            bounds=[(1e-9, 1), (-20, 5), (1e-9, 1)],
            constraints={"type": "ineq", "fun": lambda z: 1 - 1e-9 - z[0] - z[2]},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        if found.success:
            best = max(best, -found.fun)
    return best
