"""`fit_accuracy`: the maximum, its certificate, its covariance, its statuses."""

import jax
import jax.numpy as jnp
import measured
import numpy as np
import pytest

import jaxalloc
from jaxalloc import FitStatus
from jaxalloc.calibration.accuracy import fit_counts
from jaxalloc.calibration.likelihood import Counts


def fit_many(tokens, correct, trials):
    counts = Counts(*map(jnp.asarray, (tokens, correct, trials)))
    return jax.tree.map(np.asarray, jax.vmap(lambda own: fit_counts(own))(counts))


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
    fits = fit_many(*rows)
    for i in range(24):
        own = tuple(x[i] for x in rows)
        best = measured.scipy_maximum(*own)
        assert fits.log_likelihood[i] >= best - 1e-6
        point = fits.gain[i], fits.decay[i], fits.floor[i]
        assert measured.log_likelihood(point, *own) == pytest.approx(
            fits.log_likelihood[i], abs=1e-8
        )
        if kind == "benign":
            assert fits.log_likelihood[i] == pytest.approx(best, abs=1e-6)


def test_curves_stay_in_their_domain():
    fits = fit_many(*hard(1, 400))
    assert np.all((fits.gain >= 0) & (fits.floor >= 0) & (fits.decay > 0))
    assert np.all(fits.gain + fits.floor <= 1 + 4e-16)
    good = fits.status <= FitStatus.AT_BOUND
    assert good.sum() > 100
    assert np.all(fits.decrement[good] <= 1e-6)
    assert np.all(np.isfinite(fits.covariance[good]))
    assert np.all(np.isnan(fits.covariance[~good]))
    assert np.all(np.linalg.eigvalsh(fits.covariance[good]) >= -1e-15)


def test_noiseless_data_give_back_the_curve():
    trials = np.full((len(measured.CURVES), 8), 1e6)
    fits = fit_many(
        np.broadcast_to(measured.LEVELS, trials.shape),
        trials * measured.share(measured.CURVES),
        trials,
    )
    found = np.stack([fits.gain, fits.decay, fits.floor], axis=1)
    np.testing.assert_allclose(found, measured.CURVES, rtol=1e-7)


def test_the_standard_errors_are_those_of_the_observed_information():
    tokens, correct, trials, _ = measured.answers(3, 1)
    fit = jaxalloc.fit_accuracy(tokens[0], correct[0], trials[0])

    def value(z):
        p = z[2] - z[0] * jnp.expm1(-z[1] * tokens[0])
        return jnp.sum(correct[0] * jnp.log(p) + (trials[0] - correct[0]) * jnp.log1p(-p))

    point = jnp.stack([fit.gain, fit.decay, fit.floor])
    information = -jax.hessian(value)(point)
    np.testing.assert_allclose(fit.covariance, np.linalg.inv(information), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(value)(point) * point, 0, atol=1e-3)
    np.testing.assert_array_equal(fit.design_effect, 1)


def test_rows_counted_or_not_make_no_difference():
    tokens, correct, trials, _ = measured.answers(4, 1, questions=20)
    counted = jaxalloc.fit_accuracy(tokens[0], correct[0], trials[0])
    rows = np.repeat(tokens[0], 60)
    each = np.concatenate([np.arange(60) < hits for hits in correct[0]])
    single = jaxalloc.fit_accuracy(rows, each)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    traced = jax.jit(jaxalloc.fit_accuracy)(rows[shuffled], each[shuffled] * 1.0)
    for other in (single, traced):
        for name in ("gain", "decay", "floor", "covariance", "log_likelihood"):
            np.testing.assert_allclose(
                getattr(other, name), getattr(counted, name), rtol=1e-6, atol=1e-12
            )
        assert other.status == counted.status


def test_tokens_may_have_any_scale():
    tokens, correct, trials, _ = measured.answers(5, 1)
    one = jaxalloc.fit_accuracy(tokens[0], correct[0], trials[0])
    for scale in (1e-9, 1e9):
        other = jaxalloc.fit_accuracy(tokens[0] * scale, correct[0], trials[0])
        assert other.decay * scale == pytest.approx(float(one.decay), rel=1e-6)
        assert other.status == one.status


def test_float32_says_what_it_reaches():
    tokens, correct, trials, _ = measured.answers(6, 1)
    rows = [np.float32(x[0]) for x in (tokens, correct, trials)]
    fit = jaxalloc.fit_accuracy(*rows)
    exact = jaxalloc.fit_accuracy(tokens[0], correct[0], trials[0])
    assert fit.gain.dtype == jnp.float32
    assert fit.status == FitStatus.CONVERGED
    assert float(fit.decay) == pytest.approx(float(exact.decay), rel=1e-2)


DEGENERATE = {
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
    "a fine curve": (measured.LEVELS, [60, 75, 90, 115, 150, 190, 215, 220], FitStatus.CONVERGED),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_what_the_data_lack_is_named(case):
    tokens, correct, expected = DEGENERATE[case]
    fit = jaxalloc.fit_accuracy(tokens, correct, 300)
    assert FitStatus(int(fit.status)) == expected
    assert np.all(np.isfinite(fit.standard_error)) == (expected <= FitStatus.AT_BOUND)


def test_too_few_questions_are_named():
    tokens = np.repeat(measured.LEVELS, 12)
    correct, trials = np.repeat([60, 75, 90, 115, 150, 190, 215, 220], 12) / 12, np.full(96, 25)
    for number in (1, 3, 4):
        question = np.arange(96) % number
        fit = jaxalloc.fit_accuracy(tokens, correct + (question - 1.5) / 9, trials, question)
        assert (fit.status == FitStatus.FEW_QUESTIONS) == (number < 4)
        assert np.all(np.isfinite(fit.standard_error)) == (number == 4)


def test_lanes_of_every_status_do_not_disturb_each_other():
    rows = [(np.asarray(t, float), np.asarray(c, float)) for t, c, _ in DEGENERATE.values()]
    rows.append((np.full(8, np.nan), np.full(8, 1.0)))
    rows.append((measured.LEVELS, np.full(8, 301.0)))
    tokens, correct = (np.stack(x) for x in zip(*rows, strict=True))
    many = fit_many(tokens, correct, np.full(tokens.shape, 300.0))
    assert list(many.status[-2:]) == [FitStatus.INVALID] * 2
    for i, (_, _, expected) in enumerate(DEGENERATE.values()):
        assert many.status[i] == expected
        alone = jaxalloc.fit_accuracy(tokens[i], correct[i], 300.0)
        np.testing.assert_allclose(many.gain[i], alone.gain, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(many.covariance[i], alone.covariance, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (([0, 1, -2], [0, 1, 1]), r"tokens\[2\] = -2 must be finite and at least 0"),
        (([0, 1, np.nan], [0, 1, 1]), r"tokens\[2\] = nan must be"),
        (([0, 1, 2], [0, 2, 1]), r"correct\[1\] = 2 must not exceed trials"),
        (([0, 1, 2], [0, 1]), r"correct has shape \(2,\), tokens \(3,\)"),
        (([[0, 1, 2]], [[0, 1, 1]]), r"tokens has shape \(1, 3\)"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        jaxalloc.fit_accuracy(*rows)


@pytest.mark.parametrize("case", ["a fine curve", "no floor"])
def test_the_derivative_is_that_of_differences(case):
    tokens, correct, _ = DEGENERATE[case]
    rows = tuple(jnp.asarray(x, float) for x in (tokens, correct, [300.0] * 8))

    def curve(tokens, correct):
        fit = jaxalloc.fit_accuracy(tokens, correct, rows[2])
        return jnp.stack([fit.gain, fit.decay * 1e3, fit.floor, fit.log_likelihood])

    forward, backward = (
        jax.jit(jac(curve, argnums=(0, 1)))(*rows[:2]) for jac in (jax.jacfwd, jax.jacrev)
    )
    for k, step in ((0, 1e-2), (1, 1e-4)):
        np.testing.assert_allclose(forward[k], backward[k], rtol=1e-8, atol=1e-12)
        for level in (3, 6):
            moved = [
                [*rows[:k], rows[k].at[level].add(side * step), *rows[k + 1 : 2]]
                for side in (1, -1)
            ]
            slope = (curve(*moved[0]) - curve(*moved[1])) / (2 * step)
            np.testing.assert_allclose(forward[k][:, level], slope, rtol=1e-3, atol=1e-8)
