"""The oracles agree with each other and with differences, and the zoo is what it says."""

import numpy as np
import oracles
import pytest
import rivals
from problems import hard_batches, lanes, named_workloads, random_workloads

FEW = lanes(random_workloads(3, 200), slice(0, 12))


@pytest.fixture(scope="module")
def optimum():
    """Tokens at the optimum of the few workloads, to 80 bits."""
    return oracles.solve_nested(FEW)


def test_the_oracle_gradient_is_the_slope_of_its_objective():
    tokens = oracles.cast(FEW)["min_tokens"] + 1
    width = oracles.EXTENDED(1e-3)
    found = oracles.gradient(FEW, tokens)
    for k in range(tokens.shape[1]):
        step = np.zeros_like(tokens)
        step[:, k] = width
        up, down = oracles.objective(FEW, tokens + step), oracles.objective(FEW, tokens - step)
        scale = np.abs(found).max(axis=1)
        assert np.all(np.abs((up - down) / (2 * width) - found[:, k]) <= 1e-7 * scale)


def test_nested_bisection_meets_the_optimality_conditions(optimum):
    assert oracles.residual(FEW, optimum.astype(np.float64)).max() < 1e-13


@pytest.mark.parametrize("named", named_workloads(), ids=lambda named: named.name)
def test_nested_bisection_finds_the_known_optimum(named):
    fields = {name: value[None] for name, value in named.fields.items()}
    tokens = oracles.solve_nested(fields)[0]
    np.testing.assert_allclose(
        tokens.astype(np.float64), named.tokens, rtol=0, atol=named.tokens_tolerance
    )


@pytest.mark.parametrize(
    ("solve", "gap"),
    [
        (rivals.solve_lbfgsb, 1e-12),
        (rivals.solve_slsqp, 1e-7),
        (rivals.solve_clarabel, 1e-6),
        (rivals.solve_cvxpy, 1e-6),
    ],
)
def test_general_optimizers_agree_with_the_nested_bisection(solve, gap, optimum):
    best = oracles.objective(FEW, optimum)
    short = best - oracles.objective(FEW, solve(FEW))
    scale = np.abs(best) + FEW["accuracy_weight"]
    assert np.all(short >= -1e-14 * scale)  # the maximum is the maximum
    assert np.all(short <= gap * scale)


def test_residual_is_infinite_where_the_point_is_no_answer():
    tokens = FEW["min_tokens"].copy()
    tokens[0] = np.nan
    tokens[1] = FEW["max_tokens"][1] * 2
    heavy = {**FEW, "arrival_rate": FEW["arrival_rate"] * np.where(np.arange(12) == 2, 1e9, 1.0)}
    found = oracles.residual(heavy, tokens)
    assert np.all(np.isinf(found[:3]))
    assert np.all(np.isfinite(found[3:]))


def test_random_workloads_run_from_idle_to_saturated_with_half_of_the_types_at_a_bound():
    fields = lanes(random_workloads(0, 10_000), slice(0, 150))
    tokens = oracles.solve_nested(fields, np.float64)
    utilization = 1 - oracles.queue(fields, tokens)[3]
    bound = (tokens <= fields["min_tokens"]) | (tokens >= fields["max_tokens"])
    assert utilization.min() < 1e-3
    assert utilization.max() > 0.95
    assert 0.4 < bound.mean() < 0.6


def test_hard_workloads_stay_in_the_domain_and_reach_its_edges():
    batches = hard_batches(0, 2_000)
    closest = []
    for fields in batches:
        assert all(np.all(np.isfinite(value)) for value in fields.values())
        assert all(np.all(value >= 0) for value in fields.values())
        assert np.all(fields["decay"] > 0)
        assert np.all(fields["time_per_token"] > 0)
        assert np.all(fields["min_tokens"] <= fields["max_tokens"])
        assert np.all(fields["floor"] + fields["gain"] <= 1)
        np.testing.assert_allclose(fields["mix"].sum(axis=1), 1, rtol=0, atol=1e-12)
        closest.append(oracles.queue(oracles.cast(fields), fields["min_tokens"])[3].min())
    assert 1e-5 * 0.99 <= min(closest) < 3e-5
    every = {name: np.concatenate([f[name].ravel() for f in batches]) for name in batches[0]}
    assert every["accuracy_weight"].min() < 1e-3
    assert every["accuracy_weight"].max() > 1e7
    for name in ("arrival_rate", "gain", "mix", "base_time", "service_cv", "min_tokens"):
        assert np.any(every[name] == 0), name
    assert np.any(every["min_tokens"] == every["max_tokens"])
