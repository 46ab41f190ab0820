"""Whether a Popov function exceeds a level at all frequencies, or on a band: proofs by eigenvalues that miss it.

Where A has no eigenvalue on the boundary (imaginary axis, unit circle), Φ(ω) ≻ cI holds at all ω exactly if R ≻ cI
(discrete: Φ ≻ cI at one frequency) and the pencil of Φ - cI has no eigenvalue on the boundary (Boyd, Balakrishnan &
Kabamba 1989; Bruinsma & Steinbuch 1990). Here that is *proved*: the eigenvalues are enclosed in discs that miss it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lipctrl.analysis.discs import Discs
from lipctrl.analysis.midrad import MidRad, smallest_eigenvalue_bound
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_pencil import pencil_spectrum
from lipctrl.arithmetic import UNIT

# Where crossings are wanted, discs of eigenvalues on the boundary may be of these sizes relative to the spectrum's.
_FLOORS = (1e-9, 1e-12, 1e-7)


@dataclass(frozen=True)
class LevelTest:
    """Whether Φ ≻ cI is proved; if not, the frequencies ± radii [rad/s] where it may fail."""

    proved: bool
    crossings: np.ndarray
    radii: np.ndarray


_NOTHING = LevelTest(False, np.zeros(0), np.zeros(0))


def level_test(form: PopovForm, level: float) -> LevelTest:
    """Try to prove Φ(ω) ≻ level·I for all ω; A must have no eigenvalue on the boundary.

    Otherwise return the frequencies near which Φ - level·I may be singular.
    """
    if not math.isfinite(level):
        return _NOTHING
    if form.states == 0 or not form.system.is_discrete:
        anchor = smallest_eigenvalue_bound(form.r - MidRad(level * np.eye(form.size)))
    else:
        anchor = _anchor(form, level)
    if form.states == 0 or not anchor > 0.0:
        return LevelTest(anchor > 0.0, np.zeros(0), np.zeros(0))
    if form.q.is_zero() and form.s.is_zero():
        # Φ does not depend on the frequency.
        return LevelTest(True, np.zeros(0), np.zeros(0))
    discs = pencil_spectrum(form, level)
    if discs is None:
        return _NOTHING
    near = ~(discs.radii * (1.0 + 1e-12) < np.abs(np.real(discs.centers)))
    crossings, radii = np.imag(discs.centers)[near], discs.radii[near]
    if form.system.is_discrete:
        # s = jν is z = e^{jωdt} with ν = tan(ωdt/2).
        radii = radii * 2.0 / (form.system.sample_time * (1.0 + crossings**2))
        crossings = 2.0 * np.arctan(crossings) / form.system.sample_time
    return LevelTest(not near.any(), crossings, radii)


def band_test(form: PopovForm, level: float, low: float, high: float) -> LevelTest:
    """Try to prove Φ(ω) ≻ level·I for low ≤ ω ≤ high [rad/s], one of them finite; elsewhere Φ may do anything.

    Φ - level·I is proved positive at one frequency of the band and proved regular at all others: no disc around an
    eigenvalue of the pencil touches the band. Otherwise return the frequencies of the discs that touch it.
    """
    ends = [end for end in (low, high) if math.isfinite(end)]
    if not (math.isfinite(level) and ends and low <= high):
        return _NOTHING
    anchor = sum(ends) / len(ends)
    if form.states == 0:
        return level_test(form, level)
    if not _value_bound(form, level, anchor) > 0.0:
        return _NOTHING
    slack = 1e-12 * sum(abs(end) for end in ends)
    best = _NOTHING
    # Crossings outside the band are allowed, and must not blow up the discs of those beside it.
    for floor in (1e-15, *_FLOORS):
        discs = pencil_spectrum(form, level, floor)
        if discs is None:
            break
        crossings, left, right = _touched(form, discs)
        touching = ~((right < low - slack) | (left > high + slack))
        radii = 0.5 * (right - left)[touching]
        if best is _NOTHING or radii.sum() < best.radii.sum():
            best = LevelTest(not touching.any(), crossings[touching], radii)
        if best.proved:
            break
    return best


def clear_band(form: PopovForm, level: float, omega: float) -> tuple[float, float] | None:
    """Return a band (low, high) around omega [rad/s] on which Φ ≻ level·I is proved, as wide as it is; None without.

    -inf and inf stand for all frequencies on that side, the limit included.
    """
    if form.states == 0 or not (math.isfinite(level) and math.isfinite(omega)):
        return (-math.inf, math.inf) if level_test(form, level).proved else None
    if not _value_bound(form, level, omega) > 0.0:
        return None
    for floor in _FLOORS:
        discs = pencil_spectrum(form, level, floor)
        if discs is None:
            return None
        _, left, right = _touched(form, discs)
        if ((right < omega) | (left > omega)).all():
            break
    else:
        return None
    low, high = right[right < omega].max(initial=-math.inf), left[left > omega].min(initial=math.inf)
    if not form.system.is_discrete and (math.isinf(low) or math.isinf(high)):
        limit = smallest_eigenvalue_bound(form.r - MidRad(level * np.eye(form.size)))
        if not limit > 0.0:
            far = 10.0 * max(abs(omega), float(np.abs(discs.centers).max()))
            low, high = max(low, -far), min(high, far)
    # Inwards by more than the rounding of the ends.
    low, high = low * (1.0 + math.copysign(1e-12, low)), high * (1.0 - math.copysign(1e-12, high))
    return math.nextafter(low, math.inf) if math.isfinite(low) else low, (
        math.nextafter(high, -math.inf) if math.isfinite(high) else high
    )


def _touched(form: PopovForm, discs: Discs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the frequencies [rad/s] of the discs that touch the boundary, and the ends of what they touch there."""
    near = ~(discs.radii * (1.0 + 1e-12) < np.abs(np.real(discs.centers)))
    crossings, radii = np.imag(discs.centers)[near], discs.radii[near]
    left, right = crossings - radii, crossings + radii
    if form.system.is_discrete:
        crossings, left, right = (
            2.0 * np.arctan(point) / form.system.sample_time for point in (crossings, left, right)
        )
    return crossings, left, right


def _value_bound(form: PopovForm, level: float, omega: float) -> float:
    """Return a proved lower bound of λ_min(Φ(ω) - level·I), with the point jω (e^{jωdt}) as it was rounded."""
    system, point = form.system, complex(form.system.point(omega))
    shift = MidRad(
        np.eye(form.states) * point,
        np.eye(form.states) * (4.0 * UNIT * abs(point) if system.is_discrete else 0.0),
    )
    inverse = (shift - system.a).inverse()
    if inverse is None:
        return -math.inf
    x = inverse @ system.b
    cross = x.H @ form.s
    return smallest_eigenvalue_bound(
        x.H @ form.q @ x + cross + cross.H + form.r - MidRad(level * np.eye(form.size))
    )


def _anchor(form: PopovForm, level: float) -> float:
    """Return a proved lower bound of λ_min(Φ - level·I) at z = 1 or z = -1, whichever A is farther from."""
    eye = MidRad.eye(form.states)
    best = -math.inf
    for sign in (1.0, -1.0):
        inverse = (eye.scaled(sign) - form.system.a).inverse()
        if inverse is None:
            continue
        x = inverse @ form.system.b
        cross = x.H @ form.s
        value = x.H @ form.q @ x + cross + cross.H + form.r - MidRad(level * np.eye(form.size))
        best = max(best, smallest_eigenvalue_bound(value))
        if best > 0.0:
            break
    return best
