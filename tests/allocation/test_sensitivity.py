"""`sensitivity`: differences of every output, labels, failed lanes, bounds, the simplex."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
from convert import as_workload, lane
from derivatives import FIELDS

import jaxalloc
from jaxalloc import Outputs, Workload, sensitivity, solve

TOTALS = ("mean_accuracy", "mean_system_time", "utilization", "objective")
BOUNDED = {
    "min_tokens": np.array([0, 0, 900.0, 0, 0]),
    "max_tokens": np.array([1e3, 16384, 16384, 16384, 16384.0]),
    "service_cv": np.full(5, 0.3),
}
SENSITIVITY = jax.jit(sensitivity)


@jax.jit
def outputs_at(workload):
    tokens = solve(workload).tokens
    return Outputs(tokens, *(getattr(jaxalloc, name)(workload, tokens) for name in TOTALS))


def qwen(**changes):
    return Workload.create(**(problems.qwen3_8b(0.1) | changes))


def test_every_derivative_is_a_difference():
    workload = qwen(**BOUNDED)
    report = SENSITIVITY(workload)
    for name in FIELDS:
        value = np.asarray(getattr(workload, name))
        for place in np.ndindex(value.shape):
            size = 1e-4 * (abs(value[place]) or 1e-3)
            if value[place] < 2 * size:
                assert value[place] == 0  # a bound or a floor of 0: no difference to both sides
                continue
            values = []
            for far in (1, -1, 2, -2):
                moved = value.copy()
                moved[place] += far * size
                values.append(
                    outputs_at(dataclasses.replace(workload, **{name: jnp.asarray(moved)}))
                )
            for exact, up, down, far_up, far_down in zip(report.derivatives, *values, strict=True):
                slope = (8 * (up - down) - (far_up - far_down)) / (12 * size)
                chosen = np.asarray(getattr(exact, name))[(..., *place)]
                noise = 1e-14 * np.max(np.abs(up)) / size
                scale = np.max(np.abs(chosen))
                assert np.all(np.abs(chosen - slope) <= 1e-6 * scale + 10 * noise), (name, place)


def test_the_mix_along_the_simplex():
    workload, share = qwen(**BOUNDED), 1e-5
    report = SENSITIVITY(workload)
    for k in range(5):
        mixes = [(1 - s) * workload.mix + s * jnp.eye(5)[k] for s in (share, -share)]
        up, down = (outputs_at(dataclasses.replace(workload, mix=mix)) for mix in mixes)
        for exact, one, two in zip(report.along_simplex, up, down, strict=True):
            slope = (one - two) / (2 * share)
            np.testing.assert_allclose(exact[..., k], slope, rtol=1e-5, atol=1e-5)


def test_shadow_prices_of_the_bounds():
    workload = qwen(**BOUNDED)
    report = SENSITIVITY(workload)
    low, high = report.bound_prices
    np.testing.assert_array_equal(np.flatnonzero(low), [2])
    np.testing.assert_array_equal(np.flatnonzero(high), [0])
    assert low[2] < 0 < high[0]
    gradient = jax.grad(jaxalloc.objective, argnums=1)(workload, report.allocation.tokens)
    np.testing.assert_allclose([low[2], high[0]], [gradient[2], gradient[0]], rtol=1e-12)


def test_elasticities_are_relative_and_nan_where_the_output_is_zero():
    workload = qwen(arrival_rate=np.asarray(0.5), base_time=np.full(5, 0.9))
    report = SENSITIVITY(workload)
    zero = np.asarray(report.allocation.tokens) == 0
    assert 0 < zero.sum() < 5
    for name in FIELDS:
        own = getattr(workload, name).shape
        assert getattr(report.tokens, name).shape == (5, *own)
        assert getattr(report.derivatives.objective, name).shape == own
        elasticity = np.asarray(getattr(report.elasticity, name)).reshape(5, -1)
        np.testing.assert_array_equal(np.isnan(elasticity).all(axis=1), zero)
        np.testing.assert_array_equal(np.isnan(elasticity).any(axis=1), zero)
    relative = report.elasticities.mean_system_time.gain
    expected = report.derivatives.mean_system_time.gain * workload.gain
    np.testing.assert_allclose(relative, expected / report.values.mean_system_time)
    per_token = report.derivatives.tokens.gain * workload.gain[None, :]
    per_token /= report.values.tokens[:, None]
    np.testing.assert_allclose(report.elasticity.gain[~zero], per_token[~zero])


def test_under_jit_and_vmap_with_failed_lanes():
    fields = problems.random_workloads(3, 4, 5)
    fields["arrival_rate"][1] = 1e6
    fields["gain"][2, 0] = np.nan
    many = as_workload(fields)
    reports = jax.jit(jax.vmap(sensitivity))(many)
    failed = np.array([False, True, True, False])
    for leaf in jax.tree.leaves(reports.derivatives):
        np.testing.assert_array_equal(np.isnan(leaf).reshape(4, -1).all(axis=1), failed)
        np.testing.assert_array_equal(np.isnan(leaf).reshape(4, -1).any(axis=1), failed)
    alone = SENSITIVITY(lane(many, 3))
    for one, two in zip(
        jax.tree.leaves(reports.derivatives), jax.tree.leaves(alone.derivatives), strict=True
    ):
        np.testing.assert_allclose(one[3], two, rtol=1e-9, atol=1e-9 * np.max(np.abs(two)))


def test_a_sensitivity_is_differentiable():
    def slope(rate):
        moved = dataclasses.replace(qwen(), arrival_rate=rate)
        return SENSITIVITY(moved).derivatives.mean_system_time.accuracy_weight

    rate = qwen().arrival_rate
    step = 1e-4 * rate
    difference = (slope(rate + step) - slope(rate - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(slope))(rate), difference, rtol=1e-5)
