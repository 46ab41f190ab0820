"""Stability radii: how far a linear policy may be from its nominal gain before a loop can be lost."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.loop import nominal_loop
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.real_radius import real_peak


def stability_radius(sys: Any, gain: Any = None, field: Literal["complex", "real"] = "complex") -> float:
    """Return the largest ρ such that u = -gain·y + φ(y) is stable for all φ of that size, from the safe side.

    `field="complex"`: ρ = 1/‖T‖_∞, T = P(I + gain·P)⁻¹ (Hinrichsen & Pritchard 1986). Every φ with incremental ℓ₂
    gain below the value, nonlinear, time-varying or dynamic, leaves the loop incrementally stable; the value is
    itself certified and below the exact radius by about 1e-9 relative, where rounding allows.
    `field="real"`: φ(y) = Δy with a constant real matrix Δ, ‖Δ‖ < ρ (Qiu et al. 1995). It is at least the complex
    radius and says nothing about nonlinear φ; its level sets are found numerically, not proved.

    Parameters
    ----------
    sys : plant P as `as_realization` takes it; gain : (inputs, outputs) array or None (zero).
        Sign: negative feedback for `gain`, as in u = -Ky + φ(y).

    Returns 0 where the nominal loop is not provably well posed and stable (hidden modes included); inf where
    no φ can act, as with T = 0.

    Raises
    ------
    ValueError
        For bad plant data, a gain of the wrong shape, or an unknown field.

    Examples
    --------
    >>> import control
    >>> print(f"{stability_radius(control.tf([1], [1, -1]), gain=3.0):.6f}")
    2.000000
    """
    if field not in ("complex", "real"):
        raise ValueError(f"field is {field!r}; expected 'complex' or 'real'")
    plant = as_realization(sys, "sys")
    k = np.zeros((plant.inputs, plant.outputs)) if gain is None else np.atleast_2d(np.asarray(gain, float))
    loop = nominal_loop(plant, -k)
    norm = loop.norm()
    if not math.isfinite(norm.value) or loop.system is None:
        return 0.0
    peak = norm.value if field == "complex" else real_peak(loop.system, norm)
    return math.inf if peak == 0.0 else math.nextafter(math.nextafter(1.0 / peak, 0.0), 0.0)
