"""What an α means: gains and phases of the disk, and what the disk margins of linear and of uncertain loops share."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.destabilize import Destabilization
from lipctrl.analysis.falsify_linear import LinearPolicy

# A few roundings of numbers of size one.
_ROUNDING = 1e-15


@dataclass(frozen=True)
class DiskEnds:
    """Two sizes of disks f = (1 + bδ)/(1 - aδ): for δ that are fixed, and for δ that may do anything of that gain.

    Attributes
    ----------
    alpha : certified for linear time-invariant δ (uncertain gains, phases, dynamics), one of its own in every channel.
    alpha_varying : certified for any operators δ of incremental gain ≤ it, nonlinear and time-varying ones included.
        Not larger than `alpha`. Its scalings are constant, which for that class loses nothing (Shamma 1994).
    falsified_varying : the smallest α at which linear δ, fixed or periodically varying, were seen to destabilise;
        NaN: none found.
    skew : a = (1 + skew)/2, b = (1 - skew)/2.
    gain_margin : (lower, upper): constant gains strictly between, each channel on its own, are certified by `alpha`.
    phase_margin : [rad], certified in every channel by `alpha`.
    frequency : where `alpha` is tightest [rad/s].
    varying : what destabilises at `falsified_varying`, where it varies in time.
    channel_names : the plant's labels of the channels that are perturbed, empty where it has none.
    """

    alpha: float
    alpha_varying: float
    falsified_varying: float
    skew: float
    gain_margin: tuple[float, float]
    phase_margin: float
    frequency: float
    varying: Destabilization | None = field(default=None, repr=False, compare=False, kw_only=True)
    counts_samples: bool = field(default=False, repr=False, compare=False, kw_only=True)
    channel_names: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)

    def plot(self, *, ax: Any = None) -> Any:
        """Draw gains and phases that are certified together (`lipctrl.plots.disk_margin_plot`); returns the axes."""
        return importlib.import_module("lipctrl.plots.disk_margin").disk_margin_plot(self, ax=ax)

    def _varying_text(self) -> str:
        """Say what is known of perturbations that vary, where that differs."""
        if self.alpha_varying >= self.alpha * (1.0 - 1e-5):
            return ""
        text = f"; nonlinear and time-varying δ: certified α ≤ {self.alpha_varying:.6g}"
        return (
            text if math.isnan(self.falsified_varying) else f"{text}, falsified {self.falsified_varying:.6g}"
        )


def disk_policy(policy: LinearPolicy, delta: LinearPolicy, chosen: tuple[int, ...], a: float) -> LinearPolicy:
    """Return u = v + w, w = δ(v + a·w) in the chosen channels, v = π(y): the policy behind f = (1 + bδ)/(1 - aδ)."""
    pick = np.eye(len(policy.d))[list(chosen)]
    well = np.linalg.inv(np.eye(len(chosen)) - a * delta.d)
    # q = well·(v + a·C_δξ), w = C_δξ + D_δq, u = v + pickᵀw
    q_v, q_xi = well @ pick, a * well @ delta.c
    u_v = np.eye(len(policy.d)) + pick.T @ delta.d @ q_v
    u_xi = pick.T @ (delta.c + delta.d @ q_xi)
    zero = np.zeros((len(policy.a), len(delta.a)))
    return LinearPolicy(
        np.block([[policy.a, zero], [delta.b @ q_v @ policy.c, delta.a + delta.b @ q_xi]]),
        np.vstack([policy.b, delta.b @ q_v @ policy.d]),
        np.hstack([u_v @ policy.c, u_xi]),
        u_v @ policy.d,
    )


def gain_interval(alpha: float, skew: float, *, inwards: bool = True) -> tuple[float, float]:
    """Return positive gains such that |f - 1| < α|a f + b| for every f strictly between, rounded inwards (or not)."""
    a, b = 0.5 * (1.0 + skew), 0.5 * (1.0 - skew)
    if math.isinf(alpha):
        # |a f + b| > 0 is all that is asked.
        root = -b / a if a != 0.0 else -math.inf
        return (0.0, math.inf) if root <= 0.0 else ((root, math.inf) if root < 1.0 else (0.0, root))
    left, right = alpha * a, alpha * b
    slack = _ROUNDING * (1.0 + abs(left) + abs(right)) if inwards else 0.0
    above, below = 1.0 - left + slack, 1.0 + left - slack
    upper = (1.0 + right - slack) / above if above > 0.0 else math.inf
    lower = (1.0 - right + slack) / below if below > 0.0 else 0.0
    return min(max(lower, 0.0), 1.0), max(upper, 1.0)


def phase_of_disk(alpha: float, skew: float) -> float:
    """Return a φ ≤ π with |f - 1| < α|a f + b| for every f = exp(jθ), |θ| < φ: the largest one, rounded inwards.

    With s = sin(θ/2) it is 4s² < α²(1 - 4ab·s²), as a + b = 1: no cosine, which small angles would hide in.
    """
    if math.isinf(alpha):
        return math.pi
    product = (0.5 * alpha * (1.0 + skew)) * (0.5 * alpha * (1.0 - skew))
    size = 1.0 + product + _ROUNDING * (1.0 + abs(product))
    if size <= 0.0 or 0.5 * alpha >= math.sqrt(size):
        return math.pi
    return 2.0 * math.asin(0.5 * alpha / math.sqrt(size)) * (1.0 - _ROUNDING)
