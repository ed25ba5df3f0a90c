"""The derivative of the optimum: differences, both modes, transformations, edges, failed lanes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from convert import LANES, NEWTON, as_workload, lane
from derivatives import FIELDS, batch, direction, moved_by, sides, slopes, weights

import jaxalloc
from jaxalloc import (
    FixedPoint,
    ProjectedGradient,
    Status,
    solve,
    solve_batch,
)


def differences(workload, moved, relative_step=1e-3):
    """Fourth-order central differences of tokens and objective, and where they mean something.

    The step shrinks with the idle fraction d, the scale on which J changes near saturation. A lane
    whose set of bound types changes within the step is left out.
    """
    base = solve_batch(workload)
    idle = 1 - np.asarray(jax.vmap(jaxalloc.utilization)(workload, base.tokens))
    step = relative_step * idle
    smooth, tokens, values = np.ones(len(step), bool), 0.0, 0.0
    for far, weight in ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12)):
        there = moved_by(workload, moved, far * step)
        answer = solve_batch(there)
        same = np.all(sides(answer.tokens, there) == sides(base.tokens, workload), axis=1)
        smooth &= same & (np.asarray(answer.status) == Status.CONVERGED)
        tokens = tokens + weight * np.asarray(answer.tokens) / step[:, None]
        values = values + weight * np.asarray(answer.objective) / step
    # What rounding can do to tokens and value, eps l / d and eps J / d, over a step.
    return tokens, values, smooth, 4e-15 / (step * idle)


@pytest.mark.parametrize("name", FIELDS)
def test_forward_derivatives_are_differences(name):
    workload = batch()
    moved = direction(workload, only=name)
    base, tangent = jax.jvp(solve_batch, (workload,), (moved,))
    tokens, values, smooth, noise = differences(workload, moved)
    assert smooth.mean() > 0.96
    held = sides(base.tokens, workload) != 0  # mixed active sets
    assert np.mean(held.any(axis=1) & ~held.all(axis=1)) > 0.7
    exact, value = np.asarray(tangent.tokens)[smooth], np.asarray(tangent.objective)[smooth]
    scale = np.abs(exact).max(axis=1, keepdims=True)
    rounding = noise[smooth, None] * np.asarray(workload.max_tokens)[smooth]
    assert np.all(np.abs(exact - tokens[smooth]) <= 1e-6 * scale + rounding)
    rounding = 10 * (noise * np.abs(np.asarray(base.objective)))[smooth]
    assert np.all(np.abs(value - values[smooth]) <= 1e-6 * np.abs(value) + rounding)


def test_forward_and_reverse_are_adjoint():
    workload = batch()
    moved = direction(workload, 2)
    weight = weights(workload.mix.shape)
    pushed = jax.jvp(solve_batch, (workload,), (moved,))[1]
    # Of both outputs: the weights of the objective are 1.
    pulled = jax.grad(
        lambda w: jnp.sum((a := solve_batch(w)).tokens * weight) + jnp.sum(a.objective)
    )(workload)
    left = np.concatenate([pushed.tokens * weight, pushed.objective[:, None]], axis=1)
    pairs = zip(jax.tree.leaves(pulled), jax.tree.leaves(moved), strict=True)
    right = np.concatenate([np.reshape(a * b, (LANES, -1)) for a, b in pairs], axis=1)
    scale = np.maximum(np.abs(left).sum(axis=1), np.abs(right).sum(axis=1))
    assert np.all(np.abs(left.sum(axis=1) - right.sum(axis=1)) <= 1e-11 * scale)


@pytest.mark.parametrize("solver", [FixedPoint(), ProjectedGradient()])
def test_the_derivative_does_not_depend_on_the_solver(solver):
    workload = batch()
    answer, best = solve_batch(workload, solver), solve_batch(workload)
    solved = np.asarray(answer.status) == Status.CONVERGED
    assert solved.mean() > 0.2
    mine, newton = slopes(workload, solver), slopes(workload)
    # Tokens that are right to 1e-8 of the balance need not sit at their bound exactly.
    same = np.all(sides(answer.tokens, workload) == sides(best.tokens, workload), axis=1)
    for name in FIELDS:
        one, two = np.asarray(getattr(mine, name)), np.asarray(getattr(newton, name))
        assert np.all(np.isnan(one[~solved]))
        one, two = one[solved & same], two[solved & same]
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6 * np.abs(two).max())


def test_compositions_of_transformations_agree():
    workload, weight = batch(), weights((LANES, 6))
    one = lambda w, c: jnp.sum(solve(w).tokens * c)  # noqa: E731
    others = [jax.jit(slopes)(workload), jax.vmap(jax.jit(jax.grad(one)))(workload, weight)]
    for name in FIELDS:
        eager = np.asarray(getattr(slopes(workload), name))
        for other in others:
            found = getattr(other, name)
            np.testing.assert_allclose(found, eager, rtol=1e-7, atol=1e-9 * np.max(np.abs(eager)))


def test_the_warm_start_moves_nothing():
    start = solve_batch(batch()).tokens + 1.0
    slope = jax.grad(lambda start: jnp.sum(solve_batch(batch(), NEWTON, start).tokens))(start)
    np.testing.assert_array_equal(slope, 0)


def test_derivatives_of_hard_workloads_are_finite():
    workload = as_workload(problems.priced(problems.hard_workloads(7, LANES, 6)))
    solved = np.asarray(solve_batch(workload).status) == Status.CONVERGED
    assert solved.mean() > 0.9
    tangent = jax.jvp(solve_batch, (workload,), (direction(workload),))[1]
    for leaf in (tangent.tokens, tangent.objective, *jax.tree.leaves(slopes(workload))):
        finite = np.isfinite(np.asarray(leaf)).reshape(LANES, -1).all(axis=1)
        np.testing.assert_array_equal(finite, solved)


def test_a_hundred_thousand_types():
    workload = as_workload(lane(problems.random_workloads(8, 1, 100_000), 0))
    moved = jax.tree.map(lambda leaf: leaf * 0.5, workload)
    weight = jnp.cos(jnp.arange(100_000.0))

    @jax.jit
    def both(workload):
        def loss(w):
            answer = solve(w)
            return jnp.vdot(answer.tokens, weight), answer.tokens

        pulled, tokens = jax.grad(loss, has_aux=True)(workload)
        value = jax.grad(lambda w: solve(w).objective)(workload)
        return tokens, pulled, value, jax.jvp(lambda w: loss(w)[0], (workload,), (moved,))[1]

    tokens, pulled, value, pushed = both(workload)
    # The envelope theorem: ∂J*/∂α is the accuracy at the optimum.
    expected = jaxalloc.mean_accuracy(workload, tokens)
    np.testing.assert_allclose(value.accuracy_weight, expected, rtol=1e-9)
    pairs = zip(jax.tree.leaves(pulled), jax.tree.leaves(moved), strict=True)
    terms = [np.asarray(a * b) for a, b in pairs]
    scale = sum(np.abs(term).sum() for term in terms)
    assert abs(sum(term.sum() for term in terms) - pushed) <= 1e-12 * scale


def test_single_precision_derivatives_follow_those_of_double():
    double = batch()
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), double)
    answer = solve_batch(single)
    pair = [jax.grad(lambda w: jnp.sum(solve_batch(w).objective))(w) for w in (double, single)]
    rho = np.asarray(jax.vmap(jaxalloc.utilization)(double, solve_batch(double).tokens))
    calm = (rho < 0.9) & (np.asarray(answer.status) == Status.CONVERGED)
    assert calm.mean() > 0.7
    for name in FIELDS:
        one, two = (np.asarray(getattr(slope, name))[calm] for slope in pair)
        assert two.dtype == np.float32
        scale = np.abs(one).reshape(len(one), -1).max(axis=1).reshape(-1, *[1] * (one.ndim - 1))
        assert np.all(np.abs(one - two) <= 2e-3 * scale + 1e-30), name


def test_fields_that_are_constants_of_a_compiled_loss():
    """XLA once aborted on large constants."""
    many = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * 5), batch())

    def loss(gain):
        return jnp.sum(solve_batch(dataclasses.replace(many, gain=gain)).objective)

    slope = np.asarray(jax.jit(jax.grad(loss))(many.gain))
    assert np.all(slope >= 0)
    assert np.any(slope > 0)
