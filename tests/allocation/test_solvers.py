"""The fixed point and projected gradients: their bounds hold, and they say where they fail."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import LANES, NEWTON, as_workload, side_by_side, solve_all
from problems import priced, qwen3_8b, random_workloads

from jaxalloc import (
    FixedPoint,
    ProjectedGradient,
    Status,
    contraction_bound,
    lipschitz_bound,
    objective,
)
from jaxalloc.allocation.model.objective import evaluate
from jaxalloc.allocation.solvers.projected_gradient import project, stable_margin

FIELDS = random_workloads(71, LANES)
PLAIN = FixedPoint(exact_own_time=False)
CERTIFIED = ProjectedGradient(certified=True)
SOLVERS = [PLAIN, FixedPoint(), ProjectedGradient(max_steps=500), CERTIFIED]


@jax.jit
@jax.vmap
def bounds(workload):
    return contraction_bound(workload), lipschitz_bound(workload), stable_margin(workload)


def bounds_of(fields):
    return [np.asarray(bound) for bound in bounds(as_workload(fields))]


def path_of(solver, fields, start, steps):
    """Every iterate, not the best by residual, [steps, N, K]."""

    @jax.jit
    @jax.vmap
    def trace(workload, tokens):
        def advance(state, _):
            return solver.step(workload, state), state.point.tokens

        state = solver.init(workload, evaluate(workload, tokens))
        return jax.lax.scan(advance, state, None, length=steps)[1]

    return np.moveaxis(np.asarray(trace(as_workload(fields), jnp.asarray(start))), 1, 0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_lane_says_converged_and_is_not(solver):
    fields = priced(FIELDS)
    answer, best = solve_all(fields, solver), solve_all(fields)
    said = answer.status == Status.CONVERGED
    truth = oracles.residual(fields, answer.tokens)
    assert truth[said].max(initial=0) <= 1e-8
    assert np.all(answer.residual[~said] > 1e-8)
    assert np.all(np.isfinite(truth))  # it never leaves the stable set nor the box
    assert solver == CERTIFIED or 0.25 < said.mean() < 1.0
    np.testing.assert_allclose(answer.tokens[said], best.tokens[said], rtol=1e-5, atol=1e-2)
    assert np.all(answer.objective <= best.objective + 1e-12 * np.abs(best.objective))


def light():
    """Random servers with so little traffic that most boxes are stable and the map contracts."""
    rate = 10.0 ** np.random.default_rng(61).uniform(-4, 0, LANES) * 0.05
    return {**FIELDS, "arrival_rate": rate}


@pytest.mark.parametrize("solver", [PLAIN, FixedPoint()])
def test_where_the_certificate_says_so_each_step_contracts_at_its_rate(solver):
    fields = light()
    certain = (bound := bounds_of(fields)[0]) < 1
    assert certain.sum() > LANES // 4
    assert bound[certain].max() > 0.8  # some only just
    answer, best = solve_all(fields, solver), solve_all(fields).tokens
    np.testing.assert_array_equal(answer.status[certain], Status.CONVERGED)
    path = path_of(solver, fields, fields["max_tokens"], 12)[:, certain]
    away = np.max(np.abs(path - best[certain]), axis=2)
    assert np.all(away[1:] <= bound[certain] * away[:-1] * (1 + 1e-9) + 1e-6)
    if solver is PLAIN:  # clip(ln(α A b / (c m)) / b), from the mathematics
        few = {name: value[certain] for name, value in fields.items()}
        steepest, _ = oracles.balance(few, np.zeros_like(path[0]), np.float64)
        _, down = oracles.balance(few, path[0], np.float64)
        target = np.log(steepest / down) / few["decay"]
        expected = np.clip(target, few["min_tokens"], few["max_tokens"])
        np.testing.assert_allclose(path[1], expected, rtol=1e-9, atol=1e-6)


def test_the_contraction_bound_holds_all_over_the_box():
    fields = light()
    bound = bounds_of(fields)[0]

    @jax.jit
    @jax.vmap
    def norm(workload, tokens):
        def unclipped(tokens):
            return tokens + evaluate(workload, tokens).imbalance / workload.decay

        return jnp.abs(jax.jacfwd(unclipped)(tokens)).sum(axis=1).max()

    low, width = fields["min_tokens"], fields["max_tokens"] - fields["min_tokens"]
    rng = np.random.default_rng(64)
    known = np.isfinite(bound)
    assert known.sum() > 50
    for share in (0.0, 1.0, *rng.random((10, LANES, 6))):
        found = np.asarray(norm(as_workload(fields), jnp.asarray(low + share * width)))
        assert np.all(found[known] <= bound[known] * (1 + 1e-9))


def test_where_the_iteration_cycles_it_says_so():
    fields = side_by_side([qwen3_8b(0.1)])
    assert np.all(bounds_of(fields)[0] > 1)  # spectral radius 1.05 at the optimum, ρ = 0.22
    answer = solve_all(fields, PLAIN)
    np.testing.assert_array_equal(answer.status, Status.MAX_STEPS)
    np.testing.assert_array_equal(answer.steps, PLAIN.max_steps)
    # Damping makes it converge, to the same tokens.
    damped = solve_all(fields, FixedPoint(exact_own_time=False, damping=0.5))
    np.testing.assert_array_equal(damped.status, Status.CONVERGED)
    np.testing.assert_allclose(damped.tokens, solve_all(fields).tokens, rtol=1e-6)


def by_hand(**changes):
    """One type: t = 1 + 1 = 2 s at l_max, b = c = 1e-3."""
    fields = {
        name: value[..., :1] if value.ndim else value for name, value in qwen3_8b(0.1).items()
    }
    fields |= {"mix": np.ones(1), "base_time": np.ones(1), "time_per_token": np.full(1, 1e-3)}
    fields |= {"max_tokens": np.full(1, 1000.0), "decay": np.full(1, 1e-3)}
    fields |= {name: np.asarray(value) for name, value in changes.items()}
    return [float(bound[0]) for bound in bounds_of({k: v[None] for k, v in fields.items()})]


def test_the_bounds_by_hand():
    # ρ = 0.2, g = 1/8; q = (g κ c + 2 g c + g² κ c t) / b
    assert by_hand()[0] == pytest.approx(3 / 8 + 2 / 64, rel=1e-12)
    assert by_hand(service_cv=[1.0])[0] == pytest.approx(4 / 8 + 4 / 64, rel=1e-12)
    for rate in (0.5, 0.6, 5.0):  # ρ(l_max) = 1 and above
        assert np.isposinf(by_hand(arrival_rate=rate, decay=[1e3])[0])
    # Without traffic the steepest accuracy, α A b², and the whole server is idle.
    _, steepest, margin = by_hand(arrival_rate=0.0, gain=[0.5])
    assert (steepest, margin) == (pytest.approx(30 * 0.5 * 1e-6, rel=1e-12), 1.0)


def test_the_lipschitz_bound_is_above_the_curvature_all_over_the_stable_set():
    _, bound, margin = bounds_of(FIELDS)
    low, high = FIELDS["min_tokens"], FIELDS["max_tokens"]
    idle = oracles.queue(FIELDS, low)[3]
    steepest = jax.jit(
        jax.vmap(lambda w, t: -jnp.linalg.eigvalsh(jax.hessian(objective, 1)(w, t))[0])
    )
    rng = np.random.default_rng(72)
    for count in range(12):
        step = rng.random(low.shape) * (high - low) * (count > 0)
        used = FIELDS["arrival_rate"] * np.sum(
            FIELDS["mix"] * FIELDS["time_per_token"] * step, axis=1
        )
        room = (idle - margin) / np.maximum(used, 1e-300) * rng.choice([0.5, 1.0], LANES)
        tokens = low + np.minimum(1, room)[:, None] * step
        found = steepest(as_workload(FIELDS), jnp.asarray(tokens))
        assert np.all(found <= bound * (1 + 1e-9))
    # The optimum keeps the margin.
    idle = oracles.queue(oracles.cast(FIELDS), solve_all(FIELDS).tokens)[3]
    assert np.all(margin > 0)
    assert np.all(margin <= idle * (1 + 1e-12))


def test_the_projection_is_the_nearest_point_of_the_stable_box():
    low, high = FIELDS["min_tokens"], FIELDS["max_tokens"]
    start = low + (high - low) * np.random.default_rng(73).uniform(-0.5, 1.5, low.shape)
    least = 0.5 * oracles.queue(FIELDS, low)[3]
    projected = jax.jit(jax.vmap(project))
    got = np.asarray(projected(as_workload(FIELDS), jnp.asarray(start), jnp.asarray(least)))
    assert np.all((low <= got) & (got <= high))
    load = FIELDS["arrival_rate"][:, None] * FIELDS["mix"] * FIELDS["time_per_token"]
    room = np.sum(load * low, axis=1) + least
    used = np.sum(load * got, axis=1)
    assert np.all(used <= room * (1 + 1e-12))
    cut = np.abs(used / room - 1) < 1e-9
    assert 0.1 < cut.mean() < 0.9  # the halfspace cuts on some lanes and not on others
    # Nearest: got = clip(start - ν load), with one ν a lane, 0 where nothing is cut.
    inside = (low < got) & (got < high)
    nu = np.where(inside, (start - got) / load, np.nan)
    nu = np.where(inside.any(axis=1), np.nanmax(np.where(inside, nu, -np.inf), axis=1), 0)
    lanes = cut & inside.any(axis=1)
    expected = np.clip(start - np.where(cut, nu, 0)[:, None] * load, low, high)
    np.testing.assert_allclose(got[lanes], expected[lanes], rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(got[~cut], np.clip(start, low, high)[~cut])
    for i in np.flatnonzero(cut)[:3]:  # and by a general solver, in units of the box
        width = high[i] - low[i]
        x = cvxpy.Variable(6)
        away = cvxpy.multiply(width / width.max(), x - (start[i] - low[i]) / width)
        inside = [x >= 0, x <= 1, (load[i] * width / room[i]) @ x <= 1 - load[i] @ low[i] / room[i]]
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(away)), inside).solve(cvxpy.CLARABEL)
        np.testing.assert_allclose(got[i], low[i] + width * x.value, atol=1e-3 * width.max())


def test_the_gap_of_the_certified_variant_stays_below_its_bound_at_every_step():
    fields = {**FIELDS, "arrival_rate": FIELDS["arrival_rate"] * 0.1}
    path = path_of(CERTIFIED, fields, fields["min_tokens"], 100)
    best = solve_all(fields).tokens
    away = np.sum((path[0] - best) ** 2, axis=1)
    optimum = oracles.objective(fields, best)
    values = np.stack([oracles.objective(fields, tokens) for tokens in path])
    noise = 1e-14 * np.abs(optimum)
    assert np.all(np.diff(values, axis=0) >= -noise)
    counts = np.arange(1, 100)[:, None]
    assert np.all(optimum - values[1:] <= bounds_of(fields)[1] * away / (2 * counts) + noise)


def test_the_certified_variant_reaches_the_optimum_where_its_bound_says_so():
    # Boxes so narrow about the optimum that the bound gets to tolerance within the cap.
    fields = {**FIELDS, "arrival_rate": FIELDS["arrival_rate"] * 0.1}
    best, width = solve_all(fields).tokens, 1e-3 / fields["decay"]
    fields["min_tokens"] = np.maximum(fields["min_tokens"], best - width)
    fields["max_tokens"] = np.minimum(fields["max_tokens"], best + width)
    best = solve_all(fields)
    answer = solve_all(fields, CERTIFIED, jnp.asarray(fields["min_tokens"]))
    away = np.sum(np.square(best.tokens - fields["min_tokens"]), axis=1)
    tolerance = 1e-8 * np.abs(best.objective)
    certain = bounds_of(fields)[1] * away / (2 * CERTIFIED.max_steps) <= tolerance
    assert certain.sum() > 50
    values = [oracles.objective(fields, found.tokens) for found in (best, answer)]
    assert np.all((values[0] - values[1])[certain] <= tolerance[certain])


def test_nothing_to_gain_and_no_traffic():
    """L = 0: the step is infinite, the optimum is l_min."""
    fields = {**FIELDS, "gain": 0 * FIELDS["gain"], "arrival_rate": np.zeros(LANES)}
    fields["mix"] = fields["mix"].copy()
    fields["mix"][1::2] = [0.5, 0.5, 0, 0, 0, 0]
    answer = solve_all(fields, CERTIFIED, jnp.asarray(fields["max_tokens"]))
    np.testing.assert_array_equal(answer.status[::2], Status.CONVERGED)
    np.testing.assert_array_equal(answer.tokens[::2], fields["min_tokens"][::2])
    assert np.all(np.isfinite(answer.tokens))


@pytest.mark.parametrize("solver", [type(NEWTON), FixedPoint, ProjectedGradient])
def test_hyper_parameters_outside_their_domain(solver):
    for given in ({"max_steps": -1}, {"tolerance": -1e-3}, {"tolerance": np.nan}):
        with pytest.raises(ValueError, match=f"{next(iter(given))} = .* must not be negative"):
            solver(**given)
    with pytest.raises(ValueError, match=r"damping = 0.0 must be in \(0, 1\]"):
        FixedPoint(damping=0.0)
