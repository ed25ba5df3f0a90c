"""Caps and goals: the target is met, nothing better meets it, statuses are honest, derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from scipy.optimize import minimize

import jaxalloc
from jaxalloc import (
    Status,
    Workload,
    mean_accuracy,
    mean_system_time,
    solve,
    solve_for_accuracy,
    solve_for_mean_tokens,
    solve_for_system_time,
    utilization,
)

LANES = 200
FIELDS = tuple(field.name for field in dataclasses.fields(Workload))


@functools.cache
def batch(lanes=LANES, num_types=4, seed=11):
    return Workload.create(**problems.random_workloads(seed, lanes, num_types))


def lane(index, workload=None):
    return jax.tree.map(lambda leaf: leaf[index], batch() if workload is None else workload)


def mean_tokens(workload, tokens):
    return jnp.sum(workload.mix * tokens)


CASES = {
    "time": (solve_for_system_time, mean_system_time),
    "accuracy": (solve_for_accuracy, mean_accuracy),
    "tokens": (solve_for_mean_tokens, mean_tokens),
}


TWO_CASES = ("time", "tokens")  # an accuracy is found by the same root as a time


@functools.cache
def all_lanes(case):
    """`solve_for` over a batch, compiled once for all tests."""
    return jax.jit(jax.vmap(CASES[case][0]))


def reachable(measure, share=0.5):
    """Targets [N] that some optimum has: `share` of the way from min_tokens to an optimum."""
    best = jaxalloc.solve_batch(batch())
    low = jax.vmap(measure)(batch(), batch().min_tokens)
    high = jax.vmap(measure)(batch(), best.tokens)
    return low + share * (high - low), np.asarray(high - low) > 1e-9 * np.asarray(high)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_the_target_is_met_by_an_optimum(case, share):
    measure = CASES[case][1]
    targets, moves = reachable(measure, share)
    multiplier, answer = all_lanes(case)(batch(), targets)
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    met = jax.vmap(measure)(batch(), answer.tokens)
    np.testing.assert_allclose(met[moves], targets[moves], rtol=1e-8)
    if case == "tokens":
        assert np.all(multiplier >= 0)
        if share < 1:
            assert np.all(multiplier[moves] > 0)
        value = jax.vmap(jaxalloc.objective)(batch(), answer.tokens)
    else:
        # The multiplier is the weight: solving with it gives the same optimum.
        slack = np.isinf(multiplier)
        assert slack.sum() <= (5 if share == 1 else 0)  # optima with every type at its largest
        np.testing.assert_array_equal(answer.tokens[slack], batch().max_tokens[slack])
        moves &= ~slack
        weighted = dataclasses.replace(batch(), accuracy_weight=multiplier)
        again = jaxalloc.solve_batch(weighted)
        scale = np.asarray(batch().max_tokens)[moves]
        assert np.all(np.abs(again.tokens - answer.tokens)[moves] <= 1e-9 * scale)
        value = jax.vmap(jaxalloc.objective)(weighted, answer.tokens)
    np.testing.assert_allclose(answer.objective[moves], value[moves], rtol=1e-10)


def test_the_optimum_meets_its_own_targets_with_its_own_weight():
    """The round trip α → time → α, where time tells the weights apart."""
    best = jaxalloc.solve_batch(batch())
    free = (best.tokens > batch().min_tokens) & (best.tokens < batch().max_tokens)
    moves = np.any(np.asarray(free), axis=1)
    for case in ("time", "accuracy"):
        targets = jax.vmap(CASES[case][1])(batch(), best.tokens)
        weight, _ = all_lanes(case)(batch(), targets)
        weight = np.asarray(weight)[moves]
        np.testing.assert_allclose(weight, batch().accuracy_weight[moves], rtol=1e-6)


@pytest.mark.parametrize("case", TWO_CASES)
def test_no_other_budgets_do_better(case):
    """SciPy's SLSQP on the constrained problem itself, which knows no multiplier."""
    solve_for, measure = CASES[case]
    targets, moves = reachable(measure)
    for index in np.flatnonzero(moves)[:6]:
        workload, target = lane(index), float(targets[index])
        _, answer = solve_for(workload, target)
        low, high = np.asarray(workload.min_tokens), np.asarray(workload.max_tokens)
        scale = high - low
        goal = {
            "time": lambda x, w=workload: -mean_accuracy(w, x),
            "accuracy": lambda x, w=workload: mean_system_time(w, x),
            "tokens": lambda x, w=workload: -jaxalloc.objective(w, x),
        }[case]
        sign = 1 if case == "accuracy" else -1

        def gap(x, w=workload, t=target, s=sign):
            return s * (measure(w, x) - t) / t

        def of_share(function, low=low, scale=scale):
            compiled = jax.jit(jax.value_and_grad(lambda x: function(low + scale * x)))
            return (lambda x: float(compiled(x)[0])), (lambda x: np.asarray(compiled(x)[1]))

        value, slope = of_share(goal)
        room, room_slope = of_share(gap)
        start = (np.asarray(answer.tokens) - low) / scale
        found = minimize(
            value,
            np.clip(start + 0.01, 0, 1) * 0.9,
            jac=slope,
            bounds=[(0, 1)] * 4,
            method="SLSQP",
            constraints={"type": "ineq", "fun": room, "jac": room_slope},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        mine = value(start)
        assert room(start) >= -1e-9
        if room(found.x) >= -1e-7:
            assert mine <= found.fun + 1e-6 * abs(found.fun)
        assert found.fun <= mine + 1e-3 * abs(mine)  # SLSQP did look


def test_slack_caps_give_the_unconstrained_answer():
    workload = lane(0)
    # Time: the whole box is stable at this rate, so that the largest budgets can be had.
    calm = dataclasses.replace(
        workload, arrival_rate=jnp.asarray(1e-3), gain=workload.gain.at[1].set(0.0)
    )
    weight, answer = solve_for_system_time(calm, 1e6)
    assert (weight, answer.status) == (np.inf, Status.CONVERGED)
    expected = np.where(np.arange(4) == 1, calm.min_tokens, calm.max_tokens)
    np.testing.assert_array_equal(answer.tokens, expected)
    slope = jax.jacrev(lambda w: solve_for_system_time(w, 1e6)[1].tokens)(calm)
    np.testing.assert_array_equal(slope.max_tokens, np.diag([1.0, 0.0, 1.0, 1.0]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    # Accuracy: asked for no more than min_tokens give.
    weight, answer = solve_for_accuracy(workload, 0.0)
    assert (weight, answer.status) == (0.0, Status.CONVERGED)
    np.testing.assert_array_equal(answer.tokens, workload.min_tokens)
    # Tokens.
    best = solve(workload)
    for cap in (1e9, np.inf, float(mean_tokens(workload, best.tokens)) * (1 + 1e-9)):
        price, answer = solve_for_mean_tokens(workload, cap)
        assert (price, answer.status) == (0.0, Status.CONVERGED)
        np.testing.assert_array_equal(answer.tokens, best.tokens)
        np.testing.assert_allclose(answer.objective, best.objective, rtol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_statuses_of_targets_and_workloads_without_an_answer(case):
    measure = CASES[case][1]
    workload = dataclasses.replace(lane(3), min_tokens=jnp.full(4, 10.0))
    low = float(measure(workload, workload.min_tokens))
    unreachable = 1.5 if case == "accuracy" else 0.99 * low
    nan = dataclasses.replace(workload, gain=workload.gain.at[0].set(jnp.nan))
    invalid = dataclasses.replace(workload, decay=workload.decay.at[0].set(-1.0))
    overloaded = dataclasses.replace(workload, arrival_rate=jnp.asarray(1e6))
    target = 0.5 * (low + float(measure(workload, solve(workload).tokens)))
    lanes = [
        (workload, target, Status.CONVERGED),
        (workload, unreachable, Status.INFEASIBLE),
        (workload, jnp.nan, Status.NON_FINITE),
        (nan, target, Status.NON_FINITE),
        (invalid, target, Status.INVALID),
        (overloaded, target, Status.INFEASIBLE),
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(w for w, _, _ in lanes))
    targets = jnp.array([t for _, t, _ in lanes])
    multiplier, answer = all_lanes(case)(stacked, targets)
    assert [Status(int(s)) for s in answer.status] == [s for _, _, s in lanes]
    failed = np.array([status != Status.CONVERGED for _, _, status in lanes])
    np.testing.assert_array_equal(np.isnan(multiplier), failed)
    np.testing.assert_array_equal(answer.tokens[1], workload.min_tokens)
    np.testing.assert_array_equal(np.isnan(answer.tokens[2:5]), True)
    np.testing.assert_array_equal(answer.objective[np.array([1, 5])], -np.inf)
    np.testing.assert_array_equal(np.isinf(answer.residual), failed)

    # NaN derivatives in exactly the failed lanes, in both modes.
    def loss(w, t):
        multiplier, answer = all_lanes(case)(w, t)
        return jnp.sum(answer.tokens) + jnp.sum(multiplier)

    slope = jax.grad(loss)(stacked, targets)
    for name in FIELDS:
        value = np.asarray(getattr(slope, name)).reshape(len(lanes), -1)
        np.testing.assert_array_equal(np.isnan(value).all(axis=1), failed)
        np.testing.assert_array_equal(np.isnan(value).any(axis=1), failed)
    moved = jax.tree.map(jnp.zeros_like, stacked)
    (weight, tangent) = jax.jvp(lambda w: all_lanes(case)(w, targets), (stacked,), (moved,))[1]
    np.testing.assert_array_equal(np.isnan(weight), failed)
    np.testing.assert_array_equal(np.isnan(tangent.tokens).all(axis=1), failed)


def test_an_accuracy_that_only_an_overloaded_server_reaches_is_infeasible():
    """At ρ -> 1 one type has l -> (1/λ - t0) / c tokens and so this accuracy, never reached."""
    workload = Workload.create(
        arrival_rate=1.0, mix=[1.0], gain=0.6, decay=1e-3, floor=0.2, base_time=0.1,
        time_per_token=1e-3, max_tokens=5000.0, accuracy_weight=1.0,
    )  # fmt: skip
    supremum = 0.2 + 0.6 * (1 - np.exp(-1e-3 * 900.0))
    for target, status in (
        (supremum + 1e-3, Status.INFEASIBLE),
        (supremum - 1e-2, Status.CONVERGED),
    ):
        weight, answer = solve_for_accuracy(workload, target)
        assert answer.status == status
        assert np.isnan(weight) == (status == Status.INFEASIBLE)
    assert utilization(workload, answer.tokens) < 1
    # A hair below, either α is beyond what can be solved, and that is said, or the target is met.
    _, answer = solve_for_accuracy(workload, supremum - 1e-13)
    reached = mean_accuracy(workload, answer.tokens)
    assert answer.status != Status.CONVERGED or abs(reached - supremum) < 1e-8


@pytest.mark.parametrize("case", CASES)
def test_the_largest_budgets_can_be_asked_for_exactly(case):
    solve_for, measure = CASES[case]
    workload = dataclasses.replace(lane(0), arrival_rate=jnp.asarray(1e-3))
    _, answer = solve_for(workload, measure(workload, workload.max_tokens))
    assert answer.status == Status.CONVERGED
    if case != "tokens":  # accuracy saturates: fewer tokens can be just as good
        met = measure(workload, answer.tokens)
        np.testing.assert_allclose(met, measure(workload, workload.max_tokens), rtol=1e-12)
    _, answer = solve_for(workload, measure(workload, workload.min_tokens))
    assert answer.status == Status.CONVERGED
    np.testing.assert_allclose(answer.tokens, workload.min_tokens, atol=1e-6)


def test_a_given_price_is_the_price_found():
    targets, moves = reachable(mean_tokens)
    price, found = all_lanes("tokens")(batch(), targets)
    given = jax.vmap(lambda w, p: solve_for_mean_tokens(w, price_per_token=p)[1])(batch(), price)
    np.testing.assert_allclose(given.tokens[moves], found.tokens[moves], atol=1e-6)
    np.testing.assert_allclose(given.objective[moves], found.objective[moves], rtol=1e-9)
    free, _ = reachable(mean_tokens, 1.0)
    paid = jax.vmap(mean_tokens)(batch(), given.tokens)
    assert np.all(paid <= free * (1 + 1e-12))
    with pytest.raises(ValueError, match="give one of them"):
        solve_for_mean_tokens(lane(0))
    with pytest.raises(ValueError, match="give one of them"):
        solve_for_mean_tokens(lane(0), 1.0, price_per_token=1.0)


def test_a_price_per_token_satisfies_its_own_optimality_conditions():
    """π (α A b e^{-bl} - c m - μ) = 0 at a free coordinate, by plain differentiation of J."""
    price = 1e-3
    answer = jax.vmap(lambda w: solve_for_mean_tokens(w, price_per_token=price)[1])(batch())
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    slope = jax.vmap(jax.grad(jaxalloc.objective, argnums=1))(batch(), answer.tokens)
    slope = np.asarray(slope / batch().mix - price)
    at_min = np.asarray(answer.tokens <= batch().min_tokens)
    at_max = np.asarray(answer.tokens >= batch().max_tokens)
    violated = np.where(at_min, np.maximum(slope, 0), np.where(at_max, np.minimum(slope, 0), slope))
    assert 0.2 < np.mean(~at_min & ~at_max) < 0.8
    assert np.abs(violated).max() < 1e-10


def interior(case):
    solve_for, measure = CASES[case]
    targets, moves = reachable(measure)
    _, answer = jax.vmap(solve_for)(batch(), targets)
    margin = np.minimum(answer.tokens - batch().min_tokens, batch().max_tokens - answer.tokens)
    margin = np.where(margin > 0, margin, np.inf) / np.asarray(batch().max_tokens)
    free = np.sum(np.isfinite(margin), axis=1)
    rho = np.asarray(jax.vmap(utilization)(batch(), answer.tokens))
    good = moves & (margin.min(axis=1) > 0.03) & (free >= 2) & (rho < 0.6)
    chosen = np.flatnonzero(good)[:20]
    assert len(chosen) >= 5
    return jax.tree.map(lambda leaf: leaf[chosen], batch()), targets[chosen]


@pytest.mark.parametrize("case", TWO_CASES)
def test_derivatives_are_differences(case):
    solve_for, _ = CASES[case]
    workload, targets = interior(case)
    function = jax.jit(jax.vmap(lambda w, t: (lambda m, a: (m, a.tokens))(*solve_for(w, t))))
    rng = np.random.default_rng(0)
    for name in (*FIELDS, "target"):
        moved, target_moved = jax.tree.map(jnp.zeros_like, workload), jnp.zeros_like(targets)
        if name == "target":
            target_moved = targets * rng.uniform(0.5, 1, targets.shape)
        else:
            value = getattr(workload, name)
            factor = rng.uniform(-1, 1, value.shape)
            moved = dataclasses.replace(moved, **{name: value * factor})
        tangent = jax.jvp(function, (workload, targets), (moved, target_moved))[1]
        step = 1e-4
        points = [
            function(
                jax.tree.map(lambda a, b, h=far * step: a + h * b, workload, moved),
                targets + far * step * target_moved,
            )
            for far in (1, -1, 2, -2)
        ]
        slopes = [
            (8 * (up - down) - (far_up - far_down)) / (12 * step)
            for up, down, far_up, far_down in zip(*points, strict=True)
        ]
        for exact, difference in zip(tangent, slopes, strict=True):
            scale = (
                np.abs(exact)
                .reshape(len(targets), -1)
                .max(axis=1)
                .reshape(-1, *[1] * (exact.ndim - 1))
            )
            floor = (
                1e-9 * np.abs(np.asarray(workload.max_tokens)).max() if exact.ndim == 2 else 1e-8
            )
            assert np.all(np.abs(exact - difference) <= 1e-5 * scale + floor), (name, exact.ndim)


@pytest.mark.parametrize("case", TWO_CASES)
def test_both_modes_and_second_derivatives(case):
    solve_for, _ = CASES[case]
    workloads, targets = interior(case)
    workload, target = jax.tree.map(lambda leaf: leaf[0], workloads), targets[0]

    def value(rate, goal):
        moved = dataclasses.replace(workload, arrival_rate=rate)
        multiplier, answer = solve_for(moved, goal)
        return jnp.sum(answer.tokens) / 1e3 + multiplier

    at = workload.arrival_rate, target
    for argument in (1,) if case == "time" else (0,):  # each compiles for a while
        forward = jax.jit(jax.jacfwd(value, argument))(*at)
        slope = jax.jit(jax.jacrev(value, argument))
        np.testing.assert_allclose(forward, slope(*at), rtol=1e-9)
        second = jax.jit(jax.jacfwd(slope, argument))
        step = 1e-4 * float(at[argument])
        points = [
            slope(*(x + far * step * (i == argument) for i, x in enumerate(at)))
            for far in (1, -1, 2, -2)
        ]
        difference = (8 * (points[0] - points[1]) - (points[2] - points[3])) / (12 * step)
        np.testing.assert_allclose(second(*at), difference, rtol=1e-5)


def test_single_precision_meets_its_targets():
    workload = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), batch(50))
    for solve_for, measure in CASES.values():
        low = jax.vmap(measure)(workload, workload.min_tokens)
        high = jax.vmap(measure)(workload, jaxalloc.solve_batch(workload).tokens)
        target = (low + high) / 2
        multiplier, answer = jax.vmap(solve_for)(workload, target)
        assert multiplier.dtype == answer.tokens.dtype == jnp.float32
        solved = np.asarray(answer.status) == Status.CONVERGED
        assert solved.mean() > 0.9
        met = jax.vmap(measure)(workload, answer.tokens)
        np.testing.assert_allclose(met[solved], target[solved], rtol=2e-4)
