"""A token that costs more than its time: J = α Σ π p - E[T] - μ Σ π l."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import as_workload, lane
from problems import random_workloads

from jaxalloc import (
    FixedPoint,
    ProjectedGradient,
    Status,
    Workload,
    objective,
    round_tokens,
    sensitivity,
    solve,
    solve_batch,
    solve_for_mean_tokens,
)
from jaxalloc.allocation.decisions.rounding import integer_box
from jaxalloc.workloads.files import load, override, save

FIELDS = random_workloads(51, 64)
PRICE = np.where(np.arange(64) % 4, np.geomspace(1e-6, 1e-2, 64), 0)


def priced():
    return dataclasses.replace(as_workload(FIELDS), token_price=jnp.asarray(PRICE))


@pytest.mark.parametrize("solver", [None, FixedPoint(), ProjectedGradient()])
def test_the_optimum_balances_by_plain_differentiation(solver):
    workloads = priced()
    answer = solve_batch(workloads) if solver is None else solve_batch(workloads, solver)
    solved = np.asarray(answer.status) == Status.CONVERGED
    assert np.mean(solved) > (0.99 if solver is None else 0.4)
    slope = jax.vmap(jax.grad(objective, argnums=1))(workloads, answer.tokens)
    slope = np.asarray(slope / workloads.mix / workloads.time_per_token)
    at_min, at_max = answer.tokens <= workloads.min_tokens, answer.tokens >= workloads.max_tokens
    violated = np.where(at_min, np.maximum(slope, 0), np.where(at_max, np.minimum(slope, 0), slope))
    assert np.mean(~at_min & ~at_max) > 0.1
    scale = 1 + PRICE[solved, None] / FIELDS["time_per_token"][solved]
    assert np.abs(violated[solved] / scale).max() < 1e-4
    value = jax.vmap(objective)(workloads, answer.tokens)
    np.testing.assert_allclose(answer.objective[solved], value[solved], rtol=1e-12)


def test_dear_tokens_are_fewer_and_free_ones_as_before():
    before, after = solve_batch(as_workload(FIELDS)), solve_batch(priced())
    free = PRICE == 0
    for without, given in zip(before, after, strict=True):
        np.testing.assert_array_equal(given[free], without[free])
    mean = [np.sum(FIELDS["mix"] * np.asarray(answer.tokens), axis=1) for answer in (before, after)]
    assert np.all(mean[1] <= mean[0] * (1 + 1e-9))
    assert np.sum(mean[1] < 0.9 * mean[0]) > 10


def test_the_price_comes_on_top_of_the_workloads_own():
    one = lane(priced(), 40)
    own = float(one.token_price)
    _, given = solve_for_mean_tokens(dataclasses.replace(one, token_price=0.0), price_per_token=own)
    best = solve(one)
    np.testing.assert_allclose(best.tokens, given.tokens, rtol=1e-9, atol=1e-9)
    cap = jnp.sum(one.mix * (one.min_tokens + best.tokens) / 2)
    more, half = solve_for_mean_tokens(one, cap)
    assert more > 0
    np.testing.assert_allclose(jnp.sum(one.mix * half.tokens), cap, rtol=1e-7)
    dearer = dataclasses.replace(one, token_price=one.token_price + more)
    np.testing.assert_allclose(solve(dearer).tokens, half.tokens, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(half.objective, objective(one, half.tokens), rtol=1e-12)


def test_derivatives_are_differences():
    one = lane(priced(), 40)
    report = sensitivity(one)
    spent = jnp.sum(one.mix * report.allocation.tokens)
    np.testing.assert_allclose(report.derivatives.objective.token_price, -spent, rtol=1e-12)
    for name in ("token_price", "time_per_token", "mix"):
        value = getattr(one, name)
        step = 1e-5 * value
        ends = [solve(dataclasses.replace(one, **{name: value + s * step})) for s in (1, -1)]
        slopes = getattr(report.derivatives.tokens, name)
        moved = (ends[0].tokens - ends[1].tokens) / 2
        along = slopes @ step if jnp.ndim(step) else slopes * step
        np.testing.assert_allclose(moved, along, rtol=1e-4, atol=1e-7)
        slope = jnp.sum(getattr(report.derivatives.objective, name) * step)
        np.testing.assert_allclose((ends[0].objective - ends[1].objective) / 2, slope, rtol=1e-4)


def test_rounding_knows_the_price():
    one = lane(priced(), 40)
    rounding = round_tokens(one, solve(one))
    best = solve(integer_box(one))
    np.testing.assert_allclose(
        rounding.gap, best.objective - objective(one, rounding.best), atol=1e-9
    )
    assert 0 <= rounding.gap <= rounding.gap_bound


def test_a_price_outside_its_domain():
    bad = dataclasses.replace(priced(), token_price=jnp.full(64, -1e-3).at[0].set(jnp.nan))
    status = solve_batch(bad).status
    assert status[0] == Status.NON_FINITE
    assert np.all(status[1:] == Status.INVALID)


def test_the_constructor_fills_in_no_price():
    many = Workload(**{name: jnp.asarray(value) for name, value in FIELDS.items()})
    assert many.token_price.shape == (64,)
    assert not np.any(many.token_price)
    assert jax.vmap(lambda workload: workload.token_price)(many).shape == (64,)


def test_a_file_keeps_the_price(tmp_path):
    plain = load("qwen3-8b")
    for price in (0.0, 1e-4):
        file = override(plain, {"token_price": price}, "qwen3-8b")
        save(file, tmp_path / "a.toml")
        assert load(tmp_path / "a.toml") == file
        assert ("token_price" in (tmp_path / "a.toml").read_text()) == (price > 0)
        assert file.workload.token_price == price
