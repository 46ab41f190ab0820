"""The Cayley map of small factors on a CPU, forward and backward: numpy's calls cost a third of torch's.

Folding a narrow network takes some hundred calls on tiny matrices, before every step of an optimiser: it is the calls
that cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Entries of a batch up to which calls cost more than arithmetic.
SMALL = 40_000
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Saved:
    """What the derivative needs: V = W/‖W‖, N = (I+Z)⁻¹, α and its slope, the rounding factor, ‖W‖, and the shapes."""

    unit: np.ndarray
    inverse: np.ndarray
    alpha: np.ndarray
    slope: np.ndarray
    shrink: np.ndarray
    norm: np.ndarray
    shapes: tuple[Shape, ...]


def stacked(matrices: Sequence[np.ndarray], m: int, n: int) -> np.ndarray:
    """Return batches of matrices [X; Y] as one batch (B, m, n), smaller ones as [X 0; 0 0; Y 0; 0 0].

    The Cayley map of the latter is [Q_X 0; 0 I; Q_Y 0; 0 0]: zeros join nothing, so that its part is that of [X; Y].
    """
    if all(a.shape[1:] == (m, n) for a in matrices):
        return np.concatenate(matrices)
    whole, at = np.zeros((sum(map(len, matrices)), m, n), matrices[0].dtype), 0
    for a in matrices:
        count, rows, k = a.shape
        whole[at : at + count, :k, :k] = a[:, :k]
        whole[at : at + count, n : n + rows - k, :k] = a[:, k:]
        at += count
    return whole


def parted(whole: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    """Undo `stacked`."""
    (m, n), out, at = whole.shape[1:], [], 0
    for count, rows, k in shapes:
        batch = whole[at : at + count]
        if (rows, k) != (m, n):
            batch = np.concatenate((batch[:, :k, :k], batch[:, n : n + rows - k, :k]), 1)
        out.append(batch)
        at += count
    return out


def _square(a: np.ndarray) -> np.ndarray:
    """Return the squared Frobenius norm of each matrix, shape (B, 1, 1)."""
    flat = a.reshape(len(a), -1)
    return np.einsum("ij,ij->i", flat, flat)[:, None, None]


def cayley_forward(
    weights: Sequence[np.ndarray], alphas: Sequence[np.ndarray], limit: float
) -> tuple[list[np.ndarray], Saved] | None:
    """Return tall contractions of αW/‖W‖, with α bounded by `limit`, and what `cayley_backward` takes.

    None where a norm is too small or too large for its square to be exact enough, NaN included.
    """
    shapes = tuple(w.shape for w in weights)
    m, n = max(s[1] for s in shapes), max(s[2] for s in shapes)
    unit = stacked(weights, m, n)
    norm = np.sqrt(_square(unit))
    if not (norm.min() > 1e-6 and norm.max() < 1e12):
        return None
    unit /= norm
    raw = np.concatenate(alphas)
    root = np.sqrt(1.0 + np.square(raw / limit))
    alpha = raw / root
    x, y = unit[:, :n], unit[:, n:]
    z = x - x.transpose(0, 2, 1)
    z *= alpha
    if m > n:
        z += np.matmul(y.transpose(0, 2, 1), y) * (alpha * alpha)
    eps = float(np.finfo(z.dtype).eps)
    shrink = 1.0 / (1.0 + eps * (8.0 + 2.0 * np.sqrt(_square(z))))
    z.reshape(len(z), -1)[:, :: n + 1] += 1.0
    inverse = np.linalg.inv(z)
    q = np.empty_like(unit)
    np.multiply(inverse, 2.0 * shrink, out=q[:, :n])
    q.reshape(len(q), -1)[:, : n * n : n + 1] -= shrink[:, 0]
    if m > n:
        np.matmul(y, inverse * (-2.0 * alpha * shrink), out=q[:, n:])
    return parted(q, shapes), Saved(unit, inverse, alpha, root**-3, shrink, norm, shapes)


def cayley_backward(
    saved: Saved, gradients: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the gradients of the weights and of the alphas.

    With F = [X; Y] = αV, Q = r [2N - I; -2YN] and the gradient G = [G_t; G_b] of Q/r,

        G_Z = -2 Nᵀ (G_t - Yᵀ G_b) Nᵀ,   G_X = G_Z - G_Zᵀ,   G_Y = -2 G_b Nᵀ + Y (G_Z + G_Zᵀ);

    the part of the gradient along V turns α, the rest turns V.
    """
    unit, inverse, alpha = saved.unit, saved.inverse, saved.alpha
    m, n = unit.shape[1:]
    transposed = inverse.transpose(0, 2, 1)
    g = stacked(gradients, m, n)
    g *= 2.0 * saved.shrink
    top, below, y = g[:, :n], g[:, n:], unit[:, n:] * alpha
    inner = top - np.matmul(y.transpose(0, 2, 1), below) if m > n else top
    gz = -np.matmul(transposed, np.matmul(inner, transposed))
    flipped = gz.transpose(0, 2, 1)
    out = np.empty_like(unit)
    np.subtract(gz, flipped, out=out[:, :n])
    if m > n:
        np.subtract(np.matmul(y, gz + flipped), np.matmul(below, transposed), out=out[:, n:])
    along = np.einsum("ijk,ijk->i", out, unit)[:, None, None]
    out -= along * unit
    out *= alpha / saved.norm
    turns: Any = along * saved.slope
    ends = np.cumsum([s[0] for s in saved.shapes])[:-1]
    return parted(out, saved.shapes), np.split(turns, ends)
