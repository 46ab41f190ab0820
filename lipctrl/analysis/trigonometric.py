"""Proofs that a polynomial is positive on the unit circle or on a half-line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np


def positive_on_circle(coefficients: np.ndarray, magnitude: float, *, grid: int = 2**18) -> bool:
    """Prove Re Σ_k c_k e^{ikω} > 0 for all ω, k = -d…d (array of length 2d+1), or return False.

    Samples on a fine grid cannot miss a dip: near a minimum the function rises at most like ½d²‖c‖₁(Δω)², by
    Bernstein's inequality. `magnitude` ≥ ‖c‖₁ bounds the terms that the coefficients were computed from; their
    rounding and that of the transform stay below 1e-12·magnitude.
    """
    c = np.asarray(coefficients, dtype=np.float64)
    degree = (len(c) - 1) // 2
    size = float(np.abs(c).sum())
    if not np.isfinite(size + magnitude) or grid < 8 * (degree + 1):
        return False
    folded = np.zeros(grid)
    folded[: degree + 1] = c[degree:]
    folded[1 : degree + 1] += c[:degree][::-1]
    # cos is even, so the real part needs the sum of both sides only.
    values = np.fft.rfft(folded).real
    dip = 0.5 * degree**2 * size * (np.pi / grid) ** 2 + 1e-12 * max(size, magnitude)
    return bool(values.min() > dip)


def positive_on_half_line(coefficients: Iterable[Fraction]) -> bool:
    """Decide exactly whether p(x) = Σ c_k x^k > 0 for all x ≥ 0 (Sturm's theorem); lowest power first.

    Examples
    --------
    >>> from lipctrl.analysis.polynomials import rational
    >>> positive_on_half_line(rational([1.0, -1.9, 1.0])), positive_on_half_line(rational([1.0, -2.0, 1.0]))
    (True, False)
    """
    p = _integers([Fraction(v) for v in coefficients])
    while p and p[-1] == 0:
        p.pop()
    if not p or p[0] <= 0 or p[-1] <= 0:
        return False
    chain = [p, [k * v for k, v in enumerate(p)][1:]]
    while len(chain[-1]) > 1:
        remainder = _remainder(chain[-2], chain[-1])
        if not remainder:
            break
        chain.append([-v for v in remainder])
    at_zero = [q[0] for q in chain if q]
    at_infinity = [q[-1] for q in chain if q]
    return _changes(at_zero) == _changes(at_infinity)


def _integers(values: list[Fraction]) -> list[int]:
    """Return the values times a positive number that makes them integers without a common factor."""
    scale = math.lcm(*(v.denominator for v in values))
    return _primitive([v.numerator * (scale // v.denominator) for v in values])


def _primitive(values: list[int]) -> list[int]:
    divisor = math.gcd(*values)
    return [v // divisor for v in values] if divisor > 1 else values


def _remainder(a: list[int], b: list[int]) -> list[int]:
    """Return the remainder of a by b times a positive integer, which changes no sign."""
    a = list(a)
    size, sign = abs(b[-1]), 1 if b[-1] > 0 else -1
    while len(a) >= len(b):
        factor = sign * a.pop()
        shift = len(a) + 1 - len(b)
        if size != 1:
            a = [v * size for v in a]
        for k, v in enumerate(b[:-1]):
            a[k + shift] -= factor * v
        while a and a[-1] == 0:
            a.pop()
    return _primitive(a) if a else a


def _changes(values: list[int]) -> int:
    signs = [v > 0 for v in values if v != 0]
    return sum(x != y for x, y in itertools.pairwise(signs))
