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
# Far above the squares that underflow.
_SQUARE_TINY = 1e-300


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
        self._size = np.abs(form.poles)
        self._imaginary = np.imag(form.poles)
        self._decay = -np.real(form.poles)
        self._square = np.square(self._decay)
        self._constant = form.d.ravel()
        squared = float(self._constant.dot(self._constant))
        self._direct = squared > 0.0 or bool(form.d.any())
        self._d = math.sqrt(squared + _SQUARE_TINY) if self._direct else 0.0
        # Rounding of a sample's constant part, and what squares that underflow may hide.
        self._floor = self._rounding * math.sqrt(form.d.size) * self._d + math.sqrt(_SQUARE_TINY)

    def run(self) -> Cover:
        points = _mesh(self._form.poles, self._size)
        if self._direct:
            points = np.concatenate((points, [math.inf]))
        values = self._gains(points)
        far = 0.0
        if self._direct:
            points, values, far = points[:-1], values[:-1], float(values[-1])
        points, values = self._focus(points, values)
        points, values, done = self._tail(points, values, far)
        a, b, left, right = points[:-1], points[1:], values[:-1], values[1:]
        for _ in range(_ROUNDS):
            upper, ends, bend = self._bounds(a, b, left, right)
            target = self._best * (1.0 + self._tolerance)
            # Undefined bounds stay open.
            closed = upper <= target
            open_ = (~closed).nonzero()[0]
            if len(open_) < len(upper):
                done = max(done, _largest_of(upper[closed]))
            if not len(open_):
                upper = upper[:0]
                break
            room = np.maximum(target - ends[open_], 0.5 * self._tolerance * self._best)
            parts = _parts(bend[open_] / room)
            if parts * len(open_) * len(self._form.poles) > self._work or not np.isfinite(left).all():
                upper = upper[open_]
                break
            a, b, left, right = self._split(a[open_], b[open_], left[open_], right[open_], parts)
        else:
            upper = self._bounds(a, b, left, right)[0]
        if len(upper):
            highest = _largest_of(upper)
            done = max(done, highest) if highest < math.inf else math.inf
        lower = self._best * (1.0 - 1e-15) - self._error(self._at) - self._form.slack
        return Cover(max(lower, 0.0), (done + self._form.slack) * _INFLATE, self._at)

    def _gains(self, points: np.ndarray) -> np.ndarray:
        """Sample ‖G‖ and remember the best; `_bounds` accounts for the rounding."""
        form = self._form
        self._work -= len(points) * len(form.poles)
        # jν - p by parts: at ν = inf its inverse is zero.
        parts = np.empty((len(points), len(form.poles), 2))
        parts[:, :, 0] = self._decay
        np.subtract(points[:, None], self._imaginary, out=parts[:, :, 1])
        shifted = parts.view(np.complex128)[:, :, 0]
        response = np.reciprocal(shifted, out=shifted).dot(form.residues)
        response += self._constant
        values = _norms(response.reshape(-1, *form.d.shape), self._best)
        peak = _largest_of(values)
        if not peak <= self._best * (1.0 + _TIE):
            # Of equal gains the first counts, so that a flat response peaks at zero.
            k = int((values >= peak * (1.0 - _TIE)).argmax())
            self._best, self._at = float(values[k]), float(points[k])
        return values

    def _focus(self, points: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add samples around the peak, as dense as the proof will need them: near a resonance 1/σ² is a parabola."""
        k = int(values.argmax())
        top = float(values[k])
        if k + 1 == len(points) or not 0.0 < top < math.inf:
            return points, values
        x: list[float] = points[max(k - 1, 0) : k + 2].tolist()
        y = [(top / gain) ** 2 if gain > 0.0 else math.inf for gain in values[max(k - 1, 0) : k + 2].tolist()]
        if k == 0:
            x, y = [-x[1], *x], [y[1], *y]
        if not x[0] < x[1] < x[2]:
            return points, values
        first, second = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
        curvature = (second - first) / (x[2] - x[0])
        if not 0.0 < curvature < math.inf:
            return points, values
        peak = min(max(0.5 * (x[0] + x[1]) - 0.5 * first / curvature, x[0]), x[2])
        peak = self._refined(peak, 0.03 * (x[2] - x[0])) if abs(peak - x[1]) > 1e-4 * (x[2] - x[0]) else peak
        distance = np.abs(1j * peak - self._form.poles)
        bend = 0.25 * float(self._form.sizes.dot(1.0 / (distance * distance * distance))) / top
        if not 0.0 < bend < math.inf:
            return points, values
        growth = 1.0 + min(0.85 * math.sqrt(0.5 * curvature / bend), 2.0)
        start = 0.5 * math.sqrt(self._tolerance / bend)
        reach = max(x[2] - peak, peak - x[0])
        if not (growth > 1.1 and 0.0 < start < reach):
            return points, values
        steps = start * growth ** np.arange(math.ceil(math.log(reach / start) / math.log(growth)))
        more = np.concatenate((peak - steps, [peak], peak + steps))
        more = more[(more > max(x[0], 0.0)) & (more < x[2]) & (more != x[1])]
        if not len(more):
            return points, values
        points = np.concatenate((points, more))
        values = np.concatenate((values, self._gains(more)))
        order = points.argsort()
        return points[order], values[order]

    def _refined(self, peak: float, step: float) -> float:
        """Sample around a guess of the peak, and return the vertex of the parabola through 1/σ²."""
        low, middle, high = (
            1.0 / np.square(self._gains(np.array([peak - step, peak, peak + step])))
        ).tolist()
        curvature = low - 2.0 * middle + high
        shift = 0.5 * step * (low - high) / curvature if curvature > 0.0 else 0.0
        return peak + shift if abs(shift) <= 2.0 * step else peak

    def _error(self, at: float) -> float:
        form = self._form
        size = 0.0 if math.isinf(at) else float(form.sizes.dot(1.0 / np.abs(1j * at - form.poles)))
        return self._rounding * size + self._floor

    def _bounds(
        self, a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return upper bounds on the intervals, the larger sample, and the chord's error."""
        form = self._form
        self._work -= len(a) * len(form.poles)
        inverse = np.maximum(self._imaginary, a[:, None])
        np.minimum(inverse, b[:, None], out=inverse)
        inverse -= self._imaginary
        inverse *= inverse
        inverse += self._square
        np.reciprocal(inverse, out=inverse)
        root = np.sqrt(inverse)
        size = root.dot(form.sizes)
        inverse *= root
        width = b - a
        bend = width * width * inverse.dot((0.25 * _INFLATE) * form.sizes)
        ends = np.maximum(left, right)
        upper = np.minimum(ends + bend, (size + self._d) * _INFLATE)
        upper += self._rounding * size + self._floor
        return upper, ends, bend

    def _tail(
        self, points: np.ndarray, values: np.ndarray, far: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Extend the mesh until the frequencies beyond it are bounded; return it with that bound."""
        high = _largest_of(self._size)
        total = float(self._form.sizes.dot(np.ones(len(self._size))))
        moment = float(self._form.sizes.dot(self._size))
        upper = math.inf
        for _ in range(60):
            last = float(points[-1])
            # |jν - p| ≥ ν·ratio.
            ratio = (1.0 - high / last) * (1.0 - 1e-14)
            size = total / ratio / last
            bend = 0.25 / last * (moment / last / ratio**3)
            upper = min(max(far, float(values[-1])) + bend, size + self._d) * (1.0 + 1e-12)
            upper += self._rounding * size + self._floor
            if not upper > self._best * (1.0 + self._tolerance) or not math.isfinite(last * 8.0):
                return points, values, upper
            more = last * np.array([2.0, 4.0, 8.0])
            points, values = np.concatenate((points, more)), np.concatenate((values, self._gains(more)))
        return points, values, upper

    def _split(
        self, a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray, parts: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Cut every interval into equal parts."""
        grid = np.empty((len(a), parts + 1))
        np.multiply((b - a)[:, None], np.arange(parts + 1) * (1.0 / parts), out=grid)
        grid += a[:, None]
        grid[:, -1] = b
        values = np.empty(grid.shape)
        values[:, 0], values[:, -1] = left, right
        values[:, 1:-1] = self._gains(grid[:, 1:-1].ravel()).reshape(len(a), parts - 1)
        return grid[:, :-1].ravel(), grid[:, 1:].ravel(), values[:, :-1].ravel(), values[:, 1:].ravel()


def _largest_of(values: np.ndarray) -> float:
    """Return the largest entry, or NaN where there is one."""
    return float(values[values.argmax()])


def _parts(excess: np.ndarray) -> int:
    """Return into how many parts to cut, from how many times too large the chord's error is."""
    worst = float(excess.max())
    return 16 if not worst < 256.0 else max(2, math.ceil(math.sqrt(worst) * 1.05))


def _mesh(poles: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return frequencies graded around every pole by its decay rate, and over the whole range by octaves."""
    low, high = float(size[size.argmin()]), _largest_of(size)
    octaves = 2.0 ** np.arange(math.floor(math.log2(low)) - 3, math.ceil(math.log2(high)) + 4)
    upper = (np.imag(poles) >= 0.0).nonzero()[0]
    chosen = poles[upper]
    centers, decay = np.imag(chosen), -np.real(chosen)
    reach = size[upper] / decay
    steps = math.ceil(math.log(_largest_of(reach)) / 1.1) + 1
    offsets = reach[:, None] ** (np.arange(steps) * (1.0 / max(steps - 1, 1)))
    offsets *= 0.5 * decay[:, None]
    around = np.concatenate(
        (centers, (centers[:, None] + offsets).ravel(), (centers[:, None] - offsets).ravel())
    )
    points = np.concatenate(([0.0], octaves, around[around > 0.0]))
    points.sort()
    return points


def _norms(response: np.ndarray, threshold: float) -> np.ndarray:
    """Return upper bounds, up to rounding, of the largest singular values: sharp above `threshold`."""
    count, rows, columns = response.shape
    if rows == columns == 1:
        return np.abs(response.ravel())
    small = min(rows, columns)
    if small == 2:
        return _two_row_norms(response if rows == 2 else np.ascontiguousarray(response.swapaxes(1, 2)))
    flat = response.reshape(count, rows * columns)
    total = _squared_norms(flat)
    if small == 1:
        return np.sqrt(total)
    if columns > rows:
        response = response.swapaxes(1, 2)
    out = np.sqrt(total)
    # A norm is at least the Frobenius norm over √k: below the threshold that bound suffices.
    floor = max(threshold, float(np.nanmax(out)) / math.sqrt(small))
    sharp = out >= floor
    chosen = response[sharp]
    gram = chosen.conj().swapaxes(1, 2) @ chosen
    if np.isfinite(gram).all() and len(gram):
        out[sharp] = np.sqrt(_largest(gram))
    return out


def _two_row_norms(response: np.ndarray) -> np.ndarray:
    """Return the norms of matrices with two rows x, y from |x|², |y|² and xᴴy, without cancellation."""
    parts = response.view(np.float64)
    x, y = parts[:, 0], parts[:, 1]
    ones = np.ones(x.shape[1])
    first, second = (x * x).dot(ones), (y * y).dot(ones)
    across = (x * y).dot(ones)
    turned = (x[:, ::2] * y[:, 1::2] - x[:, 1::2] * y[:, ::2]).dot(ones[::2])
    spread = np.hypot(first - second, 2.0 * np.hypot(across, turned))
    spread += first
    spread += second
    spread *= 0.5
    return np.sqrt(spread, out=spread)


def _squared_norms(rows: np.ndarray) -> np.ndarray:
    return (np.square(np.real(rows)) + np.square(np.imag(rows))).dot(np.ones(rows.shape[1]))


def _largest(gram: np.ndarray) -> np.ndarray:
    """Bound the largest eigenvalue of positive semidefinite matrices by a checked decomposition."""
    values, vectors = np.linalg.eigh(gram)
    adjoint = vectors.conj().swapaxes(1, 2)
    residual = gram - (vectors * values[:, None, :]) @ adjoint
    skew = adjoint @ vectors - np.eye(gram.shape[1])
    error = np.sqrt(np.square(np.abs(residual)).sum(axis=(1, 2)))
    tilt = np.sqrt(np.square(np.abs(skew)).sum(axis=(1, 2)))
    return values[:, -1] * (1.0 + tilt) + error
