"""Samples of a plant's nonlinearity ψ against its form: a proof that trusts ψ should not trust a wrong one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipctrl.analysis.cells import plant_slopes
from lipctrl.analysis.rest import LIBRARY

# Points of a channel on each side of zero, and distances to a neighbour relative to 1 + |z|.
_POINTS = 160
_STEPS = (1e-12, 1e-10, 1e-8, 1e-5, 1e-2)
# Arguments beyond it are not sampled; where the command is free, so large a command is assumed.
_FAR, _COMMAND = 1e6, 10.0


def require_plausible(form: Any, box: np.ndarray, command: np.ndarray) -> None:
    """Raise a ValueError where samples refute that ψ acts channel by channel, accurately, with its form's slopes.

    No proof: it finds a ψ that returns NaN, mixes channels, breaks its slopes, or loses digits in its evaluation, as
    (1 - cos z)/z does near zero. `box` (n,) and `command` (m,) say how large states and actions may be.
    """
    channels = len(form.z_max)
    if channels == 0:
        return
    command = np.where(np.isfinite(command), command, _COMMAND)
    reach = np.abs(form.C_z) @ box + np.abs(form.D_zu) @ command
    reach = np.minimum(np.minimum(reach, form.z_max), _FAR)
    grid = np.concatenate([np.linspace(0.0, 1.0, _POINTS), np.geomspace(1e-14, 1.0, _POINTS)])
    z = np.concatenate([-grid, grid])[:, None] * reach
    value = _evaluated(form, z)
    order = np.stack([np.roll(np.arange(len(z)), 7 * i + 1) for i in range(channels)], axis=1)
    mixed = _evaluated(form, np.take_along_axis(z, order, axis=0))
    loose = LIBRARY * (1.0 + np.abs(value))
    expected, around = np.take_along_axis(value, order, axis=0), np.take_along_axis(loose, order, axis=0)
    _refuse(np.abs(mixed - expected) > 2.0 * around, z, "depends on the arguments of other channels")
    for step in _STEPS:
        beside = z + step * (1.0 + np.abs(z))
        beside = np.where(beside > reach, z, beside)
        least, most = plant_slopes(form, z, beside)
        moved, wide = _evaluated(form, beside) - value, beside - z
        slack = 2.0 * LIBRARY * (2.0 + np.abs(value) + np.abs(value + moved))
        wrong = (moved < least * wide - slack) | (moved > most * wide + slack)
        _refuse(
            wrong, z, f"leaves the form's slopes over a distance of about {step:g}, or loses digits there"
        )


def _evaluated(form: Any, z: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        value = np.asarray(form.psi(z), dtype=np.float64)
    if value.shape != z.shape:
        raise ValueError(
            f"ψ returned shape {value.shape} for arguments of shape {z.shape}; expected the same shape (..., channels)"
        )
    _refuse(~np.isfinite(value), z, "is not finite")
    return value


def _refuse(wrong: np.ndarray, z: np.ndarray, what: str) -> None:
    if wrong.any():
        row, channel = (int(i[0]) for i in np.nonzero(wrong))
        at = float(z[row, channel]) if math.isfinite(z[row, channel]) else math.nan
        raise ValueError(
            f"ψ of the Lur'e form {what} (channel {channel}, near z = {at:.6g}); expected an elementwise function with "
            "difference quotients in [lower, upper] (psi_slopes where given), evaluated to nearly all digits of 1 + |ψ|"
        )
