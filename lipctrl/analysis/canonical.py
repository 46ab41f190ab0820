"""Canonical state-space forms of transfer matrices, with the rounding of their coefficients enclosed.

Entries are pairs of polynomials, highest power first, without leading zeros. Entries of a column (or row) share the
poles that their denominators have in common.
"""

from __future__ import annotations

import numpy as np

from lipctrl.analysis.midrad import MidRad
from lipctrl.arithmetic import UNIT

Polynomials = list[list[np.ndarray]]


def canonical_form(tops: Polynomials, bottoms: Polynomials) -> tuple[MidRad, MidRad, MidRad, MidRad]:
    """Realise a proper transfer matrix by columns or by rows, whichever takes fewer states; (A, B, C, D)."""
    outputs, inputs = len(tops), len(tops[0])
    by_column = [_common([bottoms[i][j] for i in range(outputs)]) for j in range(inputs)]
    by_row = [_common([bottoms[i][j] for j in range(inputs)]) for i in range(outputs)]
    if sum(p.size - 1 for p in by_column) <= sum(p.size - 1 for p in by_row):
        return _controllable(tops, bottoms, by_column)
    flip = [[tops[i][j] for i in range(outputs)] for j in range(inputs)]
    flop = [[bottoms[i][j] for i in range(outputs)] for j in range(inputs)]
    a, b, c, d = _controllable(flip, flop, by_row)
    return a.H, c.H, b.H, d.H


def _divides(divisor: np.ndarray, polynomial: np.ndarray) -> bool:
    if divisor.size > polynomial.size:
        return False
    quotient, remainder = np.polydiv(polynomial, divisor)
    scale = np.abs(np.convolve(np.abs(quotient), np.abs(divisor))).max()
    return bool(np.abs(remainder).max(initial=0.0) <= 1e-12 * scale)


def _common(denominators: list[np.ndarray]) -> np.ndarray:
    """Return a common multiple that has shared roots once; the least one where they can be told apart."""
    multiple = np.ones(1)
    for polynomial in sorted(denominators, key=len, reverse=True):
        if not _divides(polynomial, multiple):
            multiple = polynomial if _divides(multiple, polynomial) else _joined(multiple, polynomial)
    return multiple


def _joined(multiple: np.ndarray, polynomial: np.ndarray) -> np.ndarray:
    """Return a common multiple of two polynomials: without their shared roots twice, if both then divide it."""
    held = list(np.roots(multiple))
    new = []
    for root in np.roots(polynomial):
        gaps = [abs(root - other) for other in held]
        if gaps and min(gaps) <= 1e-7 * max(abs(root), 1e-300):
            held.pop(int(np.argmin(gaps)))
        else:
            new.append(root)
    factor = np.poly(new) if new else np.ones(1)
    joined = np.convolve(multiple, np.real(factor))
    whole = np.isrealobj(factor) and _divides(polynomial, joined)
    return joined if whole else np.convolve(multiple, polynomial)


def _controllable(
    tops: Polynomials, bottoms: Polynomials, common: list[np.ndarray]
) -> tuple[MidRad, MidRad, MidRad, MidRad]:
    """Realise column by column in controllable canonical form over the columns' common denominators."""
    outputs, inputs = len(tops), len(common)
    orders = [p.size - 1 for p in common]
    n, start = sum(orders), 0
    a, b = np.zeros((n, n)), np.zeros((n, inputs))
    c, d = np.zeros((outputs, n)), np.zeros((outputs, inputs))
    a_rad, c_rad, d_rad = np.zeros_like(a), np.zeros_like(c), np.zeros_like(d)
    for j, order in enumerate(orders):
        here = slice(start, start + order)
        lead, tail = common[j][0], common[j][1:] / common[j][0]
        inexact = 0.0 if lead == 1.0 else 2.0 * UNIT
        if order:
            a[start, here] = -tail
            a_rad[start, here] = inexact * np.abs(tail)
            a[np.arange(start + 1, start + order), np.arange(start, start + order - 1)] = 1.0
            b[start, j] = 1.0
        for i in range(outputs):
            cofactor = np.polydiv(common[j], bottoms[i][j])[0]
            top = np.convolve(cofactor, tops[i][j]) if tops[i][j].size else np.zeros(1)
            top = np.concatenate([np.zeros(order + 1 - top.size), top]) / lead
            loose = inexact + (0.0 if cofactor.size == 1 and cofactor[0] == 1.0 else 4.0 * UNIT * (order + 2))
            c[i, here] = top[1:] - top[0] * tail
            exact = loose == 0.0 and top[0] == 0.0
            size = np.abs(top[1:]) + np.abs(top[0] * tail)
            c_rad[i, here] = 0.0 if exact else (loose + inexact + 3.0 * UNIT) * size
            d[i, j], d_rad[i, j] = top[0], loose * abs(top[0])
        start += order
    return MidRad(a, a_rad), MidRad(b), MidRad(c, c_rad), MidRad(d, d_rad)
