"""`frontier`: its points are optima, its slope is the weight, its derivatives are differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import jaxalloc
from jaxalloc import Status, Workload, frontier

WEIGHTS = jnp.geomspace(3.0, 300.0, 25)


def qwen():
    return Workload.create(**problems.qwen3_8b(0.1))


def test_every_point_is_the_optimum_at_its_weight():
    curve = frontier(qwen(), WEIGHTS)
    best = jax.vmap(lambda w: jaxalloc.solve(dataclasses.replace(qwen(), accuracy_weight=w)))
    expected = best(WEIGHTS)
    np.testing.assert_array_equal(curve.allocation.status, Status.CONVERGED)
    np.testing.assert_allclose(curve.allocation.tokens, expected.tokens, rtol=1e-9)
    for name in ("mean_system_time", "mean_accuracy", "utilization"):
        values = jax.vmap(getattr(jaxalloc, name), (None, 0))(qwen(), expected.tokens)
        np.testing.assert_allclose(getattr(curve, name), values, rtol=1e-9)
    assert np.all(np.diff(curve.mean_accuracy) > 0)
    np.testing.assert_allclose(curve.accuracy_per_second, 1 / curve.weight)


def test_the_weight_is_the_slope():
    """dE[T] / d(accuracy) = α, by differentiation."""

    def curve(weights):
        points = frontier(qwen(), weights)
        return points.mean_system_time, points.mean_accuracy

    time, accuracy = jax.jvp(curve, (WEIGHTS,), (jnp.ones(25),))[1]
    np.testing.assert_allclose(time / accuracy, WEIGHTS, rtol=1e-8)


def test_nothing_is_both_quicker_and_more_accurate():
    curve = frontier(qwen(), WEIGHTS)
    others = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2000, 5)) ** 3 * 16384.0)
    time = jax.vmap(jaxalloc.mean_system_time, (None, 0))(qwen(), others)
    accuracy = jax.vmap(jaxalloc.mean_accuracy, (None, 0))(qwen(), others)
    within = (time > curve.mean_system_time[0]) & (time < curve.mean_system_time[-1])
    assert within.sum() > 100
    # The curve is concave, so that a chord lies below it.
    best = np.interp(time, curve.mean_system_time, curve.mean_accuracy)
    assert np.all((accuracy <= best + 2e-3)[within])


def test_jit_vmap_and_derivatives_of_other_fields():
    rates, step = jnp.array([0.05, 0.1, 0.2]), 1e-5

    def accuracy(rate):
        return frontier(dataclasses.replace(qwen(), arrival_rate=rate), WEIGHTS).mean_accuracy

    together = jax.jit(jax.vmap(accuracy))
    np.testing.assert_allclose(together(rates)[1], accuracy(rates[1]), rtol=1e-9)
    difference = (together(rates + step) - together(rates - step)) / (2 * step)
    slope = jax.jit(jax.jacrev(accuracy))(rates[1])
    np.testing.assert_allclose(slope, difference[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("rate", "status"), [(90.0, Status.INFEASIBLE), (np.nan, Status.NON_FINITE)]
)
def test_failed_points_say_so(rate, status):
    workload = dataclasses.replace(qwen(), arrival_rate=jnp.asarray(rate))
    np.testing.assert_array_equal(frontier(workload, WEIGHTS).allocation.status, status)
