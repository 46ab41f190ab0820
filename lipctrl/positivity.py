"""Proves that a symmetric block matrix is positive semidefinite, without trusting LAPACK.

A floating-point Cholesky factor R of N - cI is only a *guess*. The proof is the residual
F = N - cI - RᵀR, computed with a rigorous bound (or exactly): if ‖F‖_∞ ≤ c then N ⪰ 0, because
N = RᵀR + (cI + F) and cI + F is diagonally dominant. N is first scaled by a diagonal of powers of two, which
is exact and changes no sign. Blocks that are absent stay absent, so a block-tridiagonal
matrix costs time linear in its number of blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.arithmetic import Enclosure, Numbers

Blocks = dict[tuple[int, int], Any]


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
        for (a, b), block in blocks.items():
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


def _factor(blocks: Blocks, order: list[int], shift: float) -> dict[tuple[int, int], np.ndarray]:
    """Return float64 block Cholesky factors R_ij (i ≤ j) of N - shift·I."""
    work = {key: block.middle().copy() for key, block in blocks.items()}
    factor: dict[tuple[int, int], np.ndarray] = {}
    for i in order:
        pivot = work[i, i]
        pivot[np.diag_indices_from(pivot)] -= shift
        try:
            root = scipy.linalg.cholesky(pivot, lower=False, check_finite=True)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise NotProvedError(
                "the matrix is not positive definite by the margin that a proof needs"
            ) from error
        factor[i, i] = root
        later = [j for j in order if j > i and (i, j) in work]
        for j in later:
            factor[i, j] = scipy.linalg.solve_triangular(root, work[i, j], trans=1, check_finite=False)
        for a, j in enumerate(later):
            for k in later[a:]:
                update = factor[i, j].T @ factor[i, k]
                work[j, k] = work[j, k] - update if (j, k) in work else -update
    return factor


def _residual_bound(
    blocks: Blocks, factor: dict[tuple[int, int], np.ndarray], shift: float, kind: Any
) -> Fraction:
    """Return a proved upper bound of ‖N - shift·I - RᵀR‖_∞ (all rows)."""
    exact = {key: kind.exact(value) for key, value in factor.items()}
    columns: dict[int, list[int]] = {}
    for k, j in exact:
        columns.setdefault(j, []).append(k)
    sums: dict[int, list[Fraction]] = {}

    def add(index: int, rows: list[Fraction]) -> None:
        sums[index] = rows if index not in sums else [a + b for a, b in zip(sums[index], rows, strict=True)]

    pairs = {(i, j) for k, i in exact for k2, j in exact if k == k2 and i <= j} | set(blocks)
    for i, j in sorted(pairs):
        total = blocks.get((i, j))
        if i == j:
            eye = kind.exact(shift * np.eye(blocks[i, i].shape[0]))
            total = blocks[i, i] - eye
        for k in columns.get(i, []):
            if (k, j) in exact:
                product = exact[k, i].T @ exact[k, j]
                total = -product if total is None else total - product
        if total is None:
            continue
        add(i, total.row_sums())
        if i != j:
            add(j, total.T.row_sums())
    return max((s for rows in sums.values() for s in rows), default=Fraction(0))


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
    try:
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            return _prove(blocks, sizes)
    except OverflowError as error:
        raise NotProvedError(str(error)) from error


def _prove(blocks: Mapping[tuple[int, int], Any], sizes: list[int]) -> float:
    kind = type(next(iter(blocks.values())))
    scaled, kept = _scaled(blocks, sizes)
    order = [i for i in range(len(sizes)) if len(kept[i])]
    if not order:
        return 0.0
    for i in order:
        if (i, i) not in scaled:
            raise NotProvedError("a diagonal block is missing")
    widest = sum(scaled[i, i].shape[0] for i in order)
    radii = [np.max(b.radius.sum(axis=1), initial=0.0) for b in scaled.values() if isinstance(b, Enclosure)]
    rounding = 2.0**-50 * max(scaled[i, i].shape[0] for i in order) + 2.0 * sum(sorted(radii)[-3:])
    # The shift c only steers the guess R; any c whose residual fits is a proof.
    for shift in (4.0 * rounding, 64.0 * rounding, 64.0 * widest * rounding):
        factor = _factor(scaled, order, shift)
        if _residual_bound(scaled, factor, shift, kind) <= Fraction(shift):
            return shift
    raise NotProvedError("rounding is too coarse for a proof at this margin")
