"""The optimum: known answers, random, hard and edge workloads by an oracle, rivals, caps."""

import jax
import numpy as np
import oracles
import pytest
import rivals
from convert import LANES, as_workload, solve_all, solved
from problems import (
    HARD_TYPES,
    hard_batches,
    hard_workloads,
    lanes,
    named_workloads,
    priced,
    random_workloads,
)

from jaxalloc import Newton, Status, objective, solve, solve_batch

NAMED = {named.name: named for named in named_workloads()}
FIELDS = priced(random_workloads(32, LANES))
FREE = {name: value for name, value in FIELDS.items() if name != "token_price"}
TYPES = (1, 6, 32)
DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("name", NAMED)
def test_named_workloads(name):
    named = NAMED[name]
    workload = as_workload(named.fields)
    answer = solve(workload)
    assert answer.status == Status.CONVERGED
    np.testing.assert_allclose(answer.tokens, named.tokens, rtol=0, atol=named.tokens_tolerance)
    assert float(answer.objective) == pytest.approx(float(objective(workload, answer.tokens)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_random_set(dtype):
    answer = solved(FIELDS, dtype=dtype)
    assert answer.steps.max() <= 40
    fields = {name: value.astype(dtype) for name, value in FIELDS.items()}
    truth = oracles.residual(fields, answer.tokens)
    assert np.all(answer.residual >= truth * (1 - 1e-9) - np.finfo(dtype).eps)
    # It is the set it claims to be: from idle to saturated, half of the types at a bound.
    busy = 1 - oracles.queue(oracles.cast(FIELDS), answer.tokens)[3]
    assert busy.min() < 1e-3
    assert busy.max() > 0.9
    at_bound = (answer.tokens == fields["min_tokens"]) | (answer.tokens == fields["max_tokens"])
    assert 0.35 < at_bound.mean() < 0.65


@pytest.mark.parametrize("num_types", TYPES)
def test_the_hard_set(num_types):
    fields = hard_workloads(31, LANES, num_types)
    assert solved(fields).steps.max() <= 100
    # In float32 what is not converged says so: by the status, or by a residual not too small.
    answer = solve_all(fields, dtype=np.float32)
    said = answer.status == Status.CONVERGED
    fields = {name: value.astype(np.float32) for name, value in fields.items()}
    assert oracles.residual(fields, answer.tokens)[said].max() <= 1e-5
    assert said.mean() > 0.8
    assert np.all(answer.residual[answer.status == Status.MAX_STEPS] > 1e-5)
    assert np.mean(answer.status == Status.INVALID) < 0.02  # beyond what float32 can hold


def test_the_hard_set_stays_in_the_domain_and_reaches_its_edges():
    batches = hard_batches(0, 2_000)
    assert len(batches) == len(HARD_TYPES)
    closest = []
    for fields in batches:
        assert all(np.all(np.isfinite(value) & (value >= 0)) for value in fields.values())
        assert np.all(fields["decay"] * fields["time_per_token"] > 0)
        assert np.all(fields["min_tokens"] <= fields["max_tokens"])
        assert np.all(fields["floor"] + fields["gain"] <= 1)
        np.testing.assert_allclose(fields["mix"].sum(axis=1), 1, rtol=0, atol=1e-12)
        closest.append(oracles.queue(oracles.cast(fields), fields["min_tokens"])[3].min())
    assert 1e-5 * 0.99 <= min(closest) < 3e-5
    every = {name: np.concatenate([f[name].ravel() for f in batches]) for name in batches[0]}
    assert every["accuracy_weight"].min() < 1e-3 < 1e7 < every["accuracy_weight"].max()
    for name in ("arrival_rate", "gain", "mix", "base_time", "service_cv", "min_tokens"):
        assert np.any(every[name] == 0), name
    assert np.any(every["min_tokens"] == every["max_tokens"])


def test_the_certain_bisection_agrees():
    few = lanes(FREE, slice(0, 15))
    exact = oracles.solve_nested(few, np.float64)
    assert oracles.residual(few, exact).max() < 1e-10
    answer = solve_all(FREE).tokens[:15]
    assert np.max(np.abs(answer - exact) / np.maximum(1.0, exact)) < 1e-7


@pytest.mark.parametrize(
    ("rival", "gap"),
    [
        (rivals.solve_lbfgsb, 1e-12),
        (rivals.solve_slsqp, 1e-7),
        (rivals.solve_clarabel, 1e-6),
        (rivals.solve_cvxpy, 1e-6),
    ],
)
def test_no_rival_finds_a_better_point(rival, gap):
    few = lanes(FREE, slice(0, 15))
    ours = oracles.objective(few, solve_all(FREE).tokens[:15])
    scale = np.abs(ours) + few["accuracy_weight"]
    short = ours - oracles.objective(few, rival(few))
    assert np.all(short >= -1e-15 * scale)
    assert np.all(short <= gap * scale)  # it comes close: the comparison means something


def test_no_point_nearby_is_better():
    best = solve_all(FIELDS).tokens
    value = oracles.objective(FIELDS, best)
    rng = np.random.default_rng(37)
    for size in (1e-6, 1e-3, 1e-1, 10.0):
        moved = best + size * rng.normal(size=best.shape)
        moved = np.clip(moved, FIELDS["min_tokens"], FIELDS["max_tokens"])
        assert np.all(oracles.objective(FIELDS, moved) <= value + 1e-17 * np.abs(value))


def test_no_oracle_answers_where_a_point_is_no_answer():
    tokens = FIELDS["min_tokens"].copy()
    tokens[0] = np.nan
    tokens[1] = FIELDS["max_tokens"][1] * 2
    heavy = {**FIELDS, "arrival_rate": FIELDS["arrival_rate"].copy()}
    heavy["arrival_rate"][2] = 1e9
    found = oracles.residual(heavy, tokens)
    assert np.all(np.isinf(found[:3]))
    assert np.all(np.isfinite(found[3:]))


def test_ten_thousand_types():
    fields = random_workloads(38, 1, 10_000)
    answer = solved(fields)
    assert int(answer.steps[0]) <= 40


def test_steps_are_counted_and_capped_and_the_tolerance_decides():
    free, capped = solve_all(FIELDS), solve_all(FIELDS, Newton(max_steps=3, tolerance=1e-2))
    assert np.max(free.steps) > 3
    np.testing.assert_array_equal(capped.steps, np.minimum(free.steps, 3))
    np.testing.assert_array_equal(capped.tokens[free.steps <= 3], free.tokens[free.steps <= 3])
    said = capped.status == Status.CONVERGED
    np.testing.assert_array_equal(said, capped.residual <= 1e-2)
    assert oracles.residual(FIELDS, capped.tokens)[said].max() <= 1e-2
    assert 0 < said.mean() < 1
    never = solve_all(FIELDS, Newton(tolerance=0.0))  # free types are never exact
    np.testing.assert_array_equal(never.status == Status.MAX_STEPS, never.residual > 0)
    assert oracles.residual(FIELDS, never.tokens).max() < 1e-11


def test_leaves_of_several_kinds():
    """NumPy's arrays as they come; the widest dtype wins, float32 ones taken as they are stored."""
    fields = dict(NAMED["md1_600_tokens"].fields)
    leaves = {name: np.asarray(value, np.float32) for name, value in fields.items()}
    leaves["gain"] = np.asarray(fields["gain"], np.float64)
    workload = as_workload(fields)
    for solver in (solve, jax.jit(solve), solve_batch):
        answer = solver(type(workload)(**leaves))
        assert answer.tokens.dtype == answer.residual.dtype == np.float64
        seen = {name: np.asarray(value, np.float64)[None] for name, value in leaves.items()}
        assert oracles.residual(seen, np.asarray(answer.tokens)[None])[0] <= 1e-8
