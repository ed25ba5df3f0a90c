"""From the zoo's NumPy fields to the package's `Workload`, and back."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxalloc


def as_workload(fields, dtype=np.float64):
    """The fields as they are, unchecked, so that a batch may hold lanes of any status."""
    arrays = {name: jnp.asarray(np.asarray(value), dtype) for name, value in fields.items()}
    return jaxalloc.Workload(**arrays)


def lane(tree, index):
    """One lane of every array."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stack(trees):
    """Lanes side by side."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
