"""What the tests of derivatives share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
from convert import LANES, NEWTON, as_workload

from jaxalloc import solve_batch
from jaxalloc.allocation.model.domain import FIELDS as _FIELDS

FIELDS = tuple(_FIELDS)


@functools.cache
def batch():
    return as_workload(problems.priced(problems.random_workloads(32, LANES)))


def weights(shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def slopes(workload, solver=NEWTON, scale=1.0):
    """The gradient of a weighted sum of the tokens."""
    weight = scale * weights(workload.max_tokens.shape)
    return jax.grad(lambda w: jnp.sum(solve_batch(w, solver).tokens * weight))(workload)


def sides(tokens, workload):
    """-1 at the lower bound, 1 at the upper, 0 free."""
    at_max = np.asarray(tokens) >= np.asarray(workload.max_tokens)
    return np.where(np.asarray(tokens) <= np.asarray(workload.min_tokens), -1, at_max * 1)


def direction(workload, seed=0, only=None):
    """A tangent in proportion to each field: zeros stay zeros and inside the domain."""
    moved = {}
    for name, value in vars(workload).items():
        factor = np.random.default_rng([seed, len(name)]).uniform(-1, 1, value.shape)
        moved[name] = value * jnp.asarray(factor if only in (None, name) else 0 * factor)
    return type(workload)(**moved)


def moved_by(workload, tangent, step):
    """The workload that many steps along a tangent, a step a lane."""

    def move(leaf, change):
        return leaf + change * jnp.reshape(step, (-1, *[1] * (leaf.ndim - 1)))

    return jax.tree.map(move, workload, tangent)
