"""Perturbations that vary in time and destabilise where no time-invariant ones do: the outer side of constant scalings.

Against operators δ_i of gain α that may vary in time, constant scalings lose nothing (Megretski 1993; Shamma 1994):
where none proves α, signals at several frequencies exist in whose sum every channel returns at least 1/α of its energy.
An operator that hears one period of them and plays the next is causal, periodic and linear:

    w_i(t) = α·c·s_i(t),  c = ∫ p_iᵀq_i over the period before,

with waveforms s_i, p_i of norm one; its gain is α exactly. Waveforms that are sums of sinusoids of the period leave the
loop with a matrix from period to period in closed form, whose eigenvalues tell whether the loop is unstable.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from lipctrl.analysis.blocks import Shapes, WorstBlocks, worst_blocks
from lipctrl.analysis.destabilize import Destabilization, LinearLoop
from lipctrl.analysis.disk_loop import DiskLoop
from lipctrl.analysis.falsify_linear import WIDE_STEPS

# Singular values this near to the largest take part; so many lines at most.
_NEAR, _MOST_LINES = 0.05, 6
# Lines are multiples of a base frequency, this share of the slowest of them.
_FINENESS = (64, 1024, 16384)


@dataclass(frozen=True)
class PeriodicBlocks:
    """Waveforms Σ_k Re(v_k e^{jω_k t}) of every block over a period: `heard` p_i and `played` s_i, of norm one.

    Attributes
    ----------
    period : [s]; lines : ω_k [rad/s], whole multiples of 2π/period.
    heard, played : one complex array (lines, width of the block) per block.
    """

    period: float
    lines: np.ndarray
    heard: tuple[np.ndarray, ...]
    played: tuple[np.ndarray, ...]

    def monodromy(self, loop: DiskLoop, alpha: float) -> np.ndarray:
        """Return the matrix that takes the loop's state and the numbers c_i from one period to the next."""
        system, shapes = loop.system, loop.shapes
        n, step = system.states, system.sample_time
        gains = np.array([alpha] * loop.count + [loop.radius] * (len(shapes) - loop.count))
        points = np.asarray(system.point(self.lines))
        # Sums over the samples of a period in discrete time, integrals in continuous time.
        samples = round(self.period / step) if step else 0
        length = float(samples) if step else self.period
        end = np.linalg.matrix_power(system.A, samples) if step else scipy.linalg.expm(system.A * length)
        rows, columns = _slices([c for _, c in shapes]), _slices([r for r, _ in shapes])
        inner = np.zeros((n, len(shapes)))
        steady, ring = np.zeros((len(shapes), len(shapes))), np.zeros((len(shapes), n))
        for k, point in enumerate(points):
            resolvent = np.linalg.inv(point * np.eye(n) - system.A)
            response = system.C @ resolvent @ system.B + system.D
            turned = np.eye(n) - point * system.A if step else -(point * np.eye(n) + system.A)
            tail = np.linalg.solve(turned.T, (np.eye(n) - end).T).T if n else np.zeros((0, 0))
            for i, column in enumerate(columns):
                played = self.played[i][k] * gains[i]
                inner[:, i] += np.real(resolvent @ system.B[:, column] @ played)
                for j, row in enumerate(rows):
                    steady[j, i] += (
                        0.5 * length * np.real(self.heard[j][k].conj() @ response[row, column] @ played)
                    )
            for j, row in enumerate(rows):
                ring[j] += np.real(self.heard[j][k] @ system.C[row] @ tail)
        return np.block([[end, (np.eye(n) - end) @ inner], [ring, steady - ring @ inner]])

    def loop(self, loop: DiskLoop, alpha: float) -> LinearLoop:
        """Return the loop seen once a period."""
        system = loop.system
        outputs = np.hstack([system.C, np.zeros((system.outputs, len(loop.shapes)))])
        return LinearLoop(self.monodromy(loop, alpha), outputs, self.period)


def periodic_destabilization(loop: DiskLoop, d: np.ndarray, alpha: float) -> Destabilization | None:
    """Return time-varying blocks that destabilise near an α that the constant scaling d proves and no other exceeds."""
    found = periodic_blocks(loop, d, alpha)
    return None if found is None else _seen(loop, *found)


def periodic_blocks(loop: DiskLoop, d: np.ndarray, alpha: float) -> tuple[float, PeriodicBlocks] | None:
    """Return the smallest α found at which blocks that mix frequencies make the loop singular, and waveforms."""
    if loop.system.states == 0 or not 0.0 < alpha < math.inf:
        return None
    lines, near = _lines(loop, d, alpha)
    best: tuple[float, PeriodicBlocks] | None = None
    for fineness in _FINENESS:
        period, exact = _commensurate(loop, lines, near, fineness)
        found = _smallest(loop, d, exact, alpha)
        if found is None:
            continue
        if best is None or found[0] < best[0]:
            best = found[0], _waveforms(loop, found, exact, period)
        if best[0] <= alpha * (1.0 + 1e-5):
            break
    return best


def _seen(loop: DiskLoop, alpha: float, blocks: PeriodicBlocks) -> Destabilization | None:
    def at(size: float) -> LinearLoop:
        return blocks.loop(loop, size)

    for step in WIDE_STEPS:
        size = alpha * (1.0 + step)
        matrix = blocks.monodromy(loop, size)
        if not np.isfinite(matrix).all():
            return None
        poles = np.linalg.eigvals(matrix)
        worst = complex(poles[int(np.argmax(np.abs(poles)))])
        if abs(worst) > 1.0 + 1e-11:
            unit = "samples" if loop.system.counts_samples else "s"
            kind = (
                f"linear perturbations of the channels that vary with a period of {blocks.period:.6g} {unit}"
            )
            kind += ", with a policy of the ball that does" if len(loop.shapes) > loop.count else ""
            found = Destabilization(
                "disk size α", "", size, 0.0, kind, float(blocks.lines[0]), worst, loop=at
            )
            return replace(found, counts_samples=loop.system.counts_samples)
    return None


def _lines(loop: DiskLoop, d: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequencies at which ‖D·M·D⁻¹‖ is near its largest value, and how often each is needed."""
    inner = loop.of_blocks(d)
    top = loop.top if math.isfinite(loop.top) else 1e3 * float(np.abs(np.linalg.eigvals(loop.system.A)).max())

    def sizes(omegas: np.ndarray) -> np.ndarray:
        return np.stack(
            [np.linalg.svd(loop.weighted(alpha, float(w), inner), compute_uv=False) for w in omegas]
        )

    grid = np.unique(np.append(loop.grid[loop.grid < top], top))
    found: list[tuple[float, float, int]] = []
    values = sizes(grid)[:, 0]
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    for k in np.flatnonzero((values >= padded[:-2]) & (values >= padded[2:])):
        left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
        peak, omega = sizes(grid[k : k + 1])[0], float(grid[k])
        for _ in range(6):
            fine = np.linspace(left, right, 17)
            peaks = sizes(fine)
            j = int(np.argmax(peaks[:, 0]))
            if peaks[j, 0] > peak[0] * (1.0 + 1e-12):
                peak, omega = peaks[j], float(fine[j])
            left, right = fine[max(j - 1, 0)], fine[min(j + 1, 16)]
        found.append((float(peak[0]), omega, int((peak >= peak[0] * (1.0 - _NEAR)).sum())))
    largest = max(found)[0]
    near = sorted((p for p in found if p[0] >= largest * (1.0 - _NEAR)), reverse=True)[:_MOST_LINES]
    return np.array([omega for _, omega, _ in near]), np.array([count for _, _, count in near])


def _commensurate(
    loop: DiskLoop, lines: np.ndarray, counts: np.ndarray, fineness: int
) -> tuple[float, np.ndarray]:
    """Return a period and distinct frequencies with whole numbers of turns in it, near the given ones."""
    step = loop.system.sample_time
    poles = np.abs(np.linalg.eigvals(loop.system.A))
    if step:
        with np.errstate(divide="ignore"):
            poles = np.abs(np.log(poles)) / step
    poles = poles[(poles > 0.0) & np.isfinite(poles)]
    slow = float(poles.min(initial=loop.top if step else 1.0))
    # A line slower than all poles is as good as a constant.
    base = float(lines[lines > 0.01 * slow].min(initial=slow)) / fineness
    samples = math.ceil(2.0 * math.pi / (base * step)) if step else 0
    period = samples * step if step else 2.0 * math.pi / base
    last = (samples - 1) // 2 if step else math.inf
    chosen: list[int] = []
    for omega, count in zip(lines, counts, strict=True):
        turns = round(omega * period / (2.0 * math.pi))
        for _ in range(int(count)):
            options = sorted(range(max(1, turns - 8), turns + 9), key=lambda k, at=turns: abs(k - at))
            free = [k for k in options if k not in chosen and k <= last]
            chosen += free[:1]
    return period, 2.0 * math.pi * np.array(sorted(chosen), dtype=float) / period


def _smallest(
    loop: DiskLoop, d: np.ndarray, lines: np.ndarray, near: float
) -> tuple[float, WorstBlocks] | None:
    """Return the smallest α found for which blocks that mix the lines make the loop singular, with them."""
    shapes: Shapes = [(r * len(lines), c * len(lines)) for r, c in loop.shapes]
    inner = loop.of_blocks(d)

    def worst(alpha: float) -> WorstBlocks:
        mixed = _mixed([loop.weighted(alpha, float(w), inner) for w in lines], loop.shapes)
        return worst_blocks(mixed, shapes, starts=2, first=_balanced(mixed, shapes))

    def excess(alpha: float) -> float:
        return worst(alpha).value - 1.0

    low, high = near * (1.0 - 1e-6), near * (1.0 + 1e-6)
    for _ in range(24):
        if excess(high) >= 0.0:
            break
        low, high = high, near * (1.0 + 4.0 * (high / near - 1.0))
    else:
        return None
    if excess(low) < 0.0:
        find: Any = scipy.optimize.brentq
        high = float(find(excess, low, high, xtol=1e-14, rtol=1e-11, maxiter=40))
    return high, worst(high)


def _mixed(matrices: list[np.ndarray], shapes: Shapes) -> np.ndarray:
    """Assemble the responses at several lines, all lines of a block being neighbours."""
    count = len(matrices)
    rows, columns = _slices([c for _, c in shapes]), _slices([r for r, _ in shapes])
    out = np.zeros((count * matrices[0].shape[0], count * matrices[0].shape[1]), dtype=np.complex128)
    for k, matrix in enumerate(matrices):
        for row in rows:
            for column in columns:
                r, c = row.stop - row.start, column.stop - column.start
                i, j = count * row.start + k * r, count * column.start + k * c
                out[i : i + r, j : j + c] = matrix[row, column]
    return out


def _balanced(mixed: np.ndarray, shapes: Shapes) -> list[np.ndarray] | None:
    """Return blocks of norm one from a mix of near-largest singular vectors in which every block keeps its energy."""
    left, sizes, right = np.linalg.svd(mixed)
    count = max(int((sizes >= sizes[0] * (1.0 - _NEAR)).sum()), 1)
    rows, columns = _slices([c for _, c in shapes]), _slices([r for r, _ in shapes])
    gains = np.array(
        [
            [np.linalg.norm(left[row, k]) ** 2 - np.linalg.norm(right[k, column]) ** 2 for k in range(count)]
            for row, column in zip(rows, columns, strict=True)
        ]
    )
    weights, _ = scipy.optimize.nnls(np.vstack([gains, np.ones(count)]), np.append(np.zeros(len(gains)), 1.0))
    w = right[:count].conj().T @ np.sqrt(weights)
    q = mixed @ w
    out = []
    for row, column in zip(rows, columns, strict=True):
        block = np.outer(w[column], q[row].conj())
        size = float(np.linalg.norm(block))
        if not size > 0.0:
            return None
        out.append(block / size)
    return out


def _waveforms(
    loop: DiskLoop, worst: tuple[float, WorstBlocks], lines: np.ndarray, period: float
) -> PeriodicBlocks:
    """Return the waveforms of rank-one blocks over the lines, from the signals for which the loop is singular."""
    count = len(lines)
    mixed = _mixed([loop.weighted(worst[0], float(w)) for w in lines], loop.shapes)
    delta = scipy.linalg.block_diag(*worst[1].blocks)
    values, vectors = np.linalg.eig(delta @ mixed)
    w = vectors[:, int(np.argmin(np.abs(values - 1.0)))]
    q = mixed @ w
    length = period / loop.system.sample_time if loop.system.sample_time else period
    heard, played, row, column = [], [], 0, 0
    for r, c in loop.shapes:
        played.append(_unit(w[column : column + count * r].reshape(count, r), length))
        heard.append(_unit(q[row : row + count * c].reshape(count, c), length))
        row, column = row + count * c, column + count * r
    return PeriodicBlocks(period, lines, tuple(heard), tuple(played))


def _unit(wave: np.ndarray, length: float) -> np.ndarray:
    """Scale Σ Re(v_k e^{jω_k t}) to norm one over the period: its square is length/2·Σ|v_k|²."""
    size = math.sqrt(0.5 * length) * float(np.linalg.norm(wave))
    return wave / size if size > 0.0 else wave


def _slices(sizes: list[int]) -> list[slice]:
    ends = np.cumsum([0, *sizes])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
