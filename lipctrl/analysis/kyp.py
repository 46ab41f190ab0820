"""A linear matrix inequality as the proof of a Popov inequality, where eigenvalues are too sensitive.

Φ ≻ cI at all frequencies follows from any Hermitian P with

    [AᴴP + PA + Q, PB + S; (PB + S)ᴴ, R - cI] ≻ 0                (continuous)
    [AᴴPA - P + Q, AᴴPB + S; (AᴴPB + S)ᴴ, BᴴPB + R - cI] ≻ 0       (discrete)

(Kalman-Yakubovich-Popov), provided that A has no eigenvalue on the boundary. P comes from a Riccati equation
with a little of Q and R held back; it is trusted in nothing, the inequality is re-evaluated with
bounds on all rounding.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg

from lipctrl.analysis.midrad import MidRad, block, smallest_eigenvalue_bound
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.sweep import ModalSweep


def kyp_proof(form: PopovForm, level: float, attained: float, sweep: ModalSweep) -> bool:
    """Try to prove Φ ≻ level·I, given that the minimum of Φ is believed to be `attained` > level."""
    n, gap = form.states, attained - level
    if n == 0 or not gap > 0.0:
        return False
    guess = _riccati(form, level + 0.5 * gap, 0.25 * gap, sweep)
    if guess is None:
        return False
    p = MidRad((guess + guess.conj().T) / 2.0)
    r = form.r - MidRad(level * np.eye(form.size))
    if form.system.is_discrete:
        forward = p @ form.system.a
        corner = form.system.a.H @ forward - p + form.q
        side, r = forward.H @ form.system.b + form.s, r + form.system.b.H @ p @ form.system.b
    else:
        forward = p @ form.system.a
        corner, side = forward + forward.H + form.q, p @ form.system.b + form.s
    matrix = block([[corner, side], [side.H, r]])
    diagonal = np.real(matrix.mid.diagonal())
    if not (np.isfinite(diagonal).all() and (diagonal > 0.0).all()):
        return False
    # A congruence with powers of two is exact and makes the diagonal uniform.
    scale = np.exp2(-np.round(np.log2(diagonal) / 2.0))
    grid = np.outer(scale, scale)
    return smallest_eigenvalue_bound(MidRad(matrix.mid * grid, matrix.radius() * grid)) > 0.0


def _riccati(form: PopovForm, level: float, reserve: float, sweep: ModalSweep) -> np.ndarray | None:
    """Solve the Riccati equation of Φ - level·I with a weight held back from Q that costs Φ at most `reserve`."""
    peaks = sweep.state_peaks()
    if not np.isfinite(peaks).all():
        return None
    peaks = np.maximum(peaks, peaks.max(initial=0.0) * 1e-12 + 1e-300)
    weight = np.diag(reserve / (form.states * peaks))
    r = form.r.mid - level * np.eye(form.size)
    solve = scipy.linalg.solve_discrete_are if form.system.is_discrete else scipy.linalg.solve_continuous_are
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            p = solve(form.system.A, form.system.B, form.q.mid - weight, (r + r.conj().T) / 2.0, s=form.s.mid)
    except (np.linalg.LinAlgError, ValueError, Warning):
        return None
    return p if np.isfinite(p).all() else None
