"""Several slope-restricted channels u_i = -φ_i(y_i): constant multipliers, incremental, and Popov's, which are not.

With T = diag(t) ≻ 0 and slopes in [0, b], the loop is incrementally stable if b⁻¹T + He TG ≻ 0 at all frequencies of a
stable square plant G: the multivariable circle criterion for diagonal φ (Zames 1966; Desoer & Vidyasagar 1975). Popov's
criterion adds jωN, N = diag(η) ⪰ 0, and proves less: stability about zero for memoryless time-invariant φ. T and N are
found by a descent on samples, and b is then proved for them between samples by level sets.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.optimize

from lipctrl.analysis.arguments import finite_number
from lipctrl.analysis.circle import is_positive_real, max_slope
from lipctrl.analysis.descent import ellipsoid_descent
from lipctrl.analysis.frequencies import resonance_grid
from lipctrl.analysis.loop import close_loop
from lipctrl.analysis.midrad import MidRad, block
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_minimum import popov_minimum
from lipctrl.analysis.spectrum import internal_stability

# Slopes beyond this are called unbounded.
LARGEST = 1e9


def square_stable(sys: Any, lower: float = 0.0) -> Realization:
    """Return a square plant with the slope `lower` closed around every channel, proved stable.

    Raises
    ------
    ValueError
        For plants that are not square, or not provably stable with that slope.
    """
    system = as_realization(sys, "sys")
    if system.inputs != system.outputs:
        raise ValueError(
            f"the plant has {system.outputs} outputs and {system.inputs} inputs; slopes of diagonal maps need as many "
            "of each"
        )
    lower = finite_number(lower, "lower")
    closed = close_loop(system, MidRad(-lower * np.eye(system.inputs)))
    if closed is None or not internal_stability(closed.a, discrete=closed.is_discrete).is_stable:
        raise ValueError(
            "the plant is not provably stable"
            + (f" under u = -{lower:g}·y" if lower else "")
            + "; expected a "
            "stabilising lower slope in every channel (lower=a; the slopes are then [a, b])"
        )
    return closed


def diagonal_slope(sys: Any, lower: float = 0.0) -> float:
    """Return the largest b proved safe for every diagonal φ with incremental slopes in [lower, b], u = -φ(y).

    Incremental, and never below `max_slope` by more than the accuracy of the search (1e-6), which treats φ as a full
    block. inf: every finite slope. The scaling T is searched by descent and b is proved for it.

    Parameters
    ----------
    sys : square plant, as `as_realization` takes it; lower : slope that stabilises the plant in every channel.

    Raises
    ------
    ValueError
        For plants that are not square or not stable under the lower slope.

    Examples
    --------
    >>> import control
    >>> g = control.ss([[-1, 9.0], [0, -1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 0], [0, 0]])
    >>> diagonal_slope(g) > 1e6                  # a cascade: scaled channels do not see the coupling
    True
    """
    system = square_stable(sys, lower)
    width = _ConstantMultipliers(system, popov=False).largest()[0]
    if width == 0.0:
        return max_slope(sys, lower)  # Where He G touches zero: bounded on the scale of ‖G‖ there.
    return lower + width if math.isfinite(width) else math.inf


def require_popov(system: Realization) -> None:
    """Raise a ValueError for plants that Popov's criterion does not speak about."""
    if system.is_discrete:
        raise ValueError(
            "the Popov criterion is stated in continuous time; for a discrete plant use zames_falb"
        )
    if not system.d.is_zero():
        raise ValueError(
            "the plant has direct feed-through; the Popov criterion needs a strictly proper plant"
        )


def popov_channels(system: Realization) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the largest common sector bound that Popov's criterion proves, with T and N. Not incremental."""
    return _ConstantMultipliers(system, popov=True).largest()


class _ConstantMultipliers:
    """b⁻¹T + He (T + jωN)G ≻ 0: T and N from samples, b from level sets."""

    def __init__(self, system: Realization, *, popov: bool) -> None:
        self.system, _ = system.balanced()
        self.popov = popov
        self.omega = resonance_grid(system, 60, near=15)
        self.size = system.inputs

    def proved(self, t: np.ndarray, n: np.ndarray) -> tuple[float, float]:
        """Return the proved b for given multipliers, and the frequency that limits it."""
        # In coordinates w = l∘w̄ with l ≈ t^-½ the first term is b⁻¹ up to the rounding of l; l is any stored number.
        root = np.exp2(np.round(np.log2(t) / 2.0))
        ratio = t / root**2
        l = MidRad(np.diag(1.0 / np.sqrt(ratio)))
        # S G S⁻¹ with S of powers of two is exact.
        c, b, d = (
            _scaled(x, left, right)
            for x, left, right in (
                (self.system.c, root, np.ones(self.system.states)),
                (self.system.b, np.ones(self.system.states), 1.0 / root),
                (self.system.d, root, 1.0 / root),
            )
        )
        weights = [MidRad(np.diag(0.5 * ratio))]
        if self.popov and n.any():
            c, d = block([[c], [c @ self.system.a]]), block([[d], [c @ b]])
            weights.append(MidRad(np.diag(0.5 * n / root**2)))
        plant = replace(self.system, b=b @ l, c=c, d=d @ l)
        rows = plant.outputs
        yu = block([[w @ l] for w in weights])
        form = PopovForm(plant, MidRad.zeros(rows, rows), yu, MidRad.zeros(self.size, self.size))
        if is_positive_real(form):
            return math.inf, 0.0
        sampled = [form.lowest(w) for w in self.omega]
        # Relative to the minimum itself, unless samples see none below zero.
        size = (
            0.0 if min(sampled) < 0.0 else 1e-9 * (1e-300 + max(abs(v) for v in sampled if math.isfinite(v)))
        )
        found = popov_minimum(form, size, tightest=1e-9, loosest=1e-2)
        if not math.isfinite(found.lower):
            return 0.0, abs(found.frequency)
        if found.lower >= 0.0:
            return math.inf, abs(found.frequency)
        return (1.0 - 1e-15) / -found.lower, abs(found.frequency)

    def largest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the largest b found and proved, with its T and N."""
        ones, none = np.ones(self.size), np.zeros(self.size)
        value, where = self.proved(ones, none)
        best = (value, ones, none)
        if math.isinf(value) or (self.size == 1 and not self.popov):
            return best
        search = _SampledSearch(self)
        for _ in range(6):
            search.add(where)
            sampled, t, n = search.run()
            value, where = self.proved(t, n)
            if value > best[0]:
                best = (value, t, n)
            if math.isinf(value) or sampled < best[0] * (1.0 + 1e-7):
                break
        return best


def _scaled(matrix: MidRad, left: np.ndarray, right: np.ndarray) -> MidRad:
    """Multiply by diagonal matrices of powers of two: exact."""
    grid = left[:, None] * right[None, :]
    return MidRad(matrix.mid * grid, None if matrix.rad is None else matrix.rad * grid)


class _SampledSearch:
    """Descent on the largest eigenvalue of -He (T + jωN)G relative to T, over samples; its results are guesses.

    The sets of (T, N) below a level are convex, so that a descent that does not stall ends at the optimum.
    """

    def __init__(self, owner: _ConstantMultipliers) -> None:
        self.owner = owner
        self.omega, self.response = np.zeros(0), np.zeros((0, owner.size, owner.size), dtype=complex)
        self._append(owner.omega)
        middle = float(np.median(np.abs(self.omega)))
        self.spread = 1.0 / max(middle, 1e-12)
        self.point = np.zeros(owner.size * (2 if owner.popov else 1) - 1)

    def _append(self, omega: np.ndarray) -> None:
        values = np.array([self.owner.system.response(float(w)) for w in omega])
        good = np.isfinite(values).all(axis=(1, 2))
        self.omega = np.concatenate([self.omega, omega[good]])
        self.response = np.concatenate([self.response, values[good]])

    def add(self, omega: float) -> None:
        """Add a frequency that limited a proof, and neighbours."""
        if math.isfinite(omega):
            self._append(omega * np.array([0.999, 0.9999, 1.0, 1.0001, 1.001]))

    def _multipliers(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = self.owner.size
        t = np.exp(np.clip(np.concatenate([[0.0], point[: size - 1]]), -40.0, 40.0))
        if not self.owner.popov:
            return t, np.zeros(size)
        return t, self.spread * t * np.exp(np.clip(point[size - 1 :], -40.0, 40.0))

    def _level(self, point: np.ndarray) -> float:
        t, n = self._multipliers(point)
        root = np.sqrt(t)
        g = self.response * (root[:, None] / root[None, :])
        g = g * (1.0 + 1j * self.omega[:, None, None] * (n / t)[None, :, None])
        return float(np.linalg.eigvalsh(-0.5 * (g + g.conj().swapaxes(1, 2)))[:, -1].max())

    def run(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the largest b found at the samples, with its T and N."""
        best = self._level(self.point)
        for step in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3):
            simplex = np.vstack([self.point, self.point + step * np.eye(len(self.point))])
            found = scipy.optimize.minimize(
                self._level, self.point, method="Nelder-Mead",
                options={"initial_simplex": simplex, "maxfev": 150 * len(self.point), "xatol": 1e-9, "fatol": 1e-12},
            )  # fmt: skip
            if found.fun <= best:
                best, self.point = float(found.fun), found.x
        t, n = self._multipliers(self.point)
        if best > 1.0 / LARGEST and len(self.point):
            best, t, n = self._polished(best, t, n)
        return (1.0 / best if best > 1.0 / LARGEST else math.inf), t, n

    def _polished(self, level: float, t: np.ndarray, n: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Continue in the entries of T and N themselves, in which the sets are convex, by ellipsoids."""
        unit = np.append(t[1:], np.maximum(n, self.spread * t)) if self.owner.popov else t[1:]
        size = self.owner.size

        def parts(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values = point * unit
            return np.append(t[:1], values[: size - 1]), values[size - 1 :] if self.owner.popov else n

        def value(point: np.ndarray) -> tuple[float, np.ndarray]:
            floor = np.append(np.full(size - 1, 1e-3), np.zeros(len(point) - size + 1))
            beyond = point - floor
            if beyond.min() < 0.0:
                return math.inf, -1.0 * (np.arange(len(point)) == np.argmin(beyond))
            here, slopes = self._sloped(*parts(point))
            return here, slopes * unit

        start = np.append(t[1:], n) / unit if self.owner.popov else np.ones(size - 1)
        found, best = ellipsoid_descent(value, start, 1.0)
        return (best, *parts(found)) if best < level else (level, t, n)

    def _sloped(self, t: np.ndarray, n: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the level of T and N, and its slopes (relative) in t₂, … and, for Popov, n₁, …"""
        root = np.sqrt(t)
        g = self.response / root[None, :]
        weights = root + 1j * self.omega[:, None] * (n / root)
        m = -weights[:, :, None] * g
        values, vectors = np.linalg.eigh(0.5 * (m + m.conj().swapaxes(1, 2)))
        k = int(np.argmax(values[:, -1]))
        level, x = float(values[k, -1]), vectors[k, :, -1] / root
        flow = x.conj() * (self.response[k] @ x)
        slopes = (-flow.real - level * np.abs(x) ** 2)[1:]
        if self.owner.popov:
            slopes = np.append(slopes, (-1j * self.omega[k] * flow).real)
        return level, slopes / max(abs(level), 1e-300)
