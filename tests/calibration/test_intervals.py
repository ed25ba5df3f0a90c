"""Intervals of curves: against SciPy's profiles, and their coverage with and without questions."""

import jax
import measured
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t as student

import jaxalloc
from jaxalloc import FitStatus
from jaxalloc.calibration.quantiles import student_quantile
from jaxalloc.calibration.rows import as_labels

FIELDS = ("gain", "decay", "floor")
FULL = np.full(8, 300.0)
ROWS = {
    "inside": tuple(x[0] for x in measured.answers(2, 1)[:3]),
    "at a bound": (measured.LEVELS, np.array([0, 20, 40, 80, 140, 200, 240, 250.0]), FULL),
    # Profiles of the gain that begin where floor + gain is 1, which the data forbid.
    "at a ceiling": (
        np.array([16, 64, 256, 1024, 2048, 8192, 16384, 32768.0]),
        np.array([46, 61, 44, 171, 55, 121, 100, 92.0]),
        np.array([65, 65, 45, 174, 58, 123, 106, 92.0]),
    ),
}


def profile(parameter, value, start, rows):
    """SciPy's largest log-likelihood with one parameter given."""
    free = [i for i in range(3) if i != parameter]

    def negative(z):
        point = np.array(start)
        point[parameter] = value
        point[free] = z
        if point[0] < 0 or not 0 <= point[2] <= 1 - point[0] or point[1] <= 0:
            return 1e10
        return -measured.log_likelihood(point, *rows)

    first = np.array(start)[free]
    if parameter != 1:  # inside, where the likelihood is finite
        other = 1 if parameter == 0 else 0
        first[other] = min(first[other], 0.95 * (1 - value))
    options = {"xatol": 1e-9, "fatol": 1e-9, "maxiter": 4000, "maxfev": 4000}
    return -minimize(negative, first, method="Nelder-Mead", options=options).fun


@pytest.mark.parametrize("case", ROWS)
def test_ends_are_where_scipys_profile_has_fallen(case):
    rows = ROWS[case]
    fit = jaxalloc.fit_accuracy(*rows)
    intervals = jaxalloc.accuracy_intervals(fit, *rows)
    point = [float(getattr(fit, name)) for name in FIELDS]
    for i, name in enumerate(FIELDS):
        for end in np.asarray(getattr(intervals, name)):
            if end == 0:  # the bound itself
                assert (name, case) != ("floor", "inside")
                continue
            fall = 2 * (float(fit.log_likelihood) - profile(i, end, point, rows))
            assert fall == pytest.approx(1.959964**2, rel=2e-3)


def test_an_end_that_the_data_do_not_set_is_a_bound():
    rows = measured.LEVELS, np.array([5, 8, 9, 14, 20, 32, 52, 80.0]), np.full(8, 100.0)
    intervals = jaxalloc.accuracy_intervals(jaxalloc.fit_accuracy(*rows), *rows)
    assert intervals.gain[1] == pytest.approx(1 - float(intervals.floor[0]), abs=0.1)
    assert np.all(np.isfinite(intervals.decay))
    flat = measured.LEVELS, np.full(8, 50.0), np.full(8, 100.0)
    nothing = jaxalloc.accuracy_intervals(jaxalloc.fit_accuracy(*flat), *flat)
    assert np.all(np.isnan(nothing))


@pytest.mark.parametrize("dof", [1.0, 2.0, 4.0, 9.0, 499.0, np.inf])
def test_quantiles_of_student(dof):
    assert float(student_quantile(0.975, dof)) == pytest.approx(student.ppf(0.975, dof), rel=3e-3)


def covered(intervals, truth):
    ends = np.stack([np.asarray(getattr(intervals, name)) for name in FIELDS], axis=1)
    return (ends[..., 0] <= truth) & (truth <= ends[..., 1])


def holds(fit):
    """The p-values of laws that hold are not small, and these are hardly ever refused."""
    p_value = np.asarray(fit.lack_of_fit.p_value)
    assert np.all((p_value >= 0) & (p_value <= 1))
    assert np.mean(p_value < 0.1) < 0.15
    assert np.mean(p_value) > 0.4
    assert np.mean(fit.status == FitStatus.LACK_OF_FIT) < 0.01


def test_intervals_of_independent_answers_cover():
    *rows, truth = measured.answers(7, 600, questions=100)
    fits, intervals = measured.fit_many(*rows)
    usable = fits.status <= FitStatus.AT_BOUND
    assert usable.mean() > 0.95
    assert np.all(np.abs(covered(intervals, truth)[usable].mean(axis=0) - 0.95) < 0.025)
    assert abs((fits.floor[usable] - truth[usable, 2]).mean()) < 0.005
    holds(fits)


def test_intervals_respect_questions():
    truth = measured.CURVES[np.arange(400) % len(measured.CURVES)]
    tables = measured.alike(8, measured.share(truth), 60)
    (known, honest), (unknown, naive) = measured.fit_tables(tables)
    np.testing.assert_allclose(known.gain, unknown.gain)
    usable = np.maximum(known.status, unknown.status) <= FitStatus.AT_BOUND
    assert usable.mean() > 0.9
    assert np.all(np.abs(covered(honest, truth)[usable].mean(axis=0) - 0.95) < 0.035)
    assert covered(naive, truth)[usable].mean(axis=0)[2] < 0.9  # the floor, which questions share
    assert np.all(known.dof == 59)
    holds(known)


def test_a_question_and_its_name_are_two_things():
    rng = np.random.default_rng(0)
    tokens, correct, trials, question = measured.by_question(
        measured.alike(10, measured.share(measured.CURVES[:1]), 12)[0]
    )
    shuffled = rng.permutation(12)[question]
    forms = (shuffled * 7 + 3, shuffled * 2**32, shuffled * 1.0, [f"q{i}" for i in shuffled])
    first = jaxalloc.fit_accuracy(tokens, correct, trials, question)
    assert float(first.dof) == 11
    for names in map(np.array, forms):
        other = jaxalloc.fit_accuracy(tokens, correct, trials, names)
        np.testing.assert_allclose(other.covariance, first.covariance, 1e-9, atol=1e-12)
        with jax.enable_x64(False):
            assert len(np.unique(as_labels(names, names.shape))) == 12
