"""The Padé all-pass filter of a delay, with a proved bound of its error, and the high-pass filters that cover such."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.analysis.interconnection import chain
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization
from lipctrl.arithmetic import UNIT

# Factors s² + a·s + b as (a, b), or s + a as (a, None).
Section = tuple[float, float | None]


def sections(order: int, tau: float) -> list[Section]:
    """Return the factors of the denominator of the Padé approximant of e^{-sτ}."""
    n = order
    polynomial = [
        math.factorial(2 * n - k) / (math.factorial(k) * math.factorial(n - k)) for k in range(n, -1, -1)
    ]
    roots = np.roots(np.array(polynomial) / polynomial[0])
    parts: list[Section] = [
        (-2.0 * float(z.real) / tau, float(abs(z)) ** 2 / tau**2) for z in roots if z.imag > 0.0
    ]
    return parts + [(-float(z.real) / tau, None) for z in roots if z.imag == 0.0]


def all_pass(parts: list[Section]) -> Realization:
    """Realise Π (s² - as + b)/(s² + as + b) · Π (a - s)/(a + s); entries are exact multiples of the coefficients."""
    systems = []
    for a, b in parts:
        if b is None:
            unit = 2.0 ** round(math.log2(a))
            data = [[-a]], [[unit]], [[2.0 * (a / unit)]], [[-1.0]]
        else:
            unit = 2.0 ** round(0.5 * math.log2(b))
            data = [[-a, -b / unit], [unit, 0.0]], [[unit], [0.0]], [[-2.0 * (a / unit), 0.0]], [[1.0]]
        systems.append(_realized(*data))
    return chain(systems)


def _realized(a: Any, b: Any, c: Any, d: Any) -> Realization:
    e, f, g, h = (MidRad(np.array(x, dtype=np.float64)) for x in (a, b, c, d))
    return Realization(e, f, g, h, 0.0, "continuous time")


def error_polynomial(parts: list[Section], tau: float) -> np.ndarray:
    """Return c with |e^{-jx} - F(jx/τ)| ≤ Σ c_k x^{2k+1}, in exact arithmetic up to its rounding upwards.

    The phase of F has the derivative -Σ 2a(b + ω²)/|s² + as + b|² (real factors: -2a/(a² + ω²)); τ minus this sum is
    N(ω²)/D(ω²) with D a product of positive factors. |D| is bounded from below by D(0) where no coefficient
    is negative, and factor by factor otherwise.
    """
    tops, bottoms, lowest = [], [], Fraction(1)
    for a, b in ((Fraction(a), None if b is None else Fraction(b)) for a, b in parts):
        if b is None:
            tops.append([2 * a])
            bottoms.append([a * a, Fraction(1)])
            lowest *= a * a
            continue
        slope = a * a - 2 * b
        tops.append([2 * a * b, 2 * a])
        bottoms.append([b * b, slope, Fraction(1)])
        lowest *= b * b if slope >= 0 else b * b - slope * slope / 4
    product = _product(bottoms)
    difference = [-Fraction(tau) * c for c in product]
    for i, top in enumerate(tops):
        for k, c in enumerate(_product([top, *bottoms[:i], *bottoms[i + 1 :]])):
            difference[k] += c
    least = product[0] if all(c >= 0 for c in product) else lowest
    scale = [abs(c) / least / (2 * k + 1) / Fraction(tau) ** (2 * k + 1) for k, c in enumerate(difference)]
    return np.array([float(c) for c in scale]) * (1.0 + 8.0 * UNIT)


def _product(polynomials: list[list[Fraction]]) -> list[Fraction]:
    out = [Fraction(1)]
    for factor in polynomials:
        new = [Fraction(0)] * (len(out) + len(factor) - 1)
        for i, x in enumerate(out):
            for j, y in enumerate(factor):
                new[i + j] += x * y
        out = new
    return out


def high_pass(order: int, corner: float, floor: float, gain: float) -> Realization:
    """Realise gain·(s + floor·corner)^order over the Butterworth polynomial of an odd order."""
    first = _realized([[-corner]], [[corner]], [[gain * (floor - 1.0)]], [[gain]])
    systems = [first]
    for k in range(1, (order + 1) // 2):
        zeta = math.cos(math.pi * k / order)
        # (s + f)² - (s² + 2ζs + 1) over s² + 2ζs + 1, in units of the corner
        rest = [[2.0 * (floor - zeta), floor * floor - 1.0]]
        a = [[-2.0 * zeta * corner, -corner], [corner, 0.0]]
        systems.append(_realized(a, [[corner], [0.0]], rest, [[1.0]]))
    return chain(systems)
