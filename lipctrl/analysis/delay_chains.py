"""Chains of unit delays: nilpotent parts of a discrete-time system, which no basis of eigenvectors describes.

Which states form chains is read from the zeros of the matrices, so nothing is decided by rounding. A system of chains
alone is an FIR filter Σ H_k z^{-k}. Its norm is bounded on intervals of the circle: with the exponents counted from
the middle one, |G″(θ)| ≤ (N/2)²‖G‖_∞ for N + 1 coefficients (Bernstein), so G deviates from a chord by at most
(b - a)²/8 times that, and the norm of a chord is largest at an end. A delay of all inputs or outputs by the same number
of samples does not change a norm and is taken off.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lipctrl.analysis.cover import GainBound
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization
from lipctrl.arithmetic import UNIT

_INFLATE = 1.0 + 1e-12
# Samples times coefficients that a bound may cost, and how many are taken at once.
_WORK, _CHUNK = 60_000_000, 2_000_000


def is_nilpotent(a: MidRad) -> bool:
    """Tell whether the zeros of A alone make it nilpotent: no state can act on itself, through no number of others."""
    if np.count_nonzero(a.mid.diagonal()):
        return False
    pattern = a.magnitude() > 0.0
    active = np.ones(len(pattern), dtype=bool)
    while active.any():
        driven = pattern[:, active].any(axis=1) & active
        if (driven == active).all():
            return False
        active = driven
    return True


def without_common_delay(system: Realization) -> Realization:
    """Return a system of the same norm without a chain that delays all inputs, or all outputs, by the same samples."""
    shorter = _behind_inputs(system)
    return _transposed(_behind_inputs(_transposed(shorter)))


def _transposed(system: Realization) -> Realization:
    return replace(
        system,
        a=_flipped(system.a),
        b=_flipped(system.c),
        c=_flipped(system.b),
        d=_flipped(system.d),
    )


def _flipped(matrix: MidRad) -> MidRad:
    mid = np.ascontiguousarray(matrix.mid.T)
    return MidRad(mid, None if matrix.rad is None else np.ascontiguousarray(matrix.rad.T))


def _part(matrix: MidRad, rows: np.ndarray, columns: np.ndarray) -> MidRad:
    grid = np.ix_(rows, columns)
    return MidRad(matrix.mid[grid], None if matrix.rad is None else matrix.rad[grid])


def _behind_inputs(system: Realization) -> Realization:
    """Take off the states that no loop drives, where inputs reach the rest through them after one number of samples."""
    pattern = system.a.magnitude() > 0.0
    # What remains when states that nothing (left) drives are removed is driven by a loop, or is one.
    rest = np.ones(system.states, dtype=bool)
    while True:
        driven = pattern[:, rest].any(axis=1) & rest
        if (driven == rest).all():
            break
        rest = driven
    first, core = np.flatnonzero(~rest), np.flatnonzero(rest)
    b, c = system.b.magnitude() > 0.0, system.c.magnitude() > 0.0
    if not (first.size and core.size) or b[core].any() or c[:, first].any() or not system.d.is_zero():
        return system
    inside, over = pattern[np.ix_(first, first)], pattern[np.ix_(core, first)]
    reached, arrivals = b[first], []
    for k in range(first.size):
        if (over @ reached).any():
            arrivals.append(k)
        reached = inside @ reached
    if len(arrivals) != 1:
        return system
    every = np.arange(system.inputs)
    signal, chain = _part(system.b, first, every), _part(system.a, first, first)
    for _ in range(arrivals[0]):
        signal = chain @ signal
    outputs = np.arange(system.outputs)
    return replace(
        system,
        a=_part(system.a, core, core),
        b=_part(system.a, core, first) @ signal,
        c=_part(system.c, outputs, core),
    )


def filter_norm(system: Realization, tolerance: float) -> GainBound:
    """Bound the norm of a system of chains alone, to `tolerance` relative if rounding and work allow.

    The bound's frequency is in rad/sample.
    """
    inside, into, out = (m.magnitude() > 0.0 for m in (system.a, system.b, system.c))
    coefficients, used, state = [system.d], [not system.d.is_zero()], system.b
    # Zeros of the matrices decide which coefficients there are; a zero with a radius would hide a pure delay.
    while into.any():
        coefficients.append(system.c @ state)
        used.append(bool((out @ into).any()))
        state, into = system.a @ state, inside @ into
    where = np.flatnonzero(used)
    if not where.size:
        return GainBound(0.0, 0.0, 0.0)
    kept = coefficients[where[0] : where[-1] + 1]
    slack = sum(float(np.sqrt(np.square(h.radius()).sum())) for h in kept) * _INFLATE
    return _Circle(np.stack([h.mid for h in kept]), slack, tolerance).bound()


class _Circle:
    """Samples of Σ H_k e^{-jkθ} and the intervals between them."""

    def __init__(self, coefficients: np.ndarray, slack: float, tolerance: float) -> None:
        self._h, self._slack, self._tolerance = coefficients, slack, tolerance
        count = len(coefficients)
        self._degree = 0.5 * (count - 1)
        sizes = np.sqrt(np.square(np.abs(coefficients)).sum(axis=(1, 2)))
        self._error = 8.0 * (count + 24) * UNIT * float(sizes.sum())
        centred = np.square(np.arange(count) - self._degree)
        self._bend = float((centred * sizes).sum()) * _INFLATE
        self._work = 0

    def _gains(self, angles: np.ndarray) -> np.ndarray:
        """Return ‖G‖ at the angles, up to the rounding `_error`."""
        count = len(self._h)
        self._work += len(angles) * count
        flat, powers = self._h.reshape(count, -1), np.arange(count)
        step = max(1, _CHUNK // count)
        out = np.empty(len(angles))
        for start in range(0, len(angles), step):
            chosen = slice(start, start + step)
            g = np.exp(-1j * np.outer(angles[chosen], powers)) @ flat
            out[chosen] = np.linalg.norm(g.reshape(-1, *self._h.shape[1:]), 2, axis=(1, 2))
        return out

    def bound(self) -> GainBound:
        span = 8 * len(self._h) + 1
        low = -math.pi if np.iscomplexobj(self._h) else 0.0
        angles = np.linspace(low, math.nextafter(math.pi, 4.0), span)
        values = self._gains(angles)
        a, b, left, right = angles[:-1], angles[1:], values[:-1], values[1:]
        best, at = float(values.max()), float(angles[int(values.argmax())])
        # sup ≤ samples + h²/8·degree²·sup: a first bound of the norm, and with it of the curvature.
        share = float((b - a).max() * self._degree) ** 2 / 8.0 * _INFLATE
        if share < 0.5:
            top = (best + self._error) / (1.0 - share) * _INFLATE
            self._bend = min(self._bend, self._degree**2 * top * _INFLATE)
        done = 0.0
        while True:
            upper = np.maximum(left, right) + (b - a) ** 2 / 8.0 * self._bend * _INFLATE
            open_ = upper > best * (1.0 + self._tolerance)
            done = max(done, float(upper[~open_].max(initial=0.0)))
            if not open_.any() or self._work + 4 * int(open_.sum()) * len(self._h) > _WORK:
                done = max(done, float(upper[open_].max(initial=0.0)))
                break
            grid = a[open_, None] + (b - a)[open_, None] * np.linspace(0.0, 1.0, 5)
            grid[:, -1] = b[open_]
            inner = self._gains(grid[:, 1:-1].ravel()).reshape(-1, 3)
            values = np.hstack([left[open_, None], inner, right[open_, None]])
            if inner.max() > best:
                best, at = float(inner.max()), float(grid[:, 1:-1].ravel()[int(inner.argmax())])
            a, b = grid[:, :-1].ravel(), grid[:, 1:].ravel()
            left, right = values[:, :-1].ravel(), values[:, 1:].ravel()
        lower = max(best * (1.0 - 1e-14) - self._error - self._slack, 0.0)
        return GainBound(lower, (done + self._error + self._slack) * _INFLATE, at)
