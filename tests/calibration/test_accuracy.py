"""`fit_accuracy`: the maximum, its certificate, its covariance, its statuses."""

import jax
import jax.numpy as jnp
import measured
import numpy as np
import pytest

import jaxalloc
from jaxalloc import FitStatus

TRIALS = np.full(8, 300.0)
FINE = np.array([60, 75, 90, 115, 150, 190, 215, 220.0])


def hard(seed, number):
    """Any curve, few answers, random budgets."""
    rng = np.random.default_rng(seed)
    grid = np.array([0, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768.0])
    tokens = np.stack([np.sort(rng.choice(grid, 8, replace=False)) for _ in range(number)])
    gain, decay = rng.random(number), np.exp(rng.uniform(np.log(1e-5), np.log(1e-1), number))
    truth = np.stack([gain, decay, rng.random(number) * (1 - gain)], axis=1)
    p = truth[:, 2:] - truth[:, :1] * np.expm1(-truth[:, 1:2] * tokens)
    trials = rng.integers(1, 201, tokens.shape)
    return tokens, rng.binomial(trials, p).astype(float), trials.astype(float)


@pytest.mark.parametrize("kind", ["benign", "hard"])
def test_no_likelihood_is_below_scipys(kind):
    rows = measured.answers(0, 24)[:3] if kind == "benign" else hard(0, 24)
    fits, _ = measured.fit_many(*rows)
    for i, own in enumerate(zip(*rows, strict=True)):
        best = measured.scipy_maximum(*own)
        point = fits.gain[i], fits.decay[i], fits.floor[i]
        value = measured.log_likelihood(point, *own)
        assert value == pytest.approx(fits.log_likelihood[i], abs=1e-8)
        assert value >= best - 1e-6
        assert kind == "hard" or value <= best + 1e-6


def test_curves_stay_in_their_domain():
    fits, _ = measured.fit_many(*hard(1, 400))
    assert np.all((fits.gain >= 0) & (fits.floor >= 0) & (fits.decay > 0))
    assert np.all(fits.gain + fits.floor <= 1 + 4e-16)
    good = fits.status <= FitStatus.AT_BOUND
    assert good.sum() > 100
    assert np.all(fits.decrement[good] <= 1e-6)
    known = good | (fits.status == FitStatus.LACK_OF_FIT)
    assert np.all(np.isfinite(fits.covariance).all((1, 2)) == known)
    assert np.all(np.linalg.eigvalsh(fits.covariance[good]) >= -1e-15)


def test_noiseless_data_give_back_the_curve():
    trials = np.full((len(measured.CURVES), 8), 1e6)
    tokens = np.broadcast_to(measured.LEVELS, trials.shape)
    fits, _ = measured.fit_many(tokens, trials * measured.share(measured.CURVES), trials)
    found = np.stack([fits.gain, fits.decay, fits.floor], axis=1)
    np.testing.assert_allclose(found, measured.CURVES, rtol=1e-7)


def test_the_standard_errors_are_those_of_the_observed_information():
    tokens, correct, trials, _ = (x[0] for x in measured.answers(3, 1))
    fit = jaxalloc.fit_accuracy(tokens, correct, trials)

    def value(z):
        p = z[2] - z[0] * jnp.expm1(-z[1] * tokens)
        return jnp.sum(correct * jnp.log(p) + (trials - correct) * jnp.log1p(-p))

    point = jnp.stack([fit.gain, fit.decay, fit.floor])
    gradient, hessian = jax.jit(lambda z: (jax.grad(value)(z), jax.hessian(value)(z)))(point)
    np.testing.assert_allclose(fit.covariance, np.linalg.inv(-hessian), rtol=1e-6)
    np.testing.assert_allclose(gradient * point, 0, atol=1e-3)
    np.testing.assert_array_equal(fit.design_effect, 1)
    for scale in (1e-9, 1e9):  # tokens may have any unit
        other = jaxalloc.fit_accuracy(tokens * scale, correct, trials)
        assert other.decay * scale == pytest.approx(float(fit.decay), rel=1e-6)
        assert other.status == fit.status
    rows = [np.float32(x) for x in (tokens, correct, trials)]
    rough = jaxalloc.fit_accuracy(*rows)
    assert rough.gain.dtype == jnp.float32
    assert rough.status == FitStatus.CONVERGED
    assert float(rough.decay) == pytest.approx(float(fit.decay), rel=1e-2)


def test_rows_counted_or_not_make_no_difference():
    tokens, correct, trials, _ = (x[0] for x in measured.answers(4, 1, questions=20))
    counted = jaxalloc.fit_accuracy(tokens, correct, trials)
    rows = np.repeat(tokens, 60)
    each = np.concatenate([np.arange(60) < hits for hits in correct])
    shuffled = np.random.default_rng(0).permutation(len(rows))
    traced = jax.jit(jaxalloc.fit_accuracy)(rows[shuffled], each[shuffled] * 1.0)
    for other in (jaxalloc.fit_accuracy(rows, each), traced):
        for name in ("gain", "decay", "floor", "covariance", "log_likelihood", "status"):
            np.testing.assert_allclose(
                getattr(other, name), getattr(counted, name), rtol=1e-6, atol=1e-12
            )


CASES = {
    "flat": (measured.LEVELS, [150] * 8, FitStatus.FLAT),
    "flat with noise": (measured.LEVELS, [152, 147, 149, 155, 150, 146, 153, 151], FitStatus.FLAT),
    "falling": (measured.LEVELS, [200, 190, 180, 170, 150, 130, 110, 90], FitStatus.FLAT),
    "all correct": (measured.LEVELS, [300] * 8, FitStatus.ALL_CORRECT),
    "all wrong": (measured.LEVELS, [0] * 8, FitStatus.ALL_WRONG),
    "one level": ([512] * 8, [150] * 8, FitStatus.FEW_LEVELS),
    "two levels": ([0, 512] * 4, [50, 200] * 4, FitStatus.FEW_LEVELS),
    "risen at once": (measured.LEVELS, [50] + [250] * 7, FitStatus.DECAY_UNKNOWN),
    "no floor": (measured.LEVELS, [0, 20, 40, 80, 140, 200, 240, 250], FitStatus.AT_BOUND),
    "ends at 1": (measured.LEVELS, [60, 100, 140, 190, 250, 290, 300, 300], FitStatus.AT_BOUND),
    "hardly a floor": (measured.LEVELS, [4, 24, 44, 82, 140, 200, 240, 250], FitStatus.WEAK),
    "a fine curve": (measured.LEVELS, FINE, FitStatus.CONVERGED),
    "an S": (measured.LEVELS, [30, 33, 36, 60, 150, 255, 279, 285], FitStatus.LACK_OF_FIT),
    "not a number": ([np.nan] * 8, [1] * 8, FitStatus.INVALID),
    "more than all": (measured.LEVELS, [301] * 8, FitStatus.INVALID),
}


def test_what_the_data_lack_is_named_alone_and_among_others():
    rows = [np.stack([np.asarray(case[i], float) for case in CASES.values()]) for i in (0, 1)]
    fits, _ = measured.fit_many(*rows, np.broadcast_to(TRIALS, rows[0].shape))
    expected = [case[2] for case in CASES.values()]
    assert [FitStatus(int(status)) for status in fits.status] == expected
    known = [status.usable or status == FitStatus.LACK_OF_FIT for status in expected]
    np.testing.assert_array_equal(np.isfinite(fits.covariance).all((1, 2)), known)
    for i in np.flatnonzero(np.array(expected) != FitStatus.INVALID):
        alone = jaxalloc.fit_accuracy(rows[0][i], rows[1][i], 300.0)
        assert alone.status == fits.status[i]
        np.testing.assert_allclose(fits.gain[i], alone.gain, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fits.covariance[i], alone.covariance, rtol=1e-5, atol=1e-12)


def test_too_few_questions_are_named():
    tokens = np.repeat(measured.LEVELS, 12)
    correct, trials = np.repeat(FINE, 12) / 12, np.full(96, 25)
    for number in (1, 3, 4):
        question = np.arange(96) % number
        fit = jaxalloc.fit_accuracy(tokens, correct + (question - 1.5) / 9, trials, question)
        assert (fit.status == FitStatus.FEW_QUESTIONS) == (number < 4)
        assert np.all(np.isfinite(fit.standard_error)) == (number == 4)
    # Nor are four that are alike a certainty.
    alike = jaxalloc.fit_accuracy(tokens, correct, trials, np.arange(96) % 4)
    assert alike.status == FitStatus.FEW_QUESTIONS


@pytest.mark.parametrize("case", ["a fine curve", "no floor"])
def test_the_derivative_is_that_of_differences(case):
    tokens, correct = (np.asarray(x, float) for x in CASES[case][:2])

    @jax.jit
    def curve(tokens, correct):
        fit = jaxalloc.fit_accuracy(tokens, correct, TRIALS)
        return jnp.stack([fit.gain, fit.decay * 1e3, fit.floor, fit.log_likelihood])

    rows = jnp.asarray(tokens), jnp.asarray(correct)
    forward = jax.jit(jax.jacfwd(curve, argnums=(0, 1)))(*rows)
    backward = jax.jit(jax.jacrev(curve, argnums=(0, 1)))(*rows)
    for k, step in ((0, 1e-2), (1, 1e-4)):
        np.testing.assert_allclose(forward[k], backward[k], rtol=1e-8, atol=1e-12)
        for level in (3, 6):
            ends = []
            for side in (1, -1):
                moved = [*rows]
                moved[k] = rows[k].at[level].add(side * step)
                ends.append(curve(*moved))
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(forward[k][:, level], slope, rtol=1e-3, atol=1e-8)
