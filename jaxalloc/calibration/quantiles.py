"""Quantiles of Student's t that JAX can trace (SciPy's take concrete numbers only)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import ndtri

from jaxalloc.calibration.rows import as_floats


def student_quantile(probability: Any, dof: Any) -> Any:
    """The quantile of Student's t; dof, at least 1, may be inf.

    The expansion of Cornish and Fisher in 1 / dof (Abramowitz & Stegun 26.7.5): at the 97.5 %
    quantile the error is below 0.8 % from 2 degrees of freedom on. Up to 2 that between the closed
    forms for 1 and 2, even in 1 / dof: exact there, at most 3 % too large in between.

    >>> print(f"{student_quantile(0.975, 29.0):.3f}")
    2.045
    """
    (dof,) = as_floats(dof)
    probability = jnp.asarray(probability, dof.dtype)
    z, inverse = ndtri(probability), 1 / dof
    terms = (
        ((1, 1), 4),
        ((5, 16, 3), 96),
        ((3, 19, 17, -15), 384),
        ((79, 776, 1482, -1920, -945), 92160),
    )
    factor = 1 + sum(
        jnp.polyval(jnp.asarray(above, z.dtype), z * z) / below * inverse**power
        for power, (above, below) in enumerate(terms, start=1)
    )
    centred = 2 * probability - 1
    one = jnp.tan(jnp.pi / 2 * centred)
    two = centred * jnp.sqrt(2 / ((1 - centred) * (1 + centred)))
    return jnp.where(inverse < 1 / 2, z * factor, two * (one / two) ** (2 * inverse - 1))
