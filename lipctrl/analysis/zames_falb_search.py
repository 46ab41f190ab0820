"""Zames-Falb multipliers of one channel: coefficients by a linear programme on samples, and the proof between them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import scipy.optimize

from lipctrl.analysis.frequencies import corner_grid
from lipctrl.analysis.polynomials import add, even_part, mirrored, product, rational
from lipctrl.analysis.trigonometric import positive_on_circle, positive_on_half_line


def nyquist_value(num: np.ndarray, den: np.ndarray, sample_time: float) -> float:
    """Return the smallest k > 0 at which 1 + kG has a root on the boundary (from sign changes), or inf."""
    if sample_time:
        omega = np.linspace(0.0, np.pi, 20001)
        points = np.exp(1j * omega)
    else:
        points = 1j * corner_grid(den)
    g = np.polyval(num, points) / np.polyval(den, points)
    crossing = np.flatnonzero(np.sign(g.imag[:-1]) * np.sign(g.imag[1:]) <= 0.0)
    real = np.concatenate([np.minimum(g.real[crossing], g.real[crossing + 1]), g.real[[0, -1]]])
    return float(-1.0 / real.min()) * 1.01 if real.min() < 0.0 else math.inf


def largest_proved(
    prove: Callable[[float], np.ndarray | None], ceiling: float, tolerance: float
) -> tuple[float, np.ndarray]:
    """Bisect (in the logarithm) for the largest proved k."""
    best, coefficients = 0.0, np.zeros(0)
    low, high = ceiling * 1e-6, ceiling
    found = prove(high)
    if found is not None:
        return high, found
    while high / low > 1.0 + tolerance:
        middle = math.sqrt(low * high)
        found = prove(middle)
        if found is None:
            high = middle
        else:
            low = best = middle
            coefficients = found
    return best, coefficients


class Search(ABC):
    """A linear programme for the coefficients at sampled frequencies, and a proof for all of them."""

    names: tuple[str, ...]

    def __init__(self, response: np.ndarray, basis: np.ndarray, odd: bool) -> None:
        self.response, self.basis, self.odd = response, basis, odd

    def guess(self, k: float) -> np.ndarray | None:
        """Maximise t with Re[(1 - Σ c_i H_i)(1 + kG)] ≥ t·|1 + kG| at the samples, Σ|c_i| ≤ 1."""
        loop = 1.0 + k * self.response
        size = np.maximum(np.abs(loop), 1e-12)
        columns = (self.basis * loop[:, None]).real / size[:, None]
        signed = np.hstack([columns, -columns]) if self.odd else columns
        count = signed.shape[1]
        rows = np.vstack([np.hstack([signed, np.ones((len(loop), 1))]), np.append(np.ones(count), 0.0)])
        limits = np.append(loop.real / size, 1.0 - 1e-9)
        cost = np.append(np.zeros(count), -1.0)
        solution = scipy.optimize.linprog(cost, rows, limits, bounds=[(0.0, None)] * count + [(None, 1.0)])
        if not solution.success or solution.x[-1] <= 0.0:
            return None
        # A solver keeps to bounds up to its tolerance only.
        c = np.maximum(solution.x[:-1], 0.0)
        return c[: count // 2] - c[count // 2 :] if self.odd else c

    def prove(self, k: float) -> np.ndarray | None:
        """Return proved coefficients at slope k, or None."""
        c = self.guess(k)
        return c if c is not None and self.admissible(c) and self.positive(k, c) else None

    def admissible(self, c: np.ndarray) -> bool:
        """Whether Σ|c_i| ≤ 1 in exact arithmetic, and c ≥ 0 unless φ is odd."""
        if not np.isfinite(c).all() or (not self.odd and (c < 0.0).any()):
            return False
        return sum((abs(Fraction(float(v))) for v in c), Fraction(0)) <= 1

    @abstractmethod
    def positive(self, k: float, c: np.ndarray) -> bool:
        """Prove that the multiplier with coefficients c is positive at slope k."""


class DiscreteSearch(Search):
    """Shifts z^{±i}: the multiplier is a trigonometric polynomial."""

    def __init__(self, top: np.ndarray, bottom: np.ndarray, order: int, odd: bool) -> None:
        # Rounded to doubles: what `positive_on_circle` allows for holds more than that.
        num, den = top.astype(float), bottom.astype(float)
        self.num, self.den, self.order = num, den, order
        angles = np.abs(np.angle(np.roots(den))) if len(den) > 1 else np.zeros(0)
        near = [a + np.linspace(-0.15, 0.15, 60) for a in angles]
        omega = np.concatenate([np.linspace(0.0, np.pi, 500), *near])
        omega = np.unique(omega[(omega >= 0.0) & (omega <= np.pi)])
        z = np.exp(1j * omega)
        shifts = np.array([*range(1, order + 1), *range(-1, -order - 1, -1)])
        super().__init__(np.polyval(num, z) / np.polyval(den, z), z[:, None] ** -shifts[None, :], odd)
        self.shifts = shifts
        self.names = tuple(f"z^{-i}" for i in shifts)

    def positive(self, k: float, c: np.ndarray) -> bool:
        padded = np.concatenate([np.zeros(len(self.den) - len(self.num)), self.num])
        # (den + k·num)·conj(den): coefficients of e^{jωi}, i = -n…n, highest first.
        loop = np.convolve(self.den + k * padded, self.den[::-1])
        if len(self.num) == len(self.den) and not 1.0 + k * self.num[0] / self.den[0] > 1e-9:
            return False  # Some slope of the class has no unique solution at a sample.
        multiplier = np.zeros(2 * self.order + 1)
        multiplier[self.order] = 1.0
        multiplier[self.order + self.shifts] -= c
        terms = np.abs(self.den).sum() * (np.abs(self.den).sum() + k * np.abs(self.num).sum())
        return positive_on_circle(np.convolve(multiplier, loop), float(np.abs(multiplier).sum() * terms))


class ContinuousSearch(Search):
    """Exponentials a/(a ± s) at rates around those of the plant: a polynomial in ω² decides."""

    def __init__(self, top: np.ndarray, bottom: np.ndarray, order: int, odd: bool) -> None:
        self.exact = top, bottom
        num, den = top.astype(float), bottom.astype(float)
        poles = np.abs(np.roots(den)) if len(den) > 1 else np.ones(1)
        poles = poles[poles > 0.0]
        self.rates = np.geomspace(0.2 * poles.min(), 5.0 * poles.max(), min(order, 6))
        s = 1j * corner_grid(den)
        causal = self.rates / (self.rates + s[:, None])
        super().__init__(np.polyval(num, s) / np.polyval(den, s), np.hstack([causal, causal.conj()]), odd)
        self.names = tuple(f"{a:.4g}/({a:.4g}{sign}s)" for sign in "+-" for a in self.rates)

    def positive(self, k: float, c: np.ndarray) -> bool:
        # Multiplied by Π(a² + ω²)·|den|², in rational arithmetic, a polynomial in ω² remains.
        rates, weights = rational(self.rates), rational(c)
        num, den = self.exact
        if len(num) == len(den) and not 1 + Fraction(k) * num[0] / den[0] > 0:
            return False  # Ill-posed for some slope of the class.
        factors = [rational([-1.0, 0.0, 0.0]) for _ in rates]
        for factor, a in zip(factors, rates, strict=True):
            factor[2] = a * a
        multiplier = product(factors)
        for i, a in enumerate(rates):
            rest = product([f for j, f in enumerate(factors) if j != i])
            for sign, weight in ((-1, weights[i]), (1, weights[len(rates) + i])):
                side = rational([sign, 0.0])
                side[1] = a
                multiplier = add(multiplier, -weight * a * np.convolve(side, rest))
        loop = np.convolve(add(den, Fraction(k) * num), mirrored(den))
        return positive_on_half_line(even_part(np.convolve(multiplier, loop)))
