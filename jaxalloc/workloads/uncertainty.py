"""The covariances that a workload file holds."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxalloc.calibration.covariances import Covariances
from jaxalloc.workloads.entries import COVARIANCES
from jaxalloc.workloads.files import WorkloadFile


def to_covariances(file: WorkloadFile) -> Covariances:
    """The covariances of a file's numbers; 0 where it says nothing, diagonal where it has errors.

    Shares are taken for those of independent arrivals: of two the covariance is - π_i π_j / N, with
    the number of arrivals N that their standard errors tell.

    >>> from jaxalloc.workloads.files import load
    >>> float(to_covariances(load("qwen3-8b")).curve.max())
    0.0
    """

    def variances(name: str) -> NDArray[np.float64]:
        return np.array([(getattr(task, f"{name}_se") or 0.0) ** 2 for task in file.task])

    def matrices(key: str) -> NDArray[np.float64]:
        alone = np.stack([variances(name) for name in COVARIANCES[key]], axis=1)
        own = [getattr(task, key) for task in file.task]
        pairs = zip(own, alone, strict=True)
        return np.stack([np.array(rows or np.diag(row)) for rows, row in pairs])

    mix = np.array([task.mix for task in file.task])
    of_one = np.diag(mix) - np.outer(mix, mix)  # arrival
    spread = np.trace(of_one)
    per_arrival = variances("mix").sum() / spread if spread > 0 else 0.0  # 1 / N
    return Covariances(
        curve=jnp.asarray(matrices("covariance")),
        service=jnp.asarray(matrices("service_covariance")),
        service_cv=jnp.asarray(variances("service_cv")),
        mix=jnp.asarray(of_one * per_arrival),
        arrival_rate=jnp.asarray((file.arrival_rate_se or 0.0) ** 2),
    )
