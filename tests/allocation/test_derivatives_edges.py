"""Derivatives at the edges: bounds, unasked types, failed lanes, and those of higher order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from convert import LANES, as_workload, lane, stack
from derivatives import FIELDS, batch, sides, slopes

import jaxalloc
from jaxalloc import Newton, Status, Workload, mask_failed, solve, solve_batch


def two_types(**changes):
    fields = {
        "arrival_rate": 0.5,
        "mix": [0.5, 0.5],
        "gain": [0.6, 0.4],
        "decay": [2e-3, 1e-3],
        "floor": 0.2,
        "base_time": 0.1,
        "time_per_token": 1e-3,
        "min_tokens": 0.0,
        "max_tokens": 4000.0,
        "accuracy_weight": 10.0,
    }
    return Workload.create(**fields | changes)


@jax.jit
def jacobian(workload, start=None):
    """The tokens, and their derivatives in reverse and forward."""

    def tokens(w):
        return solve(w, initial=start).tokens

    return tokens(workload), [mode(tokens)(workload) for mode in (jax.jacrev, jax.jacfwd)]


def test_equal_bounds_move_with_half_of_each():
    def held(at):
        return two_types(min_tokens=[0.0, at], max_tokens=[4000.0, at])

    for each in jacobian(held(300.0))[1]:
        assert each.min_tokens[1, 1] == each.max_tokens[1, 1] == 0.5
        # Moving both bounds moves the type with them, and the other type as differences say.
        both = each.min_tokens[:, 1] + each.max_tokens[:, 1]
        ends = [jacobian(held(300.0 + h))[0] for h in (1e-2, -1e-2)]
        np.testing.assert_allclose(both, (ends[0] - ends[1]) / 2e-2, rtol=1e-7)


def test_a_bound_with_zero_gradient_has_the_derivative_of_one_that_holds():
    free = two_types()
    best = jacobian(free)[0]
    # The free optimum of type 0 becomes its bound: the gradient there is zero.
    for name, sign in (("min_tokens", 1.0), ("max_tokens", -1.0)):
        bound = getattr(free, name).at[0].set(best[0])
        workload = dataclasses.replace(free, **{name: bound})
        tokens, (slope, _) = jacobian(workload, best)
        assert tokens[0] == best[0]
        # It counts as held: it moves with its bound and with nothing else.
        assert getattr(slope, name)[0, 0] == 1.0
        assert float(slope.accuracy_weight[0]) == 0.0
        step = 1e-4 * sign
        moved = [
            jacobian(dataclasses.replace(workload, accuracy_weight=10.0 + by))[0]
            for by in (-step, step)
        ]
        # Differences into the side on which the bound stays active, and into the other.
        np.testing.assert_allclose(
            slope.accuracy_weight, (moved[0] - tokens) / -step, rtol=1e-3, atol=1e-6
        )
        assert abs(moved[1][0] - best[0]) / abs(step) > 1.0


def test_a_type_that_never_arrives_has_the_derivatives_of_a_rare_one():
    never, rare = (jacobian(two_types(mix=[1.0, share]))[1][0] for share in (0.0, 1e-9))
    for name in FIELDS:
        one, two = getattr(never, name), getattr(rare, name)
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6 * np.max(np.abs(one), initial=0))
    assert never.decay[1, 1] != 0
    assert never.decay[0, 1] == 0  # it weighs nothing


SLOW = Newton(max_steps=4)
FAILED = np.arange(LANES) < 4 * 20


def one_lane_of_every_status():
    """Twenty lanes of each failure in the order of `Status`, then lanes that converge."""
    workload = batch()
    status = np.asarray(solve_batch(workload, SLOW).status)
    good, late = np.flatnonzero(status == Status.CONVERGED), np.flatnonzero(status)
    chosen = np.resize(good, LANES)
    chosen[:20] = np.resize(late, 20)
    fields = {name: np.array(value)[chosen] for name, value in vars(workload).items()}
    fields["arrival_rate"][20:40] = 1e6
    fields["gain"][40:60, 1], fields["decay"][60:80, 0] = np.nan, -1.0
    return as_workload(fields)


def test_failed_lanes_and_no_others_have_nan_derivatives():
    workload = one_lane_of_every_status()
    status = np.asarray(solve_batch(workload, SLOW).status)
    np.testing.assert_array_equal(status, np.repeat([1, 2, 3, 4, 0], [20, 20, 20, 20, 120]))
    for cotangent in (0.0, 1.0):
        slope = slopes(workload, SLOW, cotangent)
        value = jax.grad(lambda w, c=cotangent: c * jnp.sum(solve_batch(w, SLOW).objective))(
            workload
        )
        moved = jax.tree.map(lambda leaf, c=cotangent: jnp.full_like(leaf, c), workload)
        tangent = jax.jvp(lambda w: solve_batch(w, SLOW), (workload,), (moved,))[1]
        for leaf in jax.tree.leaves((slope, value, tangent.tokens, tangent.objective)):
            unknown = np.isnan(np.asarray(leaf)).reshape(LANES, -1)
            np.testing.assert_array_equal(unknown.all(axis=1), FAILED)
            np.testing.assert_array_equal(unknown.any(axis=1), FAILED)


def test_masked_inputs_keep_the_derivatives_of_the_others_exact():
    """First and second ones, of what `mask_failed` documents."""
    workload = one_lane_of_every_status()

    def loss(workload):
        first = solve_batch(workload, SLOW)
        best = solve_batch(mask_failed(workload, first.status), SLOW, first.tokens)
        solved = first.status == Status.CONVERGED
        tokens = jnp.where(solved[:, None], best.tokens / 1e3, 0)
        return jnp.sum(jnp.where(solved, best.objective, 0)) + jnp.sum(tokens**2)

    @jax.jit
    def both(workload):
        moved = jax.tree.map(jnp.zeros_like, workload)
        rate = jnp.where(FAILED, 0.0, workload.arrival_rate)
        moved = dataclasses.replace(moved, arrival_rate=rate)
        return jax.jvp(jax.grad(loss), (workload,), (moved,))

    # The sound lanes alone, in the places of the failed ones too.
    place = np.where(FAILED, LANES - 1, np.arange(LANES))
    alone = both(jax.tree.map(lambda leaf: leaf[place], workload))
    for found, expected in zip(both(workload), alone, strict=True):
        for name in FIELDS:
            one, two = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
            assert np.all(one[FAILED] == 0)
            np.testing.assert_allclose(one[~FAILED], two[~FAILED], rtol=1e-7, atol=1e-9)


def rebuild(vector, workload):
    """The workload with every entry of every field changed by a relative amount."""
    leaves, tree = jax.tree.flatten(workload)
    parts = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    pairs = zip(leaves, parts, strict=True)
    return jax.tree.unflatten(tree, [x * (1 + part.reshape(x.shape)) for x, part in pairs])


def of_relative_changes(vector, workload):
    """A function of both outputs."""
    answer = solve(rebuild(vector, workload))
    weight = jnp.cos(jnp.arange(workload.num_types) + 1.0) / workload.max_tokens
    return answer.objective + 10 * jnp.sum(answer.tokens * weight)


def interior(count):
    """Random workloads of two types and low load, and so of sets not about to change."""
    workload = as_workload(problems.priced(problems.random_workloads(5, LANES, 2)))
    answer = solve_batch(workload)
    rho = np.asarray(jax.vmap(jaxalloc.utilization)(workload, answer.tokens))
    free = np.sum(sides(answer.tokens, workload) == 0, axis=1)
    slack = np.minimum(answer.tokens - workload.min_tokens, workload.max_tokens - answer.tokens)
    slack = np.min(np.where(slack > 0, slack / workload.max_tokens, 1), axis=1)
    chosen = np.flatnonzero((rho < 0.7) & (rho > 0.05) & (free > 0) & (slack > 0.05))[:count]
    assert len(chosen) == count
    return stack([lane(workload, index) for index in chosen])


@pytest.mark.parametrize("order", [2, 3])
def test_higher_derivatives_are_differences(order):
    """Along two directions of all fields at once; the second ones in both modes."""
    size = 3 + 9 * 2
    along, other = np.random.default_rng(order).uniform(-1, 1, (2, size))
    gradient = jax.grad(of_relative_changes)

    def lower(vector, workload):
        if order == 2:
            return gradient(vector, workload)
        return jax.jvp(lambda x: gradient(x, workload), (vector,), (other,))[1]

    @jax.jit
    @jax.vmap
    def compare(workload):
        def at(far):
            return lower(far * along, workload)

        ends = jax.lax.map(at, 1e-3 * jnp.array([1.0, -1.0, 2.0, -2.0]))
        differences = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / 12e-3
        exact = jax.jvp(at, (0.0,), (1.0,))[1]
        if order == 3:  # in reverse it compiles for long
            return exact, differences, jnp.vdot(exact, other)
        return exact, differences, jax.grad(lambda far: jnp.vdot(at(far), other))(0.0)

    exact, expected, pull = map(np.asarray, compare(interior(10)))
    assert np.all(np.isfinite(exact))
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert np.all(np.abs(exact - expected) <= 1e-6 * scale)
    assert np.all(np.abs(pull - exact @ other) <= 1e-9 * size * scale[:, 0])
