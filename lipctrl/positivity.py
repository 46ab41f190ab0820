"""Proves that a symmetric block matrix is positive semidefinite, without trusting LAPACK.

A floating-point Cholesky factor R of N - cI is only a *guess*. The proof is the residual
F = N - cI - RᵀR, computed with a rigorous bound (or exactly): if ‖F‖_∞ ≤ c then N ⪰ 0, because
N = RᵀR + (cI + F) and cI + F is diagonally dominant. N is first scaled by a diagonal of powers of two, which
is exact and changes no sign. Blocks that are absent stay absent, so a block-tridiagonal
matrix costs time linear in its number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.arithmetic import TINY, UNIT, Dyadic, Enclosure, Numbers, underflows_gradually

Blocks = dict[tuple[int, int], Any]
Factor = dict[int, dict[int, np.ndarray]]
_POTRF, _TRTRS = scipy.linalg.get_lapack_funcs(("potrf", "trtrs"), dtype=np.float64)


class NotProvedError(ValueError):
    """The stored numbers do not prove the claim."""


def _scaled(blocks: Mapping[tuple[int, int], Any], sizes: list[int]) -> tuple[Blocks, list[np.ndarray]]:
    """Scale to a diagonal near one by powers of two, and drop coordinates whose rows vanish exactly."""
    exponents, kept = [], []
    for i in range(len(sizes)):
        diagonal = np.diag(blocks[i, i].middle()) if (i, i) in blocks else np.zeros(sizes[i])
        if not np.isfinite(diagonal).all():
            raise NotProvedError("the matrix overflows float64")
        vanishing = diagonal == 0.0
        for (a, b), block in blocks.items() if vanishing.any() else ():
            if i == a:
                vanishing &= block.zero_rows()
            if i == b:
                vanishing &= block.T.zero_rows()
        if (diagonal[~vanishing] <= 0.0).any():
            raise NotProvedError("a diagonal entry is not positive")
        kept.append(np.flatnonzero(~vanishing))
        exponents.append(-np.round(np.log2(diagonal[kept[-1]]) / 2.0).astype(int))
    out: Blocks = {}
    for (i, j), block in blocks.items():
        if len(kept[i]) and len(kept[j]):
            whole = block.shape == (len(kept[i]), len(kept[j]))
            part = block if whole else block.take(kept[i], kept[j])
            out[i, j] = part.shift(exponents[i], exponents[j])
    return out, kept


def _factor(blocks: Blocks, order: list[int], shift: float) -> Factor:
    """Return the rows of float64 block Cholesky factors of N - shift·I: factor[i][j] = R_ij, i ≤ j."""
    work: dict[int, dict[int, np.ndarray]] = {i: {} for i in order}
    for (i, j), block in blocks.items():
        work[i][j] = block.middle()
    factor: Factor = {}
    for i in order:
        pivot = work[i][i].copy()
        pivot.flat[:: len(pivot) + 1] -= shift
        if not np.isfinite(pivot).all():
            raise NotProvedError("the matrix overflows float64")
        root, info = _POTRF(pivot, lower=False)
        if info != 0:
            raise NotProvedError("the matrix is not positive definite by the margin that a proof needs")
        row = factor[i] = {i: root}
        later = sorted(j for j in work[i] if j > i)
        for j in later:
            row[j], _ = _TRTRS(root, work[i][j], trans=1)
        for a, j in enumerate(later):
            for k in later[a:]:
                update = row[j].T @ row[k]
                work[j][k] = work[j][k] - update if k in work[j] else -update
    return factor


def _entrywise_residual(blocks: Blocks, factor: Factor, shift: float) -> Fraction:
    """Return ‖N - shift·I - RᵀR‖_∞ in the arithmetic of the blocks: exact in integers, a bound by entries else."""
    kind = type(next(iter(blocks.values())))
    exact = {(k, j): kind.exact(value) for k, row in factor.items() for j, value in row.items()}
    sums: dict[int, list[Fraction]] = {}

    def add(index: int, rows: list[Fraction]) -> None:
        sums[index] = rows if index not in sums else [a + b for a, b in zip(sums[index], rows, strict=True)]

    products: dict[tuple[int, int], Any] = {}
    for k, row in factor.items():
        for i in row:
            for j in row:
                if i <= j:
                    term = exact[k, i].T @ exact[k, j]
                    products[i, j] = products[i, j] + term if (i, j) in products else term
    for i, j in products.keys() | blocks.keys():
        total = blocks[i, j] if (i, j) in blocks else -products.pop((i, j))
        if i == j:
            total = total - kind.exact(shift * np.eye(total.shape[0]))
        if (i, j) in products:
            total = total - products[i, j]
        add(i, total.row_sums())
        if i != j:
            add(j, total.T.row_sums())
    return max((s for rows in sums.values() for s in rows), default=Fraction(0))


def _rounded_residual(blocks: Blocks, factor: Factor, shift: float) -> Fraction:
    """Return an upper bound of ‖N - shift·I - RᵀR‖_∞ computed in float64.

    An entry of row i is a sum of at most `counts[i]` terms, so it is known up to γ times the sum of their absolute
    values; of those only row sums are needed: |R|ᵀ(|R|1) for the products, no second product of matrices.
    """
    middle: dict[tuple[int, int], np.ndarray] = {}
    sums = {i: np.zeros(row[i].shape[0]) for i, row in factor.items()}
    sizes = {i: np.full(row[i].shape[0], abs(shift)) for i, row in factor.items()}
    counts = dict.fromkeys(factor, 8)
    for (i, j), block in blocks.items():
        value = block.middle()
        size, radius = np.abs(value), block.radius
        sizes[i] = sizes[i] + size.sum(axis=1)
        sums[i] = sums[i] + radius.sum(axis=1)
        if i != j:
            sizes[j] = sizes[j] + size.sum(axis=0)
            sums[j] = sums[j] + radius.sum(axis=0)
            middle[i, j] = value
        else:
            middle[i, i] = value.copy()
            middle[i, i].flat[:: len(value) + 1] -= shift
    for row in factor.values():
        height = next(iter(row.values())).shape[0]
        absolute = {j: np.abs(value) for j, value in row.items()}
        total = np.add.reduce([a.sum(axis=1) for a in absolute.values()])
        for i, left in row.items():
            sizes[i] = sizes[i] + absolute[i].T @ total
            counts[i] += height + 2
            for j, right in row.items():
                if i <= j:
                    product = left.T @ right
                    middle[i, j] = middle[i, j] - product if (i, j) in middle else -product
    for (i, j), value in middle.items():
        size = np.abs(value)
        sums[i] = sums[i] + size.sum(axis=1)
        if i != j:
            sums[j] = sums[j] + size.sum(axis=0)
    width = sum(len(s) for s in sums.values())
    gammas = {i: count * UNIT / (1.0 - count * UNIT) for i, count in counts.items()}
    # numpy's maximum hands a NaN on; Python's would drop it.
    worst = float(np.max([(sums[i] + gammas[i] * sizes[i]).max() for i in sums]))
    # The sums above have at most width + count terms, none negative; every term may have underflowed.
    count = max(counts.values())
    bound = worst * (1.0 + 4.0 * (width + count) * UNIT) + 2.0 * width * count * TINY
    if not math.isfinite(bound):
        raise OverflowError("the bound overflows float64")
    return Fraction(bound)


def prove_positive_semidefinite(blocks: Mapping[tuple[int, int], Numbers], sizes: list[int]) -> float:
    """Prove N ⪰ 0 for the symmetric matrix with blocks N_ij, i ≤ j, or raise.

    Parameters
    ----------
    blocks : upper block triangle, absent blocks are zero; all `Enclosure` or all `Dyadic`.
    sizes : number of rows of each block row.

    Returns
    -------
    float
        The margin c of the scaled matrix that the proof used.

    Raises
    ------
    NotProvedError
        When the numbers do not suffice for a proof; that is not a proof of the contrary.
    """
    if not underflows_gradually():
        raise NotProvedError(
            "this thread flushes subnormal numbers to zero; torch.set_flush_denormal(False) mends it"
        )
    try:
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            return _prove(blocks, sizes)
    except OverflowError as error:
        raise NotProvedError(str(error)) from error


def _prove(blocks: Mapping[tuple[int, int], Any], sizes: list[int]) -> float:
    exact = isinstance(next(iter(blocks.values())), Dyadic)
    # The bound by row sums is fast and grows with the number of blocks; the one by entries does not.
    residuals = (_entrywise_residual,) if exact else (_rounded_residual, _entrywise_residual)
    scaled, kept = _scaled(blocks, sizes)
    order = [i for i in range(len(sizes)) if len(kept[i])]
    if not order:
        return 0.0
    for i in order:
        if (i, i) not in scaled:
            raise NotProvedError("a diagonal block is missing")
    widest = sum(scaled[i, i].shape[0] for i in order)
    if not all(np.isfinite(b.radius).all() for b in scaled.values() if isinstance(b, Enclosure)):
        raise NotProvedError("rounding errors of the matrix overflow float64")
    radii = [np.max(b.radius.sum(axis=1), initial=0.0) for b in scaled.values() if isinstance(b, Enclosure)]
    rounding = 2.0**-50 * max(scaled[i, i].shape[0] for i in order) + 2.0 * sum(sorted(radii)[-3:])
    # The shift c only steers the guess R; any c whose residual fits is a proof. Residuals grow like √width.
    likely = 2.0 * math.sqrt(max(scaled[i, i].shape[0] for i in order))
    try:
        factor = _factor(scaled, order, likely * rounding)
    except NotProvedError:
        likely = 4.0
        factor = _factor(scaled, order, likely * rounding)
    for multiple in (likely, 64.0, 64.0 * widest):
        shift = multiple * rounding
        if multiple != likely:
            factor = _factor(scaled, order, shift)
        if any(residual(scaled, factor, shift) <= Fraction(shift) for residual in residuals):
            return shift
    raise NotProvedError("rounding is too coarse for a proof at this margin")
