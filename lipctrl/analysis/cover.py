"""The largest gain over all frequencies by branch and bound: intervals that cover the axis, each with a proof.

Between two samples a partial-fraction expansion G = Σ R_i/(jν - p_i) + D deviates from its chord by at most
(b - a)²/8·max‖G″‖ ≤ (b - a)²/4·Σ‖R_i‖/|jν - p_i|³, and the norm of a chord is convex, so largest at an end. That bounds
the gain on the interval; where it is too large, the interval is split. Beyond the last sample the same holds in
1/ν. Nothing is assumed between samples, and no resonance can hide: the distances to all poles enter. Every Im p_i is
a sample, so that each distance is monotone on an interval and least at one of its ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lipctrl.analysis.midrad import ones
from lipctrl.analysis.modal import ModalForm
from lipctrl.arithmetic import UNIT

# Rounds of splitting that a cover may take.
_ROUNDS = 16
_INFLATE = 1.0 + 1e-13
_TIE = 1e-13
# Far above the squares that underflow.
_SQUARE_TINY = 1e-300
# The mesh around a pole p: Im p - Re p·sinh(_GRADE·sinh τ), τ in steps.
_GRADE, _STEP = 1.2, 0.42
_ZERO, _INFINITY = np.zeros(1), np.array([math.inf])


@dataclass(frozen=True)
class GainBound:
    """`lower` ≤ sup‖G‖ ≤ `upper`, both proved; `lower` is the gain at the frequency `at`, in the cover's unit."""

    lower: float
    upper: float
    at: float


class _Strips(NamedTuple):
    """Rows of neighbouring samples: frequencies ν and gains, shape (rows, samples), and 1/|jν - p_i| in a last axis."""

    points: np.ndarray
    values: np.ndarray
    near: np.ndarray


def cover_gain(form: ModalForm, tolerance: float) -> GainBound:
    """Bound sup over ν ≥ 0 of ‖G(jν)‖₂ from both sides, to `tolerance` relative if rounding and work allow."""
    # What overflows ends in infinite or undefined bounds, which prove nothing.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _Search(form, tolerance).run()


class _Search:
    """Samples, the best of them, and the intervals between; bounds hold up to `_error` and the form's slack."""

    def __init__(self, form: ModalForm, tolerance: float) -> None:
        self._form, self._tolerance = form, tolerance
        self._best, self._at = -1.0, 0.0
        # Samples times poles that a cover may cost: a flat response is better left to other proofs.
        n = len(form.poles)
        self._work = 150_000 + 15_000 * n
        self._imaginary, self._decay = np.imag(form.poles), -np.real(form.poles)
        self._quarter = (0.25 * _INFLATE) * form.sizes
        self._constant = form.d.ravel()
        squared = float(self._constant.dot(self._constant))
        self._direct = np.count_nonzero(self._constant) > 0
        self._d = math.sqrt(squared + _SQUARE_TINY) if self._direct else 0.0
        # Rounding of a sample at any frequency, and what squares that underflow may hide.
        reach = float(form.sizes.dot(1.0 / self._decay)) + math.sqrt(form.d.size) * self._d
        self._error = 4.0 * (n + 24 + 4 * sum(form.d.shape)) * UNIT * reach + math.sqrt(_SQUARE_TINY)

    def run(self) -> GainBound:
        size = np.abs(self._form.poles)
        high = _largest_of(size)
        points = _mesh(self._imaginary, self._decay, high)
        far = 0.0
        if self._direct:
            points = np.concatenate((points, _INFINITY))
            values, near = self._sampled(points)
            points, values, near, far = points[:-1], values[:-1], near[:-1], float(values[-1])
        else:
            values, near = self._sampled(points)
        samples = self._focused(points, values, near)
        samples, done = self._with_tail(samples, far, size, high)
        done = max(done, self._covered(_Strips(*(part[None] for part in samples))))
        lower = self._best * (1.0 - 1e-15) - self._error - self._form.slack
        return GainBound(max(lower, 0.0), (done + self._error + self._form.slack) * _INFLATE, self._at)

    def _covered(self, strips: _Strips) -> float:
        """Bound the gain on all intervals of the strips, splitting them while that pays."""
        done = 0.0
        for left in range(_ROUNDS, -1, -1):
            target = self._best * (1.0 + self._tolerance)
            upper, ends, bend = self._bounds(strips, target)
            highest = _largest_of(upper)
            if highest <= target:
                return max(done, highest)
            # Undefined bounds stay open.
            closed = upper <= target
            rows, columns = (~closed).nonzero()
            room = np.maximum(target - ends[rows, columns], 0.5 * self._tolerance * self._best)
            parts = _parts(bend[rows, columns] / room)
            costly = parts * len(rows) * len(self._form.poles) > self._work
            if not left or costly or not np.isfinite(strips.values).all():
                return max(done, highest) if highest < math.inf else math.inf
            if len(rows) < upper.size:
                done = max(done, _largest_of(upper[closed]))
            strips = self._split(strips, rows, columns, parts)
        raise AssertionError("the last round returns")

    def _sampled(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ‖G‖ and 1/|jν - p| at the points, and remember the best; `_error` accounts for the rounding."""
        form = self._form
        self._work -= len(points) * len(form.poles)
        # jν - p by parts: at ν = inf its inverse is zero.
        shifted = np.empty((len(points), len(form.poles)), np.complex128)
        shifted.real = self._decay
        np.subtract(points[:, None], self._imaginary, out=shifted.imag)
        inverse = np.reciprocal(shifted, out=shifted)
        response = inverse.dot(form.residues)
        if self._direct:
            response += self._constant
        values = _norms(response, form.d.shape, self._best)
        peak = _largest_of(values)
        if not peak <= self._best * (1.0 + _TIE):
            # Of equal gains the first sample counts, so that a flat response peaks at zero.
            k = values.argmax() if values.item(0) < peak * (1.0 - _TIE) else 0
            self._best, self._at = values.item(k), points.item(k)
        return values, np.abs(inverse)

    def _focused(
        self, points: np.ndarray, values: np.ndarray, near: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add samples around the peak, as dense as the proof will need them: near a resonance 1/σ² is a parabola."""
        k = int(values.argmax())
        top = float(values[k])
        if k + 1 == len(points) or not 0.0 < top < math.inf:
            return points, values, near
        x: list[float] = points[max(k - 1, 0) : k + 2].tolist()
        y = [(top / gain) ** 2 if gain > 0.0 else math.inf for gain in values[max(k - 1, 0) : k + 2].tolist()]
        if k == 0:
            x, y = [-x[1], *x], [y[1], *y]
        if not x[0] < x[1] < x[2]:
            return points, values, near
        first, second = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
        curvature = (second - first) / (x[2] - x[0])
        if not 0.0 < curvature < math.inf:
            return points, values, near
        peak = min(max(0.5 * (x[0] + x[1]) - 0.5 * first / curvature, x[0]), x[2])
        row = near[k]
        step = 0.03 * (x[2] - x[0])
        if abs(peak - x[1]) > 1e-4 * (x[2] - x[0]) and peak > step:
            peak, row = self._refined(peak, step)
        bend = float((row * row * row).dot(self._quarter)) / top
        if not 0.0 < bend < math.inf:
            return points, values, near
        growth = 1.0 + min(0.85 * math.sqrt(0.5 * curvature / bend), 2.0)
        start = 0.5 * math.sqrt(self._tolerance / bend)
        low, high = max(k - 2, 0), min(k + 2, len(points) - 1)
        begin, end = points.item(low), points.item(high)
        steps = _steps(start, growth, max(end - peak, peak - begin))
        inner = np.concatenate((points[low + 1 : high], peak + steps, peak - steps))
        inner.sort()
        inner = inner[inner.searchsorted(begin, "right") : inner.searchsorted(end)]
        if not inner.size:
            return points, values, near
        gains, distances = self._sampled(inner)
        return (
            np.concatenate((points[: low + 1], inner, points[high:])),
            np.concatenate((values[: low + 1], gains, values[high:])),
            np.concatenate((near[: low + 1], distances, near[high:])),
        )

    def _refined(self, peak: float, step: float) -> tuple[float, np.ndarray]:
        """Sample around a guess of the peak; return the vertex of the parabola through 1/σ², and 1/|jν - p|."""
        values, near = self._sampled(np.array([peak - step, peak, peak + step]))
        low, middle, high = (1.0 / np.square(values)).tolist()
        curvature = low - 2.0 * middle + high
        shift = 0.5 * step * (low - high) / curvature if curvature > 0.0 else 0.0
        return (peak + shift if abs(shift) <= 6.0 * step else peak), near[1]

    def _bounds(self, strips: _Strips, target: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return upper bounds on the intervals, the larger sample, and the chord's error."""
        points, values, near = strips
        self._work -= near.size
        near = np.maximum(near[:, :-1], near[:, 1:])
        # The squares come first: together with the width they are of order one.
        cube = (points[:, 1:] - points[:, :-1])[:, :, None] * near
        cube *= cube
        cube *= near
        bend = cube.reshape(-1, cube.shape[2]).dot(self._quarter).reshape(cube.shape[:2])
        ends = np.maximum(values[:, :-1], values[:, 1:])
        upper = ends + bend
        if not _largest_of(upper) <= target:
            upper = np.minimum(upper, (near.dot(self._form.sizes) + self._d) * _INFLATE)
        return upper, ends, bend

    def _with_tail(
        self, samples: tuple[np.ndarray, np.ndarray, np.ndarray], far: float, size: np.ndarray, high: float
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
        """Extend the mesh until the frequencies beyond it are bounded; return it with that bound."""
        points, values, near = samples
        total = float(self._form.sizes.dot(ones(len(size))))
        moment = float(self._form.sizes.dot(size))
        upper = math.inf
        for _ in range(60):
            last = float(points[-1])
            # |jν - p| ≥ ν·ratio.
            ratio = (1.0 - high / last) * (1.0 - 1e-14)
            bend = 0.25 / last * (moment / last / ratio**3)
            upper = min(max(far, float(values[-1])) + bend, total / ratio / last + self._d) * (1.0 + 1e-12)
            if not upper > self._best * (1.0 + self._tolerance) or not math.isfinite(last * 8.0):
                break
            more = last * np.array([2.0, 4.0, 8.0])
            gains, distances = self._sampled(more)
            points, values = np.concatenate((points, more)), np.concatenate((values, gains))
            near = np.concatenate((near, distances))
        return (points, values, near), upper

    def _split(self, strips: _Strips, rows: np.ndarray, columns: np.ndarray, parts: int) -> _Strips:
        """Cut the intervals that begin at these samples into equal parts; every one becomes a strip."""
        points, values, near = strips
        a, b = points[rows, columns], points[rows, columns + 1]
        grid = np.empty((len(rows), parts + 1))
        np.multiply((b - a)[:, None], np.arange(parts + 1) * (1.0 / parts), out=grid)
        grid += a[:, None]
        grid[:, -1] = b
        gains, distances = np.empty(grid.shape), np.empty((*grid.shape, near.shape[2]))
        inner, around = self._sampled(grid[:, 1:-1].ravel())
        gains[:, 1:-1] = inner.reshape(len(rows), parts - 1)
        distances[:, 1:-1] = around.reshape(len(rows), parts - 1, -1)
        for here, there in ((0, columns), (-1, columns + 1)):
            gains[:, here], distances[:, here] = values[rows, there], near[rows, there]
        return _Strips(grid, gains, distances)


def _largest_of(values: np.ndarray) -> float:
    """Return the largest entry, or NaN where there is one."""
    return values.item(values.argmax())


def _parts(excess: np.ndarray) -> int:
    """Return into how many parts to cut, from how many times too large the chord's error is."""
    worst = float(excess.max())
    return 16 if not worst < 256.0 else max(2, math.ceil(math.sqrt(worst) * 1.05))


def _steps(start: float, growth: float, reach: float) -> np.ndarray:
    """Return zero and a geometric sequence up to `reach`, or zero alone where that would be long."""
    if not (growth > 1.1 and 0.0 < start < reach):
        return _ZERO
    steps = growth ** _counted(math.ceil(math.log(reach / start) / math.log(growth)) + 1)
    steps *= start
    steps[0] = 0.0
    return steps


@lru_cache(maxsize=256)
def _counted(count: int) -> np.ndarray:
    """Return -1, 0, 1, … as doubles."""
    return np.arange(count) - 1.0


@lru_cache(maxsize=256)
def _fractions(count: int) -> np.ndarray:
    """Return 1/count, 2/count, …, 1 as a column."""
    return np.arange(1, count + 1)[:, None] / count


def _mesh(imaginary: np.ndarray, decay: np.ndarray, high: float) -> np.ndarray:
    """Return frequencies from zero to far above all poles, graded around every pole by its decay rate.

    At x decay rates from a dominant pole an interval may be √x times x long, hence the doubly exponential grading.
    """
    chosen = (imaginary >= 0.0).nonzero()[0]
    centers, width = imaginary.take(chosen), decay.take(chosen)
    ends = np.empty((2, len(chosen)))
    np.negative(centers, out=ends[0])
    np.subtract(8.0 * high, centers, out=ends[1])
    ends /= width
    np.arcsinh(ends, out=ends)
    ends *= 1.0 / _GRADE
    low, top = np.arcsinh(ends, out=ends)
    span = top - low
    count = max(math.ceil(_largest_of(span) / _STEP), 1)
    grid = _fractions(count) * span
    grid += low
    np.sinh(grid, out=grid)
    grid *= _GRADE
    np.sinh(grid, out=grid)
    grid *= width
    grid += centers
    points = np.concatenate((_ZERO, centers, grid.ravel()))
    points.sort()
    # Zero once, of all real poles.
    return points[len(points) - np.count_nonzero(points) - 1 :]


def _norms(response: np.ndarray, shape: tuple[int, ...], threshold: float) -> np.ndarray:
    """Return upper bounds, up to rounding, of the largest singular values: sharp above `threshold`.

    The matrices of the given shape are flattened in the rows of `response`.
    """
    rows, columns = shape
    if rows == columns == 1:
        return np.abs(response.ravel())
    small = min(rows, columns)
    if small == 2:
        return _two_row_norms(response, rows, columns)
    parts = response.view(np.float64)
    out = np.sqrt(np.square(parts).dot(ones(parts.shape[1])))
    if small == 1:
        return out
    matrices = response.reshape(-1, rows, columns)
    if columns > rows:
        matrices = matrices.swapaxes(1, 2)
    # A norm is at least the Frobenius norm over √k: below the threshold that bound suffices.
    floor = max(threshold, float(np.nanmax(out)) / math.sqrt(small))
    sharp = out >= floor
    chosen = matrices[sharp]
    gram = chosen.conj().swapaxes(1, 2) @ chosen
    if np.isfinite(gram).all() and len(gram):
        out[sharp] = np.sqrt(_largest(gram))
    return out


def _two_row_norms(response: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the norms of matrices with two rows (columns) x, y from |x|², |y|² and xᴴy, without cancellation."""
    first, second, form = _two_row_form(rows, columns)
    parts = response.view(np.float64)
    products = parts.take(first, axis=1)
    products *= parts.take(second, axis=1)
    total, difference, across, turned = products.dot(form).T
    spread = np.hypot(difference, np.hypot(across, turned))
    spread += total
    spread *= 0.5
    return np.sqrt(spread, out=spread)


@lru_cache(maxsize=64)
def _two_row_form(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which products make |x|² + |y|², |x|² - |y|², 2Re xᴴy and 2Im xᴴy: lists of factors, and their sums."""
    flat = 2 * np.arange(rows * columns).reshape(rows, columns)
    first, second, sums = [], [], []
    for x, y in flat.T if rows == 2 else flat:
        first += [x, x + 1, y, y + 1, x, x + 1, x, x + 1]
        second += [x, x + 1, y, y + 1, y, y + 1, y + 1, y]
        sums += [[1, 1, 0, 0]] * 2 + [[1, -1, 0, 0]] * 2 + [[0, 0, 2, 0]] * 2 + [[0, 0, 0, 2], [0, 0, 0, -2]]
    return np.array(first), np.array(second), np.array(sums, dtype=np.float64)


def _largest(gram: np.ndarray) -> np.ndarray:
    """Bound the largest eigenvalue of positive semidefinite matrices by a checked decomposition."""
    values, vectors = np.linalg.eigh(gram)
    adjoint = vectors.conj().swapaxes(1, 2)
    residual = gram - (vectors * values[:, None, :]) @ adjoint
    skew = adjoint @ vectors - np.eye(gram.shape[1])
    error = np.sqrt(np.square(np.abs(residual)).sum(axis=(1, 2)))
    tilt = np.sqrt(np.square(np.abs(skew)).sum(axis=(1, 2)))
    return values[:, -1] * (1.0 + tilt) + error
