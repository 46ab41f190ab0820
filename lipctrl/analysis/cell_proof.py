"""Two covers of an ellipsoid by boxes: one proves that pairs approach each other, one that a quadratic falls.

A box on which the inequality is not proved is halved; it is left out when it lies outside the ellipsoid. The ellipsoid
is convex, so a segment between two of its points is cut by the boxes into pieces, on each of which the slopes of
that box hold: ‖F(x) - F(x')‖_P ≤ Σ‖J_iΔ_i‖_P ≤ α‖x - x'‖_P.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lipctrl.analysis.cells import CellLoop
from lipctrl.arithmetic import TINY, UNIT, Enclosure, underflows_gradually
from lipctrl.positivity import NotProvedError
from lipctrl.rules.lines import ends

# Boxes in one matrix: large enough to be fast, small enough for the memory.
_BATCH = 2048
# Rounding of the few dozen operations of a test in float64, relative to the sum of their absolute values.
_SLACK = 1e-12
# Boxes are not cut further below this part of the ellipsoid's half-widths.
_SMALLEST = 1e-3
# Units of the states that differ by more than this power of two are taken away before eigenvalues are computed.
_UNEQUAL = 12
Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]


def product(a: Enclosure, b: Enclosure) -> Enclosure:
    """Multiply stacks of matrices (N, i, k) and (N, k, j)."""
    k = a.shape[-1]
    left, right = np.abs(a.middle()), np.abs(b.middle())
    gamma = (k + 2) * UNIT * (1.0 + 2.0**-30)
    radius = gamma * (left @ right) + left @ b.radius + a.radius @ (right + b.radius)
    return Enclosure(a.middle() @ b.middle(), radius * (1.0 + 4.0 * (3 * k + 8) * UNIT) + (3 * k + 8) * TINY)


def transposed(a: Enclosure) -> Enclosure:
    """Transpose every matrix of a stack."""
    return Enclosure(a.middle().transpose(0, 2, 1), a.radius.transpose(0, 2, 1))


def _balanced(matrices: Enclosure) -> Enclosure:
    """Scale matrices of very unequal diagonals to one of order one by powers of two; the others keep their size."""
    diagonal = np.diagonal(matrices.middle(), axis1=1, axis2=2)
    usable = np.isfinite(diagonal) & (diagonal > 0.0)
    exponent = np.round(0.5 * np.log2(np.where(usable, diagonal, 1.0)))
    unequal = np.ptp(exponent, axis=1, keepdims=True) > _UNEQUAL
    power = np.exp2(-np.where(unequal, exponent, 0.0))
    both = power[:, :, None] * power[:, None, :]
    return Enclosure(matrices.middle() * both, matrices.radius * both + TINY)


def positive_definite(matrices: Enclosure) -> np.ndarray:
    """Prove N ≻ 0 for every symmetric matrix of a stack (N, n, n) that the enclosure holds; bool (N,).

    VᵀNV with V from a numerical eigendecomposition is near the identity; if every row of VᵀNV - I has absolute sum
    below one, it is positive definite, hence V is regular and N ≻ 0. Powers of two on both sides take the units of the
    states away before.
    """
    matrices = _balanced(matrices)
    middle = 0.5 * (matrices.middle() + matrices.middle().transpose(0, 2, 1))
    finite = np.isfinite(middle).all(axis=(1, 2)) & np.isfinite(matrices.radius).all(axis=(1, 2))
    eye = np.eye(middle.shape[1])
    values, vectors = np.linalg.eigh(np.where(np.expand_dims(finite, (1, 2)), middle, eye))
    possible = np.logical_and(finite, values.min(axis=1) > 0.0)
    scaled = vectors / np.sqrt(np.where(np.expand_dims(possible, 1), values, 1.0))[:, None, :]
    v = Enclosure.exact(scaled)
    near = product(transposed(v), product(matrices, v)) - Enclosure.exact(eye)
    sums = (np.abs(near.middle()) + near.radius).sum(axis=2).max(axis=1)
    return possible & (sums < 1.0 - _SLACK)


class Ellipsoid:
    """{x: (x - center)ᵀP(x - center) ≤ 1} and which boxes lie inside or outside; |x - m| ≤ r, both (n, N)."""

    def __init__(self, center: np.ndarray, shape: np.ndarray) -> None:
        self.center, self.shape = center, shape

    def value(self, x: np.ndarray) -> np.ndarray:
        """Return the quadratic at states (..., n), in float64."""
        d = x - self.center
        return np.einsum("...i,ij,...j->...", d, self.shape, d)

    def _parts(self, m: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        d = m.T - self.center
        size = np.abs(d) + np.abs(self.center) + np.abs(m.T) + r.T
        rounding = _SLACK * np.einsum("ni,ij,nj->n", size, np.abs(self.shape), size)
        first = 2.0 * np.abs(d @ self.shape) * r.T
        return self.value(m.T), first.sum(axis=1) * (1.0 + _SLACK), rounding

    def outside(self, m: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Which boxes have no point in the ellipsoid, proved."""
        value, first, rounding = self._parts(m, r)
        return value - first - rounding > 1.0

    def inside(self, m: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Which boxes lie in the ellipsoid, proved."""
        value, first, rounding = self._parts(m, r)
        second = np.einsum("in,ij,jn->n", r, np.abs(self.shape), r) * (1.0 + _SLACK)
        return value + first + second + rounding < 1.0

    @property
    def extent(self) -> np.ndarray:
        return np.sqrt(np.diag(np.linalg.inv(self.shape)))

    def hull(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a proved box (center, half-widths), as columns, around the ellipsoid."""
        n = len(self.center)
        width = self.extent * (1.0 + 1e-6)
        for i in range(n):
            # P - eᵢeᵢᵀ/wᵢ² ≻ 0 says that |xᵢ - cᵢ| < wᵢ wherever the quadratic is at most 1.
            row = np.zeros((1, n, n))
            row[0, i, i] = 1.0
            inverse = Enclosure(
                np.full((1, 1, 1), 1.0 / width[i] ** 2), np.full((1, 1, 1), 4.0 * UNIT / width[i] ** 2)
            )
            gap = Enclosure.exact(self.shape[None]) - inverse.times(Enclosure.exact(row))
            if not positive_definite(gap)[0]:
                raise NotProvedError("the ellipsoid has no proved bounding box")
        return self.center[:, None].copy(), width[:, None] * (1.0 + 1e-9) + 1e-15 * np.abs(
            self.center[:, None]
        )


def prove_cover(start: tuple[np.ndarray, np.ndarray], judge: Judge, weight: np.ndarray, budget: int) -> int:
    """Prove a property on every point of a box by halving; return the number of boxes judged.

    `judge` tells which boxes (m, r) are settled and raises NotProvedError where it sees a counterexample. Halves are
    cut along the state whose half-width times `weight` is largest.

    Raises
    ------
    NotProvedError
        When `budget` boxes do not suffice, or one is not settled however small.
    """
    if not underflows_gradually():
        raise NotProvedError(
            "this thread flushes subnormal numbers to zero; torch.set_flush_denormal(False) mends it"
        )
    count = 0
    todo = [start]
    while todo:
        m, r = todo.pop()
        if m.shape[1] > _BATCH:
            todo += [(m[:, :_BATCH], r[:, :_BATCH]), (m[:, _BATCH:], r[:, _BATCH:])]
            continue
        count += m.shape[1]
        if count > budget:
            raise NotProvedError(f"{budget} boxes do not suffice")
        with np.errstate(over="ignore", invalid="ignore"):
            left = ~judge(m, r)
        if left.any():
            if ((r * weight[:, None])[:, left].max(axis=0) < _SMALLEST).any():
                raise NotProvedError("a box of a thousandth of the ellipsoid's width is not settled")
            todo.append(halves(m[:, left], r[:, left], weight))
    return count


def halves(m: np.ndarray, r: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut boxes in two; the halves cover them whatever the rounding."""
    axis = np.argmax(r * weight[:, None], axis=0)
    columns = np.arange(m.shape[1])
    half = r.copy()
    half[axis, columns] *= 0.5
    shift = np.zeros_like(m)
    shift[axis, columns] = half[axis, columns]
    # The shifted centres are rounded once.
    grown = half + 4.0 * UNIT * (np.abs(m) + r) * (shift > 0.0)
    return np.hstack([m - shift, m + shift]), np.hstack([grown, grown])


def prove_contraction(loop: CellLoop, region: Ellipsoid, decay: float, budget: int) -> tuple[float, int]:
    """Prove ‖F(x) - F(x')‖_P ≤ decay·‖x - x'‖_P in an ellipsoid that F maps into itself; return (offset, boxes).

    `offset` bounds how far the one equilibrium is from the centre, in the norm of P.
    """
    p = Enclosure.exact(region.shape[None])
    square = Enclosure.exact(np.full((1, 1, 1), decay))
    metric = square.times(square).times(p)

    def judge(m: np.ndarray, r: np.ndarray) -> np.ndarray:
        known = loop.enclose(m, r)
        j = known.slopes
        fine = positive_definite(metric - product(transposed(j), product(p, j))) & known.inside
        return fine | region.outside(m, r)

    still = loop.enclose(region.center[:, None], np.zeros((len(region.center), 1)))
    gap = still.image - Enclosure.exact(region.center[:, None])
    error = (np.abs(gap.middle()) + gap.radius)[:, 0]
    residual = float(np.sqrt(error @ np.abs(region.shape) @ error)) * (1.0 + _SLACK)
    if not residual <= (1.0 - decay) * (1.0 - _SLACK):
        raise NotProvedError("the centre is not near enough to an equilibrium")
    count = prove_cover(region.hull(), judge, 1.0 / region.extent, budget)
    return residual / (1.0 - decay), count


def prove_decrease(loop: CellLoop, region: Ellipsoid, inner: Ellipsoid, budget: int) -> int:
    """Prove that the quadratic of `region` falls in every step from a point of it outside `inner`; return the boxes."""
    p, center = Enclosure.exact(region.shape[None]), Enclosure.exact(region.center[:, None])
    middle_gain = 0.5 * (loop.gain[0] + loop.gain[1])

    def judge(m: np.ndarray, r: np.ndarray) -> np.ndarray:
        settled = region.outside(m, r) | inner.inside(m, r)
        here = region.value(m.T)
        tried = (here < 1.0) & (inner.value(m.T) > 1.0) & ~settled
        if (tried & (region.value(loop.step(m.T, middle_gain)) >= here)).any():
            raise NotProvedError("the quadratic rises at a point of the ellipsoid")
        left = np.flatnonzero(~settled)
        if len(left):
            settled[left] = _falls(loop, p, center, m[:, left], r[:, left])
        return settled

    return prove_cover(region.hull(), judge, 1.0 / region.extent, budget)


def _falls(loop: CellLoop, p: Enclosure, center: Enclosure, m: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Whether V(F(x)) < V(x) on boxes: V(x) - V(F(m) + Jd) = v + gᵀd + dᵀHd for x = m + d and some J of the box."""
    known = loop.enclose(m, r)
    e, f, j = _columns(Enclosure.exact(m) - center), _columns(known.image - center), known.slopes
    pe, pf = product(p, e), product(p, f)
    start = product(transposed(e), pe) - product(transposed(f), pf)
    gradient = pe - product(transposed(j), pf)
    curvature = p - product(transposed(j), product(p, j))
    first = 2.0 * ((np.abs(gradient.middle()) + gradient.radius)[:, :, 0] * r.T).sum(axis=1)
    low, high = ends(curvature)
    size = np.maximum(np.abs(low), np.abs(high))
    diagonal = np.arange(len(m))
    size[:, diagonal, diagonal] = np.maximum(-low[:, diagonal, diagonal], 0.0)
    second = np.einsum("in,nij,jn->n", r, size, r)
    return (ends(start)[0][:, 0, 0] > (first + second) * (1.0 + _SLACK)) & known.inside


def _columns(a: Enclosure) -> Enclosure:
    """Rearrange (n, N) into a stack of columns (N, n, 1)."""
    return Enclosure(a.middle().T[:, :, None], a.radius.T[:, :, None])
