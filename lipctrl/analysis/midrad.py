"""Real and complex matrices with a proved rounding radius: what the loop algebra computes in.

A `MidRad` stands for every matrix whose entries differ from `mid` by at most `rad`. Each operation encloses
the exact result for every member, so that a statement proved for the enclosure holds for the exact data and
not only for its rounded image. The rounding model is the standard one: an inner product of length k in any
order of summation is wrong by at most γ_k|a|ᵀ|b| plus underflow, with γ_k ≈ ku, u = 2⁻⁵³, and ≈ 3(k+2)u for
complex numbers (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1 and Lemma 3.5).

Why `lipctrl.arithmetic.Enclosure` is another class: loops are complex and near singular, so that products of 12 terms
and more are split, in twice the time, for a radius that does not grow with their length (100 × 100: 4e-15 instead of
1e-12); certificates are real and large, gain nothing from that, and share each proof with exact arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.linalg.lapack

from lipctrl.arithmetic import UNIT

# Routines of LAPACK without the search for them at every call.
_dgebal: Any = scipy.linalg.lapack.dgebal  # pyright: ignore[reportAttributeAccessIssue]
_zgebal: Any = scipy.linalg.lapack.zgebal  # pyright: ignore[reportAttributeAccessIssue]
# Bounds an underflow with room for the products of a few such numbers with ordinary ones.
TINY = 2.0**-1000
# From this inner length on, an exact splitting beats the worst-case bound of an ordinary product.
_SPLIT_FROM = 12


def rounding(length: int, is_complex: bool = True) -> float:
    """Return the relative error bound of an inner product of that length."""
    return (3.0 * (length + 2) if is_complex else length + 0.001) * UNIT * (1.0 + 1e-6)


@lru_cache(maxsize=256)
def ones(count: int) -> np.ndarray:
    """Return a vector of ones, for sums as products; it is shared, hence read-only."""
    vector = np.ones(count)
    vector.flags.writeable = False
    return vector


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

    @classmethod
    def zeros(cls, rows: int, columns: int) -> MidRad:
        """Return the exact zero matrix."""
        return cls(np.zeros((rows, columns)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mid.shape

    @property
    def H(self) -> MidRad:
        """The conjugate transpose."""
        return MidRad(self.mid.conj().T, None if self.rad is None else self.rad.T)

    def is_zero(self) -> bool:
        """Tell whether every member is exactly zero."""
        return np.count_nonzero(self.mid) == 0 and (self.rad is None or np.count_nonzero(self.rad) == 0)

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
        if other.is_zero():
            return self
        if self.is_zero():
            return other
        mid = self.mid + other.mid
        # Adding an exact zero entry makes no error.
        rad = np.where((self.mid == 0.0) | (other.mid == 0.0), 0.0, 2.0 * UNIT * np.abs(mid))
        for term in (self.rad, other.rad):
            if term is not None:
                rad = rad + term
        return MidRad(mid, rad * (1.0 + 8.0 * UNIT))

    def __sub__(self, other: MidRad) -> MidRad:
        return self + (-other)

    def __matmul__(self, other: MidRad) -> MidRad:
        if self.is_zero() or other.is_zero():
            return MidRad.zeros(self.shape[0], other.shape[1])
        length = self.shape[1]
        if length >= _SPLIT_FROM:
            mid, rad = sharp_product(self.mid, other.mid)
        else:
            mid = self.mid @ other.mid
            bound = rounding(length, np.iscomplexobj(mid))
            rad = bound * (np.abs(self.mid) @ np.abs(other.mid)) + length * TINY
        if other.rad is not None:
            rad = rad + (np.abs(self.mid) + self.radius()) @ other.rad
        if self.rad is not None:
            rad = rad + self.rad @ np.abs(other.mid)
        return MidRad(mid, rad * (1.0 + 4.0 * rounding(length)))

    def scaled(self, factor: float) -> MidRad:
        """Multiply by an exact real scalar; powers of two make no error."""
        mid = self.mid * factor
        exact = math.frexp(factor)[0] in (0.5, -0.5)
        if exact and abs(factor) < 1.0:
            return self.rescaled(np.full(self.shape, factor))
        if self.rad is None and exact:
            return MidRad(mid)
        rad = self.radius() * abs(factor) + (0.0 if exact else 2.0 * UNIT * np.abs(mid))
        return MidRad(mid, rad * (1.0 + 16.0 * UNIT))

    def rescaled(self, factors: np.ndarray) -> MidRad:
        """Multiply entry by entry by powers of two: exact, but for what underflows."""
        mid = self.mid * factors
        rad = None if self.rad is None else self.rad * np.abs(factors)
        small = (np.abs(mid) < TINY) & (self.mid != 0.0)
        if rad is not None:
            small |= (rad < TINY) & (self.rad != 0.0)
        if np.count_nonzero(small):
            lost = np.where(small, 2.0 * TINY, 0.0)
            rad = lost if rad is None else rad + lost
        return MidRad(mid, rad)

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
        # Roots first: the product of the sums could underflow.
        crude = math.sqrt(float(size.sum(axis=0).max())) * math.sqrt(float(size.sum(axis=1).max())) * inflate
        if crude == 0.0:
            return 0.0
        # Scaled to order one so that the squares below neither overflow nor underflow.
        shift = 2.0 ** -round(math.log2(crude))
        unit = self.scaled(shift)
        gram = unit.H @ unit if columns <= rows else unit @ unit.H
        guess = float(np.linalg.norm(unit.mid, 2)) ** 2
        for slack in (4e-15 * (rows + columns), 1e-12, 1e-8):
            level = guess * (1.0 + slack)
            if smallest_eigenvalue_bound(MidRad(level * np.eye(gram.shape[0])) - gram) >= 0.0:
                return min(math.sqrt(level) * (1.0 + 4.0 * UNIT) / shift, crude)
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
        return math.inf
    if not np.isfinite(matrix.mid).all() or not np.isfinite(matrix.radius()).all():
        return -math.inf
    if size == 1:
        value = float(matrix.mid[0, 0].real) - float(matrix.radius()[0, 0])
        return value - 2.0 * UNIT * abs(value)
    values, vectors = np.linalg.eigh((matrix.mid + matrix.mid.conj().T) / 2.0)
    frame = MidRad(vectors)
    residual = (matrix - frame @ MidRad(np.diag(values)) @ frame.H).magnitude()
    skew = (frame.H @ frame - MidRad.eye(size)).magnitude()
    inflate = 1.0 + rounding(size)
    error = float(residual.sum(axis=1).max()) * inflate
    tilt = float(skew.sum(axis=1).max()) * inflate
    lowest = float(values[0])
    bound = lowest - abs(lowest) * tilt - error
    return bound - 8.0 * UNIT * abs(bound)


def sharp_product(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AB and an entrywise bound of its error, about u|AB| + u·2⁻²²·n·max|A|max|B|.

    The leading parts hold β = ⌊(52 - log₂n)/2⌋ bits on a grid common to a row of A (a column of B); their
    product sums integers below 2⁵³ on one grid, hence is exact in any order of summation (the idea of Ozaki,
    Ogita, Oishi & Rump 2012).
    """
    if np.iscomplexobj(right) or np.iscomplexobj(left):
        parts = [
            sharp_product(a, b)
            for a in (np.real(left), np.imag(left))
            for b in (np.real(right), np.imag(right))
        ]
        (rr, err0), (ri, err1), (ir, err2), (ii, err3) = parts
        value = (rr - ii) + 1j * (ri + ir)
        size = np.abs(rr) + np.abs(ii) + np.abs(ri) + np.abs(ir)
        return value, err0 + err1 + err2 + err3 + 2.0 * UNIT * size
    n = left.shape[1]
    bits = (52 - math.ceil(math.log2(max(n, 2)))) // 2
    high_left, rows = _leading(left, bits, axis=1)
    high_right, columns = _leading(right, bits, axis=0)
    value = high_left.dot(right - high_right)
    value += (left - high_left).dot(right)
    value += high_left.dot(high_right)
    # Each low part is at most 2^-bits of the largest entry of its row (column).
    error = (2.0**-bits * n * rounding(n, False) * 4.0 * rows) * columns
    error += (UNIT * (1.0 + 1e-9)) * np.abs(value)
    error += 4.0 * n * TINY
    return value, error


def _leading(values: np.ndarray, bits: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Round to `bits` bits below each row's (column's) next power of two; return it with that power, shaped to fit."""
    peak = np.maximum.reduce(np.abs(values), axis, keepdims=True, initial=0.0)
    power = np.ldexp(1.0, np.frexp(peak)[1])
    power *= peak > 0.0
    grid = power * (0.75 * 2.0 ** (53 - bits))
    high = values + grid
    high -= grid
    return high, power


def equilibrate(matrix: np.ndarray) -> np.ndarray:
    """Return powers of two t for which t⁻¹·matrix·t has rows and columns of similar size (LAPACK's balancing)."""
    gebal = _zgebal if matrix.dtype.kind == "c" else _dgebal
    _, _, _, scale, info = gebal(matrix, scale=1, permute=0)
    usable = info == 0 and all(0.0 < t < math.inf for t in scale.tolist())
    return scale if usable else np.ones(len(matrix))
