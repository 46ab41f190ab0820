"""Random systems for the tests, and dense-grid references that a proved bound must never be below."""

from __future__ import annotations

import control
import numpy as np


def random_system(
    rng: np.random.Generator,
    states: int,
    inputs: int = 1,
    outputs: int = 1,
    dt: float | bool = 0,
    *,
    damping: float | None = None,
    feedthrough: bool = False,
) -> control.StateSpace:
    """Return a stable system: dense, or with modes of the given damping ratio in rotated coordinates."""
    step = 1.0 if dt is True else float(dt)
    if damping is None:
        a = rng.normal(size=(states, states)) / np.sqrt(states)
        a -= (np.linalg.eigvals(a).real.max() + 0.2) * np.eye(states)
    else:
        a = np.zeros((states, states))
        for i in range(0, states - 1, 2):
            omega = np.exp(rng.uniform(-1.0, 2.0))
            a[i : i + 2, i : i + 2] = [[0.0, omega], [-omega, -2.0 * damping * omega]]
        if states % 2:
            a[-1, -1] = -1.0
        q = np.linalg.qr(rng.normal(size=(states, states)))[0]
        a = q @ a @ q.T
    if step:
        half = 0.05 * a
        a = np.linalg.solve(np.eye(states) - half, np.eye(states) + half)
    d = rng.normal(size=(outputs, inputs)) * (0.3 if feedthrough else 0.0)
    return control.ss(a, rng.normal(size=(states, inputs)), rng.normal(size=(outputs, states)), d, dt)


def response(system: control.StateSpace, omega: float) -> np.ndarray:
    """Return the frequency response by a plain solve."""
    step = 1.0 if system.dt is True else float(system.dt or 0.0)
    point = np.exp(1j * omega * step) if step else 1j * omega
    a = np.asarray(system.A)
    return system.C @ np.linalg.solve(point * np.eye(len(a)) - a, system.B) + system.D


def grid_peak(system: control.StateSpace, count: int = 400) -> float:
    """Return the largest gain on a grid that visits every mode: a lower bound of the H∞ norm."""
    step = 1.0 if system.dt is True else float(system.dt or 0.0)
    poles = np.linalg.eigvals(np.asarray(system.A)).astype(complex)
    modes = np.log(poles[poles != 0.0]) / step if step else poles
    top = np.pi / step if step else 10.0 * np.abs(modes).max()
    points = np.concatenate([[0.0], np.geomspace(1e-3 * top, top, count), np.abs(modes.imag), np.abs(modes)])
    return max(float(np.linalg.norm(response(system, w), 2)) for w in points if w <= top)
