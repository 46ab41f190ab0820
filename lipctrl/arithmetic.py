"""Two number systems in which a proof may compute: rounded with a bound, and exact.

`Enclosure` is midpoint-radius arithmetic on float64 matrices. Its only assumption is IEEE 754 round to
nearest: a computed inner product of length k, in any order and with or without fused multiply-add, differs
from the exact one by at most γ_k |a|ᵀ|b| plus k underflows, γ_k = k u / (1 - k u), u = 2⁻⁵³ (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1). `Dyadic` holds Python integers over a
power of two and makes no error at all. A proof is written once, against the operations they share.

Why `lipctrl.analysis.midrad.MidRad` is another class: a certificate multiplies many large real matrices, needs to know
which entries are exactly zero and repeats the same proof in `Dyadic` where rounding forbids it, while a loop is complex
and near singular, and pays twice the time of a product for a radius that does not grow with its length.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Protocol, Self

import numpy as np

UNIT = 2.0**-53
# The smallest normal double: it bounds an underflow also where a library flushes subnormals to zero.
TINY = 2.0**-1022


def underflows_gradually() -> bool:
    """Tell whether this thread keeps subnormal numbers, as IEEE 754 asks and every radius here assumes.

    Fast-math libraries and `torch.set_flush_denormal(True)` switch the processor to flush them to zero: a sum of
    two normal numbers may then vanish although it is not zero.
    """
    smallest = np.full(2, TINY)
    # Halving makes a subnormal result; doubling it back reads a subnormal operand.
    half = smallest * 0.5
    return bool((half + half == smallest).all())


class Numbers(Protocol):
    """Matrices of a number system: what the assembly of a proof may do with them."""

    @classmethod
    def exact(cls, values: Any) -> Self: ...
    @property
    def T(self) -> Self: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __add__(self, other: Self) -> Self: ...
    def __sub__(self, other: Self) -> Self: ...
    def __neg__(self) -> Self: ...
    def __matmul__(self, other: Self) -> Self: ...
    def times(self, other: Self) -> Self: ...
    def column(self) -> Self: ...
    def diagonal_matrix(self) -> Self: ...
    def middle(self) -> np.ndarray: ...
    def take(self, rows: np.ndarray, columns: np.ndarray) -> Self: ...
    def shift(self, rows: np.ndarray, columns: np.ndarray) -> Self: ...
    def row_sums(self) -> list[Fraction]: ...
    def zero_rows(self) -> np.ndarray: ...


def _up(radius: np.ndarray, operations: int) -> np.ndarray:
    """Inflate a non-negative radius for the rounding of the `operations` flops that computed it."""
    return radius * (1.0 + 4.0 * (operations + 4) * UNIT) + (operations + 4) * TINY


class Enclosure:
    """Matrices known up to an entrywise radius: true value in [middle - radius, middle + radius]."""

    __slots__ = ("_middle", "_radius")

    def __init__(self, middle: np.ndarray, radius: np.ndarray | None) -> None:
        self._middle = middle
        self._radius = radius

    @classmethod
    def exact(cls, values: Any) -> Enclosure:
        """Enclose stored doubles, which are what they are: radius zero."""
        return cls(np.asarray(values, dtype=np.float64), None)

    @property
    def T(self) -> Enclosure:
        return Enclosure(self._middle.T, None if self._radius is None else self._radius.T)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._middle.shape

    @property
    def radius(self) -> np.ndarray:
        """Return the entrywise radius."""
        return np.zeros_like(self._middle) if self._radius is None else self._radius

    def middle(self) -> np.ndarray:
        """Return the float64 midpoints."""
        return self._middle

    def _is_zero(self) -> np.ndarray:
        if self._radius is None:
            return self._middle == 0.0
        return np.logical_and(self._middle == 0.0, self._radius == 0.0)

    def __add__(self, other: Enclosure) -> Enclosure:
        middle = self._middle + other._middle
        radius = UNIT * np.abs(middle)
        for term in (self._radius, other._radius):
            if term is not None:
                radius = radius + term
        # A sum never underflows: exact terms that cancel to zero are exactly zero.
        return Enclosure(middle, np.where((radius == 0.0) & (middle == 0.0), 0.0, _up(radius, 3)))

    def __sub__(self, other: Enclosure) -> Enclosure:
        return self + (-other)

    def __neg__(self) -> Enclosure:
        return Enclosure(-self._middle, self._radius)

    def __matmul__(self, other: Enclosure) -> Enclosure:
        k = self.shape[-1]
        gamma = k * UNIT / (1.0 - k * UNIT) * (1.0 + 8.0 * UNIT)
        left, right = np.abs(self._middle), np.abs(other._middle)
        size = left @ right
        radius = gamma * size
        if other._radius is not None:
            radius = radius + (left if self._radius is None else left + self._radius) @ other._radius
        if self._radius is not None:
            radius = radius + self._radius @ right
        radius = _up(radius, 3 * k + 6)
        if (size == 0.0).any():
            # Sums of which every term has a factor zero are zero; what else is zero may have underflowed.
            terms = np.logical_not(self._is_zero()).astype(np.float32)
            radius[terms @ np.logical_not(other._is_zero()).astype(np.float32) == 0.0] = 0.0
        return Enclosure(self._middle @ other._middle, radius)

    def times(self, other: Enclosure) -> Enclosure:
        """Multiply entry by entry, with broadcasting."""
        middle = self._middle * other._middle
        size = np.abs(middle)
        radius = UNIT * size
        if other._radius is not None:
            radius = radius + np.abs(self._middle) * other._radius
            if self._radius is not None:
                radius = radius + self._radius * other._radius
        if self._radius is not None:
            radius = radius + self._radius * np.abs(other._middle)
        if float(size.min(initial=1.0)) > 0.0:
            return Enclosure(middle, _up(radius, 8))
        return Enclosure(middle, np.where(self._is_zero() | other._is_zero(), 0.0, _up(radius, 8)))

    def column(self) -> Enclosure:
        """Return a vector as a column."""
        return Enclosure(self._middle[:, None], None if self._radius is None else self._radius[:, None])

    def diagonal_matrix(self) -> Enclosure:
        """Return the diagonal matrix of a vector."""
        return Enclosure(np.diag(self._middle), None if self._radius is None else np.diag(self._radius))

    def take(self, rows: np.ndarray, columns: np.ndarray) -> Enclosure:
        """Return the submatrix of the given rows and columns."""
        index = np.ix_(rows, columns)
        return Enclosure(self._middle[index], None if self._radius is None else self._radius[index])

    def shift(self, rows: np.ndarray, columns: np.ndarray) -> Enclosure:
        """Scale by 2**rows on the left and 2**columns on the right: exact up to underflow."""
        if max(np.abs(rows).max(initial=0), np.abs(columns).max(initial=0)) > 500:
            exponent = rows[:, None] + columns[None, :]
            return Enclosure(np.ldexp(self._middle, exponent), np.ldexp(self.radius, exponent) + TINY)
        factor = np.ldexp(1.0, rows)[:, None] * np.ldexp(1.0, columns)
        scaled = 0.0 if self._radius is None else self._radius * factor
        return Enclosure(self._middle * factor, np.broadcast_to(scaled + TINY, factor.shape))

    def zero_rows(self) -> np.ndarray:
        """Tell which rows are exactly zero."""
        return np.all(self._is_zero(), axis=1)

    def row_sums(self) -> list[Fraction]:
        """Return upper bounds of the row sums of absolute values."""
        k = self.shape[1]
        sums = _up((np.abs(self._middle) + self.radius).sum(axis=1), k + 2)
        if not np.isfinite(sums).all():
            raise OverflowError("the bound overflows float64")
        return [Fraction(float(s)) for s in sums]


class Dyadic:
    """Matrices of exact dyadic rationals: integers over 2**`exponent`."""

    __slots__ = ("exponent", "integers")

    def __init__(self, integers: np.ndarray, exponent: int) -> None:
        self.integers = integers
        self.exponent = exponent

    @classmethod
    def exact(cls, values: Any) -> Dyadic:
        """Represent stored doubles without loss."""
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).all():
            raise OverflowError("only finite numbers are dyadic rationals")
        mantissas, exponents = np.frexp(values)
        digits = (mantissas * 2.0**53).astype(np.int64)
        powers = np.where(digits == 0, 2000, exponents - 53)
        low = min(0, int(powers.min(initial=0)))
        shifts = np.where(digits == 0, 0, powers - low)
        integers = np.empty(values.shape, dtype=object)
        flat = [int(d) << int(s) for d, s in zip(digits.ravel(), shifts.ravel(), strict=True)]
        integers.ravel()[:] = flat
        return cls(integers, -low)

    @property
    def T(self) -> Dyadic:
        return Dyadic(self.integers.T, self.exponent)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    def middle(self) -> np.ndarray:
        """Return the nearest doubles."""
        scale = 1 << self.exponent
        return np.array([float(Fraction(int(i), scale)) for i in self.integers.ravel()]).reshape(self.shape)

    def _aligned(self, other: Dyadic) -> tuple[np.ndarray, np.ndarray, int]:
        exponent = max(self.exponent, other.exponent)
        left, right = 1 << (exponent - self.exponent), 1 << (exponent - other.exponent)
        return self.integers * left, other.integers * right, exponent

    def __add__(self, other: Dyadic) -> Dyadic:
        a, b, exponent = self._aligned(other)
        return Dyadic(a + b, exponent)

    def __sub__(self, other: Dyadic) -> Dyadic:
        return self + (-other)

    def __neg__(self) -> Dyadic:
        return Dyadic(-self.integers, self.exponent)

    def __matmul__(self, other: Dyadic) -> Dyadic:
        return Dyadic(self.integers @ other.integers, self.exponent + other.exponent)

    def times(self, other: Dyadic) -> Dyadic:
        """Multiply entry by entry, with broadcasting."""
        return Dyadic(self.integers * other.integers, self.exponent + other.exponent)

    def column(self) -> Dyadic:
        """Return a vector as a column."""
        return Dyadic(self.integers[:, None], self.exponent)

    def diagonal_matrix(self) -> Dyadic:
        """Return the diagonal matrix of a vector."""
        n = len(self.integers)
        out = np.zeros((n, n), dtype=object)
        out[np.arange(n), np.arange(n)] = self.integers
        return Dyadic(out, self.exponent)

    def take(self, rows: np.ndarray, columns: np.ndarray) -> Dyadic:
        """Return the submatrix of the given rows and columns."""
        return Dyadic(self.integers[np.ix_(rows, columns)], self.exponent)

    def shift(self, rows: np.ndarray, columns: np.ndarray) -> Dyadic:
        """Scale by 2**rows on the left and 2**columns on the right."""
        exponent = np.asarray(rows)[:, None] + np.asarray(columns)[None, :]
        low = min(0, int(exponent.min(initial=0)))
        factors = np.empty(exponent.shape, dtype=object)
        factors.ravel()[:] = [1 << int(e - low) for e in exponent.ravel()]
        return Dyadic(self.integers * factors, self.exponent - low)

    def zero_rows(self) -> np.ndarray:
        """Tell which rows are exactly zero."""
        return np.array([not any(row) for row in self.integers], dtype=bool)

    def row_sums(self) -> list[Fraction]:
        """Return the exact row sums of absolute values."""
        scale = 1 << self.exponent
        return [Fraction(int(sum(abs(i) for i in row)), scale) for row in self.integers]
