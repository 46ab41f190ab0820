"""Polynomials in exact rational arithmetic: arrays of `Fraction`, highest power first."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np


def rational(values: Iterable[float | Fraction]) -> np.ndarray:
    """Return stored doubles as an array of the fractions that they are."""
    out = np.empty(len(values := list(values)), dtype=object)
    out[:] = [v if isinstance(v, Fraction) else Fraction(float(v)) for v in values]
    return out


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Add polynomials, highest power first."""
    size = max(len(a), len(b))
    zero = rational(np.zeros(size))
    left, right = zero.copy(), zero
    left[size - len(a) :] += a
    right[size - len(b) :] += b
    return left + right


def product(factors: list[np.ndarray]) -> np.ndarray:
    """Multiply polynomials; the empty product is 1."""
    total = rational([1.0])
    for factor in factors:
        total = np.convolve(total, factor)
    return total


def even_part(polynomial: np.ndarray) -> np.ndarray:
    """Return Re p(jω) as a polynomial in ω², lowest power first (p: highest power first)."""
    low = polynomial[::-1]
    even = low[0::2]
    return even * (-1) ** np.arange(len(even))


def mirrored(polynomial: np.ndarray) -> np.ndarray:
    """Return p(-s)."""
    return polynomial * (-1) ** np.arange(len(polynomial) - 1, -1, -1)
