"""LACK_OF_FIT: laws that the data refute are called so, laws that hold are not."""

import jax
import jax.numpy as jnp
import measured
import numpy as np
import pytest

import jaxalloc
from jaxalloc import FitStatus
from jaxalloc.calibration.accuracy import fit_counts
from jaxalloc.calibration.evidence import Rows
from jaxalloc.calibration.likelihood import Counts

QUESTIONS = 100
SHARES = {
    "S": [0.1, 0.11, 0.12, 0.2, 0.5, 0.85, 0.93, 0.95],
    "a hard limit": [0.05, 0.05, 0.05, 0.3, 0.8, 0.95, 0.95, 0.95],
    "falls later": [0.2, 0.33, 0.5, 0.67, 0.8, 0.83, 0.67, 0.5],
    "falls to where it began": [0.33, 0.4, 0.5, 0.6, 0.6, 0.5, 0.4, 0.33],
}


def drawn(share, seed):
    """[Q, L] correct answers of three, of questions whose answers resemble each other."""
    from scipy.special import ndtri

    rng = np.random.default_rng(seed)
    own = np.sqrt(0.4) * rng.standard_normal((QUESTIONS, 1, 1))
    rest = np.sqrt(0.6) * rng.standard_normal((QUESTIONS, 8, 3))
    return (own + rest < ndtri(np.asarray(share))[:, None]).sum(axis=-1).astype(float)


def rows_of(table):
    tokens = np.broadcast_to(measured.LEVELS, table.shape).ravel()
    question = np.repeat(np.arange(len(table)), 8)
    return tokens, table.ravel(), np.full(table.size, 3.0), question


@pytest.mark.parametrize("shape", SHARES)
def test_a_curve_of_another_shape_is_named(shape):
    share = np.asarray(SHARES[shape])
    plain = jaxalloc.fit_accuracy(measured.LEVELS, np.round(300 * share), 300)
    rows = rows_of(drawn(share, 0))
    asked = jaxalloc.fit_accuracy(*rows)
    for fit in (plain, asked):
        assert FitStatus(int(fit.status)) == FitStatus.LACK_OF_FIT
        assert fit.lack_of_fit.p_value < 1e-3
        assert fit.lack_of_fit.ratio > 1
        assert np.all(np.isfinite(fit.standard_error))


def test_curves_that_hold_are_hardly_ever_refused():
    tokens, correct, trials, _ = measured.answers(1, 600, questions=100)
    fits = [
        jax.vmap(lambda own: fit_counts(own))(Counts(*map(jnp.asarray, (tokens, correct, trials))))
    ]
    table, _ = measured.alike(8, 400, 60)
    number = np.full(table.shape, 3.0)
    levels = Counts(*map(jnp.asarray, (tokens[:400], table.sum(1), number.sum(1))))
    flat = (
        x.reshape(400, -1)
        for x in (np.broadcast_to(tokens[:400, None], table.shape), table, number)
    )
    question = jnp.broadcast_to(np.repeat(np.arange(60), 8), (400, 480))
    fits.append(jax.vmap(fit_counts)(levels, Rows(Counts(*map(jnp.asarray, flat)), question)))
    for fit in fits:
        p_value = np.asarray(fit.lack_of_fit.p_value)
        assert np.all((p_value >= 0) & (p_value <= 1))
        assert np.mean(p_value < 0.1) < 0.15
        assert np.mean(p_value) > 0.4
        assert np.mean(fit.status == FitStatus.LACK_OF_FIT) < 0.01


def test_the_deviance_of_single_levels_has_as_many_degrees_of_freedom_as_levels_less_parameters():
    tokens, correct, trials, _ = measured.answers(3, 1)
    fit = jaxalloc.fit_accuracy(tokens[0], correct[0], trials[0])
    assert float(fit.lack_of_fit.dof) == pytest.approx(5, abs=0.05)
    few = jaxalloc.fit_accuracy(tokens[0][::3], correct[0][::3], trials[0][::3])
    assert few.lack_of_fit.dof == 0  # as many parameters as levels
    assert few.lack_of_fit.p_value == 1


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_times_on_no_line_are_named(robust, repeated):
    rng = np.random.default_rng(0)
    tokens = np.repeat(measured.LEVELS, 10) if repeated else rng.uniform(0, 16384, 80)
    noise = rng.gamma(100, 0.01, 80)
    for law, expected in (
        (0.5 + 1e-3 * tokens, False),
        (0.5 + 1e-3 * np.minimum(tokens, 4000), True),  # a hard limit
        (0.5 + 1e-7 * tokens**2, True),
        (np.where(tokens > 6000, 0.5 + 1e-3 * tokens, 0.01), True),  # failed calls
    )[: None if repeated or not robust else 3]:  # Huber gives in to a third of bad rows
        fit = jaxalloc.fit_service_time(tokens, law * noise, robust=robust)
        assert (fit.status == FitStatus.LACK_OF_FIT) == expected
        asked = jaxalloc.fit_service_time(
            tokens, law * noise, question=np.arange(80) % 20, robust=robust
        )
        assert (asked.status == FitStatus.LACK_OF_FIT) == expected


@pytest.mark.parametrize("zeros", [4, 8, 400])
def test_huber_without_a_scale_is_named(zeros):
    tokens, seconds = [1000.0, 2000, 4000], [7.1, 12.8, 25.3]
    fit = jaxalloc.fit_service_time([0] * zeros + tokens, [0] * zeros + seconds, robust=True)
    assert FitStatus(int(fit.status)) == FitStatus.NO_SCATTER
    assert np.all(np.isnan(fit.standard_error))


def test_intervals_of_three_to_five_rows_hold_the_truth():
    tokens = np.array([0, 1000, 4000, 2000, 3000.0])
    rng = np.random.default_rng(0)
    mean = 0.25 + 8e-4 * tokens

    @jax.jit
    @jax.vmap
    def ends(seconds, weight):
        fit = jaxalloc.fit_service_time(jnp.asarray(tokens), seconds, weight)
        return fit.status, jaxalloc.service_intervals(fit)

    for rows in (3, 4, 5):
        for noise in (rng.gamma(100, 0.01, (3000, 5)), 1 + 0.1 * rng.standard_normal((3000, 5))):
            seconds = (
                mean * noise if noise.min() > 0.5 else np.abs(mean + (noise - 1) * mean.mean())
            )
            weight = np.broadcast_to((np.arange(5) < rows) * 1.0, seconds.shape)
            status, found = map(np.asarray, ends(jnp.asarray(seconds), jnp.asarray(weight)))
            usable = status <= FitStatus.AT_BOUND
            assert usable.mean() > 0.95
            inside = (found[..., 0] <= [0.25, 8e-4]) & (found[..., 1] >= [0.25, 8e-4])
            assert np.all(inside[usable].mean(axis=0) > 0.935)


def test_questions_that_are_alike_are_no_certainty():
    share = np.array([60, 75, 90, 115, 150, 190, 215, 220]) / 300
    tokens, correct = np.tile(measured.LEVELS, 4), np.tile(share * 75, 4)
    fit = jaxalloc.fit_accuracy(tokens, correct, 75, np.repeat(np.arange(4), 8))
    assert FitStatus(int(fit.status)) == FitStatus.FEW_QUESTIONS
    seconds = np.tile([1.0, 1.3, 1.4, 2.1, 3.2, 5.0, 9.3, 17.0], 4)
    time = jaxalloc.fit_service_time(tokens, seconds, question=np.repeat(np.arange(4), 8))
    assert FitStatus(int(time.status)) == FitStatus.FEW_QUESTIONS
