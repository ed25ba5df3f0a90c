"""`sensitivity`: closed forms, differences of every output, labels, failed lanes, bounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import jaxalloc
from jaxalloc import Outputs, Workload, sensitivity, solve

FIELDS = tuple(field.name for field in dataclasses.fields(Workload))


def outputs_at(workload):
    best = solve(workload)
    return Outputs(
        best.tokens,
        jaxalloc.mean_accuracy(workload, best.tokens),
        jaxalloc.mean_system_time(workload, best.tokens),
        jaxalloc.utilization(workload, best.tokens),
        jaxalloc.objective(workload, best.tokens),
    )


def qwen(**changes):
    fields = problems.qwen3_8b(0.1) | changes
    return Workload.create(**fields)


def test_closed_form_of_an_idle_server():
    """λ = 0: l = ln(α A b / c) / b, and J* has the derivatives of the envelope theorem."""
    weight, gain, decay, cost = 20.0, 0.5, 1e-3, 2e-3
    workload = Workload.create(
        arrival_rate=0.0, mix=[1.0], gain=gain, decay=decay, floor=0.1, base_time=0.3,
        time_per_token=cost, max_tokens=1e5, accuracy_weight=weight,
    )  # fmt: skip
    report = sensitivity(workload)
    tokens = np.log(weight * gain * decay / cost) / decay
    np.testing.assert_allclose(report.allocation.tokens, [tokens], rtol=1e-12)
    expected = {
        "gain": 1 / (gain * decay),
        "accuracy_weight": 1 / (weight * decay),
        "time_per_token": -1 / (cost * decay),
        "decay": (1 / decay - tokens) / decay,
        "floor": 0.0,
        "base_time": 0.0,
        "max_tokens": 0.0,
    }
    for name, slope in expected.items():
        np.testing.assert_allclose(getattr(report.tokens, name).ravel(), slope, rtol=1e-9)
    accuracy = 0.1 + gain * (1 - np.exp(-decay * tokens))
    np.testing.assert_allclose(report.values.mean_accuracy, accuracy, rtol=1e-12)
    np.testing.assert_allclose(report.derivatives.objective.accuracy_weight, accuracy, rtol=1e-12)
    np.testing.assert_allclose(report.derivatives.objective.base_time, [-1.0], rtol=1e-12)
    np.testing.assert_allclose(report.derivatives.objective.floor, [weight], rtol=1e-12)
    np.testing.assert_allclose(report.elasticity.gain, [[1 / (decay * tokens)]], rtol=1e-9)
    # One type only: there is no simplex to move along.
    assert all(np.all(np.abs(output) < 1e-9) for output in report.along_simplex)


def test_every_derivative_is_a_difference():
    workload = qwen(min_tokens=np.array([0, 0, 900.0, 0, 0]), service_cv=np.full(5, 0.3))
    report = jax.jit(sensitivity)(workload)
    at = jax.jit(outputs_at)
    for name in FIELDS:
        value = np.asarray(getattr(workload, name))
        for place in np.ndindex(value.shape):
            size = 1e-4 * (abs(value[place]) or 1e-3)
            values = []
            for far in (1, -1, 2, -2):
                moved = value.copy()
                moved[place] += far * size
                if moved[place] < 0:
                    break
                values.append(at(dataclasses.replace(workload, **{name: jnp.asarray(moved)})))
            if len(values) < 4:
                assert value[place] == 0  # a bound or a floor of 0: no difference to both sides
                continue
            for exact, *outputs in zip(report.derivatives, *values, strict=True):
                up, down, far_up, far_down = outputs
                slope = (8 * (up - down) - (far_up - far_down)) / (12 * size)
                chosen = np.asarray(getattr(exact, name))[(..., *place)]
                noise = 1e-14 * np.max(np.abs(up)) / size
                scale = np.max(np.abs(chosen))
                assert np.all(np.abs(chosen - slope) <= 1e-6 * scale + 10 * noise), (name, place)


def test_shapes_and_the_names_of_the_house():
    report = sensitivity(qwen())
    assert isinstance(report.tokens, Workload)
    assert isinstance(report.elasticity, Workload)
    for name in FIELDS:
        own = getattr(qwen(), name).shape
        assert getattr(report.tokens, name).shape == (5, *own)
        assert getattr(report.elasticity, name).shape == (5, *own)
        for output in Outputs._fields[1:]:
            assert getattr(getattr(report.derivatives, output), name).shape == own
    assert report.along_simplex.tokens.shape == (5, 5)
    assert report.along_simplex.objective.shape == (5,)


def test_elasticities_are_relative_and_nan_where_the_output_is_zero():
    workload = qwen(arrival_rate=np.asarray(0.5), base_time=np.full(5, 0.9))
    report = sensitivity(workload)
    zero = np.asarray(report.allocation.tokens) == 0
    assert 0 < zero.sum() < 5
    for name in FIELDS:
        elasticity = np.asarray(getattr(report.elasticity, name)).reshape(5, -1)
        np.testing.assert_array_equal(np.isnan(elasticity).all(axis=1), zero)
        np.testing.assert_array_equal(np.isnan(elasticity).any(axis=1), zero)
    relative = report.elasticities.mean_system_time.gain
    expected = report.derivatives.mean_system_time.gain * workload.gain
    np.testing.assert_allclose(relative, expected / report.values.mean_system_time)


def test_a_change_of_the_unit_of_tokens_and_of_time_changes_nothing_else():
    """Euler: tokens are of degree -1 in (b, c) (with fixed bounds slack) and 0 in all times."""
    report = sensitivity(qwen(max_tokens=np.full(5, 1e6)))
    of = report.elasticity
    per_token = jnp.sum(of.decay + of.time_per_token, axis=1)
    np.testing.assert_allclose(per_token, -1.0, rtol=1e-9)
    in_time = of.accuracy_weight + jnp.sum(of.base_time + of.time_per_token, axis=1)
    np.testing.assert_allclose(in_time - of.arrival_rate, 0.0, atol=1e-9)
    value = report.elasticities.objective
    in_time = value.accuracy_weight + jnp.sum(value.base_time + value.time_per_token)
    np.testing.assert_allclose(in_time - value.arrival_rate, 1.0, rtol=1e-9)


def test_the_mix_along_the_simplex():
    workload = qwen()
    report = sensitivity(workload)
    share = 1e-5
    for k in range(5):
        mixes = [(1 - s) * workload.mix + s * jnp.eye(5)[k] for s in (share, -share)]
        up, down = (outputs_at(dataclasses.replace(workload, mix=mix)) for mix in mixes)
        for exact, one, two in zip(report.along_simplex, up, down, strict=True):
            np.testing.assert_allclose(
                exact[..., k], (one - two) / (2 * share), rtol=1e-5, atol=1e-5
            )


def test_shadow_prices_of_the_bounds():
    workload = qwen(
        min_tokens=np.array([0, 0, 900.0, 0, 0]),
        max_tokens=np.array([1e3, 16384, 16384, 16384, 16384.0]),
    )
    report = sensitivity(workload)
    low, high = report.bound_prices
    np.testing.assert_array_equal(np.flatnonzero(low), [2])
    np.testing.assert_array_equal(np.flatnonzero(high), [0])
    assert low[2] < 0 < high[0]
    gradient = jax.grad(jaxalloc.objective, argnums=1)(workload, report.allocation.tokens)
    np.testing.assert_allclose([low[2], high[0]], [gradient[2], gradient[0]], rtol=1e-12)


def test_under_jit_and_vmap_with_failed_lanes():
    fields = problems.random_workloads(3, 4, 3)
    fields["arrival_rate"][1] = 1e6
    fields["gain"][2, 0] = np.nan
    batch = Workload(**{name: jnp.asarray(value) for name, value in fields.items()})
    reports = jax.jit(jax.vmap(sensitivity))(batch)
    failed = np.array([False, True, True, False])
    for leaf in jax.tree.leaves(reports.derivatives):
        np.testing.assert_array_equal(np.isnan(leaf).reshape(4, -1).all(axis=1), failed)
        np.testing.assert_array_equal(np.isnan(leaf).reshape(4, -1).any(axis=1), failed)
    alone = sensitivity(jax.tree.map(lambda leaf: leaf[3], batch))
    for one, two in zip(
        jax.tree.leaves(reports.derivatives), jax.tree.leaves(alone.derivatives), strict=True
    ):
        np.testing.assert_allclose(one[3], two, rtol=1e-9, atol=1e-9 * np.max(np.abs(two)))


@pytest.mark.parametrize("parameter", ["arrival_rate", "accuracy_weight"])
def test_a_sensitivity_is_differentiable(parameter):
    def slope(value):
        moved = dataclasses.replace(qwen(), **{parameter: value})
        return sensitivity(moved).derivatives.mean_system_time.accuracy_weight

    value = getattr(qwen(), parameter)
    step = 1e-4 * value
    difference = (slope(value + step) - slope(value - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(slope)(value), difference, rtol=1e-5)
