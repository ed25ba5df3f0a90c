"""The logarithm and the reductions in the forms that compile well: the same numbers as NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalloc.allocation.model.elementary import largest, log, sums

VECTORS = np.random.default_rng(5).normal(size=(3, 7))


def over_all_scales(n=20_000):
    rng = np.random.default_rng(3)
    close = 1 + np.concatenate([rng.normal(size=n) * scale for scale in (1e-12, 1e-6, 1e-2)])
    edges = np.sqrt([0.5, 2.0])[:, None] * (1 + np.arange(-50, 51) * np.finfo(float).eps)
    return np.concatenate([np.exp(rng.uniform(-700, 700, n)), close, edges.ravel(), [1.0]])


def test_log_is_right_to_two_ulp():
    if np.finfo(np.longdouble).eps >= np.finfo(float).eps:
        pytest.skip("no wider float to compare with")
    x = over_all_scales()
    exact = np.log(x.astype(np.longdouble))
    error = np.abs(np.asarray(jax.jit(log)(x)) - exact)
    assert np.all(error <= 2 * np.spacing(np.abs(exact).astype(float)))
    assert log(jnp.array(1.0)) == 0


def test_log_of_float32_is_the_library_one():
    x = np.geomspace(1e-30, 1e30, 999, dtype=np.float32)
    np.testing.assert_array_equal(log(jnp.asarray(x)), jnp.log(jnp.asarray(x)))


def test_log_where_it_has_no_finite_value():
    got = log(jnp.array([0.0, -1.0, -np.inf]))
    assert np.all(np.asarray(got) == -np.inf)


def test_log_has_the_derivatives_of_the_logarithm():
    x = jnp.array(0.3)
    derivative = log
    for value in (1 / x, -1 / x**2, 2 / x**3):
        derivative = jax.grad(derivative)
        assert float(derivative(x)) == pytest.approx(float(value), rel=1e-14)


def test_sums_and_largest():
    np.testing.assert_allclose(sums(*VECTORS), VECTORS.sum(axis=1), rtol=1e-14)
    batched = jax.vmap(sums)(VECTORS, VECTORS**2)
    np.testing.assert_allclose(batched[1], (VECTORS**2).sum(axis=1), rtol=1e-14)
    assert largest(*VECTORS) == VECTORS.max()
    assert np.isnan(largest(jnp.array([0.0, np.nan]), jnp.array([1.0, 2.0])))


def test_sums_differentiate_in_both_modes_and_twice():
    def function(x):
        first, second = sums(x, x**3)
        return first * second

    x = jnp.asarray(VECTORS[0])
    total, cubes = x.sum(), (x**3).sum()
    exact = cubes + total * 3 * x**2
    np.testing.assert_allclose(jax.grad(function)(x), exact, rtol=1e-13)
    np.testing.assert_allclose(jax.jacfwd(function)(x), exact, rtol=1e-13)
    cross = jnp.add.outer(3 * x**2, 3 * x**2) + jnp.diag(6 * x * total)
    np.testing.assert_allclose(jax.hessian(function)(x), cross, rtol=1e-13)


def test_eager_calls_do_not_compile_again(caplog):
    def call(x):
        return sums(x, x), largest(x, x)

    with jax.log_compiles():
        call(jnp.asarray(VECTORS[0, :5]))
        assert "Compiling" in caplog.text
        caplog.clear()
        call(jnp.asarray(VECTORS[1, :5]))
        assert "Compiling" not in caplog.text
