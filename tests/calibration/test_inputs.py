"""What the fits refuse, and times of any size. (Dtypes and promotion: `tests/test_public.py`.)"""

import jax
import numpy as np
import pytest

import jaxalloc

EIGHT = np.arange(8.0)


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
    ("fit", "given", "message"),
    [
        ("accuracy", ([0, 1, -2], [0, 1, 1]), r"tokens\[2\] = -2 must be finite and at least 0"),
        ("accuracy", ([0, 1, np.nan], [0, 1, 1]), r"tokens\[2\] = nan must be"),
        ("accuracy", ([0, 1, 2], [0, 2, 1]), r"correct\[1\] = 2 must not exceed trials"),
        ("accuracy", ([0, 1, 2], [0, 1]), r"correct has shape \(2,\), tokens \(3,\)"),
        ("accuracy", ([[0, 1, 2]], [[0, 1, 1]]), r"tokens has shape \(1, 3\)"),
        ("accuracy", (EIGHT, EIGHT, 9, [0, 1, 2, 3, np.nan, 5, 6, 7]), r"question\[4\] = nan name"),
        ("service_time", ([1, 2], [1, -1]), r"seconds\[1\] = -1 must be finite and at least 0"),
        ("service_time", (EIGHT, EIGHT, 1, [0, 1]), r"question has shape \(2,\), tokens \(8,\)"),
        ("arrivals", ([0, 1, np.nan],), r"times\[2\] = nan must be finite"),
        ("arrivals", ([[0, 1, 2]],), r"times has shape \(1, 3\)"),
        ("arrivals", ([0, 1, 2], 95), "level = 95 must be between 0 and 1"),
        ("mix", ([-1, 3],), r"counts\[0\] = -1 must be finite and at least 0"),
        ("mix", ([0, 0],), "counts sums to 0"),
        ("mix", ([1, 2], 0), "level = 0 must be between"),
    ],
)
def test_what_cannot_be_is_refused(fit, given, message):
    with pytest.raises(ValueError, match=message):
        getattr(jaxalloc, f"fit_{fit}")(*given)


def test_traced_questions_must_be_integers():
    with pytest.raises(TypeError, match="question has dtype float32: give integers"):
        jax.eval_shape(jaxalloc.fit_accuracy, *[np.float32(EIGHT)] * 4)
