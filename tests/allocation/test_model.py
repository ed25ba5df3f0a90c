"""The queue and J: closed forms, the oracle, derivatives, and what is said of an unstable queue."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import as_workload, lane
from oracles import exact_objective
from problems import named_workloads, priced, random_workloads

from jaxalloc import mean_accuracy, mean_system_time, mean_wait, objective, utilization
from jaxalloc.allocation.model.objective import distance, evaluate, total_increase
from jaxalloc.allocation.model.sums import largest, sums

NAMED = {named.name: named for named in named_workloads()}
MEASURES = (utilization, mean_wait, mean_system_time, mean_accuracy, objective)
FIELDS = priced(random_workloads(3, 40))
VECTORS = np.random.default_rng(5).normal(size=(3, 7))


def stable_points(fields, seed, reach=0.9):
    """Random tokens in the box of each lane, shrunk towards min_tokens until ρ < 1, [N, K]."""
    low, high = fields["min_tokens"], fields["max_tokens"]
    step = np.random.default_rng(seed).random(low.shape) * (high - low)
    idle = oracles.queue(fields, low)[3]
    used = fields["arrival_rate"] * np.sum(fields["mix"] * fields["time_per_token"] * step, axis=1)
    return low + np.minimum(1, reach * idle / np.maximum(used, 1e-300))[:, None] * step


POINTS = stable_points(FIELDS, 4)


@jax.jit
@jax.vmap
def at(workload, tokens):
    """All that the model says of a point."""
    slopes = jax.grad(objective, argnums=1)(workload, tokens)
    point = evaluate(workload, tokens)
    return [f(workload, tokens) for f in MEASURES], slopes, point, distance(workload, point)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_measures_and_slopes_are_those_of_the_oracle(dtype):
    fields = {name: value.astype(dtype) for name, value in FIELDS.items()}
    tokens = POINTS.astype(dtype)
    said = at(as_workload(fields, dtype), jnp.asarray(tokens))
    measures, slopes, point, _ = jax.tree.map(np.asarray, said)
    eps = np.finfo(dtype).eps
    _, first, _, idle = oracles.queue(oracles.cast(fields), tokens)
    wait, right = oracles.mean_wait(fields, tokens), oracles.mean_accuracy(fields, tokens)
    scale = fields["accuracy_weight"] * right + first + wait
    for got, expected, size in [
        (measures[0], 1 - idle, 1),
        (measures[1], wait, wait),
        (measures[2], first + wait, first + wait),
        (measures[3], right, right),
        (measures[4], oracles.objective(fields, tokens), scale),
    ]:
        assert got.dtype == dtype
        assert np.all(np.abs(got - expected) <= 200 * eps * size)
    slope = oracles.gradient(fields, tokens)
    scale = np.sum(oracles.balance(fields, tokens), axis=0) * fields["mix"] / idle[:, None]
    assert np.all(np.abs(slopes - slope) <= 1e3 * eps * scale)
    own = fields["mix"] * fields["time_per_token"] * point.price * point.excess
    assert np.all(np.abs(own - slope) <= 1e3 * eps * scale)


def test_the_oracle_gradient_is_the_slope_of_its_objective():
    step = np.longdouble(1e-3)
    for k in range(POINTS.shape[1]):
        shift = step * (np.arange(POINTS.shape[1]) == k)
        ends = [oracles.objective(FIELDS, POINTS + sign * shift) for sign in (1, -1)]
        found = oracles.gradient(FIELDS, POINTS)
        scale = np.abs(found).max(axis=1)
        assert np.all(np.abs((ends[0] - ends[1]) / (2 * step) - found[:, k]) <= 1e-6 * scale)


def test_j_is_strictly_concave():
    hessian = jax.jit(jax.vmap(jax.hessian(objective, 1)))
    hessians = hessian(as_workload(FIELDS), jnp.asarray(POINTS))
    scale = np.sqrt(-np.diagonal(hessians, axis1=1, axis2=2))
    scaled = hessians / (scale[:, :, None] * scale[:, None, :])
    assert np.linalg.eigvalsh(scaled).max() < 0


@pytest.mark.parametrize("name", NAMED)
def test_totals_of_the_named_workloads(name):
    named = NAMED[name]
    workload, tokens = as_workload(named.fields), jnp.asarray(named.tokens)
    for function, known in [
        (utilization, named.utilization),
        (mean_accuracy, named.accuracy),
        (mean_system_time, named.system_time),
    ]:
        if known is not None:
            assert abs(float(function(workload, tokens)) - known) <= 10.0**-named.digits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_near_saturation_every_answer_has_its_digits(dtype):
    """M/M/1 with ρ up to the last number below 1: E[T] = t / d, of either sign of J."""
    eps = float(np.finfo(dtype).eps)
    fields = NAMED["mm1_50_tokens"].fields | {"base_time": np.array([0.75])}
    for away in (eps / 2, eps, 3 * eps, 1e3 * eps, 1e6 * eps):
        workload = as_workload(fields | {"arrival_rate": 1 - away}, dtype)
        tokens = jnp.array([250.0], dtype)
        # ρ as the dtype stores it: c = 1e-3 is not a dyadic number.
        slope, rate = float(workload.time_per_token[0]), float(workload.arrival_rate)
        time = Fraction(float(workload.base_time[0])) + Fraction(slope) * 250
        exact = 1 - Fraction(rate) * time
        assert (utilization(workload, tokens) < 1) == (exact > 0)
        wait = mean_wait(workload, tokens)
        expected = float(Fraction(rate) * time**2 / exact) if exact > 0 else np.inf
        np.testing.assert_allclose(wait, expected, rtol=8 * eps + 40 * eps**2 / float(abs(exact)))


def test_an_unstable_queue_waits_for_ever_and_has_no_misleading_slope():
    fields = NAMED["mm1_50_tokens"].fields
    fields |= {"time_per_token": np.array([2.0**-10]), "base_time": np.array([0.25])}
    functions = (mean_wait, mean_system_time, objective)

    @jax.jit
    def said(workload, tokens):
        values = [f(workload, tokens) for f in (utilization, *functions)]
        slopes = [
            mode(f, 1)(workload, tokens) for f in functions for mode in (jax.grad, jax.jacfwd)
        ]
        rates = [jax.grad(f)(workload, tokens).arrival_rate for f in functions]
        return values, slopes, rates, distance(workload, evaluate(workload, tokens))

    for rate in (2.0, 2.5, 1e6):  # ρ = 1 exactly, above, far above
        workload = as_workload(fields | {"arrival_rate": np.asarray(rate)})
        values, slopes, rates, away = said(workload, jnp.array([256.0]))
        assert values[0] >= 1
        assert values[1:] == [np.inf, np.inf, -np.inf]
        assert not np.any(np.isfinite([*np.ravel(slopes), *rates]))
        assert np.isposinf(away)


@pytest.mark.parametrize("weight", [1.0, 1e8])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-8])
def test_a_difference_keeps_its_digits_where_the_values_agree(weight, size):
    fields = {**FIELDS, "accuracy_weight": np.full(40, weight)}
    end = POINTS + size * np.random.default_rng(6).uniform(-1, 1, POINTS.shape)

    @jax.jit
    @jax.vmap
    def increase(workload, start, end):
        return total_increase(workload, evaluate(workload, start), end)

    got = increase(as_workload(fields), jnp.asarray(POINTS), jnp.asarray(end))
    # Relative to what the types add, not to the total, which may cancel.
    up, down = oracles.balance(fields, POINTS)
    scale = np.sum(fields["mix"] * (up + down) * np.abs(end - POINTS), axis=1).astype(float)
    for index in range(12):
        one = lane(fields, index)
        exact = exact_objective(one, end[index]) - exact_objective(one, POINTS[index])
        assert abs(float(got[index]) - float(exact)) < 1e-13 * scale[index]
    heavy = as_workload({**fields, "arrival_rate": np.full(40, 1e9)})
    beyond = increase(heavy, 0 * jnp.asarray(POINTS), jnp.asarray(end))
    assert not np.any(beyond > -np.inf)


def test_sums_of_one_pass_differentiate_in_both_modes_and_twice():
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
    assert largest(*VECTORS) == VECTORS.max()
    assert np.isnan(largest(jnp.array([0.0, np.nan]), jnp.array([1.0, 2.0])))


def test_eager_calls_do_not_compile_again(caplog):
    def call(x):
        return sums(x, x), largest(x, x)

    with jax.log_compiles():
        call(jnp.asarray(VECTORS[0, :5]))
        assert "Compiling" in caplog.text
        caplog.clear()
        call(jnp.asarray(VECTORS[1, :5]))
        assert "Compiling" not in caplog.text
