"""Intervals: against SciPy's profiles, their coverage with and without questions."""

import jax
import jax.numpy as jnp
import measured
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import t as student

import jaxalloc
from jaxalloc.calibration.accuracy import fit_counts
from jaxalloc.calibration.intervals import count_intervals
from jaxalloc.calibration.likelihood import Counts
from jaxalloc.calibration.quantiles import student_quantile
from jaxalloc.calibration.verdict import Rows

FIELDS = ("gain", "decay", "floor")


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

    best = minimize(
        negative,
        np.array(start)[free],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 4000, "maxfev": 4000},
    )
    return -best.fun


@pytest.mark.parametrize("case", ["inside", "at a bound"])
def test_ends_are_where_scipys_profile_has_fallen(case):
    tokens, correct, trials, _ = measured.answers(2, 1)
    rows = tokens[0], correct[0], trials[0]
    if case == "at a bound":
        rows = measured.LEVELS, np.array([0, 20, 40, 80, 140, 200, 240, 250.0]), np.full(8, 300.0)
    fit = jaxalloc.fit_accuracy(*rows)
    intervals = jaxalloc.accuracy_intervals(fit, *rows)
    point = [float(getattr(fit, name)) for name in FIELDS]
    for i, name in enumerate(FIELDS):
        for end in np.asarray(getattr(intervals, name)):
            if end == 0:  # the bound itself
                assert case == "at a bound"
                assert name == "floor"
                continue
            fall = 2 * (float(fit.log_likelihood) - profile(i, end, point, rows))
            assert fall == pytest.approx(1.959964**2, rel=1e-3)


def test_an_end_that_the_data_do_not_set_is_a_bound():
    rows = measured.LEVELS, np.array([5, 8, 9, 14, 20, 32, 52, 80.0]), np.full(8, 100.0)
    fit = jaxalloc.fit_accuracy(*rows)
    intervals = jaxalloc.accuracy_intervals(fit, *rows)
    assert intervals.gain[1] == pytest.approx(1 - float(intervals.floor[0]), abs=0.1)
    assert np.all(np.isfinite(intervals.decay))
    flat = jaxalloc.fit_accuracy(measured.LEVELS, [50] * 8, 100)
    nothing = jaxalloc.accuracy_intervals(flat, measured.LEVELS, [50] * 8, 100)
    assert np.all(np.isnan(nothing))


@pytest.mark.parametrize("dof", [4.0, 9.0, 29.0, 499.0, np.inf])
def test_quantiles_of_student(dof):
    found = float(student_quantile(0.975, dof))
    assert found == pytest.approx(student.ppf(0.975, dof), rel=3e-3)


def covered(intervals, truth):
    ends = np.stack([np.asarray(getattr(intervals, name)) for name in FIELDS], axis=1)
    return (ends[..., 0] <= truth) & (truth <= ends[..., 1])


def test_intervals_of_independent_answers_cover():
    tokens, correct, trials, truth = measured.answers(7, 600, questions=100)
    counts = Counts(*map(jnp.asarray, (tokens, correct, trials)))
    fits = jax.vmap(lambda own: fit_counts(own))(counts)
    profiles = jax.vmap(count_intervals)(fits, counts)
    usable = np.asarray(fits.status) <= 2
    assert usable.mean() > 0.95
    assert np.all(np.abs(covered(profiles, truth)[usable].mean(axis=0) - 0.95) < 0.025)
    error = np.asarray(fits.floor)[usable] - truth[usable, 2]
    assert abs(error.mean()) < 0.005


def test_intervals_respect_questions():
    number, questions = 400, 60
    table, truth = measured.alike(8, number, questions)
    trials = np.full(table.shape, 3.0)
    tokens = np.broadcast_to(measured.LEVELS, table.shape)
    levels = Counts(*map(jnp.asarray, (tokens[:, 0], table.sum(1), trials.sum(1))))
    flat = (x.reshape(number, -1) for x in (tokens, table, trials))
    question = np.repeat(np.arange(questions), 8)
    rows = Rows(
        Counts(*map(jnp.asarray, flat)), jnp.broadcast_to(question, (number, 8 * questions))
    )
    known = jax.vmap(fit_counts)(levels, rows)
    unknown = jax.vmap(lambda own: fit_counts(own))(levels)
    np.testing.assert_allclose(known.gain, unknown.gain)
    usable = (np.asarray(known.status) <= 2) & (np.asarray(unknown.status) <= 2)
    assert usable.mean() > 0.9
    honest = covered(jax.vmap(count_intervals)(known, levels), truth)[usable].mean(axis=0)
    naive = covered(jax.vmap(count_intervals)(unknown, levels), truth)[usable].mean(axis=0)
    assert np.all(np.abs(honest - 0.95) < 0.035)
    assert naive[2] < 0.9  # the floor, which questions share


def test_a_question_and_its_name_are_two_things():
    table, _ = measured.alike(10, 1, 40)
    tokens = np.broadcast_to(measured.LEVELS, table[0].shape).ravel()
    question = np.repeat(np.arange(40), 8)
    names = np.random.default_rng(0).permutation(40)[question] * 7 + 3
    one, two = (
        jaxalloc.fit_accuracy(tokens, table[0].ravel(), 3, own) for own in (question, names)
    )
    np.testing.assert_allclose(one.covariance, two.covariance, rtol=1e-10)
    assert one.dof == 39


def test_the_best_of_a_profile_is_the_fit():
    """The profile of the decay is largest at the fitted decay."""
    tokens, correct, trials, _ = measured.answers(11, 1)
    rows = tokens[0], correct[0], trials[0]
    fit = jaxalloc.fit_accuracy(*rows)
    point = [float(getattr(fit, name)) for name in FIELDS]
    best = minimize_scalar(
        lambda b: -profile(1, b, point, rows),
        bounds=(point[1] / 2, point[1] * 2),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert best.x == pytest.approx(point[1], rel=1e-3)
