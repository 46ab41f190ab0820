"""Block-diagonal perturbations: constant scalings that bound them from one side, worst blocks from the other.

For Δ = diag(Δ₁, …, Δ_k), ‖Δ_i‖ ≤ r, the loop w = Δq, q = Mw is safe if ‖D_q M D_w⁻¹‖_∞ < 1/r with D = d_i·I on block i.
For *constant* d this holds for nonlinear and time-varying blocks of that incremental gain as well; for linear
time-invariant ones it is one side of the structured singular value (Doyle 1982; Packard & Doyle 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import real_array
from lipctrl.analysis.descent import ellipsoid_descent
from lipctrl.analysis.falsify_linear import LinearPolicy, all_pass

# (rows, columns) of each Δ_i: rows are inputs of M, columns are outputs of M.
Shapes = Sequence[tuple[int, int]]
# Logarithms of scalings stay within this.
_REACH = 40.0


def check_shapes(blocks: Any, inputs: int, outputs: int) -> tuple[tuple[int, int], ...]:
    """Return the block sizes as pairs that add up to (inputs, outputs); ValueError otherwise."""
    pairs = real_array(blocks)
    if pairs is None or pairs.ndim != 2 or pairs.shape[1] != 2 or not (pairs == np.floor(pairs)).all():
        raise ValueError(f"blocks is {blocks!r}; expected pairs (rows, columns), one for each Δ_i")
    shapes = tuple((int(r), int(c)) for r, c in pairs)
    total = sum(r for r, _ in shapes), sum(c for _, c in shapes)
    if not shapes or min(min(s) for s in shapes) < 1 or total != (inputs, outputs):
        raise ValueError(
            f"blocks {shapes} add up to {total}; expected positive sizes that add up to ({inputs}, {outputs}), the "
            "columns of `left` and the rows of `right`"
        )
    return shapes


def spread(d: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Repeat each d_i over the rows (or columns) of its block."""
    return np.repeat(d, sizes)


def best_scaling(responses: np.ndarray, shapes: Shapes, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Return d (last entry 1) that makes the largest ‖D_q M D_w⁻¹‖ over some responses (N, q, w) smallest, and it."""
    rows, columns = [c for _, c in shapes], [r for r, _ in shapes]

    def size(logs: np.ndarray) -> tuple[float, np.ndarray]:
        d = scales(logs)
        scaled = spread(d, rows)[:, None] * responses / spread(d, columns)
        k = int(np.argmax(np.linalg.norm(scaled, 2, axis=(1, 2))))
        left, sizes, right = np.linalg.svd(scaled[k])
        return float(sizes[0]), slope(left[:, 0], rows, right[0], columns)

    return minimize_logs(size, start)


def scales(logs: np.ndarray) -> np.ndarray:
    """Return the d of their logarithms, the last d being 1, within what rounding stands."""
    return np.exp(np.clip(np.append(logs, 0.0), -_REACH, _REACH))


def slope(left: np.ndarray, rows: Sequence[int], right: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Return the gradient of log ‖D_q M D_w⁻¹‖ in log d, from its first singular vectors; the last d is fixed."""
    starts = [np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int) for sizes in (rows, columns)]
    gain = np.add.reduceat(np.abs(left) ** 2, starts[0]) - np.add.reduceat(np.abs(right) ** 2, starts[1])
    return gain[:-1]


def minimize_logs(
    size: Any, start: np.ndarray, *, radius: float = 8.0, tolerance: float = 1e-9
) -> tuple[np.ndarray, float]:
    """Minimise a quasi-convex function of log d, the last d being 1; return d and the value (`ellipsoid_descent`)."""
    logs = np.log(start[:-1] / start[-1])
    if logs.size == 0:
        return np.ones(1), size(logs)[0]
    # The search reaches a factor e^radius about the start; a gradient of a logarithm counts relative distances.
    best, value = ellipsoid_descent(size, logs, radius, tolerance)
    return scales(best), value


@dataclass(frozen=True)
class WorstBlocks:
    """Blocks with ‖Δ_i‖ = 1/`value` (in units of their weights) and det(I - ΔM) = 0: `value` ≤ μ(M)."""

    value: float
    blocks: tuple[np.ndarray, ...]


def worst_blocks(
    m: np.ndarray,
    shapes: Shapes,
    *,
    starts: int = 6,
    seed: int = 0,
    first: Sequence[np.ndarray] | None = None,
) -> WorstBlocks:
    """Return blocks of rank one that make I - ΔM singular, as small as ascent from several starts finds.

    `first` are blocks of norm one to start from, besides those of the largest singular value and random ones.

    Ascent on the spectral radius of MΔ over unit-norm blocks: with its right and left eigenvectors x and z, the best
    blocks are a_i x_iᴴ of norm one, a = Mᴴz, turned so that all of them push the same way.
    """
    rng = np.random.default_rng(seed)
    best = WorstBlocks(0.0, tuple(np.zeros(s, dtype=np.complex128) for s in shapes))
    for trial in range(starts):
        delta = _first(m, shapes) if trial == 0 else [_random(s, rng) for s in shapes]
        found = _ascend(m, shapes, delta)
        if found.value > best.value:
            best = found
    if first is not None:
        found = _ascend(m, shapes, list(first))
        best = found if found.value > best.value else best
    return best


def _first(m: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    left, _, right = np.linalg.svd(m)
    out, row, column = [], 0, 0
    for r, c in shapes:
        block = np.outer(right[0, row : row + r].conj(), left[column : column + c, 0].conj())
        size = float(np.linalg.norm(block))
        out.append(block / size if size > 0.0 else np.full((r, c), 1.0 / np.sqrt(r * c), dtype=np.complex128))
        row, column = row + r, column + c
    return out


def _random(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    vectors = [rng.normal(size=k) + 1j * rng.normal(size=k) for k in shape]
    return np.outer(*(v / np.linalg.norm(v) for v in vectors))


def block_diagonal(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Assemble diag(Δ₁, …, Δ_k)."""
    rows, columns = sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)
    out, i, j = np.zeros((rows, columns), dtype=np.complex128), 0, 0
    for b in blocks:
        out[i : i + b.shape[0], j : j + b.shape[1]] = b
        i, j = i + b.shape[0], j + b.shape[1]
    return out


def _ascend(m: np.ndarray, shapes: Shapes, delta: list[np.ndarray]) -> WorstBlocks:
    reached, kept, value = 0.0, delta, 0j
    for _ in range(60):
        product = m @ block_diagonal(delta)
        values, vectors = np.linalg.eig(product)
        k = int(np.argmax(np.abs(values)))
        if abs(values[k]) <= reached * (1.0 + 1e-10):
            break
        reached, kept, value = abs(values[k]), delta, complex(values[k])
        lefts = np.linalg.pinv(vectors)
        x, z = vectors[:, k], lefts[k].conj()
        delta = _aligned(m.conj().T @ z, x, shapes, value, delta)
    if reached == 0.0:
        return WorstBlocks(0.0, tuple(kept))
    return WorstBlocks(reached, tuple(b / value for b in kept))


def _aligned(
    a: np.ndarray, x: np.ndarray, shapes: Shapes, value: complex, old: list[np.ndarray]
) -> list[np.ndarray]:
    turn, out, row, column = value / abs(value), [], 0, 0
    for i, (r, c) in enumerate(shapes):
        left, right = _direction(a[row : row + r]), _direction(x[column : column + c])
        alive = left.any() and right.any()
        out.append(turn * np.outer(left, right.conj()) if alive else old[i])
        row, column = row + r, column + c
    return out


def _direction(vector: np.ndarray) -> np.ndarray:
    """Return a vector scaled to norm one, also where its squares underflow; 0 stays 0."""
    peak = float(np.abs(vector).max(initial=0.0))
    if not 0.0 < peak < np.inf:
        return np.zeros_like(vector)
    vector = vector / peak
    return vector / np.linalg.norm(vector)


def realized_blocks(blocks: Sequence[np.ndarray], omega: float, sample_time: float) -> LinearPolicy:
    """Return a stable real filter, block-diagonal, of the same norms, that equals the blocks at omega (`all_pass`).

    At frequency 0 (or Nyquist's) only the real part can be realised.
    """
    parts = [all_pass(b, omega, sample_time) for b in blocks]
    a, b, c, d = (real_diagonal([getattr(p, name) for p in parts]) for name in "abcd")
    return LinearPolicy(a, b, c, d)


def real_diagonal(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Assemble real blocks on a diagonal; blocks without rows or columns keep their place."""
    return np.real(block_diagonal(parts))
