"""Quick, unverified sweeps of a Popov function over many frequencies, to find where it is smallest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.analysis.popov import PopovForm

# Eigenvalues and eigenvectors (columns) of a state matrix.
Modes = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ModalSweep:
    """Φ(ω) through the eigenvectors of A: G = CV(λ - Λ)⁻¹V⁻¹B + D costs a division per mode and frequency."""

    form: PopovForm
    poles: np.ndarray
    vectors: np.ndarray
    b: np.ndarray
    c: np.ndarray
    direct: bool = False

    @classmethod
    def of(cls, form: PopovForm, modes: Modes | None = None) -> ModalSweep | None:
        """Diagonalise A; None where there are no states or no usable eigenvectors."""
        system = form.system
        if system.states == 0:
            return None
        try:
            poles, vectors = np.linalg.eig(system.A) if modes is None else modes
        except np.linalg.LinAlgError:
            return None
        try:
            b = np.linalg.solve(vectors, system.B)
        except np.linalg.LinAlgError:
            b = np.full(system.B.shape, np.inf)
        sweep = cls(form, poles, vectors, b, system.C @ vectors)
        if not np.isfinite(b).all():
            return replace(sweep, direct=True)
        probe = np.array([float(np.abs(poles).mean())])
        if system.is_discrete:
            probe = np.array([0.5 * system.highest_frequency])
        modal, direct = sweep.responses(probe), system.response(float(probe[0]))
        # Without a basis of eigenvectors the expansion cancels: solve at every frequency instead.
        return sweep if np.allclose(modal[0], direct, rtol=1e-6, atol=0.0) else replace(sweep, direct=True)

    def grid(self) -> np.ndarray:
        """Return frequencies [rad/s] at, between and beyond the modes."""
        step = self.form.system.sample_time
        if step:
            with np.errstate(divide="ignore", invalid="ignore"):
                modes = np.log(self.poles.astype(np.complex128)) / step
            modes = modes[np.isfinite(modes)]
            size = np.concatenate([np.abs(modes.imag), np.abs(modes)])
            top = math.pi / step
            # Delays (poles at z = 0) ripple about as often as there are states.
            count = min(max(9, 4 * len(self.poles)), 160)
            even = top * np.arange(1, count + 1) / (count + 1)
            size = np.unique(np.concatenate([size[(size > 0.0) & (size < top)], even, [top]]))
        else:
            size = np.concatenate([np.abs(np.imag(self.poles)), np.abs(self.poles)])
            size = np.unique(size[size > 0.0])
            if size.size == 0:
                return np.array([0.0, 1.0])
            size = np.append(size, 10.0 * size[-1])
        between = np.sqrt(size[1:] * size[:-1])
        grid = np.unique(np.concatenate([[0.0, size[0] / 10.0], size, between]))
        return np.concatenate([-grid[:0:-1], grid]) if self.form.two_sided else grid

    def _resolvent(self, omegas: np.ndarray) -> np.ndarray:
        points = self.form.system.point(omegas)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return 1.0 / (points[:, None] - self.poles[None])

    def responses(self, omegas: np.ndarray) -> np.ndarray:
        """Return the frequency responses, shape (frequencies, p, m)."""
        system = self.form.system
        if not self.direct:
            with np.errstate(invalid="ignore", over="ignore"):
                return (self.c * self._resolvent(omegas)[:, None, :]) @ self.b + system.D
        return np.stack([self._solved(float(omega)) for omega in omegas])

    @cached_property
    def _schur(self) -> tuple[np.ndarray, np.ndarray]:
        """T and V with A = V T Vᴴ: a frequency costs one triangular solve."""
        pair: Any = scipy.linalg.schur(self.form.system.A.astype(np.complex128), output="complex")
        return pair

    def _states(self, omega: float) -> np.ndarray:
        """Return (λ - A)⁻¹B at one frequency, NaN on a pole."""
        system, (triangular, vectors) = self.form.system, self._schur
        pencil = system.point(omega) * np.eye(system.states) - triangular
        try:
            return vectors @ scipy.linalg.solve_triangular(pencil, vectors.conj().T @ system.B)
        except np.linalg.LinAlgError:
            return np.full(system.B.shape, np.nan, dtype=np.complex128)

    def _solved(self, omega: float) -> np.ndarray:
        system = self.form.system
        return system.D if math.isinf(omega) else system.C @ self._states(omega) + system.D

    def lowest(self, omegas: np.ndarray) -> np.ndarray:
        """Return λ_min(Φ(ω)) for each ω; inf where it cannot be evaluated."""
        with np.errstate(invalid="ignore", over="ignore"):
            phi = self.form.of_response(self.responses(omegas))
        good: np.ndarray = np.asarray(np.isfinite(phi).all(axis=(1, 2)))
        if phi.shape[1] == 1:
            values = np.real(phi[:, 0, 0])
        else:
            values = np.linalg.eigvalsh(np.where(good[:, None, None], phi, 0.0))[:, 0]
        return np.where(good, values, np.inf)

    def state_peaks(self) -> np.ndarray:
        """Return, for each state, its largest squared gain from the input over the grid."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self.direct:
                x = np.stack([self._states(float(omega)) for omega in self.grid()])
            else:
                x = self.vectors @ (self._resolvent(self.grid())[:, :, None] * self.b)
            size = (np.abs(x) ** 2).sum(axis=2)
        return np.where(np.isfinite(size), size, 0.0).max(axis=0)

    def minimizer(self) -> float:
        """Return the frequency of the lowest local minimum found, 0 and the highest frequency winning ties."""
        grid = self.grid()
        ends = np.array([0.0, self.form.system.highest_frequency])
        ends = ends if np.isfinite(ends[1]) else ends[:1]
        values = self.lowest(grid)
        padded = np.concatenate([[np.inf], values, [np.inf]])
        local = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]) & np.isfinite(values))
        last = len(grid) - 1
        found = [
            self._refined(float(grid[max(k - 1, 0)]), float(grid[min(k + 1, last)]))
            for k in local[np.argsort(values[local])][:2]
        ]
        at_infinity = self.form.r.mid if self.form.system.sample_time == 0.0 else None
        points = np.concatenate([ends, found])
        sampled = self.lowest(points)
        if at_infinity is not None:
            points = np.append(points, np.inf)
            sampled = np.append(sampled, np.linalg.eigvalsh(at_infinity)[0])
        # What overflows is no minimum.
        sampled = np.where(np.isfinite(sampled), sampled, np.inf)
        best = sampled.min()
        first = int(np.flatnonzero(sampled <= best + 1e-13 * abs(best))[0])
        return float(points[first])

    def _refined(self, left: float, right: float) -> float:
        best, middle = np.inf, left
        for _ in range(9):
            fine = np.linspace(left, right, 17)
            values = self.lowest(fine)
            k = int(np.argmin(values))
            middle, left, right = fine[k], fine[max(k - 1, 0)], fine[min(k + 1, 16)]
            if not values[k] < best - 1e-13 * abs(best):
                break
            best = values[k]
        return float(middle)
