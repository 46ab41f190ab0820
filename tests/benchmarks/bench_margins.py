"""Margins of random loops: how far the certified ends are from the falsified ones, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import control
import numpy as np
import scipy.linalg

from lipctrl import analysis

Rows = list[dict[str, Any]]
Loop = tuple[control.StateSpace, analysis.IncrementalBall]
# Radius of the ball as a share of the largest.
_SHARES = (0.0, 0.2, 0.5, 0.9)


def _loop(seed: int) -> Loop | None:
    """Return a random loop: 2 to 8 states, 1 to 3 channels, both time domains, LQR of all states or output feedback."""
    rng = np.random.default_rng(seed)
    n, m, p = int(rng.integers(2, 9)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    discrete, states = bool(seed % 2), bool((seed // 2) % 2)
    for _ in range(300):
        a = rng.normal(size=(n, n))
        if discrete:
            a *= rng.uniform(0.6, 1.15) / np.abs(np.linalg.eigvals(a)).max()
        else:
            a = a / np.sqrt(n) * rng.uniform(0.5, 3.0) - rng.uniform(0.0, 1.5) * np.eye(n)
        b, c = rng.normal(size=(n, m)), np.eye(n)
        if not states:
            c = rng.normal(size=(p, n))
            gain = rng.normal(size=(m, p)) * rng.uniform(0.05, 1.0)
        elif discrete:
            x = scipy.linalg.solve_discrete_are(a, b, np.eye(n), np.eye(m))
            gain = -np.linalg.solve(np.eye(m) + b.T @ x @ b, b.T @ x @ a)
        else:
            gain = -b.T @ scipy.linalg.solve_continuous_are(a, b, np.eye(n), np.eye(m))
        poles = np.linalg.eigvals(a + b @ gain @ c)
        if (np.abs(poles).max() < 0.985) if discrete else (poles.real.max() < -0.02):
            plant: Any = control.ss(a, b, c, np.zeros((len(c), m)), 0.1 if discrete else 0)
            share = _SHARES[int(rng.integers(0, len(_SHARES)))]
            return plant, analysis.IncrementalBall(gain, share * analysis.stability_radius(plant, -gain))
    return None


def margins_random(fast: bool) -> Rows:
    """Certified against falsified ends of phase and disk margins, and CPU time, over random loops."""
    loops = [loop for seed in range(12 if fast else 50) if (loop := _loop(seed)) is not None]
    phase, disk = [], []
    seconds: dict[str, list[float]] = {"phase": [], "disk": []}
    for plant, ball in loops:
        for kind, margin, found in (
            ("phase", analysis.incremental_phase_margin, phase),
            ("disk", analysis.incremental_disk_margin, disk),
        ):
            begin = time.process_time()
            found.append(margin(plant, ball))
            seconds[kind].append(time.process_time() - begin)
    ends: dict[str, tuple[list[Any], Callable[[Any], tuple[float, float]], str]] = {
        "phase": (phase, lambda r: (r.angle, r.falsified), "phase"),
        "disk, fixed δ": (disk, lambda r: (r.alpha, r.falsified), "disk"),
        "disk, varying δ": (disk, lambda r: (r.alpha_varying, r.falsified_varying), "disk"),
    }
    rows: Rows = []
    for name, (results, both, kind) in ends.items():
        gaps = [high / low - 1.0 for low, high in map(both, results) if np.isfinite(high) and low > 0.0]
        rows.append(
            {
                "margin": name,
                "loops": len(results),
                "with a falsified end": len(gaps),
                "median gap": float(np.median(gaps)),
                "largest gap": max(gaps),
                "median CPU [s]": float(np.median(seconds[kind])),
                "largest CPU [s]": max(seconds[kind]),
            }
        )
    return rows


TABLES = {"margins_random": margins_random}
