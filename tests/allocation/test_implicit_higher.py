"""Higher derivatives of the optimum: Hessians and third derivatives against differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from derivatives import sides

import jaxalloc
from jaxalloc import Workload, solve, solve_batch


def rebuild(vector, workload):
    """The workload with every entry of every field changed by a relative amount."""
    leaves, tree = jax.tree.flatten(workload)
    parts = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    moved = [
        leaf * (1 + part.reshape(leaf.shape)) for leaf, part in zip(leaves, parts, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def weighted_tokens(vector, workload):
    weight = jnp.cos(jnp.arange(workload.num_types) + 1.0) / workload.max_tokens
    return jnp.sum(solve(rebuild(vector, workload)).tokens * weight)


def value(vector, workload):
    return solve(rebuild(vector, workload)).objective


def interior(count, num_types):
    """Random workloads of low load, and so of mixed sets that are not about to change."""
    fields = problems.random_workloads(5, 40 * count, num_types)
    workload = Workload.create(**fields)
    answer = solve_batch(workload)
    rho = np.asarray(jax.vmap(jaxalloc.utilization)(workload, answer.tokens))
    free = np.sum(sides(answer.tokens, workload) == 0, axis=1)
    slack = np.minimum(answer.tokens - workload.min_tokens, workload.max_tokens - answer.tokens)
    slack = np.min(np.where(slack > 0, slack / workload.max_tokens, 1), axis=1)
    chosen = np.flatnonzero((rho < 0.7) & (rho > 0.05) & (free > 0) & (slack > 0.05))[:count]
    assert len(chosen) == count
    return [jax.tree.map(lambda leaf, i=i: leaf[i], workload) for i in chosen]


def central(function, workload, step=1e-3):
    """Fourth-order central differences of a function of the relative changes, last axis first."""
    size = sum(leaf.size for leaf in jax.tree.leaves(workload))
    unit = jnp.eye(size)
    at = [
        jax.lax.map(lambda e, far=far: function(far * step * e, workload), unit)
        for far in (1, -1, 2, -2)
    ]
    slopes = (8 * (at[0] - at[1]) - (at[2] - at[3])) / (12 * step)
    return jnp.moveaxis(slopes, 0, -1)


@pytest.mark.parametrize("function", [weighted_tokens, value])
def test_hessians_are_differences_of_gradients(function):
    gradient = jax.grad(function)
    workloads = interior(10, 3)
    zero = jnp.zeros(sum(leaf.size for leaf in jax.tree.leaves(workloads[0])))
    hessians = [jax.jit(jax.jacfwd(gradient)), jax.jit(jax.jacrev(gradient))]
    differences = jax.jit(functools.partial(central, gradient))
    for workload in workloads:
        expected = np.asarray(differences(workload))
        scale = np.abs(expected).max()
        for transform in hessians:
            hessian = np.asarray(transform(zero, workload))
            np.testing.assert_allclose(hessian, hessian.T, atol=1e-9 * scale)
            np.testing.assert_allclose(hessian, expected, atol=1e-6 * scale)


@pytest.mark.parametrize("function", [weighted_tokens, value])
def test_third_derivatives_of_two_types(function):
    workload = interior(1, 2)[0]
    zero = jnp.zeros(sum(leaf.size for leaf in jax.tree.leaves(workload)))
    hessian = jax.jacfwd(jax.grad(function))
    expected = np.asarray(jax.jit(functools.partial(central, hessian))(workload))
    # Reverse over forward over reverse compiles for long: once is enough.
    transform = jax.jacrev if function is value else jax.jacfwd
    third = np.asarray(jax.jit(transform(hessian))(zero, workload))
    assert np.all(np.isfinite(third))
    np.testing.assert_allclose(third, expected, atol=1e-6 * np.abs(expected).max())
