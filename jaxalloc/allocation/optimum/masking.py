"""Failed lanes out of a training loss: their inputs are replaced, not their outputs.

The derivative of a lane that is not CONVERGED is NaN, whatever its cotangent, so that nobody learns
from a number that is no optimum. A loss that leaves such lanes out must therefore never
differentiate through them: `jnp.where(solved, loss, 0)` still multiplies NaN by 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalloc.allocation.model.domain import PER_SERVER
from jaxalloc.allocation.model.workload import Flag, Scalar, Workload
from jaxalloc.allocation.optimum.status import Status
from jaxalloc.numerics import cast


def mask_failed(workloads: Workload, status: Int[Array, "*B"]) -> Workload:
    """The workloads with every lane whose status is not CONVERGED replaced by one that is solvable.

    What stands in is an idle server whose optimum, 0 tokens, is held by its bounds. Derivatives
    with respect to a replaced lane are exactly 0 and those of the others are untouched, at any
    order and in both modes. Works under `jax.jit` and `jax.vmap`.

    Args:
      workloads: fields of shape [*B] and [*B, K].
      status: [*B] what `solve_batch(workloads)` says of them; that first solve costs no derivative,
        and its tokens are a warm start for the second.

    >>> import dataclasses
    >>> import jax, jax.numpy as jnp, jaxalloc
    >>> workloads = jaxalloc.Workload.create(
    ...     arrival_rate=jnp.array([0.1, 20.0]), mix=[1.0], gain=0.5, decay=1e-3, floor=0.2,
    ...     base_time=0.1, time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> def loss(rate):
    ...     drawn = dataclasses.replace(workloads, arrival_rate=rate)
    ...     first = jaxalloc.solve_batch(jax.lax.stop_gradient(drawn))
    ...     solvable = jaxalloc.mask_failed(drawn, first.status)
    ...     best = jaxalloc.solve_batch(solvable, initial=first.tokens)
    ...     return jnp.sum(jnp.where(first.status == jaxalloc.Status.CONVERGED, best.objective, 0))
    >>> slope = jax.grad(loss)(workloads.arrival_rate)  # the second server is overloaded
    >>> bool(slope[0] < 0), float(slope[1])
    (True, 0.0)
    """
    solved = jnp.asarray(status) == Status.CONVERGED
    nothing = dict.fromkeys(vars(workloads), 0.0)
    stand_in = nothing | {"mix": 1 / workloads.num_types, "decay": 1.0, "time_per_token": 1.0}

    # Selected, not multiplied: 0 times what a failed lane may hold is NaN.
    def select(name: str, value: Any) -> jax.Array:
        lanes = solved if name in PER_SERVER else solved[..., None]
        value = cast(value, workloads.dtype)
        return jnp.where(lanes, value, jnp.asarray(stand_in[name], value.dtype))

    return Workload(**{name: select(name, value) for name, value in vars(workloads).items()})


@jax.custom_jvp
def nothing_where_solved(anything: Scalar, solved: Flag) -> Scalar:
    """0, with derivative 0 where solved and NaN elsewhere."""
    # Formally a function of `anything`, so that `jax.vmap` gives it the axes of its derivative.
    return jnp.where(jnp.ones_like(solved), 0, anything)


# A product, so that NaN survives transposition, where `jnp.where` would give 0.
nothing_where_solved.defjvps(
    lambda moved, _, anything, solved: moved * jnp.where(solved, 0, jnp.nan).astype(moved.dtype),
    None,
)
