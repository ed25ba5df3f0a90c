"""Quantiles of the normal distribution and of Student's t."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import ndtri


def student_quantile(probability: Any, dof: Any) -> Any:
    """The quantile of Student's t; dof may be inf.

    The expansion of Cornish and Fisher in 1 / dof (Abramowitz & Stegun 26.7.5): at the 97.5 %
    quantile the error is below 0.3 % from 4 degrees of freedom on.

    >>> print(f"{student_quantile(0.975, 29.0):.3f}")
    2.045
    """
    z = ndtri(probability)
    square = z * z
    terms = (
        (square + 1) / 4,
        (5 * square**2 + 16 * square + 3) / 96,
        (3 * square**3 + 19 * square**2 + 17 * square - 15) / 384,
        (79 * square**4 + 776 * square**3 + 1482 * square**2 - 1920 * square - 945) / 92160,
    )
    inverse = 1 / jnp.asarray(dof)
    factor = jnp.ones_like(z * inverse)
    for power, term in enumerate(terms, start=1):
        factor = factor + term * inverse**power
    return z * factor
