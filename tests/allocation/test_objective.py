"""J, its gradient, its curvature and its exact differences, against derivatives and the oracle."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import as_workload, lane
from problems import lanes, named_workloads, random_workloads

from jaxalloc import mean_accuracy, mean_system_time, objective, utilization
from jaxalloc.allocation.model import objective as model

NAMED = {named.name: named for named in named_workloads()}


def stable_points(fields, seed, reach=0.9):
    """Random tokens in the box of each lane, shrunk towards min_tokens until ρ < 1, [N, K]."""
    rng = np.random.default_rng(seed)
    low, high = fields["min_tokens"], fields["max_tokens"]
    step = rng.random(low.shape) * (high - low)
    time = fields["base_time"] + fields["time_per_token"] * low
    idle = 1 - fields["arrival_rate"] * np.sum(fields["mix"] * time, axis=1)
    used = fields["arrival_rate"] * np.sum(fields["mix"] * fields["time_per_token"] * step, axis=1)
    share = np.minimum(1, reach * idle / np.maximum(used, 1e-300))
    return low + share[:, None] * step


RANDOM = random_workloads(3, 40)
POINTS = stable_points(RANDOM, 4)


@pytest.mark.parametrize("name", NAMED)
def test_totals_of_the_named_workloads(name):
    named = NAMED[name]
    workload, tokens = as_workload(named.fields), jnp.asarray(named.tokens)
    places = 10.0**-named.digits
    totals = [
        (utilization, named.utilization),
        (mean_accuracy, named.accuracy),
        (mean_system_time, named.system_time),
    ]
    for function, known in totals:
        if known is not None:
            assert (
                abs(float(function(workload, tokens)) - known) <= places
            )  # for tokens known to the nearest


def test_value_against_the_oracle():
    got = jax.vmap(objective)(as_workload(RANDOM), jnp.asarray(POINTS))
    np.testing.assert_allclose(got, oracles.objective(RANDOM, POINTS).astype(float), rtol=1e-12)


def test_gradient_against_the_oracle_and_automatic_differentiation():
    workloads, points = as_workload(RANDOM), jnp.asarray(POINTS)
    got = jax.vmap(model.gradient)(workloads, points)
    scale = np.sum(oracles.balance(RANDOM, POINTS), axis=0).astype(float) * RANDOM["mix"]
    exact = oracles.gradient(RANDOM, POINTS).astype(float)
    automatic = jax.vmap(jax.grad(objective, 1))(workloads, points)
    assert np.max(np.abs(got - exact) / scale) < 1e-12
    assert np.max(np.abs(automatic - exact) / scale) < 1e-11


def test_gradient_against_central_differences():
    step = np.longdouble(1e-3)
    for k in range(POINTS.shape[1]):
        shift = step * (np.arange(POINTS.shape[1]) == k)
        values = [oracles.objective(RANDOM, POINTS + sign * shift) for sign in (1, -1)]
        slope = (values[0] - values[1]) / (2 * step)
        got = jax.vmap(model.gradient)(as_workload(RANDOM), jnp.asarray(POINTS))[:, k]
        up, down = (side[:, k] for side in oracles.balance(RANDOM, POINTS))
        scale = (RANDOM["mix"][:, k] * (up + down)).astype(float)
        assert np.max(np.abs(got - slope.astype(float)) / scale) < 1e-6


def test_curvature_against_the_hessian():
    hessian = jax.jit(jax.hessian(objective, 1))
    for index in range(12):
        workload, tokens = as_workload(lane(RANDOM, index)), jnp.asarray(POINTS[index])
        c = model.curvature(workload, tokens)
        cross = jnp.outer(c.u, c.v)
        rank_two = c.cross * (cross + cross.T) + c.square * jnp.outer(c.u, c.u)
        expected = -hessian(workload, tokens)
        got = jnp.diag(c.diagonal) + rank_two
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
        assert np.linalg.eigvalsh(got).min() > 0  # strictly concave


def test_hessian_against_differences_of_the_gradient():
    workloads = as_workload(RANDOM)
    step = np.longdouble(1e-3)
    c = jax.vmap(model.curvature)(workloads, jnp.asarray(POINTS))
    for k in range(POINTS.shape[1]):
        shift = step * (np.arange(POINTS.shape[1]) == k)
        ends = [oracles.gradient(RANDOM, POINTS + sign * shift) for sign in (1, -1)]
        column = (-(ends[0] - ends[1]) / (2 * step)).astype(float)
        got = c.cross[:, None] * (c.u * c.v[:, [k]] + c.v * c.u[:, [k]])
        got = got + (c.square * c.u[:, k])[:, None] * c.u
        got = got.at[:, k].add(c.diagonal[:, k])
        assert np.max(np.abs(got - column) / np.abs(column).max(axis=1, keepdims=True)) < 1e-6


def test_derivatives_where_the_queue_is_unstable_are_nan():
    fields = lane(random_workloads(5, 1), 0)
    fields["arrival_rate"] = np.asarray(1e6)
    workload, tokens = as_workload(fields), jnp.asarray(fields["max_tokens"])
    assert np.all(np.isnan(model.gradient(workload, tokens)))
    assert np.isnan(model.curvature(workload, tokens).cross)
    point = model.evaluate(workload, tokens)
    assert np.isposinf(model.distance(workload, point))


def exact_objective(fields, tokens):
    """J of one lane with 60 digits."""
    with localcontext(prec=60):
        f = {name: [Decimal(float(x)) for x in np.ravel(v)] for name, v in fields.items()}
        lengths = [Decimal(float(x)) for x in tokens]
        rate, weight = f["arrival_rate"][0], f["accuracy_weight"][0]
        columns = [f[name] for name in ("mix", "gain", "decay", "floor")]
        columns += [f[name] for name in ("base_time", "time_per_token", "service_cv")]
        first = second = accuracy = Decimal(0)
        for mix, gain, decay, floor, base, slope, cv, length in zip(*columns, lengths, strict=True):
            time = base + slope * length
            first += mix * time
            second += mix * (1 + cv * cv) * time * time
            accuracy += mix * (floor + gain * (1 - (-decay * length).exp()))
        return weight * accuracy - first - rate * second / (2 * (1 - rate * first))


@pytest.mark.parametrize("weight", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-8])
def test_a_difference_keeps_its_digits_where_the_values_agree(weight, size):
    fields = {**lanes(RANDOM, slice(12)), "accuracy_weight": np.full(12, weight)}
    start = POINTS[:12]
    end = start + size * np.random.default_rng(6).uniform(-1, 1, start.shape)
    up, down = oracles.balance(fields, start)
    # Relative to what the types add, not to the total, which may cancel.
    scale = np.sum(fields["mix"] * (up + down) * np.abs(end - start), axis=1).astype(float)
    for index in range(12):
        workload = as_workload(lane(fields, index))
        point = model.evaluate(workload, jnp.asarray(start[index]))
        got = float(model.total_increase(workload, point, jnp.asarray(end[index])))
        values = [exact_objective(lane(fields, index), at[index]) for at in (start, end)]
        assert abs(got - float(values[1] - values[0])) < 1e-13 * scale[index]


def test_an_unstable_end_is_minus_infinity():
    fields = lane(random_workloads(5, 1), 0)
    fields["arrival_rate"] = np.asarray(1e-3)
    fields["max_tokens"] = np.full(6, 1e9)
    workload = as_workload(fields)
    start = model.evaluate(workload, workload.min_tokens)
    assert np.isneginf(model.total_increase(workload, start, workload.max_tokens))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_result_has_the_dtype_of_the_workload(dtype):
    workload = as_workload(lane(RANDOM, 0), dtype)
    tokens = jnp.asarray(POINTS[0], dtype)
    results = [
        objective(workload, tokens),
        model.gradient(workload, tokens),
        model.curvature(workload, tokens),
        model.evaluate(workload, tokens),
    ]
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {np.dtype(dtype)}
