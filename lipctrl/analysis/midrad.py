"""Real and complex matrices with a proved rounding radius: what the loop algebra computes in.

A `MidRad` stands for every matrix whose entries differ from `mid` by at most `rad`. Each operation encloses
the exact result for every member, so that a statement proved for the enclosure holds for the exact data and
not only for its rounded image. The rounding model is the standard one: an inner product of length k, real or
complex, in any order of summation, is wrong by at most 2(k+4)u·|a|ᵀ|b| plus underflow, u = 2⁻⁵³ (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1 and Lemma 3.5).
`lipctrl.arithmetic.Enclosure` is the real-valued sister that certificates are checked with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

UNIT = 2.0**-53
TINY = 2.0**-1000


def rounding(length: int) -> float:
    """Return the relative error bound of an inner product of that length (real or complex)."""
    return 2.0 * (length + 4) * UNIT


class MidRad:
    """A matrix known up to an entrywise radius; `rad` is None where the entries are exact."""

    __slots__ = ("mid", "rad")

    def __init__(self, mid: np.ndarray, rad: np.ndarray | None = None) -> None:
        self.mid = mid
        self.rad = rad

    @classmethod
    def exact(cls, values: Any) -> MidRad:
        """Enclose stored doubles, which are what they are."""
        values = np.atleast_2d(np.asarray(values))
        kind = np.complex128 if np.iscomplexobj(values) else np.float64
        return cls(values.astype(kind))

    @classmethod
    def eye(cls, size: int) -> MidRad:
        """Return the exact identity."""
        return cls(np.eye(size))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mid.shape

    @property
    def H(self) -> MidRad:
        """The conjugate transpose."""
        return MidRad(self.mid.conj().T, None if self.rad is None else self.rad.T)

    def radius(self) -> np.ndarray:
        """Return the entrywise radius as an array."""
        return np.zeros(self.shape) if self.rad is None else self.rad

    def magnitude(self) -> np.ndarray:
        """Return an entrywise upper bound of the absolute values."""
        size = np.abs(self.mid) * (1.0 + 4.0 * UNIT)
        return size if self.rad is None else (size + self.rad) * (1.0 + 4.0 * UNIT)

    def __neg__(self) -> MidRad:
        return MidRad(-self.mid, self.rad)

    def __add__(self, other: MidRad) -> MidRad:
        mid = self.mid + other.mid
        rad = 2.0 * UNIT * np.abs(mid)
        for term in (self.rad, other.rad):
            if term is not None:
                rad = rad + term
        return MidRad(mid, rad * (1.0 + 8.0 * UNIT))

    def __sub__(self, other: MidRad) -> MidRad:
        return self + (-other)

    def __matmul__(self, other: MidRad) -> MidRad:
        bound = rounding(self.shape[1])
        left, right = np.abs(self.mid), np.abs(other.mid)
        rad = bound * (left @ right)
        if other.rad is not None:
            rad = rad + left @ other.rad
            right = right + other.rad
        if self.rad is not None:
            rad = rad + self.rad @ right
        return MidRad(self.mid @ other.mid, rad * (1.0 + 4.0 * bound) + self.shape[1] * TINY)

    def scaled(self, factor: complex) -> MidRad:
        """Multiply by an exact scalar."""
        mid = self.mid * factor
        rad = 4.0 * UNIT * np.abs(mid) + TINY
        if self.rad is not None:
            rad = rad + self.rad * abs(factor)
        return MidRad(mid, rad * (1.0 + 16.0 * UNIT))

    def inverse(self) -> MidRad | None:
        """Enclose the inverse, or return None where nonsingularity cannot be proved.

        With X ≈ M⁻¹ and ‖I - XM‖_∞ = e < 1 every member M is regular and
        |M⁻¹ - X|_ij ≤ e/(1-e)·max_i|X_ij|.
        """
        size = self.shape[0]
        if size == 0:
            return self
        try:
            guess = np.linalg.inv(self.mid)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(guess).all():
            return None
        residual = (MidRad.eye(size) - MidRad(guess) @ self).magnitude()
        error = float(residual.sum(axis=1).max()) * (1.0 + rounding(size))
        if not error < 1.0:
            return None
        column = np.abs(guess).max(axis=0) * (error / (1.0 - error) * (1.0 + 16.0 * UNIT)) + TINY
        return MidRad(guess, np.broadcast_to(column, guess.shape).copy())

    def norm_bound(self) -> float:
        """Return a proved upper bound of the largest singular value, tight to about 1e-14 relative."""
        rows, columns = self.shape
        if rows == 0 or columns == 0:
            return 0.0
        size = self.magnitude()
        inflate = 1.0 + rounding(rows + columns)
        crude = float(np.sqrt(size.sum(axis=0).max() * size.sum(axis=1).max())) * inflate
        if crude == 0.0:
            return 0.0
        # Scaled to order one so that the squares below neither overflow nor underflow.
        shift = 2.0 ** -np.round(np.log2(crude))
        unit = self.scaled(shift)
        gram = unit.H @ unit if columns <= rows else unit @ unit.H
        guess = float(np.linalg.norm(unit.mid, 2)) ** 2
        for slack in (4e-15 * (rows + columns), 1e-12, 1e-8):
            level = guess * (1.0 + slack)
            if smallest_eigenvalue_bound(MidRad(level * np.eye(gram.shape[0])) - gram) >= 0.0:
                return min(float(np.sqrt(level)) * (1.0 + 4.0 * UNIT) / shift, crude)
        return crude


def block(rows: Sequence[Sequence[MidRad]]) -> MidRad:
    """Assemble a block matrix."""
    mid = np.block([[cell.mid for cell in row] for row in rows])
    if all(cell.rad is None for row in rows for cell in row):
        return MidRad(mid)
    return MidRad(mid, np.block([[cell.radius() for cell in row] for row in rows]))


def smallest_eigenvalue_bound(matrix: MidRad) -> float:
    """Return a proved lower bound of the smallest eigenvalue of every Hermitian member of the enclosure.

    From approximate eigenpairs M ≈ VΛVᴴ:  λ_min(M) ≥ λ̂_min·(1 ∓ ‖VᴴV - I‖_∞) - ‖M - VΛVᴴ‖_∞, where the
    sign of the correction is the unfavourable one. Nothing about LAPACK is assumed.
    """
    size = matrix.shape[0]
    if size == 0:
        return np.inf
    if not np.isfinite(matrix.mid).all() or not np.isfinite(matrix.radius()).all():
        return -np.inf
    middle = (matrix.mid + matrix.mid.conj().T) / 2.0
    values, vectors = np.linalg.eigh(middle)
    frame = MidRad(vectors)
    residual = (matrix - MidRad(vectors) @ MidRad(np.diag(values)) @ frame.H).magnitude()
    skew = (frame.H @ frame - MidRad.eye(size)).magnitude()
    inflate = 1.0 + rounding(size)
    error = float(residual.sum(axis=1).max()) * inflate
    tilt = float(skew.sum(axis=1).max()) * inflate
    lowest = float(values[0])
    bound = lowest - abs(lowest) * tilt - error
    return bound - 8.0 * UNIT * abs(bound)
