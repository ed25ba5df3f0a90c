"""The optimum: known answers, random and hard workloads by an independent oracle, rival solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rivals
from convert import as_workload
from problems import HARD_TYPES, hard_batches, lanes, named_workloads, random_workloads

from jaxalloc import (
    Newton,
    Status,
    Workload,
    mean_accuracy,
    mean_system_time,
    objective,
    solve,
    solve_batch,
    utilization,
)

NAMED = {named.name: named for named in named_workloads()}
HARD = dict(zip(HARD_TYPES, hard_batches(seed=31, n=2000), strict=True))


def in_dtype(fields, dtype):
    """The values that the package sees."""
    return {name: value.astype(dtype) for name, value in fields.items()}


@pytest.mark.parametrize("name", NAMED)
def test_named_workloads(name):
    named = NAMED[name]
    workload = as_workload(named.fields)
    answer = solve(workload)
    assert answer.status == Status.CONVERGED
    np.testing.assert_allclose(answer.tokens, named.tokens, rtol=0, atol=named.tokens_tolerance)
    if named.tokens_tolerance == 0.5:
        np.testing.assert_array_equal(np.round(answer.tokens), np.round(named.tokens))
    totals = [
        (utilization, named.utilization),
        (mean_accuracy, named.accuracy),
        (mean_system_time, named.system_time),
    ]
    for function, known in totals:
        if known is not None:
            got = float(function(workload, answer.tokens))
            assert got == pytest.approx(known, abs=0.6 * 10.0**-named.digits + 1e-9)
    value = float(objective(workload, answer.tokens))
    assert float(answer.objective) == pytest.approx(value, rel=1e-12)


def test_the_random_set_in_float64():
    fields = random_workloads(32, 2000)
    answer = jax.tree.map(np.asarray, solve_batch(as_workload(fields)))
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    truth = oracles.residual(fields, answer.tokens)
    assert truth.max() <= 1e-10
    assert np.all(answer.residual >= truth * (1 - 1e-9) - 1e-15)
    assert answer.steps.max() <= 40
    # It is the set it claims to be.
    idle = oracles.queue(oracles.cast(fields), answer.tokens.astype(np.longdouble))[3]
    assert 1 - idle.max() < 1e-3
    assert 1 - idle.min() > 0.95
    at_bound = (answer.tokens == fields["min_tokens"]) | (answer.tokens == fields["max_tokens"])
    assert 0.35 < at_bound.mean() < 0.65


def test_the_random_set_in_float32():
    fields = in_dtype(random_workloads(33, 2000), np.float32)
    answer = jax.tree.map(np.asarray, solve_batch(as_workload(fields, np.float32)))
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    assert oracles.residual(fields, answer.tokens).max() <= 1e-5
    assert answer.steps.max() <= 40


@pytest.mark.parametrize("num_types", HARD_TYPES)
def test_the_hard_set_in_float64(num_types):
    fields = HARD[num_types]
    answer = jax.tree.map(np.asarray, solve_batch(as_workload(fields)))
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    truth = oracles.residual(fields, answer.tokens)
    assert truth.max() <= 1e-8
    assert answer.steps.max() <= 100


@pytest.mark.parametrize("num_types", HARD_TYPES)
def test_no_lane_of_the_hard_set_says_converged_and_is_not_in_float32(num_types):
    fields = in_dtype(HARD[num_types], np.float32)
    answer = jax.tree.map(np.asarray, solve_batch(as_workload(fields, np.float32)))
    said = answer.status == Status.CONVERGED
    truth = oracles.residual(fields, answer.tokens)
    assert truth[said].max() <= 1e-5
    assert said.mean() > 0.8
    # What is not converged says so: by the status, or by a residual that is not too small.
    honest = answer.status == Status.MAX_STEPS
    assert np.all(answer.residual[honest] > 1e-5)
    beyond = answer.status == Status.INVALID  # of what float32 can hold
    assert beyond.mean() < 0.01
    assert np.all(said | honest | beyond | (answer.status == Status.INFEASIBLE))


def test_the_certain_bisection_agrees():
    fields = random_workloads(34, 15)
    exact = oracles.solve_nested(fields, np.float64)
    answer = np.asarray(solve_batch(as_workload(fields)).tokens)
    assert np.max(np.abs(answer - exact) / np.maximum(1.0, exact)) < 1e-7


RIVALS = {"lbfgsb": rivals.solve_lbfgsb, "slsqp": rivals.solve_slsqp, "cvxpy": rivals.solve_cvxpy}


@pytest.mark.parametrize("name", RIVALS)
def test_no_rival_finds_a_better_point(name):
    fields = random_workloads(35, 12 if name == "cvxpy" else 40)
    answer = solve_batch(as_workload(fields))
    ours = oracles.objective(fields, np.asarray(answer.tokens))
    theirs = oracles.objective(fields, RIVALS[name](fields))
    scale = np.abs(ours).astype(float)
    assert np.all(theirs <= ours + 1e-15 * scale)
    # And some rival comes close, so that the comparison means something.
    assert np.median((ours - theirs) / scale) < 1e-6


def test_the_lanes_of_the_hard_set_beat_scipy():
    fields = lanes(HARD[4], slice(0, 40))
    ours = oracles.objective(fields, np.asarray(solve_batch(as_workload(fields)).tokens))
    theirs = oracles.objective(fields, rivals.solve_lbfgsb(fields))
    assert np.all(theirs <= ours + 1e-15 * np.abs(ours))


def test_no_point_nearby_is_better():
    fields = random_workloads(36, 100)
    best = np.asarray(solve_batch(as_workload(fields)).tokens)
    value = oracles.objective(fields, best)
    rng = np.random.default_rng(37)
    for size in (1e-6, 1e-3, 1e-1, 10.0):
        moved = best + size * rng.normal(size=best.shape)
        moved = np.clip(moved, fields["min_tokens"], fields["max_tokens"])
        assert np.all(oracles.objective(fields, moved) <= value + 1e-17 * np.abs(value))


def test_ten_thousand_types():
    fields = lanes(random_workloads(38, 2, 10_000), slice(0, 1))
    answer = solve_batch(as_workload(fields))
    assert answer.status[0] == Status.CONVERGED
    assert oracles.residual(fields, np.asarray(answer.tokens))[0] <= 1e-8
    assert int(answer.steps[0]) <= 40


def test_steps_are_counted_and_capped():
    fields = random_workloads(39, 50)
    workloads = as_workload(fields)
    free = solve_batch(workloads)
    capped = solve_batch(workloads, Newton(max_steps=3))
    assert np.max(free.steps) > 3
    late = np.asarray(free.steps) > 3
    assert np.all(np.asarray(capped.steps) == np.minimum(free.steps, 3))
    np.testing.assert_array_equal(capped.tokens[~late], free.tokens[~late])
    truth = oracles.residual(fields, np.asarray(capped.tokens))
    said = np.asarray(capped.status) == Status.CONVERGED
    np.testing.assert_array_equal(said, np.asarray(capped.residual) <= 1e-8)
    assert np.all(truth[said] <= 1e-8)
    assert not np.all(said)


def test_tolerance_decides_the_status():
    fields = random_workloads(40, 50)
    workloads = as_workload(fields)
    for tolerance in (1e-2, 1e-5, 1e-12):
        answer = solve_batch(workloads, Newton(tolerance=tolerance))
        np.testing.assert_array_equal(answer.status, Status.CONVERGED)
        assert oracles.residual(fields, np.asarray(answer.tokens)).max() <= tolerance
    never = solve_batch(workloads, Newton(tolerance=0.0))  # free types are never exact
    inside = np.asarray(never.residual) > 0
    np.testing.assert_array_equal(np.asarray(never.status)[inside], Status.MAX_STEPS)
    assert oracles.residual(fields, np.asarray(never.tokens)).max() < 1e-11


def test_under_jit_and_with_numpy_leaves():
    named = NAMED["qwen3_8b_rate_0.1"]
    workload = as_workload(named.fields)
    raw = type(workload)(**named.fields)  # NumPy arrays as they come
    for answer in (jax.jit(solve)(workload), solve(raw), solve_batch(raw)):
        assert answer.status == Status.CONVERGED
        np.testing.assert_allclose(answer.tokens, solve(workload).tokens, rtol=1e-10)


def test_jnp_precision_of_mixed_leaves():
    """The widest dtype wins, and float32 leaves are taken as they are stored."""
    fields = dict(NAMED["md1_600_tokens"].fields)
    leaves = {name: jnp.asarray(value, np.float32) for name, value in fields.items()}
    leaves["gain"] = jnp.asarray(fields["gain"], np.float64)
    answer = solve(Workload(**leaves))
    assert answer.tokens.dtype == answer.residual.dtype == np.float64
    seen = {name: np.asarray(value, np.float64)[None] for name, value in leaves.items()}
    assert oracles.residual(seen, np.asarray(answer.tokens)[None])[0] <= 1e-8
