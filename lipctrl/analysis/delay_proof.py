"""The proof that a loop tolerates every delay up to a length: no grid of delays, no Padé approximation.

At the frequency ω > 0 the delays 0 ≤ τ ≤ τ̄ are the rotations e^{-jθ}, 0 ≤ θ ≤ ωτ̄. Three stretches of frequencies are
proved differently: below φ/τ̄, φ the proved phase margin, nothing is left to show; from 2π/τ̄ on, every rotation is
walked through; between, bands of frequencies are taken one by one, each in two parts. Rotations up to the one that its
lowest frequency reaches, ω₁τ̄, are walked through as they are. The others are those between the full delay and the full
delay turned back by (ω₂-ω₁)τ̄. In a band around ω₀ the full delay is e^{-jω₀τ̄}·(1-jν)/(1+jν), ν = (ω-ω₀)τ̄/2, up to
|(ω-ω₀)τ̄|³/12 (the error of 2·arctan(x/2) ≈ x), which is a filter of one state; ψ in e^{jψ} is walked through by
continuation. So no rotation is asked for that no delay ≤ τ̄ reaches, but for the error of the filter.
The closed loop with delay has no poles in the right half-plane: T is stable, det(I - (e^{-sτ}-1)EK₀T) is 1 at τ = 0 and
is proved non-zero on the axis for every τ, and at infinity for every z in the closed unit disc in the place of e^{-sτ}
(`dies_out`): rotations alone do not exclude that a feed-through brings poles from infinity.
"""

from __future__ import annotations

import cmath
import itertools
import math

import numpy as np

from lipctrl.analysis.ball import IncrementalBall
from lipctrl.analysis.continuation import Path, Quadratic, march
from lipctrl.analysis.loop import NominalLoop
from lipctrl.analysis.midrad import MidRad, block
from lipctrl.analysis.phase import rotation_path
from lipctrl.analysis.plant import Realization

# Bands narrower than this [rad of phase] are not split again, and no more than so many are tried.
_NARROWEST, _MOST_BANDS = 1e-4, 400
_WIDEST = 0.6
_TURN = 2.0 * math.pi
# Rotations known in a band reach as far as the band asks, up to the rounding of one product.
_ROUNDING = 1e-12


def dies_out(loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray) -> bool:
    """Prove det(I - (z-1)EK₀T) ≠ 0 for |z| ≤ 1 at one frequency: at infinity, in discrete time at 0 (or Nyquist's).

    That is a spectral radius of (I + EK₀T)⁻¹EK₀T below 1, proved by a power of small norm. Where all rotations |z| = 1
    are regular at all frequencies, it follows for all frequencies, and delays of any number of samples wind nothing.
    """
    system = loop.system
    assert system is not None
    responses = [system.d]
    if system.is_discrete:
        eye = MidRad.eye(system.states)
        inverses = ((eye.scaled(sign) - system.a).inverse() for sign in (1.0, -1.0))
        responses = [system.c @ x @ system.b + system.d for x in inverses if x is not None]
    return any(_small_powers(MidRad(chosen @ ball.center) @ response) for response in responses)


def _small_powers(k: MidRad) -> bool:
    inverse = (MidRad.eye(k.shape[0]) + k).inverse()
    if inverse is None:
        return False
    power = inverse @ k
    for _ in range(8):
        if power.norm_bound() < 1.0:
            return True
        power = power @ power
        if not np.isfinite(power.magnitude()).all():
            break
    return False


def tolerates_delays(
    loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, delay: float, angle: float
) -> bool:
    """Prove ρ‖T_τ‖_∞ < 1 and stability for all delays 0 ≤ τ ≤ delay [s] of the chosen channels; continuous time.

    `angle` [rad] is the proved phase margin of the same channels. False means not proved.
    """
    if not dies_out(loop, ball, chosen):
        return False
    low, high = angle / delay * (1.0 - 1e-12), _TURN / delay
    start = _any_rotation_from(loop, ball, chosen, low, high)
    if start is None:
        return False
    count = max(1, math.ceil((start - low) * delay / _WIDEST))
    edges = np.linspace(low, start, count + 1)
    # (band, angle up to which its rotations are known)
    pending = [((float(a), float(b)), angle) for a, b in itertools.pairwise(edges) if b > a]
    for _ in range(_MOST_BANDS):
        if not pending:
            return True
        (a, b), known = pending.pop()
        wanted = min(a * delay, _TURN)
        if wanted > known:
            if not _rotations_hold(loop, ball, chosen, (a, b), known, wanted):
                return False
            known = wanted
        if _band_holds(loop, ball, chosen, delay, (a, b), known):
            continue
        if (b - a) * delay < _NARROWEST:
            return False
        middle = 0.5 * (a + b)
        pending += [((middle, b), known), ((a, middle), known)]
    return False


def _any_rotation_from(
    loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, low: float, high: float
) -> float | None:
    """Return a frequency in [low, high] from which on every rotation is proved; None if not even from `high` on."""
    for share in (0.0, 0.1, 0.3, 0.6, 1.0):
        omega = low + share * (high - low)
        walks = (
            march(rotation_path(loop, ball, chosen, band), -1.0, 1.0, whole=True)
            for band in ((omega, math.inf), (-math.inf, -omega))
        )
        if all(walk.end == 1.0 for walk in walks):
            return omega
    return None


def _rotations_hold(
    loop: NominalLoop,
    ball: IncrementalBall,
    chosen: np.ndarray,
    band: tuple[float, float],
    known: float,
    wanted: float,
) -> bool:
    """Prove the lags from `known` to `wanted` ≤ 2π [rad] at the frequencies of a band: leads at -ω, then leads at ω."""
    mirrored = -band[1], -band[0]
    if known < math.pi:
        goal = _parameter(wanted)
        walk = march(rotation_path(loop, ball, chosen, mirrored), _before(known), goal, whole=True)
        if walk.end != goal:
            return False
    if wanted <= math.pi:
        return True
    goal = _before(_TURN - wanted)
    path = rotation_path(loop, ball, chosen, band)
    return march(path, _parameter(_TURN - max(known, math.pi)), goal, whole=True).end == goal


def _band_holds(
    loop: NominalLoop,
    ball: IncrementalBall,
    chosen: np.ndarray,
    delay: float,
    band: tuple[float, float],
    known: float,
) -> bool:
    """Prove the lags between `known` and ωτ̄ at the frequencies ω of a band, for known ≤ ωτ̄ there."""
    turn = (band[1] * delay - known) * (1.0 + _ROUNDING) + _ROUNDING
    if turn > math.pi:
        return False
    goal = _parameter(turn)
    return march(_band_path(loop, ball, chosen, delay, band), -1.0, goal, whole=True).end == goal


def _parameter(turn: float) -> float:
    """Return the t of the chart ψ = π/2 + 2·arctan(t), rounded upwards."""
    return 1.0 if turn >= math.pi else min(math.tan(0.5 * turn - 0.25 * math.pi) + 1e-14, 1.0)


def _before(turn: float) -> float:
    """Return the t of the same chart, rounded downwards."""
    return -1.0 if turn <= 0.0 else max(math.tan(0.5 * min(turn, math.pi) - 0.25 * math.pi) - 1e-14, -1.0)


def _band_path(
    loop: NominalLoop,
    ball: IncrementalBall,
    chosen: np.ndarray,
    delay: float,
    band: tuple[float, float],
) -> Path:
    """Return the family of rotations e^{jψ} of the delayed loop, ψ = π/2 + 2·arctan(t).

    With G = [T; c·K₀T], c the filter that stands for the delay, (1-jt)(I - (e^{jψ}c - 1)EK₀T) is (1-jt)(I + EK₀T) -
    j(1+jt)cEK₀T. The error |e^{-jωτ̄} - c| ≤ ε is a perturbation εEK₀T, added to ρT by (a+b)² ≤ (1+β)a² + (1+1/β)b².
    """
    t = loop.system
    assert t is not None
    rows = np.flatnonzero((chosen @ ball.center).any(axis=1))
    gain, picked = chosen @ ball.center, np.eye(ball.actions)[:, rows]
    system, error = _with_delay(t, ball.center[rows], delay, band)
    p, r, m = t.outputs, len(rows), ball.actions
    beta = error * float(np.linalg.norm(gain, 2)) / ball.radius if ball.radius > 0.0 else 0.0
    shares = math.sqrt(1.0 + beta) * ball.radius, math.sqrt(1.0 + 1.0 / beta) * error if beta > 0.0 else error
    weights = np.diag(np.concatenate([np.full(p, shares[0]), np.full(r, shares[1])])) * (1.0 + 1e-14)
    eye = np.eye(m)
    fixed = MidRad(np.hstack([gain, -1j * picked]))
    moving = MidRad(np.hstack([-1j * gain, picked]))

    def at(parameter: float) -> Quadratic:
        size = math.nextafter(math.hypot(1.0, parameter), math.inf) * (1.0 + 1e-15)
        line = fixed + moving.scaled(parameter)
        return Quadratic(MidRad(eye - 1j * parameter * eye), line, MidRad(size * weights))

    return Path(system, at, MidRad(-1j * eye), moving, band)


def _with_delay(
    t: Realization, gain: np.ndarray, delay: float, band: tuple[float, float]
) -> tuple[Realization, float]:
    """Return [T; c·gain·T] with the filter c of the delay in the band, and a bound of |e^{-jωτ̄} - c| there."""
    middle, half = 0.5 * (band[0] + band[1]), 0.5 * (band[1] - band[0]) * (1.0 + 1e-14)
    rate = 2.0 / delay
    turn = cmath.exp(-1j * middle * delay)
    k = MidRad(gain)
    kc, kd = k @ t.c, k @ t.d
    r, n = len(gain), t.states
    # The filter's states in units (powers of two) in which they are about as large as the plant's.
    driven = np.linalg.norm(kc.mid, axis=1)
    units = np.exp2(np.round(np.log2(rate / np.where(driven > 0.0, driven, 1.0))))[:, None]
    fold = MidRad(np.eye(r) * turn)
    into, out = np.diag(np.full(r, complex(-rate, middle))), fold.scaled(2.0 * rate)
    a = block([[t.a, MidRad.zeros(n, r)], [kc.rescaled(np.repeat(units, n, axis=1)), MidRad(into)]])
    b = block([[t.b], [kd.rescaled(np.repeat(units, t.inputs, axis=1))]])
    out = out.rescaled(np.repeat(1.0 / units.T, r, axis=0))
    c = block([[t.c, MidRad.zeros(t.outputs, r)], [-(fold @ kc), out]])
    d = block([[t.d], [-(fold @ kd)]])
    # The last term covers the rounding of the angle, of its exponential and of 2/τ̄.
    error = (half * delay) ** 3 / 12.0 + 1e-15 * (4.0 + middle * delay)
    return Realization(a, b, c, d, 0.0, t.timebase), error
