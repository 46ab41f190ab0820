"""Sectors about one point: bounds of (σ(c + d) - σ(c))/d, from slopes that hold piece by piece.

A sector about an equilibrium is narrower than the interval of slopes on the same range, and proves less: convergence to
that point, not of every pair of trajectories.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lipctrl.activations import Activation, activation
from lipctrl.analysis.lure_loop import LureLoop, bounded_neurons
from lipctrl.rules.ranges import Interval, slope_range

# (low, high) -> bounds of all difference quotients between points of [low, high], channel by channel
Slopes = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_PIECES = 24


def sector_bounds(
    slopes: Slopes, center: np.ndarray, reach: np.ndarray, loose: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sector of each channel for |d| ≤ reach: lower ≤ (σ(c + d) - σ(c))/d ≤ upper.

    The quotient is a mean of slopes between c and c + d; pieces of the range are bounded one by one and summed from the
    centre outwards, so that it is exact up to the width of a piece. `reach` finite; the centre is known up to `loose`.

    Examples
    --------
    >>> low, high = sector_bounds(sine_slopes, np.zeros(1), np.full(1, np.pi / 2))
    >>> bool(0.61 < low[0] < 2.0 / np.pi and high[0] >= 1.0)
    True
    """
    lower, upper = np.full(center.shape, np.inf), np.full(center.shape, -np.inf)
    # Rounding of sums, products and quotients of some fifty terms.
    slack = 1e-13
    for side in (1.0, -1.0):
        low_sum, high_sum = np.zeros(center.shape), np.zeros(center.shape)
        for piece in range(_PIECES):
            near, far = reach * piece / _PIECES, reach * (piece + 1) / _PIECES
            ends = center + side * near, center + side * far
            # Outwards, so that rounding of the ends and of the centre leaves no gap.
            edge = 1e-13 * (1.0 + np.abs(center) + far) + loose
            low, high = slopes(np.minimum(*ends) - edge, np.maximum(*ends) + edge)
            if piece == 0:
                lower, upper = np.minimum(lower, low), np.maximum(upper, high)
            else:
                # A quotient between two ends of a piece lies between the means at both of them.
                at_far_low, at_far_high = low_sum + low, high_sum + high
                mean_low = np.minimum(low_sum / piece, at_far_low / (piece + 1))
                mean_high = np.maximum(high_sum / piece, at_far_high / (piece + 1))
                lower, upper = np.minimum(lower, mean_low), np.maximum(upper, mean_high)
            low_sum, high_sum = low_sum + low, high_sum + high
    spread = slack * (1.0 + np.maximum(np.abs(lower), np.abs(upper)))
    return lower - spread, upper + spread


def sine_slopes(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enclose the slopes of sin between points of [low, high]."""
    ends = np.cos(low), np.cos(high)
    turn = 2.0 * np.pi
    # Rounding of the quotients below, where an extreme lies beside an end, and of the cosines.
    slack = 1e-15 * (1.0 + np.maximum(np.abs(low), np.abs(high)))

    def holds(offset: float) -> np.ndarray:
        # Whether offset + 2πk lies in the range; rounding may only add one.
        first, last = np.ceil((low - offset) / turn - 1e-12), np.floor((high - offset) / turn + 1e-12)
        return last >= first

    bottom = np.where(holds(np.pi), -1.0, np.minimum(*ends) - slack)
    top = np.where(holds(0.0), 1.0, np.maximum(*ends) + slack)
    return np.maximum(bottom, -1.0), np.minimum(top, 1.0)


def plant_sectors(
    form: Any, center: np.ndarray, reach: np.ndarray, loose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sectors of a Lur'e form's channels about z = center, known up to `loose`, for |Δz| ≤ reach.

    ψ = sin, tanh and the identity are bounded by their own derivatives; any other ψ keeps the form's slopes.
    """
    lower, upper = np.array(form.lower, dtype=float), np.array(form.upper, dtype=float)
    known: dict[Any, Slopes] = {
        np.sin: sine_slopes,
        np.tanh: lambda low, high: slope_range(activation("tanh"), low, high),
    }
    slopes = known.get(form.psi)
    cut = np.isfinite(reach)
    if slopes is None or not cut.any():
        return lower, upper
    low, high = sector_bounds(slopes, center[cut], reach[cut], loose[cut])
    lower[cut], upper[cut] = np.maximum(lower[cut], low), np.minimum(upper[cut], high)
    return lower, np.maximum(upper, lower)


def neuron_sectors(
    lure: LureLoop, form: Any, radius: np.ndarray, plant_reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sectors of the policy's neurons about the operating point, for |Δx| ≤ radius and |Δψ| ≤ plant_reach."""
    reach_y = np.abs(form.C) @ radius + np.abs(form.D_w) @ plant_reach
    return bounded_neurons(lure, form, reach_y, _neuron_sector)


def _neuron_sector(sigma: Activation, center: np.ndarray, reach: np.ndarray, loose: np.ndarray) -> Interval:
    if not np.isfinite(reach).all():
        return np.full(reach.shape, -np.inf), np.full(reach.shape, np.inf)
    return sector_bounds(lambda low, high: slope_range(sigma, low, high), center, reach, loose)
