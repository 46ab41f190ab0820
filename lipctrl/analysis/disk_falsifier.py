"""The smallest time-invariant disks that make a loop singular: power iterations at searched frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from lipctrl.analysis.blocks import WorstBlocks, worst_blocks
from lipctrl.analysis.disk_loop import DiskLoop
from lipctrl.analysis.pointwise import Pointwise

# A search ends where it is within this relative distance of what is certified.
_ENOUGH = 3e-7
_LARGEST = 1e4


@dataclass(frozen=True)
class SingularDisks:
    """Blocks of norm one at a frequency [rad/s] that, with disks of size `alpha`, make the loop singular."""

    alpha: float
    frequency: float
    blocks: tuple[np.ndarray, ...]


def smallest_disks(loop: DiskLoop, found: Pointwise) -> SingularDisks | None:
    """Return the smallest singular disks found, searched from where the certified α is tightest; None without any."""
    search = _Search(loop, found)
    top = loop.top
    search.tries([found.frequency])
    if search.open:
        near = found.frequency * np.array([0.5, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 2.0])
        far = [top] if math.isfinite(top) else [loop.grid[-1] * 10.0**k for k in range(1, 5)]
        search.tries([0.0, *near, *far, *loop.grid])
    reach = 0.1 * search.omega
    for _ in range(6):
        if not search.open:
            break
        search.tries(np.linspace(max(search.omega - reach, 0.0), min(search.omega + reach, top), 5))
        reach *= 0.25
    return search.result()


class _Search:
    """The smallest α over the frequencies tried so far."""

    def __init__(self, loop: DiskLoop, found: Pointwise) -> None:
        self._loop, self._d, self._target = loop, loop.of_blocks(found.scaling), found.alpha
        self.alpha, self.omega = math.inf, found.frequency

    @property
    def open(self) -> bool:
        """Whether a smaller α may still be found."""
        return not self.alpha <= self._target * (1.0 + _ENOUGH)

    def tries(self, omegas: Any) -> None:
        """Look at frequencies, only to see whether they give a smaller α."""
        for omega in omegas:
            if not (self.open and 0.0 <= omega <= self._loop.top and math.isfinite(omega)):
                continue
            if math.isfinite(self.alpha) and self._worst(self.alpha * (1.0 - 1e-9), omega).value < 1.0:
                continue
            alpha = self._smallest(float(omega))
            if alpha < self.alpha:
                self.alpha, self.omega = alpha, float(omega)

    def _worst(self, alpha: float, omega: float) -> WorstBlocks:
        # A scaling does not change the blocks' norms, and starts the ascent where the scaled norm is attained.
        return worst_blocks(self._loop.weighted(alpha, omega, self._d), self._loop.shapes, starts=3)

    def _smallest(self, omega: float) -> float:
        """Return the smallest α found for which blocks of norm at most one make the weighted loop singular."""

        def excess(alpha: float) -> float:
            return self._worst(alpha, omega).value - 1.0

        low = self._target * (1.0 - 1e-9)
        high = min(self.alpha, max(low * (1.0 + 1e-6), 1e-12))
        while excess(high) < 0.0:
            low, high = high, max(2.0 * high, 1e-3)
            if high > _LARGEST:
                return math.inf
        if excess(low) >= 0.0:
            return low
        find: Any = scipy.optimize.brentq
        return float(find(excess, low, high, xtol=1e-14, rtol=1e-11, maxiter=60))

    def result(self) -> SingularDisks | None:
        """Return the smallest disks, beside 0 and Nyquist's frequency where real blocks do not reach them."""
        if not math.isfinite(self.alpha):
            return None
        omega = self.omega
        found = self._scaled(omega)
        if omega in (0.0, self._loop.top) and max(float(np.abs(np.imag(b)).max()) for b in found) > 1e-9:
            grid = self._loop.grid
            beside = grid[grid > 0.0].min(initial=1.0) * 1e-4
            omega = beside if omega == 0.0 else omega - beside
            self.alpha = self._smallest(omega)
            if not math.isfinite(self.alpha):
                return None
            found = self._scaled(omega)
        return SingularDisks(self.alpha, omega, found)

    def _scaled(self, omega: float) -> tuple[np.ndarray, ...]:
        """Return the blocks at the smallest α, of norm one as far as rounding allows, and not more."""
        worst = self._worst(self.alpha, omega)
        sizes = [float(np.linalg.norm(block, 2)) for block in worst.blocks]
        return tuple(b / max(size, 1.0) for b, size in zip(worst.blocks, sizes, strict=True))
