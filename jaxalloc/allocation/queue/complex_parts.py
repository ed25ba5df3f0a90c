"""Complex numbers by parts, and series of theirs where a difference would cancel."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

_SERIES_BELOW = 0.3  # |z|, for φ and the like
SERIES_TERMS = {"float64": (12, 30), "float32": (7, 16)}  # of φ and of the logarithm


class Complex(NamedTuple):
    """Complex numbers by parts, whose functions keep their digits and their derivatives."""

    real: Any
    imag: Any

    def __add__(self, other: Any) -> Complex:
        return Complex(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: Any) -> Complex:
        return Complex(self.real - other.real, self.imag - other.imag)

    def __mul__(self, other: Any) -> Complex:
        return Complex(
            self.real * other.real - self.imag * other.imag,
            self.real * other.imag + self.imag * other.real,
        )

    def scaled(self, factor: Any) -> Complex:
        """Times a real number."""
        return Complex(self.real * factor, self.imag * factor)

    def over(self, other: Complex) -> Complex:
        """The quotient."""
        size = jnp.square(other.real) + jnp.square(other.imag)
        return (self * Complex(other.real, -other.imag)).scaled(1 / size)

    def where(self, flags: Any, other: Complex) -> Complex:
        """This where a flag is set, else the other."""
        return Complex(
            jnp.where(flags, self.real, other.real), jnp.where(flags, self.imag, other.imag)
        )


def log_over(w: Complex) -> tuple[Complex, Complex]:
    """ln(1 + w) / w and what it lacks of 1."""
    one, tiny = Complex(1.0, 0.0), is_small(w)
    terms = SERIES_TERMS[str(w.real.dtype)][1]
    small = series(w, [-((-1.0) ** n) / (n + 1) for n in range(1, terms)])
    p, q = w.real, w.imag
    log = Complex(jnp.log1p(2 * p + p * p + q * q) / 2, jnp.arctan2(q, 1 + p))
    direct = log.over(one.where(tiny, w))
    return (one - small).where(tiny, direct), small.where(tiny, one - direct)


def is_small(z: Complex) -> Any:
    """Whether the series stand in."""
    return jnp.square(z.real) + jnp.square(z.imag) < _SERIES_BELOW**2


def series(z: Complex, coefficients: list[float]) -> Complex:
    """Σ_{n >= 1} c_n zⁿ, of what is small; 0 elsewhere."""
    z = z.where(is_small(z), z.scaled(0))
    total = z.scaled(0)
    for coefficient in reversed(coefficients):
        total = (total + Complex(coefficient, 0.0)) * z
    return total
