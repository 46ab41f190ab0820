"""A scaling of its own for every frequency: what is true of time-invariant perturbations, proved band by band.

For linear time-invariant δ_i the loop is a linear system at every frequency by itself, so the scalings may differ from
frequency to frequency (Doyle 1982): for up to three blocks the best of them give the structured singular value exactly
(Packard & Doyle 1993). Here the frequency axis is covered by bands, in each of which one constant D is proved to hold.
Policies of the ball stay arbitrary: for every fixed δ the loop that they see is linear, and its norm is below 1/ρ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lipctrl.analysis.disk_loop import LARGEST, DiskLoop
from lipctrl.analysis.popov_levels import clear_band

# Relative distances below the sampled α that are tried, and the bands that each may take.
_SHARES = ((1e-7, 40), (1e-6, 60), (1e-5, 120), (1e-4, 240), (1e-3, 240), (1e-2, 240))


@dataclass(frozen=True)
class Band:
    """On low ≤ ω ≤ high [rad/s], around `at`, the level is proved with the scalings `d` of the disks."""

    low: float
    at: float
    high: float
    d: np.ndarray


@dataclass(frozen=True)
class Pointwise:
    """`alpha` is proved by bands that cover the axis; `sampled` ≥ alpha at `frequency` [rad/s] with `scaling` there."""

    alpha: float
    sampled: float
    frequency: float
    scaling: np.ndarray
    bands: tuple[Band, ...]


def pointwise_alpha(loop: DiskLoop, alpha: float, omega: float, d: np.ndarray) -> Pointwise:
    """Raise an α proved with the constant scaling d, tightest at omega, to what scalings of every frequency prove."""
    constant = Band(0.0, math.inf, math.inf, loop.of_blocks(d))
    if len(d) == 1 or not alpha > 0.0 or alpha >= LARGEST * (1.0 - 1e-6):
        return Pointwise(alpha, alpha, omega, d, (constant,))
    search = _Search(loop, d)
    sampled, where = search.lowest(omega)
    for share, most in _SHARES:
        for _ in range(6):
            level = sampled * (1.0 - share)
            if not level > alpha * (1.0 + 1e-9):
                return Pointwise(alpha, max(sampled, alpha), where, search.at(where)[0], (constant,))
            bands, failed = _cover(loop, search, level, (where, share, most))
            if not bands and failed is not None and search.at(failed)[1] < sampled:
                sampled, where = search.lowest(failed)
                continue
            if bands:
                return Pointwise(level, sampled, where, search.at(where)[0], bands)
            break
    return Pointwise(alpha, max(sampled, alpha), where, search.at(where)[0], (constant,))


def holds(loop: DiskLoop, alpha: float, bands: tuple[Band, ...]) -> bool:
    """Prove from the data that the bands cover the frequency axis, and that each holds for α with its scaling."""
    reached = 0.0
    for band in sorted(bands, key=lambda band: band.low):
        if band.low > reached:
            return False
        found = clear_band(loop.form(band.d, alpha), 0.0, band.at)
        if found is None or found[0] > band.low or found[1] < min(band.high, loop.top):
            return False
        reached = max(reached, band.high)
    return reached >= loop.top


class _Search:
    """The best scalings at single frequencies, each found once."""

    def __init__(self, loop: DiskLoop, start: np.ndarray) -> None:
        self._loop, self._start = loop, start
        self._found: dict[float, tuple[np.ndarray, float]] = {}

    def at(self, omega: float) -> tuple[np.ndarray, float]:
        """Return the scalings of all blocks at a frequency and the α that they give there."""
        if omega not in self._found:
            responses = self._loop.responses(np.array([omega]))
            near = min(self._found, key=lambda w: abs(w - omega), default=None)
            start, radius = (self._start, 8.0) if near is None else (self._found[near][0], 2.0)
            d, level = self._loop.best(responses, start, radius=radius, tolerance=1e-7)
            if radius < 8.0 and np.abs(np.log(d / start)).max() > 0.8 * radius:
                d, level = self._loop.best(responses, self._start, radius=8.0, tolerance=1e-7)
            alpha = 1.0 / math.sqrt(level) if 0.0 < level < 1e299 else (LARGEST if level <= 0.0 else 0.0)
            self._found[omega] = d, min(alpha, LARGEST)
        return self._found[omega]

    def lowest(self, omega: float) -> tuple[float, float]:
        """Return the smallest α over frequency, and where, searched from a frequency on."""
        top = self._loop.top
        grid = np.unique(np.concatenate([self._loop.grid, [omega], [top]]))
        best, where = self._among(grid, omega)
        for _ in range(6):
            k = int(np.searchsorted(grid, where))
            left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
            if not (right - left > 1e-9 * right and math.isfinite(right)):
                break
            grid = np.unique(np.append(np.linspace(left, right, 9), where))
            best, where = self._among(grid, where)
        return best, where

    def _among(self, grid: np.ndarray, first: float) -> tuple[float, float]:
        """Return the smallest α of a grid: a scaling found at one frequency bounds it at all others."""
        responses = self._loop.responses(grid)
        bound = np.zeros(len(grid))
        omega, best, where = first, math.inf, first
        for _ in range(len(grid)):
            d, alpha = self.at(omega)
            if alpha < best:
                best, where = alpha, omega
            with np.errstate(divide="ignore"):
                bound = np.maximum(
                    bound, 1.0 / np.sqrt(self._loop.levels(self._loop.of_blocks(d), responses))
                )
            bound[grid == omega] = math.inf
            k = int(np.argmin(bound))
            if not bound[k] < best * (1.0 - 1e-9):
                break
            omega = float(grid[k])
        return best, where


def _cover(
    loop: DiskLoop, search: _Search, level: float, limits: tuple[float, float, int]
) -> tuple[tuple[Band, ...], float | None]:
    """Return bands that prove the level on the whole axis; none, and where that failed, otherwise.

    `limits` are the frequency to start from, the level's relative distance below the α there, and how many bands may be
    used. Away from a peak the room for a scaling grows like the square of the distance, so bands stay as narrow as the
    first up to about the root of the relative distance: a first band that is too narrow for that ends the attempt.
    """
    # Infinity has no band around it, but the last band may reach it.
    start, share, most = min(limits[0], float(loop.grid[-1])), *limits[1:]
    most = min(most, max(1000 // max(loop.system.states, 1), 20))

    def band_at(omega: float) -> Band | None:
        d = loop.of_blocks(search.at(omega)[0])
        found = clear_band(loop.form(d, level), 0.0, omega)
        return None if found is None else Band(max(found[0], 0.0), omega, found[1], d)

    first = band_at(start)
    if first is None:
        return (), start
    if (first.high - first.low) * most < math.sqrt(share) * start:
        return (), None
    bands, lowest, highest = [first], first, first
    while len(bands) < most and (lowest.low > 0.0 or highest.high < loop.top):
        if lowest.low > 0.0:
            # A band reaches to both sides: look ahead by most of the last one's width, or where it ended.
            ahead = max(lowest.low - 0.7 * (lowest.at - lowest.low), 0.0)
            band = next((b for w in (ahead, lowest.low) if (b := band_at(w)) and b.high >= lowest.low), None)
            if band is None or not band.low < lowest.low:
                return (), lowest.low
            lowest = band
        else:
            ahead = min(highest.high + 0.7 * (highest.high - highest.at), loop.top)
            band = next(
                (b for w in (ahead, highest.high) if (b := band_at(w)) and b.low <= highest.high), None
            )
            if band is None or not band.high > highest.high:
                return (), highest.high
            highest = band
        bands.append(band)
    return (tuple(bands), None) if lowest.low <= 0.0 and highest.high >= loop.top else ((), None)
