"""Derivatives of a batch with failed lanes: NaN in these alone, and exact where they are masked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from derivatives import FIELDS

from jaxalloc import Newton, Status, Workload, mask_failed, solve, solve_batch


def one_lane_of_every_status(num_types=3):
    """Lanes: CONVERGED, MAX_STEPS, INFEASIBLE, NON_FINITE, INVALID, CONVERGED; and the solver."""
    fields = problems.random_workloads(6, 200, num_types)
    solver = Newton(max_steps=4)
    status = np.asarray(solve_batch(Workload.create(**fields), solver).status)
    good = np.flatnonzero(status == Status.CONVERGED)[:5]
    slow = np.flatnonzero(status == Status.MAX_STEPS)[0]
    fields = problems.lanes(fields, np.array([good[0], slow, *good[1:]]))
    fields["arrival_rate"][2] = 1e6
    fields["gain"][3, 1] = np.nan
    fields["decay"][4, 0] = -1.0
    workload = Workload(**{name: jnp.asarray(value) for name, value in fields.items()})
    return workload, solver


EVERY = [*Status, Status.CONVERGED]


@pytest.mark.parametrize("solve_all", [solve_batch, jax.vmap(solve, in_axes=(0, None))])
@pytest.mark.parametrize("cotangent", [0.0, 1.0])
def test_failed_lanes_and_no_others_have_nan_derivatives(solve_all, cotangent):
    workload, solver = one_lane_of_every_status()
    answer = solve_batch(workload, solver)
    assert [Status(int(s)) for s in answer.status] == EVERY
    failed = np.array(EVERY) != Status.CONVERGED

    for output in ("tokens", "objective"):

        def loss(w, output=output):
            values = getattr(solve_all(w, solver), output)
            return cotangent * jnp.sum(values)

        slope = jax.grad(loss)(workload)
        for name in FIELDS:
            value = np.asarray(getattr(slope, name)).reshape(len(EVERY), -1)
            np.testing.assert_array_equal(np.isnan(value).all(axis=1), failed)
            np.testing.assert_array_equal(np.isnan(value).any(axis=1), failed)
    moved = jax.tree.map(lambda leaf: jnp.full_like(leaf, cotangent), workload)
    tangent = jax.jvp(lambda w: solve_all(w, solver), (workload,), (moved,))[1]
    np.testing.assert_array_equal(np.isnan(tangent.tokens).all(axis=1), failed)
    np.testing.assert_array_equal(np.isnan(tangent.tokens).any(axis=1), failed)
    np.testing.assert_array_equal(np.isnan(tangent.objective), failed)


def masked_loss(workload, solver):
    """What `mask_failed` documents: solve, replace the failed, solve again from there."""
    first = solve_batch(workload, solver)
    safe = mask_failed(workload, first.status)
    best = solve_batch(safe, solver, first.tokens)
    solved = first.status == Status.CONVERGED
    tokens = jnp.where(solved[:, None], best.tokens / 1e3, 0)
    return jnp.sum(jnp.where(solved, best.objective, 0)) + jnp.sum(tokens**2)


def test_masked_inputs_keep_the_gradients_of_the_others_exact():
    workload, solver = one_lane_of_every_status()
    failed = np.array(EVERY) != Status.CONVERGED
    loss = functools.partial(masked_loss, solver=solver)
    slope = jax.jit(jax.grad(loss))(workload)
    good = jax.tree.map(lambda leaf: leaf[~failed], workload)
    alone = jax.grad(loss)(good)
    forward = jax.jit(jax.jacfwd(loss))(workload)
    for name in FIELDS:
        one = np.asarray(getattr(slope, name))
        assert np.all(one[failed] == 0)
        np.testing.assert_allclose(one[~failed], getattr(alone, name), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(getattr(forward, name), one, rtol=1e-9, atol=1e-9)


def test_second_derivatives_of_masked_inputs():
    workload, solver = one_lane_of_every_status(2)
    failed = np.array(EVERY) != Status.CONVERGED
    moved = jax.tree.map(jnp.zeros_like, workload)
    moved = dataclasses.replace(moved, arrival_rate=jnp.where(failed, 0.0, workload.arrival_rate))

    def slope(w):
        return jax.grad(functools.partial(masked_loss, solver=solver))(w)

    second = jax.jvp(slope, (workload,), (moved,))[1]
    alone = [jax.tree.map(lambda leaf: leaf[~failed], tree) for tree in (workload, moved)]
    expected = jax.jvp(slope, alone[:1], alone[1:])[1]
    for name in FIELDS:
        one = np.asarray(getattr(second, name))
        assert np.all(one[failed] == 0)
        np.testing.assert_allclose(one[~failed], getattr(expected, name), rtol=1e-7, atol=1e-9)
    reverse = jax.grad(lambda w: jnp.vdot(slope(w).arrival_rate, moved.arrival_rate))(workload)
    for name in FIELDS:
        np.testing.assert_allclose(
            getattr(reverse, name), getattr(second, name), rtol=1e-7, atol=1e-9
        )
