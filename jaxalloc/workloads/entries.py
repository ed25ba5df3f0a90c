"""The entries of a workload file, one by one: the domains are those of the fields of `Workload`."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from jaxalloc.allocation.model.domain import FIELDS, domain_error
from jaxalloc.messages import shown

# Covariances of a task and what they are of.
COVARIANCES = {
    "covariance": ("gain", "decay", "floor"),
    "service_covariance": ("base_time", "time_per_token"),
}
TEXTS = ("name", "source", "note")


def read(name: str, value: Any) -> Any:
    """The value of an entry, checked."""
    said = f"{name} = {shown(value)}"
    if name in COVARIANCES:
        return _covariance(name, value)
    if name in TEXTS:
        if not isinstance(value, str) or (name == "name" and not value):
            raise ValueError(f"{said} is not text: give {wanted(name)}")
        if name == "name" and not value.isprintable():  # a terminal would obey, and not show it
            raise ValueError(f"{said} has characters that do not print: remove them")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{said} is not a number: give {wanted(name)}")
    number = float(str(value))  # 10**400 is inf
    problem = domain_error(name, number) if name in FIELDS else None
    if problem or not 0 <= number < np.inf:
        raise ValueError(problem or f"{said} must be finite and at least 0: give {wanted(name)}")
    return number


def _covariance(name: str, rows: Any) -> list[list[float]]:
    """Rows that can be the covariance of the fields."""
    size, problem = len(COVARIANCES[name]), "is of another shape or not of numbers"
    with contextlib.suppress(OverflowError, TypeError, ValueError):
        matrix = np.array(rows, np.float64)
        if matrix.shape == (size, size) and np.isfinite(matrix).all():
            scale = np.sqrt(np.clip(np.diag(matrix), 0, None))
            most = np.outer(scale, scale)
            if np.all(np.abs(matrix) <= (1 + 1e-9) * most) and np.all(
                np.abs(matrix - matrix.T) <= 1e-9 * most
            ):
                return matrix.tolist()
            problem = "is not symmetric, or has a variance below 0 or a correlation above 1"
    raise ValueError(f"{name} = {shown(rows)} {problem}: give {wanted(name)}")


def wanted(name: str) -> str:
    """What should stand there."""
    if name in FIELDS:
        return f"the {FIELDS[name].meaning}"
    if name in COVARIANCES:
        size, fields = len(COVARIANCES[name]), ", ".join(COVARIANCES[name])
        return f"{size} rows of {size} numbers, the covariance of ({fields})"
    if name == "task":
        return "one [[task]] table for each task type"
    return "a standard error" if name.endswith("_se") else f"a {name} in quotes"
