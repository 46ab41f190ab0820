"""Proofs along a parameter: two proved points cover every point between them.

Let Φ(t) = (J + LG)ᴴ(J + LG) - (WG)ᴴ(WG) be quadratic in t with Φ''/2 ⪯ N = (U + VG)ᴴ(U + VG) at every frequency, G
a stable system. If Φ(t₁) ⪰ λ₁N and Φ(t₂) ⪰ λ₂N, then between them, with s = (t-t₁)/(t₂-t₁),
Φ(t) ⪰ ((1-s)λ₁ + sλ₂ - s(1-s)(t₂-t₁)²)N, which is positive for all s whenever |t₂ - t₁| < √λ₁ + √λ₂.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.optimize

from lipctrl.analysis.kyp import kyp_proof
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_levels import band_test, level_test
from lipctrl.analysis.sweep import ModalSweep

# Curvature so small that it never limits a step.
_AMPLE = 1e12
# Levels and better samples tried at one parameter; the share of the sampled minimum that is tried first.
_ATTEMPTS = 8
_SHARE = 0.98
# A walk ends within this relative distance of a singular Φ, or after so many parameters that rounding forbids.
_NEAREST, _FAILURES = 1e-10, 2
# Proofs on one walk. Where the units of the channels do not suit the loop, steps are short.
_LONGEST = 2000


@dataclass(frozen=True)
class Quadratic:
    """Φ = (J + LG)ᴴ(J + LG) - (WG)ᴴ(WG) at one parameter."""

    j: MidRad
    l: MidRad
    w: MidRad


@dataclass(frozen=True)
class Proof:
    """At parameter `at`: Φ ≻ lower·N is proved; `upper` was sampled at `frequency` [rad/s]."""

    at: float
    lower: float
    upper: float
    frequency: float


@dataclass(frozen=True)
class March:
    """The proved stretch ends at `end`; `frequency` is where Φ is smallest there (NaN at the goal)."""

    end: float
    frequency: float
    proofs: tuple[Proof, ...]


class Path:
    """A family t ↦ Φ(t) over one system, with the bound N of its curvature.

    `band` = (low, high) [rad/s] restricts every statement to these frequencies, the ends included.
    """

    def __init__(
        self,
        system: Realization,
        quadratic: Callable[[float], Quadratic],
        u: MidRad,
        v: MidRad,
        band: tuple[float, float] | None = None,
    ) -> None:
        self._system, self._quadratic, self._u, self._v = system, quadratic, u, v
        self._band = band
        # What was found at each parameter, on how many frequencies.
        self._sampled: dict[float, tuple[int, tuple[float, float]]] = {}
        # Where rounding forbade a level once, the next proof starts lower.
        self._share = _SHARE
        base = quadratic(0.0)
        # Complex coefficients: what happens at -ω is not the mirror image of what happens at ω.
        self._two_sided = any(np.iscomplexobj(m.mid) for m in (base.j, base.l, base.w, system.a))
        gram = base.l.H @ base.l - base.w.H @ base.w
        probe = PopovForm(system, gram, base.l.H @ base.j, MidRad.eye(system.inputs))
        self._sweep = ModalSweep.of(probe)
        grid = np.zeros(1) if self._sweep is None else self._sweep.grid()
        self._frequencies = grid if system.is_discrete else np.append(grid, np.inf)
        if band is not None:
            inside = self._frequencies[(self._frequencies >= band[0]) & (self._frequencies <= band[1])]
            ends = np.linspace(*band, 9) if np.isfinite(band).all() else np.array(band)
            self._frequencies = np.unique(np.concatenate([ends, inside]))

    def _values(self, at: float, omegas: np.ndarray) -> np.ndarray:
        """Return the largest λ with Φ ⪰ λN (where Φ is indefinite: a number ≤ 0), unverified.

        With X = WG(J + LG)⁻¹ and Y = (U + VG)(J + LG)⁻¹ it is 1/‖Y(I - XᴴX)⁻¹Yᴴ‖: no Gram matrix of J + LG, so that λ
        keeps its digits where J + LG is nearly singular.
        """
        q = self._quadratic(at)
        g = self._responses(omegas)
        inverse = _inverses(q.j.mid + q.l.mid @ g)
        inner, bend = q.w.mid @ g @ inverse, (self._u.mid + self._v.mid @ g) @ inverse
        good: np.ndarray = np.asarray(
            np.isfinite(inner).all(axis=(1, 2)) & np.isfinite(bend).all(axis=(1, 2))
        )
        inner, bend = (np.where(good[:, None, None], x, 0.0) for x in (inner, bend))
        phi = np.eye(g.shape[2]) - inner.conj().swapaxes(-1, -2) @ inner
        out = np.where(good, np.linalg.eigvalsh(phi)[:, 0], 0.0)
        inside: np.ndarray = np.asarray(out > 1e-15)
        if inside.any():
            b = bend[inside]
            gram = b @ np.linalg.solve(phi[inside], b.conj().swapaxes(-1, -2))
            size = np.linalg.eigvalsh((gram + gram.conj().swapaxes(-1, -2)) / 2.0)[:, -1]
            out[inside] = np.minimum(1.0 / np.maximum(size, 1.0 / _AMPLE), _AMPLE)
        return np.where(inside, out, np.minimum(out, 0.0))

    def _responses(self, omegas: np.ndarray) -> np.ndarray:
        feed = self._system.D.astype(np.complex128)
        if self._sweep is None:
            return np.broadcast_to(feed, (len(omegas), *feed.shape))
        out = self._sweep.responses(np.where(np.isfinite(omegas), omegas, 0.0))
        return np.where(np.isfinite(omegas)[:, None, None], out, feed)

    def sample(self, at: float) -> tuple[float, float]:
        """Return the smallest value found over frequency and where, refined around the lowest grid point."""
        grid = self._frequencies
        if at not in self._sampled or self._sampled[at][0] != len(grid):
            self._sampled[at] = len(grid), self._sample(at, grid)
        return self._sampled[at][1]

    def _sample(self, at: float, grid: np.ndarray) -> tuple[float, float]:
        values = self._values(at, grid)
        k = int(np.argmin(values))
        best, where = float(values[k]), float(grid[k])
        left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
        for _ in range(7):
            if not (right > left and math.isfinite(right - left)):
                break
            fine = np.linspace(left, right, 13)
            values = self._values(at, fine)
            j = int(np.argmin(values))
            settled = values[j] >= best - 1e-14 * abs(best)
            if values[j] < best:
                best, where = float(values[j]), float(fine[j])
            if settled and right - left < 1e-3 * abs(where):
                break
            left, right = fine[max(j - 1, 0)], fine[min(j + 1, 12)]
        return best, where

    def prove(self, at: float) -> Proof:
        """Prove Φ ≻ λN at all frequencies for a λ near the sampled minimum."""
        share = self._share
        best, where = self.sample(at)
        for _ in range(_ATTEMPTS):
            if not best > 0.0:
                return Proof(at, -math.inf, best, where)
            form = self._form(at, share * best)
            test = level_test(form, 0.0) if self._band is None else band_test(form, 0.0, *self._band)
            if test.proved or (
                test.crossings.size and self._may_solve(share) and self._inequality(form, where)
            ):
                self._share = max(share, _SHARE * 0.25)
                return Proof(at, share * best, best, where)
            points = np.unique(test.crossings if self._two_sided else np.abs(test.crossings))
            if self._band is not None:
                points = points[(points >= self._band[0]) & (points <= self._band[1])]
            if points.size:
                points = np.concatenate([points, (points[1:] + points[:-1]) / 2.0])
                self._frequencies = np.unique(np.concatenate([self._frequencies, points]))
            lower, where = self.sample(at)
            if lower > 0.99 * best:
                # Nothing lower was found: rounding forbids this level.
                share *= 0.25
            best = min(lower, best)
        return Proof(at, -math.inf, best, where)

    def _may_solve(self, share: float) -> bool:
        """Tell whether to solve a Riccati equation: a complex one is dear, and tried once a point."""
        return not self._two_sided or 0.1 < share < 0.5

    def _inequality(self, form: PopovForm, where: float) -> bool:
        """Try the matrix inequality, for systems whose eigenvectors are too ill-conditioned."""
        if self._sweep is None or form.states > 40 or self._band is not None:
            return False
        return kyp_proof(form, 0.0, form.lowest(where), replace(self._sweep, form=form))

    def _form(self, at: float, level: float) -> PopovForm:
        q, u, v = self._quadratic(at), self._u, self._v
        yy = q.l.H @ q.l - q.w.H @ q.w - (v.H @ v).scaled(level)
        yu = q.l.H @ q.j - (v.H @ u).scaled(level)
        return PopovForm(self._system, yy, yu, q.j.H @ q.j - (u.H @ u).scaled(level))


def _inverses(matrices: np.ndarray) -> np.ndarray:
    """Invert matrices (N, m, m); NaN where one is singular."""
    try:
        return np.linalg.inv(matrices)
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full(matrices.shape, np.nan, dtype=matrices.dtype)
        return np.concatenate([_inverses(matrix[None]) for matrix in matrices])


def march(path: Path, start: float, goal: float, *, whole: bool = False) -> March:
    """Walk from `start` towards `goal`, every parameter passed being proved, as far as Φ stays positive.

    A walk whose first point is not proved positive ends where it starts. Otherwise it ends at the goal, or
    within about 1e-8 relative of the first parameter where Φ becomes singular. With `whole` it gives up, anywhere, as
    soon as Φ is seen to be singular on the way.
    """
    here = path.prove(start)
    steps = [here]
    while here.lower > 0.0 and here.at != goal and len(steps) < _LONGEST:
        reach = 2.0 * math.sqrt(here.lower)
        away = goal - here.at
        there = goal if reach >= abs(away) else here.at + math.copysign(reach, away)
        trial, last = _stretch(path, here, there, whole)
        if trial is None:
            break
        here = trial
        steps.append(here)
        if last:
            break
    reached = here.at == goal and here.lower > 0.0
    return March(here.at, math.nan if reached else here.frequency, tuple(steps))


def _reach(distance: float, first: float, second: float) -> bool:
    """Tell whether Φ ⪰ λN at two parameters, `distance` apart, covers what lies between."""
    if not (first > 0.0 and second > 0.0):
        return False
    return distance * (1.0 + 1e-12) < (math.sqrt(first) + math.sqrt(second)) * (1.0 - 1e-12)


def _covers(a: Proof, b: Proof) -> bool:
    return _reach(abs(a.at - b.at), a.lower, b.lower)


def _stretch(path: Path, here: Proof, there: float, whole: bool) -> tuple[Proof | None, bool]:
    """Return the next proved point, whose way from `here` is covered, and whether the walk ends there.

    Samples choose the point, and only one that would cover the way is proved.
    """
    at, failures = there, 0
    for _ in range(4 if whole else 50):
        value, _ = path.sample(at)
        if _reach(abs(at - here.at), here.lower, _SHARE * value):
            trial = path.prove(at)
            if _covers(here, trial):
                return trial, False
            failures += not trial.lower > 0.0
        end = at
        if value <= 0.0:
            if whole:
                break
            end = _root(path, here.at, at)
            found = _near(path, here, end)
            if found is not None:
                return found, True
        if failures == _FAILURES or abs(end - here.at) <= _NEAREST * max(abs(here.at), _NEAREST):
            break
        at = 0.5 * (here.at + end)
    return None, True


def _near(path: Path, here: Proof, end: float) -> Proof | None:
    """Return a proved point just before the first parameter where Φ is singular, if `here` covers the way to it."""
    for give in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4):
        point = end + math.copysign(give * max(abs(end), abs(end - here.at)), here.at - end)
        if (point - here.at) * (end - here.at) <= 0.0:
            break
        if _reach(abs(point - here.at), here.lower, _SHARE * path.sample(point)[0]):
            candidate = path.prove(point)
            if _covers(here, candidate):
                return candidate
    return None


def _root(path: Path, inside: float, outside: float) -> float:
    """Return about where the sampled minimum of Φ changes its sign; samples jump, and a search may stop early."""
    find: Any = scipy.optimize.brentq
    return float(
        find(lambda at: path.sample(at)[0], inside, outside, xtol=1e-15, rtol=1e-11, maxiter=60, disp=False)
    )
