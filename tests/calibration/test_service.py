"""`fit_service_time`, `fit_arrivals` and `fit_mix`: laws, intervals, refusals."""

import functools

import jax
import jax.numpy as jnp
import measured
import numpy as np
import pytest
from scipy.optimize import least_squares

import jaxalloc
from jaxalloc import FitStatus

LEVELS = np.tile([0, 512, 2048, 4096, 8192, 16384.0], 40)
FORMS = [(asked, robust) for asked in (False, True) for robust in (False, True)]


@functools.partial(jax.jit, static_argnames="robust")
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
def _fit(tokens, seconds, weight, question, robust):
    fit = jaxalloc.fit_service_time(tokens, seconds, weight, question, robust)
    return fit, jaxalloc.service_intervals(fit)


def fit_many(tokens, seconds, question=None, robust=False, lanes=60):
    """Fits of [B, N] times and their intervals, so padded that they share a few programs."""
    number, size = np.shape(seconds)
    found = []
    tokens, seconds, weight = np.broadcast_arrays(tokens, seconds, np.ones(size))
    columns = [np.pad(x, ((0, 0), (0, len(LEVELS) - size))) for x in (tokens, seconds, weight)]
    asked = None if question is None else np.pad(question, (0, len(LEVELS) - size))
    for start in range(0, number, lanes):
        own = np.arange(start, start + lanes) % number
        label = None if asked is None else np.broadcast_to(asked, (lanes, len(LEVELS)))
        found.append(_fit(*(x[own] for x in columns), label, robust))
    return jax.tree.map(lambda *x: np.concatenate(x)[:number], *found)


def fit_one(tokens, seconds, question=None, robust=False):
    fits = fit_many(tokens, np.asarray(seconds, float)[None], question, robust)
    return jax.tree.map(lambda leaf: leaf[0], fits)


def times(seed, number, base=0.25, slope=8e-4, cv=0.2):
    rng = np.random.default_rng(seed)
    mean = base + slope * LEVELS
    return mean * rng.gamma(1 / cv**2, cv**2, (number, len(LEVELS)))


def test_least_squares_is_that_of_numpy():
    seconds = times(0, 1)[0]
    fit, _ = fit_one(LEVELS, seconds)
    slope, base = np.polyfit(LEVELS, seconds, 1)
    assert float(fit.base_time) == pytest.approx(base, rel=1e-9)
    assert float(fit.time_per_token) == pytest.approx(slope, rel=1e-9)
    assert fit.status == FitStatus.CONVERGED
    # The second moment that the queue is given is that of the measurements.
    second = np.mean((1 + float(fit.service_cv) ** 2) * (base + slope * LEVELS) ** 2)
    assert second == pytest.approx(np.mean(seconds**2), rel=2e-3)


def test_the_robust_line_is_scipys_at_the_same_scale():
    seconds = times(1, 1)[0]
    seconds[::17] *= 6  # mistakes of the log
    fit, _ = fit_one(LEVELS, seconds, robust=True)
    base, slope = float(fit.base_time), float(fit.time_per_token)
    fitted = base + slope * LEVELS
    scale = 1.4826 * np.median(np.abs(seconds - fitted) / fitted)
    best = least_squares(
        lambda z: (seconds - z[0] - z[1] * 1e-3 * LEVELS) / fitted / (1.345 * scale),
        [0.3, 1.0],
        loss="huber",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    np.testing.assert_allclose([base, slope * 1e3], best.x, rtol=1e-5)
    assert slope == pytest.approx(8e-4, rel=0.05)
    assert float(fit.service_cv) == pytest.approx(0.2, rel=0.25)
    assert float(fit_one(LEVELS, seconds)[0].time_per_token) > 1.2 * slope


def inside(ends, truth):
    return (ends[..., 0] <= truth) & (ends[..., 1] >= truth)


def test_intervals_cover():
    fits, ends = fit_many(LEVELS, times(2, 600))
    assert np.all(np.abs(inside(ends, [0.25, 8e-4]).mean(axis=0) - 0.95) < 0.03)
    assert np.std((fits.service_cv - 0.2) / fits.service_cv_se) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "budgets", [[0, 1000, 4000], [0, 1000, 4000, 2000, 3000], [0] * 60 + [16384] * 3 + [8000]]
)
def test_intervals_of_a_few_rows_hold_the_truth(budgets):
    rng = np.random.default_rng(0)
    mean = 0.25 + 8e-4 * np.array(budgets)
    for noise in (
        rng.gamma(100, 0.01, (900, len(mean))),
        0.1 * mean.mean() * rng.standard_normal((900, len(mean))),
    ):
        seconds = mean * noise if noise.min() > 0 else np.abs(mean + noise)
        fits, ends = fit_many(np.array(budgets), seconds)
        usable = fits.status <= FitStatus.AT_BOUND
        assert usable.mean() > 0.95
        assert np.all(inside(ends, [0.25, 8e-4])[usable].mean(axis=0) > 0.93)


def test_questions_widen_what_they_share():
    rng = np.random.default_rng(3)
    question = np.arange(len(LEVELS)) // 6
    own = rng.normal(0, 0.3, question.max() + 1)[question]
    seconds = 1 + 8e-4 * LEVELS + own + rng.normal(0, 0.05, len(LEVELS))
    known, unknown = (fit_one(LEVELS, seconds, asked)[0] for asked in (question, None))
    assert known.standard_error[0] > 1.2 * unknown.standard_error[0]
    assert known.standard_error[1] < unknown.standard_error[1]
    assert known.dof == 39


ZEROS = [([0] * n + [1000, 2000, 4000], [0] * n + [7.1, 12.8, 25.3]) for n in (4, 8, 200)]


@pytest.mark.parametrize(
    ("tokens", "seconds", "expected"),
    [
        ([5, 5, 5, 5], [1, 2, 3, 4], "FEW_LEVELS"),
        ([0, 5], [1, 2], "FEW_LEVELS"),
        ([1, 2, 3, 4], [4, 3, 2, 1], "NEGATIVE_SLOPE"),
        ([1, 2, 3, 4], [1, 3, 0.5, 2.0], "FLAT"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "FLAT"),
        ([0, 1, 2, 3], [1, 2, 3, 4], "CONVERGED"),
        ([1, 2, 3, 4], [1, np.nan, 3, 4], "INVALID"),
        ([10, 20, 30, 40], [0.8, 2.1, 2.9, 4.0], "AT_BOUND"),
        *((tokens, seconds, "NO_SCATTER") for tokens, seconds in ZEROS),
    ],
)
def test_what_the_data_lack_is_named(tokens, seconds, expected):
    of_huber = expected == "NO_SCATTER"
    for robust in (True,) if of_huber else (False,) if expected == "AT_BOUND" else (False, True):
        fit, ends = fit_one(np.array(tokens, float), seconds, robust=robust)
        assert FitStatus(int(fit.status)).name == expected
        assert np.all(np.isfinite(fit.standard_error)) == (expected in ("AT_BOUND", "CONVERGED"))
    if expected == "AT_BOUND":
        assert float(fit.base_time) == 0
        own = np.dot(tokens, seconds) / np.dot(tokens, tokens)
        assert float(fit.time_per_token) == pytest.approx(own)
        assert ends[0, 1] > 0


@pytest.mark.parametrize(("asked", "robust"), FORMS)
def test_times_on_no_line_are_named(asked, robust):
    rng = np.random.default_rng(0)
    question = np.arange(80) % 20 if asked else None
    for tokens in (np.repeat(measured.LEVELS, 10), rng.uniform(0, 16384, 80)):
        noise = rng.gamma(100, 0.01, 80)
        laws = [
            0.5 + 1e-3 * tokens,
            0.5 + 1e-3 * np.minimum(tokens, 4000),  # a hard limit
            0.5 + 1e-7 * tokens**2,
            np.where(tokens > 6000, 0.5 + 1e-3 * tokens, 0.01),  # failed calls
        ]
        if robust:  # Huber gives in to a third of bad rows
            laws.pop()
        fits, _ = fit_many(tokens, np.stack(laws) * noise, question, robust)
        missed = fits.status == FitStatus.LACK_OF_FIT
        assert list(missed) == [False] + [True] * (len(laws) - 1)


def test_too_few_questions_are_named():
    seconds = 1 + LEVELS * np.linspace(1e-3, 1.1e-3, len(LEVELS))
    for number, expected in ((1, "FEW_QUESTIONS"), (2, "FEW_QUESTIONS"), (3, "CONVERGED")):
        fit, _ = fit_one(LEVELS, seconds, np.arange(len(LEVELS)) % number)
        assert FitStatus(int(fit.status)).name == expected
        assert np.all(np.isfinite(fit.standard_error)) == (expected == "CONVERGED")
    # Nor are questions that are alike a certainty.
    seconds = np.tile([1.0, 1.3, 1.4, 2.1, 3.2, 5.0, 9.3, 17.0], 4)
    fit, _ = fit_one(np.tile(measured.LEVELS, 4), seconds, np.repeat(np.arange(4), 8))
    assert FitStatus(int(fit.status)) == FitStatus.FEW_QUESTIONS


def test_the_deviance_has_as_many_degrees_of_freedom_as_levels_less_parameters():
    tokens, correct, trials, _ = (x[0] for x in measured.answers(3, 1))
    fit = jaxalloc.fit_accuracy(tokens, correct, trials)
    assert float(fit.lack_of_fit.dof) == pytest.approx(5, abs=0.05)
    few = jaxalloc.fit_accuracy(tokens[::3], correct[::3], trials[::3])
    assert few.lack_of_fit.dof == 0  # as many parameters as levels
    assert few.lack_of_fit.p_value == 1


@pytest.mark.parametrize(
    "share",
    [
        [0.1, 0.11, 0.12, 0.2, 0.5, 0.85, 0.93, 0.95],
        [0.05, 0.05, 0.05, 0.3, 0.8, 0.95, 0.95, 0.95],  # a hard limit
        [0.2, 0.33, 0.5, 0.67, 0.8, 0.83, 0.67, 0.5],  # falls later
        [0.33, 0.4, 0.5, 0.6, 0.6, 0.5, 0.4, 0.33],  # to where it began
    ],
)
def test_a_curve_of_another_shape_is_named(share):
    tables = measured.alike(0, np.array([share]), 60)
    for fit, _ in measured.fit_tables(tables):
        assert FitStatus(int(fit.status[0])) == FitStatus.LACK_OF_FIT
        assert fit.lack_of_fit.p_value[0] < 1e-3
        assert fit.lack_of_fit.ratio[0] > 1
        assert np.all(np.isfinite(fit.covariance))


def test_rates_of_poisson_arrivals_are_covered():
    gaps = np.random.default_rng(4).exponential(2.0, (500, 400))
    fits = jax.vmap(jaxalloc.fit_arrivals)(jnp.asarray(gaps.cumsum(axis=1)))
    low, high = np.asarray(fits.interval).T
    assert np.mean((low <= 0.5) & (high >= 0.5)) == pytest.approx(0.95, abs=0.03)
    assert float(fits.cv.mean()) == pytest.approx(1, abs=0.02)


def test_bursts_widen_the_interval():
    rng = np.random.default_rng(5)
    busy = np.repeat(rng.random(40) < 0.5, 50)
    gaps = rng.exponential(np.where(busy, 0.2, 3.0))
    bursty, mixed = (jaxalloc.fit_arrivals(np.cumsum(own)) for own in (gaps, rng.permutation(gaps)))
    assert float(bursty.cv) == pytest.approx(float(mixed.cv), rel=0.01)
    assert bursty.arrival_rate_se > 2 * mixed.arrival_rate_se
    for few in ([3.0], [1.0, 1.0, 1.0]):
        assert np.isnan(float(jaxalloc.fit_arrivals(few).arrival_rate))


def test_shares_are_wilsons():
    fit = jaxalloc.fit_mix([0, 25, 75])
    np.testing.assert_allclose(fit.mix, [0, 0.25, 0.75])
    assert fit.interval[0, 0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(fit.interval[1], [0.17545, 0.34302], atol=2e-4)
    np.testing.assert_allclose(fit.mix_se[1], np.sqrt(0.25 * 0.75 / 100))
