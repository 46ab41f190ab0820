"""A loop with a disk of gain and phase in every channel and a ball of policies: α for scalings of its blocks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lipctrl.analysis.blocks import minimize_logs, scales, slope
from lipctrl.analysis.midrad import MidRad, block
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_levels import level_test
from lipctrl.analysis.sweep import ModalSweep

# Beyond it a disk holds every gain and phase that can matter.
LARGEST = 1e6


class DiskLoop:
    """(w, r) ↦ (q, y): the first `count` channels are closed by |δ_i| ≤ α, the others by one block of gain ≤ radius.

    With D = diag(d_i), diag(D², I) - α²qᴴD²q - ρ²yᴴy ≻ 0 at every frequency proves α. Where the ball is of radius 0,
    only the disks are left, and the last of them sets the unit of the scalings.
    """

    def __init__(self, system: Realization, count: int, radius: float) -> None:
        if radius == 0.0:
            left, right = _first(count, system.outputs).H, _first(count, system.inputs)
            d = left @ system.d @ right
            system = replace(system, b=system.b @ right, c=left @ system.c, d=d)
        self.system, self.count, self.radius = system, count, radius
        rest = (system.inputs - count, system.outputs - count)
        self.shapes = ((1, 1),) * count + (() if radius == 0.0 else (rest,))
        sweep = ModalSweep.of(self.form(np.ones(count), 0.0))
        grid = np.zeros(1) if sweep is None else sweep.grid()
        self.grid = np.unique(np.concatenate([[0.0], grid[grid >= 0.0]]))

    @property
    def top(self) -> float:
        """The highest frequency [rad/s]."""
        return self.system.highest_frequency

    def form(self, d: np.ndarray, alpha: float) -> PopovForm:
        """Return diag(D², I) - α²qᴴD²q - ρ²yᴴy; D, α and ρ are exact, their products enclosed."""
        k = self.count
        m, p = self.system.inputs - k, self.system.outputs - k
        scale = MidRad(np.diag(d))
        square = scale @ scale
        size = MidRad(np.diag(np.full(k, alpha))) @ scale
        radius = MidRad(self.radius * np.eye(p))
        yy = block([[-(size @ size), MidRad.zeros(k, p)], [MidRad.zeros(p, k), -(radius @ radius)]])
        uu = block([[square, MidRad.zeros(k, m)], [MidRad.zeros(m, k), MidRad.eye(m)]])
        return PopovForm(self.system, yy, MidRad.zeros(k + p, k + m), uu)

    def responses(self, omegas: np.ndarray) -> np.ndarray:
        """Return the responses (N, outputs, inputs); NaN where one cannot be computed."""
        out = np.full((len(omegas), self.system.outputs, self.system.inputs), np.nan, dtype=np.complex128)
        for i, omega in enumerate(omegas):
            try:
                out[i] = self.system.response(float(omega))
            except np.linalg.LinAlgError:
                continue
        return out

    def weighted(self, alpha: float, omega: float, d: np.ndarray | None = None) -> np.ndarray:
        """Return diag(α, ρ)·M(ω), scaled by D from both sides where a D is given."""
        d = np.ones(self.count) if d is None else d
        outer = np.concatenate([alpha * d, np.full(self.system.outputs - self.count, self.radius)])
        inner = np.concatenate([d, np.ones(self.system.inputs - self.count)])
        return outer[:, None] * self.system.response(omega) / inner

    def levels(self, d: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Return 1/α² of each response for the scalings; ≥ 1e300 where α = 0 fails, 0 without a response."""
        good: np.ndarray = np.asarray(np.isfinite(responses).all(axis=(1, 2)))
        m = np.where(good[:, None, None], responses, 0.0)
        outer, inner = self._parts(d, m)
        values = np.linalg.eigvalsh(outer)
        out = 1e300 * (1.0 + np.maximum(-values[:, 0], 0.0))
        inside: np.ndarray = np.asarray(values[:, 0] > 1e-14 * values[:, -1])
        if inside.any():
            root = np.linalg.cholesky(outer[inside])
            half = np.linalg.solve(root, inner[inside].conj().swapaxes(-1, -2))
            out[inside] = np.linalg.norm(half, 2, axis=(1, 2)) ** 2
        return np.where(good, out, 0.0)

    def _parts(self, d: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return diag(D², I) - ρ²yᴴy and D·q of the responses."""
        k = self.count
        weights = np.diag(np.concatenate([d**2, np.ones(m.shape[-1] - k)]))
        y = m[:, k:]
        return weights - self.radius**2 * y.conj().swapaxes(-1, -2) @ y, d[:, None] * m[:, :k]

    def _sloped(self, logs: np.ndarray, responses: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the largest 1/α² and a normal in log d of the half-space in which it can be smaller."""
        d = self.of_blocks(scales(logs))
        values = self.levels(d, responses)
        k = int(np.argmax(values))
        value = float(values[k])
        alpha = 1.0 / math.sqrt(value) if 0.0 < value < 1e299 else 0.0
        q, m, p = len(d), self.system.inputs - len(d), self.system.outputs - len(d)
        rows = np.concatenate([alpha * d, np.full(p, self.radius)])
        left, _, right = np.linalg.svd(rows[:, None] * responses[k] / np.append(d, np.ones(m)))
        tails = ([p], [m]) if p else ([], [])
        return value, slope(left[:, 0], [1] * q + tails[0], right[0], [1] * q + tails[1])

    def of_blocks(self, d: np.ndarray) -> np.ndarray:
        """Return the scalings of the disks from those of all blocks."""
        return d if self.radius == 0.0 else d[:-1]

    def best(
        self, responses: np.ndarray, start: np.ndarray, *, radius: float = 8.0, tolerance: float = 1e-9
    ) -> tuple[np.ndarray, float]:
        """Return scalings of all blocks that make the largest 1/α² of some responses smallest, and it."""
        return minimize_logs(
            lambda logs: self._sloped(logs, responses), start, radius=radius, tolerance=tolerance
        )

    def constant(self, first: set[float]) -> tuple[float, float, np.ndarray]:
        """Return α proved with one constant scaling, the frequency where it is tightest [rad/s], and the scaling."""
        points, d = {0.0, self.top} | first, np.ones(len(self.shapes))
        best, where, kept = 0.0, math.nan, d
        for _ in range(12):
            responses = self.responses(np.array(sorted(points)))
            responses = responses[np.isfinite(responses).all(axis=(1, 2))]
            d, low = self.best(responses, d)
            alpha, omega = self._proved(self.of_blocks(d), 1.0 / math.sqrt(low) if low > 0.0 else math.inf)
            if alpha > best:
                best, where, kept = alpha, omega, d
            met = low <= 0.0 or not math.isfinite(low) or best * math.sqrt(low) >= 1.0 - 1e-7
            if met or len(d) == 1 or omega in points:
                break
            points.add(omega)
        return best, where, kept

    def _proved(self, d: np.ndarray, start: float) -> tuple[float, float]:
        """Return the largest α proved with one scaling, from a sampled upper value, and a frequency near its limit."""
        high = min(start, LARGEST)
        where = 0.0
        for _ in range(30):
            for share in (1e-9, 1e-8, 1e-7):
                test = level_test(self.form(d, high * (1.0 - share)), 0.0)
                if test.proved:
                    return math.nextafter(high * (1.0 - share), 0.0), self._limit(d, where)
            points = np.unique(np.abs(test.crossings)) if test.crossings.size else np.zeros(0)
            points = np.unique(np.concatenate([points, 0.5 * (points[1:] + points[:-1]), [where]]))
            values = self.levels(d, self.responses(points))
            k = int(np.argmax(values))
            lower = 1.0 / math.sqrt(values[k]) if values[k] > 0.0 else math.inf
            where = float(points[k])
            # Where no lower sample is found, rounding forbids the level.
            high = (
                lower if lower < high * (1.0 - 1e-9) else high * (1.0 - 1e-5 if high > 0.5 * start else 0.5)
            )
        return 0.0, where

    def _limit(self, d: np.ndarray, seen: float) -> float:
        """Return the frequency at which the level of one scaling is highest."""
        grid = np.unique(np.append(self.grid, seen))
        values = self.levels(d, self.responses(grid))
        k = int(np.argmax(values))
        omega, value = float(grid[k]), float(values[k])
        left, right = float(grid[max(k - 1, 0)]), float(grid[min(k + 1, len(grid) - 1)])
        for _ in range(8):
            fine = np.linspace(left, right, 13)
            sizes = self.levels(d, self.responses(fine))
            j = int(np.argmax(sizes))
            left, right = float(fine[max(j - 1, 0)]), float(fine[min(j + 1, 12)])
            if sizes[j] > value:
                omega, value = float(fine[j]), float(sizes[j])
        # Where a peak lies at an end of the axis up to rounding, it lies there: a static perturbation realises it.
        ends = np.array([0.0, self.top])
        sizes = self.levels(d, self.responses(ends))
        return next(
            (float(w) for w, size in zip(ends, sizes, strict=True) if size >= value * (1.0 - 1e-9)), omega
        )


def _first(count: int, size: int) -> MidRad:
    """Return the first columns of an identity."""
    return MidRad(np.ascontiguousarray(np.eye(size)[:, :count]))
