"""`fit_service_time`, `fit_arrivals` and `fit_mix`: laws, intervals, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

import jaxalloc
from jaxalloc import FitStatus

LEVELS = np.tile([0, 512, 2048, 4096, 8192, 16384.0], 40)


def times(seed, number, base=0.25, slope=8e-4, cv=0.2):
    rng = np.random.default_rng(seed)
    mean = base + slope * LEVELS
    return mean * rng.gamma(1 / cv**2, cv**2, (number, len(LEVELS)))


def test_least_squares_is_that_of_numpy():
    seconds = times(0, 1)[0]
    fit = jaxalloc.fit_service_time(LEVELS, seconds)
    slope, base = np.polyfit(LEVELS, seconds, 1)
    assert float(fit.base_time) == pytest.approx(base, rel=1e-9)
    assert float(fit.time_per_token) == pytest.approx(slope, rel=1e-9)
    assert fit.status == FitStatus.CONVERGED
    # The second moment that the queue is given is that of the measurements.
    mean = base + slope * LEVELS
    second = np.mean((1 + float(fit.service_cv) ** 2) * mean**2)
    assert second == pytest.approx(np.mean(seconds**2), rel=2e-3)


def test_the_robust_line_is_scipys_at_the_same_scale():
    seconds = times(1, 1)[0]
    seconds[::17] *= 6  # mistakes of the log
    fit = jaxalloc.fit_service_time(LEVELS, seconds, robust=True)
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
    plain = jaxalloc.fit_service_time(LEVELS, seconds)
    assert float(plain.time_per_token) > 1.2 * slope


def test_intervals_cover():
    seconds = jnp.asarray(times(2, 600))
    fits = jax.vmap(lambda own: jaxalloc.fit_service_time(jnp.asarray(LEVELS), own))(seconds)
    ends = np.asarray(jax.vmap(jaxalloc.service_intervals)(fits))
    inside = (ends[..., 0] <= [0.25, 8e-4]) & (ends[..., 1] >= [0.25, 8e-4])
    assert np.all(np.abs(inside.mean(axis=0) - 0.95) < 0.03)
    error = (np.asarray(fits.service_cv) - 0.2) / np.asarray(fits.service_cv_se)
    assert np.std(error) == pytest.approx(1, abs=0.15)


def test_questions_widen_what_they_share():
    rng = np.random.default_rng(3)
    question = np.arange(len(LEVELS)) // 6
    own = rng.normal(0, 0.3, question.max() + 1)[question]
    seconds = 1 + 8e-4 * LEVELS + own + rng.normal(0, 0.05, len(LEVELS))
    known = jaxalloc.fit_service_time(LEVELS, seconds, question=question)
    unknown = jaxalloc.fit_service_time(LEVELS, seconds)
    assert known.standard_error[0] > 1.2 * unknown.standard_error[0]
    assert known.standard_error[1] < unknown.standard_error[1]
    assert known.dof == 39


@pytest.mark.parametrize(
    ("tokens", "seconds", "expected"),
    [
        ([5, 5, 5, 5], [1, 2, 3, 4], FitStatus.FEW_LEVELS),
        ([0, 5], [1, 2], FitStatus.FEW_LEVELS),
        ([1, 2, 3, 4], [4, 3, 2, 1], FitStatus.NEGATIVE_SLOPE),
        ([1, 2, 3, 4], [1, 3, 0.5, 2.0], FitStatus.FLAT),
        ([1, 2, 3, 4], [2, 2, 2, 2], FitStatus.FLAT),
        ([10, 20, 30, 40], [0.8, 2.1, 2.9, 4.0], FitStatus.AT_BOUND),
        ([0, 1, 2, 3], [1, 2, 3, 4], FitStatus.CONVERGED),
    ],
)
@pytest.mark.parametrize("robust", [False, True])
def test_what_the_data_lack_is_named(tokens, seconds, expected, robust):
    fit = jaxalloc.fit_service_time(tokens, seconds, robust=robust)
    if robust and expected == FitStatus.AT_BOUND:
        assert float(fit.base_time) >= 0
    else:
        assert FitStatus(int(fit.status)) == expected
    if expected == FitStatus.AT_BOUND and not robust:
        assert float(fit.base_time) == 0
        own = np.dot(tokens, seconds) / np.dot(tokens, tokens)
        assert float(fit.time_per_token) == pytest.approx(own)
        assert jaxalloc.service_intervals(fit)[0, 1] > 0
    if fit.status > FitStatus.AT_BOUND:
        assert np.all(np.isnan(fit.standard_error))


def test_too_few_questions_are_named():
    seconds = 1 + LEVELS * np.linspace(1e-3, 1.1e-3, len(LEVELS))
    for number, expected in ((1, "FEW_QUESTIONS"), (2, "FEW_QUESTIONS"), (3, "CONVERGED")):
        fit = jaxalloc.fit_service_time(LEVELS, seconds, question=np.arange(len(LEVELS)) % number)
        assert FitStatus(int(fit.status)).name == expected
        assert np.all(np.isfinite(fit.standard_error)) == (expected == "CONVERGED")


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match=r"seconds\[1\] = -1 must be finite and at least 0"):
        jaxalloc.fit_service_time([1, 2], [1, -1])


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


def test_arrivals_without_a_rate_have_none():
    for times_ in ([3.0], [1.0, 1.0, 1.0]):
        assert np.isnan(float(jaxalloc.fit_arrivals(times_).arrival_rate))


def test_shares_are_wilsons():
    fit = jaxalloc.fit_mix([0, 25, 75])
    np.testing.assert_allclose(fit.mix, [0, 0.25, 0.75])
    assert fit.interval[0, 0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(fit.interval[1], [0.17545, 0.34302], atol=2e-4)
    np.testing.assert_allclose(fit.mix_se[1], np.sqrt(0.25 * 0.75 / 100))
