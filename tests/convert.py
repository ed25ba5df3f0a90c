"""From the zoo's NumPy fields to the package's `Workload`, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import jaxalloc

NEWTON = jaxalloc.Newton()
LANES = 200  # of most batches, of six types, so that the tests share what they compile


def as_workload(fields, dtype=np.float64):
    """The fields as they are, unchecked, so that a batch may hold lanes of any status."""
    arrays = {name: jnp.asarray(np.asarray(value), dtype) for name, value in fields.items()}
    return jaxalloc.Workload(**arrays)


def lane(tree, index):
    """One lane of every array."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def side_by_side(cases):
    """Workloads of one lane each as one batch, the last of them as often as fills it."""
    cases = [*cases, *[cases[-1]] * (LANES - len(cases))]
    return {name: np.stack([case[name] for case in cases]) for name in cases[0]}


def solve_all(fields, solver=NEWTON, initial=None, dtype=np.float64):
    """The answers as NumPy arrays."""
    answer = jaxalloc.solve_batch(as_workload(fields, dtype), solver, initial)
    return jax.tree.map(np.asarray, answer)


def solved(fields, solver=NEWTON, initial=None, dtype=np.float64):
    """The same, after the oracle has confirmed them."""
    fields = {name: np.asarray(value, dtype) for name, value in fields.items()}
    answer = solve_all(fields, solver, initial, dtype)
    np.testing.assert_array_equal(answer.status, jaxalloc.Status.CONVERGED)
    tolerance = 1e-8 if dtype == np.float64 else 1e-5
    assert oracles.residual(fields, answer.tokens).max() <= tolerance
    return answer


def stack(trees):
    """Lanes side by side."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
