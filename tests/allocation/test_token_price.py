"""A token that costs more than its time, in the rooms that the optimum serves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from convert import LANES, as_workload, lane
from problems import priced, random_workloads

from jaxalloc import Workload, objective, round_tokens, sensitivity, solve, solve_for_mean_tokens
from jaxalloc.allocation.decisions.rounding import integer_box
from jaxalloc.workloads.files import load, override, save

FIELDS = random_workloads(32, LANES)
ONE = lane(as_workload(priced(FIELDS)), 70)


def test_the_price_comes_on_top_of_the_workloads_own():
    own, best = float(ONE.token_price), solve(ONE)
    _, given = solve_for_mean_tokens(dataclasses.replace(ONE, token_price=0.0), price_per_token=own)
    np.testing.assert_allclose(best.tokens, given.tokens, rtol=1e-9, atol=1e-9)
    cap = jnp.sum(ONE.mix * (ONE.min_tokens + best.tokens) / 2)
    more, half = solve_for_mean_tokens(ONE, cap)
    assert more > 0
    np.testing.assert_allclose(jnp.sum(ONE.mix * half.tokens), cap, rtol=1e-7)
    dearer = dataclasses.replace(ONE, token_price=ONE.token_price + more)
    np.testing.assert_allclose(solve(dearer).tokens, half.tokens, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(half.objective, objective(ONE, half.tokens), rtol=1e-12)


def test_sensitivity_and_rounding_know_the_price():
    report = sensitivity(ONE)
    spent = jnp.sum(ONE.mix * report.allocation.tokens)
    np.testing.assert_allclose(report.derivatives.objective.token_price, -spent, rtol=1e-12)
    rounding, best = round_tokens(ONE, solve(ONE)), solve(integer_box(ONE))
    gap = best.objective - objective(ONE, rounding.best)
    np.testing.assert_allclose(rounding.gap, gap, atol=1e-9)
    assert 0 <= rounding.gap <= rounding.gap_bound


def test_the_constructor_fills_in_no_price():
    many = Workload(**{name: jnp.asarray(value) for name, value in FIELDS.items()})
    assert many.token_price.shape == (LANES,)
    assert not np.any(many.token_price)
    assert jax.vmap(lambda workload: workload.token_price)(many).shape == (LANES,)


def test_a_file_keeps_the_price(tmp_path):
    plain = load("qwen3-8b")
    for price in (0.0, 1e-4):
        file = override(plain, {"token_price": price}, "qwen3-8b")
        save(file, tmp_path / "a.toml")
        assert load(tmp_path / "a.toml") == file
        assert ("token_price" in (tmp_path / "a.toml").read_text()) == (price > 0)
        assert file.workload.token_price == price
