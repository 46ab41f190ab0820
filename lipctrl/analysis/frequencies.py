"""Frequencies at which a linear system is worth a look; nothing is proved on them."""

from __future__ import annotations

import numpy as np

from lipctrl.analysis.plant import Realization


def resonance_grid(system: Realization, count: int, near: int = 41) -> np.ndarray:
    """Return frequencies [rad/s] for pictures and searches: geometric, with more of them around every resonance."""
    top = system.highest_frequency
    poles = np.linalg.eigvals(system.A) if system.states else np.ones(1)
    if system.is_discrete:
        poles = np.log(poles[np.abs(poles) > 0.0].astype(complex)) / system.sample_time
        poles = poles if poles.size else np.array([0.1 * top])
    sizes = np.abs(poles)[np.abs(poles) > 0.0]
    low, high = (sizes.min(), sizes.max()) if sizes.size else (1.0, 1.0)
    wide = np.geomspace(1e-2 * min(low, top), min(1e3 * high, top), count)
    around = [
        abs(p.imag) + max(abs(p.real), 1e-9 * abs(p)) * np.linspace(-5.0, 5.0, near)
        for p in poles
        if p.imag != 0.0
    ]
    omega = np.unique(np.concatenate([[0.0], wide, *around]))
    return omega[(omega >= 0.0) & (omega <= top)]


def corner_grid(den: np.ndarray) -> np.ndarray:
    """Return frequencies [rad/s] from 0 on, dense near |p| of the roots p of a polynomial (highest power first)."""
    poles = np.abs(np.roots(den)) if len(den) > 1 else np.ones(1)
    poles = poles[poles > 0.0] if (poles > 0.0).any() else np.ones(1)
    wide = np.geomspace(poles.min() * 1e-3, poles.max() * 1e3, 1200)
    near = np.concatenate([p * np.geomspace(0.7, 1.4, 80) for p in poles])
    return np.unique(np.concatenate([[0.0], wide, near]))
