"""What the fits take: names of questions, times of any size, levels, strict dtypes; and refuse."""

import jax
import jax.numpy as jnp
import measured
import numpy as np
import pytest

import jaxalloc

TOKENS, CORRECT = measured.LEVELS, [60.0, 75, 90, 115, 150, 190, 215, 220]
SECONDS = 1 + measured.LEVELS * np.linspace(1e-3, 1.1e-3, 8)


@pytest.mark.parametrize("x64", [True, False])
def test_arrivals_since_an_epoch_are_those_since_the_first(x64):
    since_first = np.cumsum(np.random.default_rng(0).exponential(0.5, 500))
    with jax.enable_x64(x64):
        plain, epoch = (jaxalloc.fit_arrivals(t + since_first) for t in (0, 1.7e9))
        whole = jaxalloc.fit_arrivals((since_first * 1e3).astype(np.int64) + 1_700_000_000_000)
        assert float(epoch.cv) == pytest.approx(float(plain.cv), rel=1e-4)
        assert float(whole.arrival_rate) * 1e3 == pytest.approx(float(plain.arrival_rate), rel=1e-3)
        rounded = (since_first + 1.7e9).astype(np.float32)
        with pytest.raises(ValueError, match="are rounded to 128 s in float32, gaps are"):
            jaxalloc.fit_arrivals(rounded)
        assert np.isnan(jax.jit(jaxalloc.fit_arrivals)(rounded).arrival_rate)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxalloc.fit_arrivals([0, 1, np.nan]), r"times\[2\] = nan must be finite"),
        (lambda: jaxalloc.fit_arrivals([[0, 1, 2]]), r"times has shape \(1, 3\)"),
        (lambda: jaxalloc.fit_arrivals([0, 1, 2], 95), "level = 95 must be between 0 and 1"),
        (lambda: jaxalloc.fit_mix([-1, 3]), r"counts\[0\] = -1 must be finite and at least 0"),
        (lambda: jaxalloc.fit_mix([0, 0]), "counts sums to 0"),
        (lambda: jaxalloc.fit_mix([1, 2], 0), "level = 0 must be between"),
        (
            lambda: jaxalloc.fit_accuracy(TOKENS, CORRECT, 300, [0, 1, 2, 3, np.nan, 5, 6, 7]),
            r"question\[4\] = nan names no question",
        ),
        (
            lambda: jaxalloc.fit_service_time(TOKENS, SECONDS, question=[0, 1]),
            r"question has shape \(2,\), tokens \(8,\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("x64", [True, False])
def test_questions_may_have_any_names(x64):
    rng = np.random.default_rng(0)
    tokens = np.tile(measured.LEVELS, 20)
    place = np.repeat(np.arange(20), 8)
    hits = rng.binomial(15, np.tile(np.array(CORRECT) / 300, 20)).astype(float)
    with jax.enable_x64(x64):
        fits = [
            jaxalloc.fit_accuracy(tokens, hits, 15, names)
            for names in (
                place,
                place.astype(np.int64) * 2**32,
                place * 1.0,
                np.array([f"q{i}" for i in place]),
            )
        ]
        for other in fits[1:]:
            assert float(other.dof) == 19
            np.testing.assert_allclose(other.covariance, fits[0].covariance, rtol=1e-3, atol=1e-12)
        with pytest.raises(TypeError, match="question has dtype float32: give integers"):
            jax.jit(jaxalloc.fit_accuracy)(tokens, hits, 15.0, np.float32(place))


def test_strict_promotion_is_kept():
    """Every public function of the room, of float32 with x64 on and of lists."""
    question = np.arange(8)
    workload = jaxalloc.Workload.create(
        arrival_rate=0.1,
        mix=[0.5, 0.5],
        gain=0.5,
        decay=1e-3,
        floor=0.2,
        base_time=0.1,
        time_per_token=1e-3,
        max_tokens=16384.0,
        accuracy_weight=20.0,
    )
    with jax.numpy_dtype_promotion("strict"):
        for form in (lambda x: np.asarray(x, np.float32), lambda x: np.asarray(x).tolist()):
            tokens, correct, trials, seconds = map(form, (TOKENS, CORRECT, [300.0] * 8, SECONDS))
            fit = jaxalloc.fit_accuracy(tokens, correct, trials)
            jaxalloc.accuracy_intervals(fit, tokens, correct, trials)
            jaxalloc.fit_accuracy(tokens, correct, trials, question)
            for own in (None, question):
                time = jaxalloc.fit_service_time(tokens, seconds, None, own)
                jaxalloc.service_intervals(time)
            jaxalloc.fit_service_time(tokens, seconds, 1, None, robust=True)
            jaxalloc.fit_arrivals(form([0, 2, 3, 7, 8]))
            jaxalloc.fit_mix(form([30, 70]))
            dtype = jnp.float32 if isinstance(tokens, np.ndarray) else jnp.float64
            assert fit.gain.dtype == time.base_time.dtype == dtype
        jaxalloc.exactly_known(workload)
