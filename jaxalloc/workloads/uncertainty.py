"""The covariances that a workload file holds."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxalloc.calibration.decision import Covariances
from jaxalloc.workloads.files import COVARIANCES, Task, WorkloadFile


def to_covariances(file: WorkloadFile) -> Covariances:
    """The covariances of a file's numbers; 0 where it says nothing, diagonal where it has errors.

    Shares are taken for those of independent arrivals: of two the covariance is - π_i π_j / N, with
    the number of arrivals N that their standard errors tell.

    >>> from jaxalloc.workloads.files import load
    >>> float(to_covariances(load("qwen3-8b")).curve.max())
    0.0
    """
    curve, service = (
        np.stack([_matrix(task, key, fields) for task in file.task])
        for key, fields in COVARIANCES.items()
    )
    return Covariances(
        curve=jnp.asarray(curve),
        service=jnp.asarray(service),
        service_cv=jnp.asarray([(task.service_cv_se or 0.0) ** 2 for task in file.task]),
        mix=jnp.asarray(_mix(file)),
        arrival_rate=jnp.asarray((file.arrival_rate_se or 0.0) ** 2),
    )


def _matrix(task: Task, key: str, fields: tuple[str, ...]) -> np.ndarray[Any, Any]:
    rows = getattr(task, key)
    if rows is not None:
        return np.array(rows, np.float64)
    return np.diag([(getattr(task, f"{name}_se") or 0.0) ** 2 for name in fields])


def _mix(file: WorkloadFile) -> np.ndarray[Any, Any]:
    mix = np.array([task.mix for task in file.task])
    variance = np.array([(task.mix_se or 0.0) ** 2 for task in file.task])
    spread = np.sum(mix * (1 - mix))
    per_arrival = variance.sum() / spread if spread > 0 else 0.0  # 1 / N
    return (np.diag(mix) - np.outer(mix, mix)) * per_arrival
