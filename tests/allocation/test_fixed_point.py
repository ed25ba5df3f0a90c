"""The paper's iteration: certified to converge where its bound says so, honest where it cycles."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import as_workload, lane
from problems import lanes, qwen3_8b, random_workloads

from jaxalloc import FixedPoint, Status, contraction_bound, solve, solve_batch
from jaxalloc.allocation.model.objective import evaluate

PLAIN = FixedPoint(exact_own_time=False)


def light(seed, n):
    """Random servers with so little traffic that the box is stable and the map contracts."""
    fields = random_workloads(seed, n)
    fields["arrival_rate"] = 10.0 ** np.random.default_rng(seed).uniform(-4, 0, n) * 0.05
    bound = np.asarray(jax.vmap(contraction_bound)(as_workload(fields)))
    chosen = bound < 1
    assert chosen.sum() > n // 4
    return lanes(fields, chosen), bound[chosen]


def plain_map(fields, tokens):
    """clip(ln(α A b / (c m)) / b), from the mathematics."""
    steepest, _ = oracles.balance(fields, np.zeros_like(tokens), np.float64)
    _, down = oracles.balance(fields, tokens, np.float64)
    target = np.log(steepest / down) / fields["decay"]
    return np.clip(target, fields["min_tokens"], fields["max_tokens"])


@pytest.mark.parametrize("solver", [PLAIN, FixedPoint()])
def test_it_converges_where_the_certificate_says_so(solver):
    fields, bound = light(61, 400)
    assert bound.max() > 0.8  # some only just
    answer = jax.tree.map(np.asarray, solve_batch(as_workload(fields), solver))
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    optimum = np.asarray(solve_batch(as_workload(fields)).tokens)
    np.testing.assert_allclose(answer.tokens, optimum, rtol=1e-6, atol=1e-3)
    assert oracles.residual(fields, answer.tokens).max() <= 1e-8


@pytest.mark.parametrize("solver", [PLAIN, FixedPoint()])
def test_each_step_contracts_at_the_certified_rate(solver):
    fields, bound = light(62, 300)
    workloads = as_workload(fields)
    best = np.asarray(solve_batch(workloads).tokens)

    @jax.jit
    @jax.vmap
    def step(workload, tokens):
        state = solver.init(workload, evaluate(workload, tokens))
        return solver.step(workload, state).point.tokens

    tokens = jnp.asarray(fields["max_tokens"])
    away = np.max(np.abs(tokens - best), axis=1)
    for _ in range(12):
        moved = step(workloads, tokens)
        if solver is PLAIN:
            expected = plain_map(fields, np.asarray(tokens))
            np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-6)
        now = np.max(np.abs(moved - best), axis=1)
        assert np.all(now <= bound * away * (1 + 1e-9) + 1e-6)
        tokens, away = moved, now


def test_where_it_cycles_it_says_so():
    fields = qwen3_8b(0.1)  # spectral radius 1.05 at the optimum, ρ = 0.22
    workload = as_workload(fields)
    assert float(contraction_bound(workload)) > 1
    answer = solve(workload, PLAIN)
    assert answer.status == Status.MAX_STEPS
    assert int(answer.steps) == PLAIN.max_steps
    assert float(answer.residual) > 1e-8
    # Damping or the exact own time make it converge, to the same tokens.
    best = solve(workload).tokens
    for solver in (FixedPoint(exact_own_time=False, damping=0.5), FixedPoint(damping=0.5)):
        damped = solve(workload, solver)
        assert damped.status == Status.CONVERGED
        np.testing.assert_allclose(damped.tokens, best, rtol=1e-6)


def test_no_lane_of_the_random_set_says_converged_and_is_not():
    fields = random_workloads(63, 600)
    for solver in (PLAIN, FixedPoint(), FixedPoint(damping=0.5)):
        answer = jax.tree.map(np.asarray, solve_batch(as_workload(fields), solver))
        said = answer.status == Status.CONVERGED
        truth = oracles.residual(fields, answer.tokens)
        assert truth[said].max() <= 1e-8
        assert np.all(answer.residual[~said] > 1e-8)
        assert np.all(np.isfinite(truth))  # it never leaves the stable set
        assert 0.3 < said.mean() < 1.0


def jacobian_norm(fields, tokens):
    """The largest row sum of the Jacobian of the plain map, unclipped, at one point."""
    workload = as_workload(fields)

    def unclipped(tokens):
        return tokens + evaluate(workload, tokens).imbalance / workload.decay

    return np.abs(jax.vmap(jax.jacfwd(unclipped))(jnp.asarray(tokens))).sum(axis=2).max()


def test_the_bound_holds_all_over_the_box():
    rng = np.random.default_rng(64)
    checked = 0
    for index in range(20):
        fields = lane(random_workloads(65, 20), index)
        fields["arrival_rate"] = np.asarray(
            rng.uniform(0, 1) / np.sum(fields["mix"] * 2 * (fields["base_time"] + 50))
        )
        bound = float(contraction_bound(as_workload(fields)))
        if not np.isfinite(bound):
            continue
        low, high = fields["min_tokens"], fields["max_tokens"]
        shares = np.concatenate([rng.random((30, 6)), [np.ones(6), np.zeros(6)]])
        assert jacobian_norm(fields, low + shares * (high - low)) <= bound * (1 + 1e-9)
        checked += 1
    assert checked > 10


def test_the_bound_by_hand():
    # λ = 0.1, t = 1 + 1 = 2 s at l_max, ρ = 0.2, g = 1/8; q = (g c + 2 g c + g² c t) / b
    fields = {
        name: value[..., :1] if value.ndim else value for name, value in qwen3_8b(0.1).items()
    }
    fields |= {"mix": np.ones(1), "base_time": np.ones(1), "time_per_token": np.full(1, 1e-3)}
    fields |= {"max_tokens": np.full(1, 1000.0), "decay": np.full(1, 1e-3)}
    bound = float(contraction_bound(as_workload(fields)))
    assert bound == pytest.approx(3 / 8 + 2 / 64, rel=1e-12)
    # Exponential service doubles κ: g κ c + 2 g c + g² κ c t.
    fields["service_cv"] = np.ones(1)
    bound = float(contraction_bound(as_workload(fields)))
    assert bound == pytest.approx(4 / 8 + 4 / 64, rel=1e-12)


@pytest.mark.parametrize("rate", [0.5, 0.6, 5.0])  # ρ(l_max) = 1 and above
def test_no_bound_where_the_box_is_not_stable(rate):
    fields = {
        name: value[..., :1] if value.ndim else value for name, value in qwen3_8b(rate).items()
    }
    fields |= {"mix": np.ones(1), "base_time": np.ones(1), "time_per_token": np.full(1, 1e-3)}
    fields |= {"max_tokens": np.full(1, 1000.0), "decay": np.full(1, 1e3)}
    assert np.isposinf(contraction_bound(as_workload(fields)))
