"""Symmetric 3 x 3 matrices, inverted on the coordinates that are free."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxalloc.calibration.likelihood import Matrix, Symmetric


def full(entries: Symmetric) -> Matrix:
    """The matrix of the six numbers 00, 11, 22, 01, 02, 12."""
    a, b, c, d, e, f = entries
    return jnp.stack([jnp.stack([a, d, e]), jnp.stack([d, b, f]), jnp.stack([e, f, c])])


def invert_free(matrix: Matrix, free: Any) -> Matrix:
    """The inverse on the coordinates where `free` is 1; 0 elsewhere."""
    free = jnp.asarray(free, matrix.dtype)
    both = free[:, None] * free[None, :]
    return _invert(matrix * both + jnp.diag(1 - free)) * both


def _invert(matrix: Matrix) -> Matrix:
    """By cofactors, in units of the diagonal; NaN where the matrix is not positive definite."""
    root = jnp.sqrt(jnp.diagonal(matrix))
    scale = root[:, None] * root[None, :]
    m = matrix / scale
    rows = [jnp.cross(m[(i + 1) % 3], m[(i + 2) % 3]) for i in range(3)]
    determinant = jnp.sum(m[0] * rows[0])
    definite = (determinant > 0) & (m[0, 0] * m[1, 1] > m[0, 1] * m[1, 0])
    return jnp.stack(rows) / jnp.where(definite, determinant, jnp.nan) / scale
