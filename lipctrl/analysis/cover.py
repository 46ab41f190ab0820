"""The largest gain over all frequencies by branch and bound: intervals that cover the axis, each with a proof.

Between two samples a partial-fraction expansion G = Σ R_i/(jν - p_i) + D deviates from its chord by at most
(b - a)²/8·max‖G″‖ ≤ (b - a)²/4·Σ‖R_i‖/|jν - p_i|³, and the norm of a chord is convex, so largest at an end. That bounds
the gain on the interval; where it is too large, the interval is split. Beyond the last sample the same holds in
1/ν. Nothing is assumed between samples, and no resonance can hide: the distances to all poles enter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lipctrl.analysis.midrad import UNIT
from lipctrl.analysis.modal import ModalForm

# Rounds of splitting that a cover may take.
_ROUNDS = 16
_INFLATE = 1.0 + 1e-13
_TIE = 1e-13


@dataclass(frozen=True)
class Cover:
    """`lower` ≤ sup‖G‖ ≤ `upper`, both proved; `lower` is the gain sampled at ν = `at`."""

    lower: float
    upper: float
    at: float


def cover_gain(form: ModalForm, tolerance: float) -> Cover:
    """Bound sup over ν ≥ 0 of ‖G(jν)‖₂ from both sides, to `tolerance` relative if rounding and work allow."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _Search(form, tolerance).run()


class _Search:
    """Samples, the best of them, and the intervals between; `sup` bounds hold up to the form's slack."""

    def __init__(self, form: ModalForm, tolerance: float) -> None:
        self._form, self._tolerance = form, tolerance
        self._rounding = 4.0 * (len(form.poles) + 24 + 4 * sum(form.d.shape)) * UNIT
        self._best, self._at = -1.0, 0.0
        # Samples times poles that a cover may cost: a flat response is better left to other proofs.
        self._work = 150_000 + 15_000 * len(form.poles)

    def run(self) -> Cover:
        points = _mesh(self._form.poles)
        values = self._gains(points)
        points, values = self._focus(points, values)
        far = float(self._gains(np.array([math.inf]))[0]) if self._form.d.any() else 0.0
        points, values, tail = self._tail(points, values, far)
        a, b, left, right = points[:-1], points[1:], values[:-1], values[1:]
        done = tail
        for _ in range(_ROUNDS):
            upper, ends, bend = self._bounds(a, b, left, right)
            target = self._best * (1.0 + self._tolerance)
            open_ = ~(upper <= target)
            closed = upper[~open_]
            if closed.size:
                done = max(done, float(closed.max()))
            if not open_.any():
                upper = upper[:0]
                break
            room = np.maximum(target - ends[open_], 0.5 * self._tolerance * self._best)
            parts = _parts(bend[open_] / room)
            if parts * int(open_.sum()) * len(self._form.poles) > self._work or not np.isfinite(left).all():
                upper = upper[open_]
                break
            a, b, left, right = self._split(a[open_], b[open_], left[open_], right[open_], parts)
        else:
            upper = self._bounds(a, b, left, right)[0]
        done = max(done, float(upper.max(initial=0.0))) if np.isfinite(upper).all() else math.inf
        lower = self._best * (1.0 - 1e-15) - self._error(self._at) - self._form.slack
        return Cover(max(lower, 0.0), (done + self._form.slack) * _INFLATE, self._at)

    def _gains(self, points: np.ndarray) -> np.ndarray:
        """Sample ‖G‖ and remember the best; `_bounds` accounts for the rounding."""
        form = self._form
        self._work -= len(points) * len(form.poles)
        if math.isinf(points[0]):
            response = form.d[None].astype(np.complex128)
        else:
            inverse = 1.0 / (1j * points[:, None] - form.poles)
            response = (inverse @ form.residues).reshape(-1, *form.d.shape) + form.d
        values = _norms(response, self._best)
        peak = float(values.max())
        if not peak <= self._best * (1.0 + _TIE):
            # Of equal gains the first counts, so that a flat response peaks at zero.
            k = int((values >= peak * (1.0 - _TIE)).argmax())
            self._best, self._at = float(values[k]), float(points[k])
        return values

    def _focus(self, points: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add samples around the peak, as dense as the proof will need them: near a resonance 1/σ² is a parabola."""
        k = int(values.argmax())
        if k + 1 == len(points) or not 0.0 < values[k] < math.inf:
            return points, values
        x, y = points[max(k - 1, 0) : k + 2].tolist(), (values[k] / values[max(k - 1, 0) : k + 2]) ** 2
        if k == 0:
            x, y = [-x[1], *x], np.array([y[1], y[0], y[1]])
        first, second = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
        curvature = float(second - first) / (x[2] - x[0])
        if not curvature > 0.0:
            return points, values
        peak = min(max(0.5 * (x[0] + x[1]) - 0.5 * float(first) / curvature, x[0]), x[2])
        distance = np.abs(1j * peak - self._form.poles)
        bend = 0.25 * float((self._form.sizes / distance**3).sum()) / float(values[k])
        growth = 1.0 + min(0.85 * math.sqrt(0.5 * curvature / bend), 2.0)
        start = 0.5 * math.sqrt(self._tolerance / bend)
        reach = max(x[2] - peak, peak - x[0])
        if not (growth > 1.1 and 0.0 < start < reach):
            return points, values
        steps = start * growth ** np.arange(math.ceil(math.log(reach / start) / math.log(growth)))
        more = np.concatenate([peak - steps[::-1], [peak], peak + steps])
        more = more[(more > max(x[0], 0.0)) & (more < x[2]) & (more != x[1])]
        if not more.size:
            return points, values
        points = np.concatenate([points, more])
        values = np.concatenate([values, self._gains(more)])
        order = points.argsort()
        return points[order], values[order]

    def _error(self, at: float) -> float:
        form = self._form
        size = 0.0 if math.isinf(at) else float((form.sizes / np.abs(1j * at - form.poles)).sum())
        return self._rounding * (size + float(np.abs(form.d).sum()))

    def _bounds(
        self, a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return upper bounds on the intervals, the larger sample, and the chord's error."""
        form = self._form
        self._work -= len(a) * len(form.poles)
        imaginary = np.imag(form.poles)
        nearest = np.minimum(np.maximum(imaginary, a[:, None]), b[:, None]) - imaginary
        inverse = 1.0 / (nearest * nearest + np.square(np.real(form.poles)))
        root = np.sqrt(inverse)
        size = root @ form.sizes
        bend = 0.25 * _INFLATE * np.square(b - a) * ((inverse * root) @ form.sizes)
        d = float(np.sqrt(np.square(form.d).sum()))
        ends = np.maximum(left, right)
        upper = np.minimum(ends + bend, (size + d) * _INFLATE) + self._rounding * (
            size + math.sqrt(form.d.size) * d
        )
        return upper, ends, bend

    def _tail(
        self, points: np.ndarray, values: np.ndarray, far: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Extend the mesh until the frequencies beyond it are bounded; return it with that bound."""
        form = self._form
        d = float(np.sqrt(np.square(form.d).sum()))
        for _ in range(60):
            last = float(points[-1])
            ratio = 1.0 - np.abs(form.poles) / last
            size = float((form.sizes / ratio).sum()) / last
            bend = 0.25 / last * float((form.sizes * np.abs(form.poles) / last / ratio**3).sum())
            upper = min(max(far, float(values[-1])) + bend, size + d) * _INFLATE
            upper += self._rounding * (size + math.sqrt(form.d.size) * d)
            if not upper > self._best * (1.0 + self._tolerance) or not math.isfinite(last * 8.0):
                return points, values, upper
            more = last * np.array([2.0, 4.0, 8.0])
            points, values = np.concatenate([points, more]), np.concatenate([values, self._gains(more)])
        return points, values, upper

    def _split(
        self, a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray, parts: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Cut every interval into equal parts."""
        grid = a[:, None] + (b - a)[:, None] * np.linspace(0.0, 1.0, parts + 1)
        grid[:, -1] = b
        values = np.empty(grid.shape)
        values[:, 0], values[:, -1] = left, right
        values[:, 1:-1] = self._gains(grid[:, 1:-1].ravel()).reshape(len(a), parts - 1)
        return grid[:, :-1].ravel(), grid[:, 1:].ravel(), values[:, :-1].ravel(), values[:, 1:].ravel()


def _parts(excess: np.ndarray) -> int:
    """Return into how many parts to cut, from how many times too large the chord's error is."""
    worst = float(excess.max())
    return 16 if not worst < 256.0 else max(2, math.ceil(math.sqrt(worst) * 1.05))


def _mesh(poles: np.ndarray) -> np.ndarray:
    """Return frequencies graded around every pole by its decay rate, and over the whole range by octaves."""
    size = np.abs(poles)
    low, high = float(size.min()), float(size.max())
    octaves = np.exp2(np.arange(math.floor(math.log2(low)) - 3, math.ceil(math.log2(high)) + 4))
    upper = np.imag(poles) >= 0.0
    centers, decay = np.imag(poles)[upper], -np.real(poles)[upper]
    reach = size[upper] / decay
    steps = math.ceil(math.log(float(reach.max())) / 1.1) + 1
    offsets = 0.5 * decay[:, None] * reach[:, None] ** np.linspace(0.0, 1.0, steps)
    around = np.concatenate(
        [centers, (centers[:, None] + offsets).ravel(), (centers[:, None] - offsets).ravel()]
    )
    points = np.concatenate([np.zeros(1), octaves, around[around > 0.0]])
    points.sort()
    return points


def _norms(response: np.ndarray, threshold: float) -> np.ndarray:
    """Return upper bounds, up to rounding, of the largest singular values: sharp above `threshold`."""
    rows, columns = response.shape[1:]
    squares = np.square(np.real(response)) + np.square(np.imag(response))
    total = squares.sum(axis=(1, 2))
    if min(rows, columns) == 1:
        return np.sqrt(total)
    if columns > rows:
        response = response.swapaxes(1, 2)
        squares = squares.swapaxes(1, 2)
    small = min(rows, columns)
    if small == 2:
        first, second = squares[:, :, 0].sum(axis=1), squares[:, :, 1].sum(axis=1)
        cross = (response[:, :, 0].conj() * response[:, :, 1]).sum(axis=1)
        spread = np.sqrt(np.square(first - second) + 4.0 * (np.square(cross.real) + np.square(cross.imag)))
        return np.sqrt(0.5 * (total + spread))
    out = np.sqrt(total)
    # A norm is at least the Frobenius norm over √k: below the threshold that bound suffices.
    floor = max(threshold, float(np.nanmax(out)) / math.sqrt(small))
    sharp = out >= floor
    chosen = response[sharp]
    gram = chosen.conj().swapaxes(1, 2) @ chosen
    if np.isfinite(gram).all() and len(gram):
        out[sharp] = np.sqrt(_largest(gram))
    return out


def _largest(gram: np.ndarray) -> np.ndarray:
    """Bound the largest eigenvalue of positive semidefinite matrices by a checked decomposition."""
    values, vectors = np.linalg.eigh(gram)
    adjoint = vectors.conj().swapaxes(1, 2)
    residual = gram - (vectors * values[:, None, :]) @ adjoint
    skew = adjoint @ vectors - np.eye(gram.shape[1])
    error = np.sqrt(np.square(np.abs(residual)).sum(axis=(1, 2)))
    tilt = np.sqrt(np.square(np.abs(skew)).sum(axis=(1, 2)))
    return values[:, -1] * (1.0 + tilt) + error
