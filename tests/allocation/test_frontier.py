"""`frontier`: its points are optima, its slope is the weight, its derivatives are differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import jaxalloc
from jaxalloc import Status, Workload, frontier, solve

WEIGHTS = np.geomspace(3.0, 300.0, 25)


def qwen():
    return Workload.create(**problems.qwen3_8b(0.1))


def test_every_point_is_the_optimum_at_its_weight():
    curve = frontier(qwen(), WEIGHTS)
    np.testing.assert_array_equal(curve.allocation.status, Status.CONVERGED)
    for i in (0, 12, 24):
        workload = dataclasses.replace(qwen(), accuracy_weight=jnp.asarray(WEIGHTS[i]))
        best = solve(workload)
        np.testing.assert_allclose(curve.allocation.tokens[i], best.tokens, rtol=1e-9)
        for name in ("mean_system_time", "mean_accuracy", "utilization"):
            expected = getattr(jaxalloc, name)(workload, best.tokens)
            np.testing.assert_allclose(getattr(curve, name)[i], expected, rtol=1e-9)


def test_the_weight_is_the_slope():
    """dE[T] / d(accuracy) = α: by differentiation, and by differences along the curve."""
    assert np.all(np.diff(frontier(qwen(), WEIGHTS).mean_accuracy) > 0)

    def curve(weights):
        points = frontier(qwen(), weights)
        return points.mean_system_time, points.mean_accuracy

    time, accuracy = jax.jvp(curve, (jnp.asarray(WEIGHTS),), (jnp.ones(25),))[1]
    np.testing.assert_allclose(time / accuracy, WEIGHTS, rtol=1e-8)
    step = 1e-4
    up, down = (frontier(qwen(), WEIGHTS * factor) for factor in (1 + step, 1 - step))
    rise = up.mean_accuracy - down.mean_accuracy
    slope = (up.mean_system_time - down.mean_system_time) / rise
    np.testing.assert_allclose(slope, WEIGHTS, rtol=1e-6)
    np.testing.assert_allclose(up.accuracy_per_second, 1 / up.weight)


def test_nothing_is_both_quicker_and_more_accurate():
    curve = frontier(qwen(), WEIGHTS)
    rng = np.random.default_rng(0)
    shares = rng.uniform(0, 1, (2000, 5)) ** 3
    others = jnp.asarray(shares * 16384.0)
    time = jax.vmap(jaxalloc.mean_system_time, (None, 0))(qwen(), others)
    accuracy = jax.vmap(jaxalloc.mean_accuracy, (None, 0))(qwen(), others)
    stable = np.asarray(time < curve.mean_system_time[-1])
    assert stable.sum() > 100
    best = np.interp(time[stable], curve.mean_system_time, curve.mean_accuracy)
    # The curve is concave, so that a chord lies below it.
    later = np.asarray(time[stable] > curve.mean_system_time[0])
    assert np.all(accuracy[stable][later] <= best[later] + 2e-3)


def test_jit_vmap_and_derivatives_of_other_fields():
    rates = jnp.array([0.05, 0.1, 0.2])

    def accuracy(rate):
        return frontier(dataclasses.replace(qwen(), arrival_rate=rate), WEIGHTS).mean_accuracy

    together = jax.jit(jax.vmap(accuracy))(rates)
    np.testing.assert_allclose(together, np.stack([accuracy(rate) for rate in rates]), rtol=1e-9)
    exact = jax.jit(jax.jacrev(accuracy))(rates[1])
    step = 1e-5
    difference = (accuracy(rates[1] + step) - accuracy(rates[1] - step)) / (2 * step)
    np.testing.assert_allclose(exact, difference, rtol=1e-5)


@pytest.mark.parametrize(
    ("rate", "status"), [(90.0, Status.INFEASIBLE), (np.nan, Status.NON_FINITE)]
)
def test_failed_points_say_so(rate, status):
    workload = dataclasses.replace(qwen(), arrival_rate=jnp.asarray(rate))
    curve = frontier(workload, WEIGHTS)
    np.testing.assert_array_equal(curve.allocation.status, status)
