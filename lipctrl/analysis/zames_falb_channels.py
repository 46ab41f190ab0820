"""Zames-Falb multipliers for several channels: diagonal ones, and full ones where all channels share one φ.

Not incremental, like their scalar sisters. M = H₀ - Σ_r C_rF_r - Σ_r E_r F_r* with filters F_r of unit L₁ norm (delays
z^{-r}, or a/(a + s)) preserves the positivity of monotone φ if H₀ dominates: H₀_ii ≥ Σ(|C_r_ij| + |E_r_ij|) along rows.
For a repeated φ the matrices may be full, H₀ too, if rows and columns are dominated (D'Amato, Rotea, Megretski &
Jönsson 2001; Kulkarni & Safonov 2002). Unless φ is odd, every entry but the diagonal of H₀ has the sign that makes M
hyperdominant. Stability of u = -φ(y), slopes [0, k], follows from He M(k⁻¹I + G) ≻ 0 at all frequencies, which is
proved by level sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.analysis.channels import LARGEST, diagonal_slope
from lipctrl.analysis.frequencies import resonance_grid
from lipctrl.analysis.lmi import require_cvxpy, solved
from lipctrl.analysis.midrad import MidRad, block, smallest_eigenvalue_bound
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_minimum import popov_minimum


@dataclass(frozen=True)
class Multiplier:
    """H₀ and the stacks C, E (filters, m, m) of M = H₀ - Σ C_rF_r - Σ E_rF_r*."""

    h: np.ndarray
    causal: np.ndarray
    anticausal: np.ndarray

    def admissible(self, *, odd: bool, repeated: bool) -> bool:
        """Whether the stored numbers satisfy the dominance conditions, in exact arithmetic."""
        h, rest = self.h, np.concatenate([self.causal, self.anticausal])
        if not (np.isfinite(h).all() and np.isfinite(rest).all()):
            return False
        size = len(h)
        off = ~np.eye(size, dtype=bool)
        if not repeated and (h[off].any() or rest[:, off].any()):
            return False
        if not odd and ((h[off] > 0.0).any() or (rest < 0.0).any()):
            return False
        weight = [
            [sum((abs(Fraction(float(v))) for v in rest[:, i, j]), Fraction(0)) for j in range(size)]
            for i in range(size)
        ]
        for i, j in zip(*np.nonzero(off), strict=True):
            weight[i][j] += abs(Fraction(float(h[i, j])))
        rows = all(Fraction(float(h[i, i])) >= sum(weight[i]) for i in range(size))
        columns = all(Fraction(float(h[i, i])) >= sum(row[i] for row in weight) for i in range(size))
        return rows and (columns or not repeated)


class ChannelSearch:
    """M from a semidefinite programme on samples, and the proof for all frequencies."""

    def __init__(self, system: Realization, order: int, *, odd: bool, repeated: bool) -> None:
        self.system, _ = system.balanced()
        self.odd, self.repeated, self.size = odd, repeated, system.inputs
        if system.is_discrete:
            self.rates = np.zeros(order)
        else:
            poles = np.abs(np.linalg.eigvals(system.A)) if system.states else np.ones(1)
            poles = poles[poles > 0.0]
            self.rates = np.geomspace(0.2 * poles.min(), 5.0 * poles.max(), order)
        self.omega = list(resonance_grid(system, 25, near=5))
        if system.is_discrete:
            self.omega += list(np.linspace(0.0, system.highest_frequency, 25))

    def filters(self, omega: float) -> np.ndarray:
        """Return F_r at a frequency."""
        if self.system.is_discrete:
            return np.exp(-1j * omega * self.system.sample_time * np.arange(1, len(self.rates) + 1))
        return self.rates / (self.rates + 1j * omega)

    def extended(self) -> Realization:
        """Return the system from w to (Gw, F_1w … F_Rw, F_1Gw … F_RGw)."""
        g, m, count = self.system, self.size, len(self.rates)
        n, total = g.states, g.states + 2 * m * count
        eye = np.eye(m)

        def chain(first: int) -> np.ndarray:
            """State matrix part of m·count filter states that start at `first`."""
            part = np.zeros((m * count, total))
            for r in range(count):
                rows = slice(m * r, m * (r + 1))
                if g.is_discrete:
                    if r:
                        part[rows, first + m * (r - 1) : first + m * r] = eye
                else:
                    part[rows, first + m * r : first + m * (r + 1)] = -self.rates[r] * eye
            return part

        gains = np.repeat(self.rates if not g.is_discrete else np.eye(1, count)[0], m)
        stack = MidRad(gains[:, None] * np.tile(eye, (count, 1)))
        own, other = MidRad(chain(n)), chain(n + m * count)
        through = block([[stack @ g.c, MidRad.zeros(m * count, 2 * m * count)]])
        a = block([[block([[g.a, MidRad.zeros(n, 2 * m * count)]])], [own], [through + MidRad(other)]])
        b = block([[g.b], [stack], [stack @ g.d]])
        taps = MidRad(np.eye(2 * m * count, total, n))
        c = block([[block([[g.c, MidRad.zeros(m, 2 * m * count)]])], [taps]])
        d = block([[g.d], [MidRad.zeros(2 * m * count, m)]])
        return Realization(a, b, c, d, g.sample_time, g.timebase)

    def form(self, k: float, found: Multiplier) -> PopovForm:
        """Return He M(κI + G), κ = 1/k, as a Popov function of the extended system."""
        m, count = self.size, len(self.rates)
        kappa = MidRad(np.array([[1.0 / k]]))
        width = m * (1 + 2 * count)
        yy = np.zeros((width, width))
        yu_one, yu_kappa = np.zeros((width, m)), np.zeros((width, m))
        yu_one[:m] = 0.5 * found.h.T
        for r in range(count):
            p, q = slice(m * (1 + r), m * (2 + r)), slice(m * (1 + count + r), m * (2 + count + r))
            yu_one[q] = -0.5 * found.causal[r].T
            yu_kappa[p] = -0.5 * (found.causal[r].T + found.anticausal[r])
            yy[p, :m], yy[:m, p] = -0.5 * found.anticausal[r], -0.5 * found.anticausal[r].T
        scale = float(kappa.mid[0, 0])
        # Sums of two stored numbers and products with κ are rounded: enclosed.
        ulp = 4.0 * 2.0**-53
        yu = MidRad(yu_one + scale * yu_kappa, ulp * (np.abs(yu_one) + 2.0 * scale * np.abs(yu_kappa)))
        half = 0.5 * (found.h + found.h.T)
        uu = MidRad(scale * half, ulp * 2.0 * scale * np.abs(half))
        return PopovForm(self.extended(), MidRad(yy), yu, uu)

    def prove(self, k: float, found: Multiplier) -> np.ndarray | None:
        """Return None if slope k is proved with this multiplier, else frequencies where it may fail."""
        nowhere = np.zeros(0)
        if not found.admissible(odd=self.odd, repeated=self.repeated):
            return nowhere
        if not self.system.d.is_zero():
            # One solution at every sample, for every φ of the class.
            weight = MidRad(np.diag(np.diag(found.h)))
            part = weight @ (MidRad(np.eye(self.size) / k) + self.system.d)
            if not smallest_eigenvalue_bound(part + part.H) > 0.0:
                return nowhere
        test = popov_minimum(self.form(k, found), 0.0, tightest=0.05, loosest=0.95)
        if test.lower > 0.0:
            return None
        return np.array([abs(test.frequency)]) if test.upper <= 0.0 else nowhere

    def guess(self, k: float) -> Multiplier | None:
        """Return the multiplier with the largest margin at the samples, or None where there is none."""
        cp = require_cvxpy()
        m, count = self.size, len(self.rates)
        free = [(i, j) for i in range(m) for j in range(m) if self.repeated or i == j]
        entries = [(kind, r, i, j) for kind in (1, 2) for r in range(count) for i, j in free]
        entries += [(0, 0, i, j) for i, j in free if i != j]
        up = cp.Variable(len(entries), nonneg=True)
        down = cp.Variable(len(entries), nonneg=True) if self.odd else None
        diagonal, margin = cp.Variable(m, nonneg=True), cp.Variable()
        size = up + down if down is not None else up
        value = up - down if down is not None else up
        # An entry of C or E is subtracted, so that the same sign serves off-diagonal entries of -H₀.
        rows = np.array([[i == e[2] for e in entries] for i in range(m)], dtype=float)
        columns = np.array([[i == e[3] for e in entries] for i in range(m)], dtype=float)
        constraints = [cp.sum(diagonal) == m, rows @ size <= (1.0 - 1e-9) * diagonal]
        if self.repeated:
            constraints.append(columns @ size <= (1.0 - 1e-9) * diagonal)
        for omega in self.omega:
            constraints.append(self._at(cp, omega, k, entries, diagonal, value) >> margin * np.eye(2 * m))
        if not solved(cp.Problem(cp.Maximize(margin), constraints)) or not margin.value > 0.0:
            return None
        return self._assembled(entries, diagonal.value, np.asarray(value.value))

    def _at(self, cp: Any, omega: float, k: float, entries: list[Any], diagonal: Any, value: Any) -> Any:
        m = self.size
        loop = np.eye(m) / k + self.system.response(omega)
        filters = np.concatenate([[1.0], self.filters(omega)])
        weight = max(float(np.linalg.norm(loop, 2)), 1e-12)
        columns = []
        for i in range(m):
            unit = np.zeros((m, m), dtype=complex)
            unit[i] = loop[i]
            columns.append(_embedded(unit))
        for kind, r, i, j in entries:
            unit = np.zeros((m, m), dtype=complex)
            factor = 1.0 if kind == 0 else filters[1 + r] if kind == 1 else filters[1 + r].conjugate()
            unit[i] = -factor * loop[j]
            columns.append(_embedded(unit))
        stack = np.array(columns).reshape(len(columns), -1).T / weight
        flat = stack[:, :m] @ diagonal + stack[:, m:] @ value
        return cp.reshape(flat, (2 * m, 2 * m), order="C")

    def _assembled(self, entries: list[Any], diagonal: np.ndarray, value: np.ndarray) -> Multiplier:
        m, count = self.size, len(self.rates)
        parts = np.zeros((3, max(count, 1), m, m))
        for (kind, r, i, j), v in zip(entries, value, strict=True):
            parts[kind, r, i, j] = v if self.odd else max(v, 0.0)
        h = np.diag(np.maximum(diagonal, 0.0)) - parts[0, 0]
        return Multiplier(h, parts[1, :count], parts[2, :count])

    def attempt(self, k: float) -> Multiplier | None:
        """Return a multiplier that is proved at slope k, or None."""
        for _ in range(6):
            found = self.guess(k)
            if found is None:
                return None
            failed = self.prove(k, found)
            if failed is None:
                return found
            if failed.size == 0:
                return None
            self.omega += [float(w) * f for w in failed if math.isfinite(w) for f in (0.99, 1.0, 1.01)]
        return None


def _embedded(matrix: np.ndarray) -> np.ndarray:
    """Return the real symmetric matrix of twice the size that stands for the Hermitian part."""
    he = 0.5 * (matrix + matrix.conj().T)
    return np.block([[he.real, -he.imag], [he.imag, he.real]])


def largest_slope(
    system: Realization, order: int, *, odd: bool, repeated: bool, tolerance: float
) -> tuple[float, Multiplier | None]:
    """Return the largest slope proved by a multiplier, starting at the incremental circle criterion's."""
    best: Multiplier | None = None
    low, step = diagonal_slope(system), 1.3
    if not low > 0.0:
        return 0.0, None
    # A diagonal multiplier is a full one, and the smaller search is the safer start.
    for full in (False, True) if repeated else (False,):
        search = ChannelSearch(system, order, odd=odd, repeated=full)
        high = math.inf
        while high / low > 1.0 + tolerance and low < LARGEST:
            trial = low * step if math.isinf(high) else math.sqrt(low * high)
            found = search.attempt(trial)
            if found is None:
                high = trial
            else:
                low, best, step = trial, found, 1.5 * step
        step = 1.0 + 4.0 * tolerance
    return low, best
