"""Where a delay first destabilises a loop: sampled, unproved, to aim the proof and the falsifier."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from lipctrl.analysis.ball import IncrementalBall
from lipctrl.analysis.loop import NominalLoop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.sweep import ModalSweep

_TURN = 2.0 * math.pi


class LagSearch:
    """The smallest lag θ(ω) in [0, 2π) at which some policy of the ball makes the rotated loop singular."""

    def __init__(self, loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray) -> None:
        assert loop.system is not None
        self._system, self._radius, self._gain = loop.system, ball.radius, chosen @ ball.center
        p, m = self._system.outputs, self._system.inputs
        form = PopovForm(self._system, MidRad.eye(p), MidRad.zeros(p, m), MidRad.zeros(m, m))
        self._sweep = ModalSweep.of(form)

    def first(self) -> tuple[float, float]:
        """Return the smallest delay θ/ω [s] found and its frequency [rad/s]; (inf, NaN) where there is none."""
        if self._sweep is None:
            return math.inf, math.nan
        grid = self._grid()
        seeds = self._centre_crossings(grid)
        near = [w * (1.0 + sign * 10.0**k) for w in seeds for sign in (-1.0, 1.0) for k in range(-10, -1)]
        grid = np.unique(np.concatenate([grid, seeds, near]))
        grid = grid[grid <= self._system.highest_frequency]
        best, where = self._zoom(grid) if self._radius > 0.0 else (math.inf, math.nan)
        for omega in seeds:
            delay = self._centre_lag(float(omega)) / float(omega)
            if delay < best:
                best, where = delay, float(omega)
        return best, where

    def _grid(self) -> np.ndarray:
        assert self._sweep is not None
        modes = np.abs(self._sweep.grid())
        modes = modes[modes > 0.0]
        low, high = modes.min() / 100.0, min(modes.max() * 100.0, self._system.highest_frequency)
        grid = np.unique(np.concatenate([modes, self._resonances(), np.geomspace(low, high, 500)]))
        return grid[(grid >= low) & (grid <= high)]

    def _resonances(self) -> np.ndarray:
        """Return frequencies around every mode in steps of its damping, which may be far finer than any grid."""
        assert self._sweep is not None
        poles, step = self._sweep.poles.astype(np.complex128), self._system.sample_time
        if step:
            poles = np.log(poles[poles != 0.0]) / step
        poles = poles[poles.imag > 0.0]
        steps = np.geomspace(0.1, 1e3, 17)
        steps = np.concatenate([-steps, [0.0], steps])
        return (poles.imag[:, None] + np.abs(poles.real)[:, None] * steps).ravel()

    def _loops(self, omegas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self._sweep is not None
        t = self._sweep.responses(omegas)
        k = self._gain @ t
        return t, k, np.eye(k.shape[-1]) + k

    def _zoom(self, grid: np.ndarray) -> tuple[float, float]:
        best, where = math.inf, math.nan
        left, right = grid[0], grid[-1]
        for _ in range(12):
            delays = self.lags(grid) / grid
            k = int(np.argmin(delays))
            if not math.isfinite(delays[k]):
                return best, where
            if delays[k] < best:
                best, where = float(delays[k]), float(grid[k])
            left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
            if right - left <= 1e-13 * right:
                break
            grid = np.linspace(left, right, 33)
        return best, where

    def lags(self, omegas: np.ndarray) -> np.ndarray:
        """Return θ(ω), inf where no rotation is singular."""
        t, k, n = self._loops(omegas)
        if k.shape[-1] == 1:
            return self._scalar_lags(t, k[:, 0, 0], n[:, 0, 0])
        out = np.full(len(omegas), np.inf)
        for i in range(len(omegas)):
            if np.isfinite(t[i]).all():
                out[i] = self._matrix_lag(t[i], k[i], n[i])
        return out

    def _scalar_lags(self, t: np.ndarray, k: np.ndarray, n: np.ndarray) -> np.ndarray:
        # |n - zk| = ρ|t| with n = 1 + k: Re(z k n̄) = (|n|² + |k|² - ρ²|t|²)/2
        size = (np.abs(t) ** 2).sum(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = (np.abs(n) ** 2 + np.abs(k) ** 2 - self._radius**2 * size) / (
                2.0 * np.abs(n) * np.abs(k)
            )
            opening = np.arccos(cosine)
        middle = np.angle(k * n.conj())
        both = np.stack([np.mod(middle - opening, _TURN), np.mod(middle + opening, _TURN)])
        out: np.ndarray = np.where(np.isfinite(both), both, np.inf).min(axis=0)
        return out

    def _matrix_lag(self, t: np.ndarray, k: np.ndarray, n: np.ndarray) -> float:
        # z(nᴴn + kᴴk - ρ²tᴴt) - z²nᴴk - kᴴn is singular for a z on the unit circle.
        m = len(k)
        cross = n.conj().T @ k
        middle = n.conj().T @ n + k.conj().T @ k - self._radius**2 * t.conj().T @ t
        eye, zero = np.eye(m), np.zeros((m, m))
        left = np.block([[zero, eye], [cross.conj().T, -middle]])
        right = np.block([[eye, zero], [zero, -cross]])
        z = np.asarray(scipy.linalg.eigvals(left, right))
        z = z[np.isfinite(z)]
        z = z[np.abs(np.abs(z) - 1.0) < 1e-7]
        return float(np.mod(-np.angle(z), _TURN).min()) if z.size else math.inf

    def _ratios(self, omegas: np.ndarray) -> np.ndarray:
        """Return the eigenvalues 1/z of n⁻¹k, sorted by size: the rotations z that make the centre's loop singular."""
        _, k, n = self._loops(omegas)
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.linalg.eigvals(np.linalg.solve(n, k))
        return np.take_along_axis(values, np.argsort(np.abs(values), axis=1), axis=1)

    def _centre_crossings(self, grid: np.ndarray) -> np.ndarray:
        sizes = np.log(np.maximum(np.abs(self._ratios(grid)), 1e-300))
        found = []
        for j in range(sizes.shape[1]):
            # A crossing may be a point of the grid: an integrator's is its closed loop's pole.
            found += grid[sizes[:, j] == 0.0].tolist()
            for i in np.flatnonzero(sizes[:-1, j] * sizes[1:, j] < 0.0):
                low, high = grid[i], grid[i + 1]
                for _ in range(60):
                    middle = 0.5 * (low + high)
                    size = math.log(max(abs(self._ratios(np.array([middle]))[0, j]), 1e-300))
                    low, high = (middle, high) if size * sizes[i, j] > 0.0 else (low, middle)
                found.append(0.5 * (low + high))
        return np.array(found)

    def _centre_lag(self, omega: float) -> float:
        ratios = self._ratios(np.array([omega]))[0]
        on_circle = ratios[np.abs(np.abs(ratios) - 1.0) < 1e-6]
        return float(np.mod(np.angle(on_circle), _TURN).min()) if on_circle.size else math.inf
