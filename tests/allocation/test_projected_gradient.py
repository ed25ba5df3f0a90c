"""Projected gradient: its bounds hold, its projection is one, its certified rate is kept."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize
from convert import as_workload, lane, stack
from problems import lanes, random_workloads

from jaxalloc import Newton, ProjectedGradient, Status, lipschitz_bound, solve, solve_batch
from jaxalloc.allocation.model.objective import curvature, evaluate
from jaxalloc.allocation.solvers.projected_gradient import project, stable_margin

CERTIFIED = ProjectedGradient(certified=True)
FIELDS = random_workloads(71, 200)


def largest_eigenvalue(workload, tokens):
    c = curvature(workload, tokens)
    cross = jnp.outer(c.u, c.v)
    rank_two = c.cross * (cross + cross.T) + c.square * jnp.outer(c.u, c.u)
    return jnp.linalg.eigvalsh(jnp.diag(c.diagonal) + rank_two)[-1]


def on_the_stable_set(fields, margin, rng):
    """Random tokens in the box with 1 - ρ >= margin, half of them on its edge, [N, K]."""
    low, high = fields["min_tokens"], fields["max_tokens"]
    step = rng.random(low.shape) * (high - low)
    idle = oracles.queue(oracles.cast(fields, np.float64), low)[3]
    used = fields["arrival_rate"] * np.sum(fields["mix"] * fields["time_per_token"] * step, axis=1)
    share = np.minimum(1, (idle - margin) / used * rng.choice([0.5, 1.0], len(used)))
    return low + share[:, None] * step


def test_the_bound_is_above_the_curvature_everywhere():
    workloads = as_workload(FIELDS)
    bound = np.asarray(jax.vmap(lipschitz_bound)(workloads))
    margin = np.asarray(jax.vmap(stable_margin)(workloads))
    rng = np.random.default_rng(72)
    points = [on_the_stable_set(FIELDS, margin, rng) for _ in range(20)]
    points.append(FIELDS["min_tokens"])
    for tokens in points:
        steepest = jax.vmap(largest_eigenvalue)(workloads, jnp.asarray(tokens))
        assert np.all(steepest <= bound * (1 + 1e-9))


def test_the_bounds_by_hand():
    # One type without traffic: the steepest accuracy, α A b².
    fields = {
        name: value[0, ..., :1] if value.ndim > 1 else value[0] for name, value in FIELDS.items()
    }
    fields |= {"mix": np.ones(1), "arrival_rate": np.asarray(0.0)}
    expected = fields["accuracy_weight"] * fields["gain"][0] * fields["decay"][0] ** 2
    assert float(lipschitz_bound(as_workload(fields))) == pytest.approx(expected, rel=1e-12)
    assert float(stable_margin(as_workload(fields))) == 1.0


def test_the_optimum_keeps_the_margin():
    margin = np.asarray(jax.vmap(stable_margin)(as_workload(FIELDS)))
    answer = np.asarray(solve_batch(as_workload(FIELDS)).tokens)
    idle = oracles.queue(oracles.cast(FIELDS), answer.astype(np.longdouble))[3]
    assert np.all(margin > 0)
    assert np.all(margin <= idle * (1 + 1e-12))


def projected_by_scipy(fields, tokens, least_idle):
    """The multiplier of the load by a scalar root finder, the box by clipping."""
    load = fields["mix"] * fields["time_per_token"]
    base = fields["arrival_rate"] * np.sum(fields["mix"] * fields["base_time"])

    def clipped(nu):
        return np.clip(tokens - nu * load, fields["min_tokens"], fields["max_tokens"])

    def excess(nu):
        return base + fields["arrival_rate"] * (load @ clipped(nu)) - (1 - least_idle)

    if excess(0.0) <= 0:
        return clipped(0.0)
    most = np.max((tokens - fields["min_tokens"])[load > 0] / load[load > 0])
    return clipped(scipy.optimize.brentq(excess, 0, most, xtol=1e-300, rtol=1e-15))


def test_the_projection_is_the_nearest_point_of_the_stable_box():
    rng = np.random.default_rng(73)
    bound = 0
    for index in range(60):
        fields = lane(FIELDS, index)
        low, high = fields["min_tokens"], fields["max_tokens"]
        workload = as_workload(fields)
        least = 0.5 * (
            1
            - float(
                fields["arrival_rate"]
                * fields["mix"]
                @ (fields["base_time"] + fields["time_per_token"] * low)
            )
        )
        start = low + (high - low) * rng.uniform(-0.5, 1.5, 6)
        got = np.asarray(project(workload, jnp.asarray(start), jnp.asarray(least)))
        assert np.all((low <= got) & (got <= high))
        np.testing.assert_allclose(
            got, projected_by_scipy(fields, start, least), rtol=1e-7, atol=1e-6
        )
        load = fields["arrival_rate"] * fields["mix"] * fields["time_per_token"]
        room = 1 - least - fields["arrival_rate"] * (fields["mix"] @ fields["base_time"])
        assert load @ got <= room * (1 + 1e-12)
        bound += abs(load @ got / room - 1) < 1e-9
        if index < 5:  # and by a general solver of the quadratic program, in units of the box
            width = high - low
            x = cvxpy.Variable(6)
            distance = cvxpy.sum_squares(
                cvxpy.multiply(width / width.max(), x - (start - low) / width)
            )
            inside = [x >= 0, x <= 1, (load * width / room) @ x <= 1 - load @ low / room]
            cvxpy.Problem(cvxpy.Minimize(distance), inside).solve(solver=cvxpy.CLARABEL)
            np.testing.assert_allclose(got, low + width * x.value, atol=1e-3 * width.max())
    assert 10 < bound < 55  # the halfspace cuts on some lanes and not on others


def slow_but_certain(n=40):
    """Servers whose bound L is not far above the curvature, from l_min."""
    fields = lanes(FIELDS, slice(0, n))
    return {**fields, "arrival_rate": fields["arrival_rate"] * 0.1}


def test_the_gap_stays_below_its_bound_at_every_step():
    fields = slow_but_certain()
    workloads = as_workload(fields)
    best = np.asarray(solve_batch(workloads).tokens)
    bound = np.asarray(jax.vmap(lipschitz_bound)(workloads))
    start = fields["min_tokens"]
    away = np.sum((start - best) ** 2, axis=1)
    optimum = oracles.objective(fields, best)
    last = None
    for count in (1, 2, 3, 5, 10, 50, 200, 1000):
        solver = ProjectedGradient(certified=True, max_steps=count, tolerance=0.0)
        answer = solve_batch(workloads, solver, jnp.asarray(start))
        taken = np.asarray(answer.steps)
        gap = optimum - oracles.objective(fields, np.asarray(answer.tokens))
        going = taken == count  # lanes that stalled are at the optimum to the last bit
        noise = 1e-14 * np.abs(optimum)
        assert np.all(gap[going] <= (bound * away / (2 * count) + noise)[going])
        assert np.all(gap >= -noise)
        if last is not None:
            assert np.all(gap <= last + noise)
        last = gap


def test_every_single_step_of_the_certified_variant():
    """Each iterate, not the best by residual: J rises, by 1/L as the theory says."""
    fields = slow_but_certain(10)
    workloads = as_workload(fields)

    @jax.jit
    @jax.vmap
    def trace(workload):
        def advance(state, _):
            return CERTIFIED.step(workload, state), state.point.tokens

        state = CERTIFIED.init(workload, evaluate(workload, workload.min_tokens))
        return jax.lax.scan(advance, state, None, length=300)[1]

    path = np.asarray(trace(workloads))
    best = np.asarray(solve_batch(workloads).tokens)
    bound = np.asarray(jax.vmap(lipschitz_bound)(workloads))
    away = np.sum((path[:, 0] - best) ** 2, axis=1)
    optimum = oracles.objective(fields, best)
    values = np.stack([oracles.objective(fields, path[:, n]) for n in range(300)])
    noise = 1e-14 * np.abs(optimum)
    assert np.all(np.diff(values, axis=0) >= -noise)
    counts = np.arange(1, 300)[:, None]
    assert np.all(optimum - values[1:] <= bound * away / (2 * counts) + noise)


def test_the_certified_variant_reaches_newtons_optimum_where_its_bound_says_so():
    fields = slow_but_certain(200)
    # A box so narrow about the optimum that the bound gets to tolerance within the cap.
    best = np.asarray(solve_batch(as_workload(fields)).tokens)
    width = 1e-3 / fields["decay"]
    fields["min_tokens"] = np.maximum(fields["min_tokens"], best - width)
    fields["max_tokens"] = np.minimum(fields["max_tokens"], best + width)
    workloads = as_workload(fields)
    best = solve_batch(workloads)
    solver = ProjectedGradient(certified=True, max_steps=3000)
    answer = solve_batch(workloads, solver, workloads.min_tokens)
    bound = np.asarray(jax.vmap(lipschitz_bound)(workloads))
    away = np.sum(np.square(best.tokens - workloads.min_tokens), axis=1)
    tolerance = 1e-8 * np.abs(np.asarray(best.objective))
    certain = bound * away / (2 * solver.max_steps) <= tolerance
    assert certain.sum() > 50
    values = [oracles.objective(fields, np.asarray(found.tokens)) for found in (best, answer)]
    assert np.all((values[0] - values[1])[certain] <= tolerance[certain])
    said = np.asarray(answer.status) == Status.CONVERGED
    assert said.sum() > 20
    np.testing.assert_allclose(answer.tokens[said], best.tokens[said], rtol=1e-5)


@pytest.mark.parametrize("solver", [ProjectedGradient(max_steps=500), CERTIFIED])
def test_no_lane_says_converged_and_is_not(solver):
    answer = jax.tree.map(np.asarray, solve_batch(as_workload(FIELDS), solver))
    said = answer.status == Status.CONVERGED
    truth = oracles.residual(FIELDS, answer.tokens)
    assert np.all(truth[said] <= 1e-8)
    assert np.all(np.isfinite(truth))  # it never leaves the stable set nor the box
    best = oracles.objective(FIELDS, np.asarray(solve_batch(as_workload(FIELDS), Newton()).tokens))
    value = oracles.objective(FIELDS, answer.tokens)
    assert np.all(value <= best + 1e-14 * np.abs(best))
    if not solver.certified:
        assert said.mean() > 0.3


def test_nothing_to_gain_and_no_traffic():
    """L = 0: the step is infinite, the optimum is l_min."""
    fields = lane(FIELDS, 0) | {"gain": np.zeros(6), "arrival_rate": np.asarray(0.0)}
    unasked = fields | {"mix": np.array([0.5, 0.5, 0, 0, 0, 0])}
    start = stack([jnp.asarray(fields["max_tokens"])] * 2)
    answer = solve_batch(stack([as_workload(fields), as_workload(unasked)]), CERTIFIED, start)
    assert answer.status[0] == Status.CONVERGED
    np.testing.assert_array_equal(answer.tokens[0], fields["min_tokens"])
    assert np.all(np.isfinite(answer.tokens))


def test_the_backtracking_variant_finds_the_optimum_of_a_light_load():
    fields = slow_but_certain(60)
    answer = solve_batch(as_workload(fields), ProjectedGradient())
    best = solve_batch(as_workload(fields))
    said = np.asarray(answer.status) == Status.CONVERGED
    assert said.mean() > 0.6
    np.testing.assert_allclose(answer.tokens[said], best.tokens[said], rtol=1e-5, atol=1e-2)
    one = as_workload(lane(fields, int(np.argmax(said))))
    assert solve(one, ProjectedGradient()).status == Status.CONVERGED
