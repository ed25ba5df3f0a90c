"""How well the parameters of a workload are known."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalloc.allocation.model.checks import one_workload
from jaxalloc.allocation.model.workload import Scalar, Tokens, Workload


class Covariances(NamedTuple):
    """How well the parameters of a workload are known; 0 is exactly.

    Attributes:
      curve: [K, 3, 3] of (gain, decay, floor).
      service: [K, 2, 2] of (base_time, time_per_token).
      service_cv: [K] variances.
      mix: [K, K] of the shares; its rows sum to 0.
      arrival_rate: variance.
    """

    curve: Float[Array, "K 3 3"]
    service: Float[Array, "K 2 2"]
    service_cv: Tokens
    mix: Float[Array, "K K"]
    arrival_rate: Scalar


def exactly_known(workload: Workload) -> Covariances:
    """Covariances of 0: a start to replace those that are known to be larger.

    >>> import jaxalloc
    >>> workload = jaxalloc.Workload.create(
    ...     arrival_rate=0.1, mix=[0.5, 0.5], gain=0.5, decay=1e-3, floor=0.2, base_time=0.1,
    ...     time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
    >>> known = exactly_known(workload)._replace(arrival_rate=0.01**2)
    >>> known.curve.shape, known.service.shape
    ((2, 3, 3), (2, 2, 2))
    """
    workload = one_workload(workload)
    k, dtype = workload.num_types, workload.dtype
    zeros = functools.partial(jnp.zeros, dtype=dtype)
    return Covariances(zeros((k, 3, 3)), zeros((k, 2, 2)), zeros(k), zeros((k, k)), zeros(()))
