"""The Popov criterion of one channel: Re[(1 + jωη)G(jω)] + 1/k > 0 at all ω, as positivity of a polynomial in ω²."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.analysis.frequencies import corner_grid
from lipctrl.analysis.polynomials import add, even_part, mirrored, rational
from lipctrl.analysis.trigonometric import positive_on_half_line


def popov_line(num: np.ndarray, den: np.ndarray) -> tuple[float, float]:
    """Return a proved (k, η) of one channel (exact polynomials): the best η by tangents, k by Sturm's theorem."""
    if not num.any():
        return math.inf, 0.0
    line = _Line(num.astype(float), den.astype(float))
    kappa, eta = line.best()
    if kappa <= 1e-14 * line.size and _never_negative(_popov_polynomial(num, den, eta, 0.0)):
        return math.inf, eta
    kappa = max(kappa, 0.0)
    failed = kappa
    for slack in (1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 10.0):
        # The slack is relative to the size of the response, too, so that a plant with unbounded k stays finite.
        level = kappa * (1.0 + slack) + 1e-3 * slack * line.size
        if positive_on_half_line(_popov_polynomial(num, den, eta, level)):
            break
        failed = level
    else:
        return 0.0, 0.0
    for _ in range(20):
        middle = 0.5 * (failed + level)
        if positive_on_half_line(_popov_polynomial(num, den, eta, middle)):
            level = middle
        else:
            failed = middle
    return math.nextafter(1.0 / level, 0.0), eta


def _never_negative(polynomial: np.ndarray) -> bool:
    """Prove p(x) ≥ 0 for x ≥ 0, zeros at x = 0 being divided out; with any 1/k > 0 that is positive."""
    nonzero = [i for i, c in enumerate(polynomial) if c != 0]
    return not nonzero or positive_on_half_line(polynomial[nonzero[0] :])


class _Line:
    """κ(η) = max over ω of ηω Im G - Re G, convex in η: the smallest 1/k of a multiplier 1 + ηs, unverified."""

    def __init__(self, num: np.ndarray, den: np.ndarray) -> None:
        self._num, self._den, self._omega = num, den, corner_grid(den)
        self._samples = self._parts(self._omega)
        self.size = float(np.abs(self._response(self._omega)).max())
        poles = np.abs(np.roots(den))
        self._unit = 1.0 / float(poles.max(initial=1e-300))

    def _response(self, omega: np.ndarray) -> np.ndarray:
        return np.polyval(self._num, 1j * omega) / np.polyval(self._den, 1j * omega)

    def _parts(self, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return -Re G and ω Im G."""
        g: Any = self._response(omega)
        return -g.real, omega * g.imag

    def at(self, eta: float) -> tuple[float, float]:
        """Return κ(η) and a subgradient, the highest peaks refined between samples."""
        values = self._samples[0] + eta * self._samples[1]
        inner = np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:])) + 1
        candidates = np.concatenate([inner[np.argsort(values[inner])[-3:]], [0, len(values) - 1]])
        best, slope = -math.inf, 0.0
        for k in candidates:
            left, right = self._omega[max(k - 1, 0)], self._omega[min(k + 1, len(values) - 1)]
            for _ in range(14):
                fine = np.linspace(left, right, 13)
                constant, linear = self._parts(fine)
                heights = constant + eta * linear
                j = int(np.argmax(heights))
                if heights[j] > best:
                    best, slope = float(heights[j]), float(linear[j])
                left, right = fine[max(j - 1, 0)], fine[min(j + 1, 12)]
        return best, slope

    def best(self) -> tuple[float, float]:
        """Return the smallest κ and its η ≥ 0; where some κ ≤ 0 is found, that is enough."""
        left = 0.0
        low, fall = self.at(left)
        if fall >= 0.0 or low <= 0.0:
            return low, left
        right = self._unit
        high, rise = self.at(right)
        while rise < 0.0 < high and right < 1e12 * self._unit:
            left, low, fall = right, high, rise
            right *= 4.0
            high, rise = self.at(right)
        if rise <= 0.0 or high <= 0.0:
            return high, right
        for _ in range(80):
            # Where the two tangents meet: no κ is below.
            eta = (low - high + rise * right - fall * left) / (rise - fall)
            bound = low + fall * (eta - left)
            if not left < eta < right:
                break
            value, slope = self.at(eta)
            if slope < 0.0:
                left, low, fall = eta, value, slope
            else:
                right, high, rise = eta, value, slope
            if value <= 0.0 or value - bound <= 1e-14 * abs(value):
                break
        return min((low, left), (high, right))


def _popov_polynomial(num: np.ndarray, den: np.ndarray, eta: float, kappa: float) -> np.ndarray:
    """Return |den|²(Re[(1 + jωη)G] + κ) in exact rational arithmetic."""
    top, bottom = rational(num), rational(den)
    multiplied = np.convolve(rational([eta, 1.0]), top)
    return even_part(np.convolve(add(multiplied, Fraction(kappa) * bottom), mirrored(bottom)))
