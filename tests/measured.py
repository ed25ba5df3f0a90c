"""Synthetic answers of known curves, and what SciPy makes of them."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import xlog1py, xlogy

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


def alike(seed, number, questions, correlation=0.4, samples=3):
    """[number, G, L] correct answers of questions whose answers resemble each other."""
    from scipy.special import ndtri

    rng = np.random.default_rng(seed)
    truth = CURVES[np.arange(number) % len(CURVES)]
    own = np.sqrt(correlation) * rng.standard_normal((number, questions, 1, 1))
    rest = np.sqrt(1 - correlation) * rng.standard_normal((number, questions, len(LEVELS), samples))
    hits = own + rest < ndtri(share(truth))[:, None, :, None]
    return hits.sum(axis=-1).astype(float), truth


def log_likelihood(point, tokens, correct, trials):
    gain, decay, floor = point
    p = np.clip(floor - gain * np.expm1(-decay * tokens), 0, 1)
    return float(np.sum(xlogy(correct, p) + xlog1py(trials - correct, -p)))


def scipy_maximum(tokens, correct, trials, starts=5):
    """The best log-likelihood that SciPy's SLSQP finds from several starts, A + D <= 1."""
    best = -np.inf
    for decay in np.geomspace(0.1 / tokens.max(), 2 / tokens[tokens > 0].min(), starts):

        def negative(z):
            return -log_likelihood((z[0], np.exp(z[1]), z[2]), tokens, correct, trials)

        found = minimize(
            negative,
            [0.4, np.log(decay), 0.2],
            bounds=[(1e-9, 1), (-20, 5), (1e-9, 1)],
            constraints={"type": "ineq", "fun": lambda z: 1 - 1e-9 - z[0] - z[2]},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        if found.success:
            best = max(best, -found.fun)
    return best
