"""Caps and goals: the target is met, nothing better meets it, statuses are honest, derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from convert import lane, stack
from derivatives import FIELDS

import jaxalloc
from jaxalloc import (
    Status,
    Workload,
    mean_accuracy,
    mean_system_time,
    solve_for_accuracy,
    solve_for_mean_tokens,
    solve_for_system_time,
    utilization,
)

LANES = 48


def mean_tokens(workload, tokens):
    return jnp.sum(workload.mix * tokens)


CASES = {
    "time": (solve_for_system_time, mean_system_time),
    "accuracy": (solve_for_accuracy, mean_accuracy),
    "tokens": (solve_for_mean_tokens, mean_tokens),
}
TWO_CASES = ("time", "tokens")  # an accuracy is found by the same root as a time


@functools.cache
def batch():
    return Workload.create(**problems.random_workloads(11, LANES, 4))


@functools.cache
def best():
    return jaxalloc.solve_batch(batch())


@functools.cache
def all_lanes(case):
    """`solve_for` over `LANES` lanes, compiled once for all tests."""
    return jax.jit(jax.vmap(CASES[case][0]))


def ask(case, asked):
    """Multipliers and answers of some (workload, target), as many lanes as everywhere."""
    filled = list(asked) + [asked[0]] * (LANES - len(asked))
    workloads, targets = stack([w for w, _ in filled]), jnp.array([float(t) for _, t in filled])
    found = jax.tree.map(np.asarray, all_lanes(case)(workloads, targets))
    return [lane(found, i) for i in range(len(asked))]


@functools.cache
def values(case):
    return jax.jit(jax.vmap(CASES[case][1]))


def reachable(case, share=0.5):
    """Targets [N] that some optimum has: `share` of the way from min_tokens to an optimum."""
    low, high = (values(case)(batch(), at) for at in (batch().min_tokens, best().tokens))
    return low + share * (high - low), np.asarray(high - low) > 1e-9 * np.asarray(high)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_the_target_is_met_by_an_optimum(case, share):
    targets, moves = reachable(case, share)
    multiplier, answer = all_lanes(case)(batch(), targets)
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    met = values(case)(batch(), answer.tokens)
    np.testing.assert_allclose(met[moves], targets[moves], rtol=1e-8)
    if case == "tokens":
        assert np.all(multiplier >= 0)
        assert share == 1 or np.all(multiplier[moves] > 0)
        weighted = batch()
    else:
        # The multiplier is the weight: solving with it gives the same optimum.
        slack = np.isinf(multiplier)
        assert slack.sum() <= (2 if share == 1 else 0)  # optima with every type at its largest
        np.testing.assert_array_equal(answer.tokens[slack], batch().max_tokens[slack])
        moves &= ~slack
        weighted = dataclasses.replace(batch(), accuracy_weight=multiplier)
        again = jaxalloc.solve_batch(weighted)
        scale = np.asarray(batch().max_tokens)[moves]
        assert np.all(np.abs(again.tokens - answer.tokens)[moves] <= 1e-9 * scale)
    value = jax.vmap(jaxalloc.objective)(weighted, answer.tokens)
    np.testing.assert_allclose(answer.objective[moves], value[moves], rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_no_other_budgets_do_better(case):
    """Near and far, whatever meets the cap or the goal is worth no more than what was found."""
    targets, moves = reachable(case)
    _, answer = all_lanes(case)(batch(), targets)
    rng, shape = np.random.default_rng(0), (1000, *answer.tokens.shape)
    low, high = batch().min_tokens[None], batch().max_tokens[None]
    skew = rng.choice([0.3, 1.0, 3.0], (1000, 1, 1))  # towards many tokens, or few
    anywhere = low + (high - low) * rng.uniform(0, 1, shape) ** skew
    near = np.geomspace(1e-5, 1, 1000)[:, None, None]  # how far from the answer
    found = answer.tokens[None]
    others = jnp.clip(found + near * (anywhere - found), low, high)
    gained = {
        "time": mean_accuracy,
        "accuracy": lambda w, x: -mean_system_time(w, x),
        "tokens": jaxalloc.objective,
    }[case]
    sign = 1 if case == "accuracy" else -1

    def judged(workload, target, tokens, best):
        """Whether tokens meet the target, and what they gain."""
        room = sign * (CASES[case][1](workload, tokens) - target)
        return room >= 0, gained(workload, tokens) - gained(workload, best)

    lanes = jax.vmap(judged, (0, 0, 0, 0))
    meets, more = jax.jit(jax.vmap(lanes, (None, None, 0, None)))(
        batch(), targets, others, answer.tokens
    )
    assert np.mean(meets[:, moves]) > 0.03
    scale = 1 + np.abs(jax.vmap(gained)(batch(), answer.tokens))
    assert np.all(np.where(meets, more, -1)[:, moves] <= 1e-7 * scale[None, moves])


def test_slack_caps_give_the_unconstrained_answer():
    workload, tokens = lane(batch(), 0), best().tokens[0]
    # Time: the whole box is stable at this rate, so that the largest budgets can be had.
    calm = dataclasses.replace(
        workload, arrival_rate=jnp.asarray(1e-3), gain=workload.gain.at[1].set(0.0)
    )
    ((weight, answer),) = ask("time", [(calm, 1e6)])
    assert (weight, answer.status) == (np.inf, Status.CONVERGED)
    expected = np.where(np.arange(4) == 1, calm.min_tokens, calm.max_tokens)
    np.testing.assert_array_equal(answer.tokens, expected)
    # Accuracy: asked for no more than min_tokens give.
    ((weight, answer),) = ask("accuracy", [(workload, 0.0)])
    assert (weight, answer.status) == (0.0, Status.CONVERGED)
    np.testing.assert_array_equal(answer.tokens, workload.min_tokens)
    # Tokens.
    caps = (1e9, np.inf, float(mean_tokens(workload, tokens)) * (1 + 1e-9))
    for price, answer in ask("tokens", [(workload, cap) for cap in caps]):
        assert (price, answer.status) == (0.0, Status.CONVERGED)
        np.testing.assert_array_equal(answer.tokens, tokens)
        np.testing.assert_allclose(answer.objective, best().objective[0], rtol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_the_largest_and_the_least_budgets_can_be_asked_for_exactly(case):
    measure = CASES[case][1]
    calm = dataclasses.replace(lane(batch(), 0), arrival_rate=jnp.asarray(1e-3))
    most, least = measure(calm, calm.max_tokens), measure(calm, calm.min_tokens)
    (_, at_most), (_, at_least) = ask(case, [(calm, most), (calm, least)])
    assert at_most.status == at_least.status == Status.CONVERGED
    if case != "tokens":  # accuracy saturates: fewer tokens can be just as good
        np.testing.assert_allclose(measure(calm, at_most.tokens), most, rtol=1e-12)
    np.testing.assert_allclose(at_least.tokens, calm.min_tokens, atol=1e-6)


@functools.cache
def slopes(case):
    """The gradient of all that `solve_for` finds, of all lanes together."""

    def loss(workloads, targets):
        multiplier, answer = all_lanes(case)(workloads, targets)
        return jnp.sum(answer.tokens) + jnp.sum(multiplier)

    return jax.jit(jax.grad(loss))


@functools.cache
def moved(case):
    """What `solve_for` finds, and how that moves in a direction."""

    def found(workloads, targets):
        multiplier, answer = all_lanes(case)(workloads, targets)
        return multiplier, answer.tokens

    return jax.jit(lambda at, direction: jax.jvp(found, at, direction))


@pytest.mark.parametrize("case", CASES)
def test_statuses_of_targets_and_workloads_without_an_answer(case):
    measure = CASES[case][1]
    workload = dataclasses.replace(lane(batch(), 3), min_tokens=jnp.full(4, 10.0))
    low = float(measure(workload, workload.min_tokens))
    unreachable = 1.5 if case == "accuracy" else 0.99 * low
    nan = dataclasses.replace(workload, gain=workload.gain.at[0].set(jnp.nan))
    invalid = dataclasses.replace(workload, decay=workload.decay.at[0].set(-1.0))
    overloaded = dataclasses.replace(workload, arrival_rate=jnp.asarray(1e6))
    target = 0.5 * (low + float(measure(workload, best().tokens[3])))
    asked = [
        (workload, target, Status.CONVERGED),
        (workload, unreachable, Status.INFEASIBLE),
        (workload, jnp.nan, Status.NON_FINITE),
        (nan, target, Status.NON_FINITE),
        (invalid, target, Status.INVALID),
        (overloaded, target, Status.INFEASIBLE),
    ]
    asked += asked[:1] * (LANES - len(asked))
    given = stack([w for w, _, _ in asked]), jnp.array([t for _, t, _ in asked])
    multiplier, answer = all_lanes(case)(*given)
    assert [Status(int(s)) for s in answer.status] == [s for _, _, s in asked]
    failed = np.array([status != Status.CONVERGED for _, _, status in asked])
    np.testing.assert_array_equal(np.isnan(multiplier), failed)
    np.testing.assert_array_equal(answer.tokens[1], workload.min_tokens)
    np.testing.assert_array_equal(np.isnan(answer.tokens[2:5]), True)
    np.testing.assert_array_equal(answer.objective[np.array([1, 5])], -np.inf)
    np.testing.assert_array_equal(np.isinf(answer.residual), failed)
    if case not in TWO_CASES:
        return
    # NaN derivatives in exactly the failed lanes, in both modes.
    reverse = slopes(case)(*given)
    for name in FIELDS:
        value = np.asarray(getattr(reverse, name)).reshape(LANES, -1)
        np.testing.assert_array_equal(np.isnan(value).all(axis=1), failed)
        np.testing.assert_array_equal(np.isnan(value).any(axis=1), failed)
    weight, tokens = moved(case)(given, jax.tree.map(jnp.zeros_like, given))[1]
    np.testing.assert_array_equal(np.isnan(weight), failed)
    np.testing.assert_array_equal(np.isnan(tokens).all(axis=1), failed)


def test_an_accuracy_that_only_an_overloaded_server_reaches_is_infeasible():
    """At ρ -> 1 types all alike have l -> (1/λ - t0) / c tokens and this accuracy."""
    workload = Workload.create(
        arrival_rate=1.0, mix=[0.25] * 4, gain=0.6, decay=1e-3, floor=0.2, base_time=0.1,
        time_per_token=1e-3, max_tokens=5000.0, accuracy_weight=1.0,
    )  # fmt: skip
    supremum = 0.2 + 0.6 * (1 - np.exp(-1e-3 * 900.0))
    above, below, at = ask("accuracy", [(workload, supremum + x) for x in (1e-3, -1e-2, -1e-13)])
    assert (above[1].status, below[1].status) == (Status.INFEASIBLE, Status.CONVERGED)
    assert np.isnan(above[0])
    assert np.isfinite(below[0])
    assert utilization(workload, below[1].tokens) < 1
    # A hair below, either α is beyond what can be solved, and that is said, or the target is met.
    reached = mean_accuracy(workload, at[1].tokens)
    assert at[1].status != Status.CONVERGED or abs(reached - supremum) < 1e-8


@functools.cache
def at_prices():
    return jax.jit(jax.vmap(lambda w, p: solve_for_mean_tokens(w, price_per_token=p)[1]))


def test_a_given_price_is_the_price_found():
    targets, moves = reachable("tokens")
    price, found = all_lanes("tokens")(batch(), targets)
    given = at_prices()(batch(), price)
    np.testing.assert_allclose(given.tokens[moves], found.tokens[moves], atol=1e-6)
    np.testing.assert_allclose(given.objective[moves], found.objective[moves], rtol=1e-9)
    for both in ({}, {"mean_tokens": 1.0, "price_per_token": 1.0}):
        with pytest.raises(ValueError, match="give one of them"):
            solve_for_mean_tokens(lane(batch(), 0), **both)


def test_a_price_per_token_satisfies_its_own_optimality_conditions():
    """π (α A b e^{-bl} - c m - μ) = 0 at a free coordinate, by plain differentiation of J."""
    price = 1e-3
    answer = at_prices()(batch(), jnp.full(LANES, price))
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    slope = jax.vmap(jax.grad(jaxalloc.objective, argnums=1))(batch(), answer.tokens)
    slope = np.asarray(slope / batch().mix - price)
    at_min = np.asarray(answer.tokens <= batch().min_tokens)
    at_max = np.asarray(answer.tokens >= batch().max_tokens)
    violated = np.where(at_min, np.maximum(slope, 0), np.where(at_max, np.minimum(slope, 0), slope))
    assert 0.2 < np.mean(~at_min & ~at_max) < 0.8
    assert np.abs(violated).max() < 1e-10


def interior(case):
    """Lanes whose free types are far from their bounds, over and over, and their targets."""
    targets, moves = reachable(case)
    _, answer = all_lanes(case)(batch(), targets)
    margin = np.minimum(answer.tokens - batch().min_tokens, batch().max_tokens - answer.tokens)
    margin = np.where(margin > 0, margin, np.inf) / np.asarray(batch().max_tokens)
    free = np.sum(np.isfinite(margin), axis=1)
    rho = np.asarray(jax.vmap(utilization)(batch(), answer.tokens))
    good = np.flatnonzero(moves & (margin.min(axis=1) > 0.03) & (free >= 2) & (rho < 0.6))
    assert len(good) >= 4
    chosen = np.resize(good, LANES)
    return lane(batch(), chosen), targets[chosen]


@pytest.mark.parametrize("case", TWO_CASES)
def test_derivatives_are_differences(case):
    """Along random directions in which every field moves, another one in each lane."""
    rng, step, at = np.random.default_rng(0), 1e-4, interior(case)
    direction = jax.tree.map(lambda x: jnp.asarray(x * rng.uniform(-1, 1, x.shape)), at)
    still = jax.tree.map(jnp.zeros_like, at)

    def there(far):
        return moved(case)(jax.tree.map(lambda x, d: x + far * step * d, at, direction), still)[0]

    exact = moved(case)(at, direction)[1]
    for slope, up, down, far_up, far_down in zip(exact, *map(there, (1, -1, 2, -2)), strict=True):
        difference = (8 * (up - down) - (far_up - far_down)) / (12 * step)
        scale = np.abs(slope).reshape(LANES, -1).max(axis=1).reshape(-1, *[1] * (slope.ndim - 1))
        floor = 1e-9 * np.abs(at[0].max_tokens).max() if slope.ndim == 2 else 1e-8
        assert np.all(np.abs(slope - difference) <= 1e-5 * scale + floor)
    # The other mode: ⟨∇ Σ, d⟩ is the sum of what moved.
    reverse, forward = slopes(case)(*at), sum(jnp.sum(leaf) for leaf in exact)
    inner = sum(
        jnp.sum(a * b)
        for a, b in zip(jax.tree.leaves(reverse), jax.tree.leaves(direction[0]), strict=True)
    )
    of_targets = sum(jnp.sum(leaf) for leaf in moved(case)(at, (still[0], direction[1]))[1])
    np.testing.assert_allclose(inner + of_targets, forward, rtol=1e-8)


def test_second_derivatives():
    workloads, targets = interior("time")
    workload, target = lane(workloads, 0), targets[0]

    def value(goal):
        multiplier, answer = solve_for_system_time(workload, goal)
        return jnp.sum(answer.tokens) / 1e3 + multiplier

    slope, step = jax.jit(jax.grad(value)), 1e-4 * float(target)
    up, down, far_up, far_down = (slope(target + far * step) for far in (1, -1, 2, -2))
    difference = (8 * (up - down) - (far_up - far_down)) / (12 * step)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(slope))(target), difference, rtol=1e-5)


@pytest.mark.parametrize("case", ["accuracy", "tokens"])
def test_single_precision_meets_its_targets(case):
    workload = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), batch())
    targets = reachable(case)[0].astype(jnp.float32)
    multiplier, answer = all_lanes(case)(workload, targets)
    assert multiplier.dtype == answer.tokens.dtype == jnp.float32
    solved = np.asarray(answer.status) == Status.CONVERGED
    assert solved.mean() > 0.9
    met = values(case)(workload, answer.tokens)
    np.testing.assert_allclose(met[solved], targets[solved], rtol=2e-4)
