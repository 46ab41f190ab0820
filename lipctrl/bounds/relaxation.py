"""Slopes of lines beside activations, chosen in float64: they steer back-substitution and prove nothing."""

from __future__ import annotations

import numpy as np

from lipctrl.activations import Activation

_POINTS = 16


def envelope_slopes(sigma: Activation, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return slopes (h, 2) of the lines below and above σ on [low, high] that enclose the least area.

    Such a line touches the convex (concave) envelope of σ above the middle of the interval. The envelope is that of σ
    on a grid. For ReLU across zero this is the chord above, and below the slope 0 or 1 of the wider
    side (the adaptive choice of Zhang et al. 2018, §3.3).
    """
    part = np.linspace(0.0, 1.0, 2 * _POINTS + 1)
    run = high - low
    heights = sigma.value((low[:, None] + run[:, None] * part).T).T
    left, right = part[: _POINTS + 1], part[_POINTS:]
    span = right[None, :] - left[:, None]
    span[-1, 0] = 1.0
    weight = (0.5 - left[:, None]) / span
    a, b = heights[:, : _POINTS + 1, None], heights[:, None, _POINTS:]
    middle = (1.0 - weight) * a + weight * b
    middle[:, -1, 0] = np.nan
    columns = []
    for pick in (np.nanargmin, np.nanargmax):
        best = pick(middle.reshape(len(low), -1), axis=1)
        i, j = np.divmod(best, len(right))
        rows = np.arange(len(low))
        rise = heights[rows, _POINTS + j] - heights[rows, i]
        steps = np.where(run > 0.0, run * (right[j] - left[i]), 1.0)
        columns.append(np.clip(rise / steps, sigma.lower, sigma.upper))
    return np.stack(columns, axis=1)


class ChosenSlopes:
    """Chooses slopes layer by layer, and remembers them as `arrays` for a certificate."""

    def __init__(self) -> None:
        self.arrays: dict[int, np.ndarray] = {}

    def __call__(self, l: int, sigma: Activation, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        self.arrays[l] = envelope_slopes(sigma, low, high)
        return self.arrays[l]
