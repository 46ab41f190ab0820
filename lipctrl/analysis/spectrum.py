"""Where the eigenvalues of a matrix lie, with proof: discs, half-planes and the unit circle."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy.linalg

from lipctrl.analysis.midrad import MidRad, rounding, smallest_eigenvalue_bound


@dataclass(frozen=True)
class Discs:
    """Every eigenvalue of every member of an enclosure lies in the union of these discs."""

    centers: np.ndarray
    radii: np.ndarray
    vectors: np.ndarray
    inverse: np.ndarray

    @property
    def proved(self) -> bool:
        """Whether the discs say anything at all."""
        return bool(np.isfinite(self.radii).all())


def eigenvalue_discs(matrix: MidRad, distance: np.ndarray | None = None, *, discrete: bool = False) -> Discs:
    """Enclose the eigenvalues by discs that are drawn tightest where the boundary is nearest.

    With approximate eigenvectors V, W ≈ V⁻¹ and λ an eigenvalue of M, the vector y = V⁻¹x satisfies
    (Λ - λ)y = -(E - λF)y, E = WMV - Λ, F = WV - I. Row i with the largest |y_i|/d_i gives
    |λ - λ_i| ≤ (e_i + |λ_i|f_i)/(1 - f_i), e = |E|d/d, f = |F|d/d, for any positive d (Gershgorin's
    argument with a bound on all rounding). d is chosen for the distance to the imaginary axis (or to the unit
    circle if `discrete`); the discs are valid for every choice.
    """
    n = matrix.shape[0]
    if n == 0:
        empty = np.zeros(0)
        return Discs(empty, empty, np.zeros((0, 0)), np.zeros((0, 0)))
    try:
        centers, vectors = np.linalg.eig(matrix.mid)
        inverse = np.linalg.inv(vectors)
    except np.linalg.LinAlgError:
        centers = np.linalg.eigvals(matrix.mid)
        nothing = np.full((n, n), np.nan)
        return Discs(centers, np.full(n, np.inf), nothing, nothing)
    bound = rounding(n)
    left, right = np.abs(inverse), np.abs(vectors)
    diagonalized = inverse @ (matrix.mid @ vectors)
    centers = diagonalized.diagonal().astype(np.complex128)
    off = np.abs(diagonalized - np.diag(centers))
    spread = bound * (np.abs(matrix.mid) @ right)
    if matrix.rad is not None:
        spread = spread + matrix.rad @ right
    spread += bound * np.abs(matrix.mid @ vectors)
    off += left @ spread * (1.0 + 4.0 * bound)
    tilt = np.abs(inverse @ vectors - np.eye(n)) + bound * (left @ right)
    if not (np.isfinite(off).all() and np.isfinite(tilt).all()):
        return Discs(centers, np.full(n, np.inf), vectors, inverse)
    margin = _distance(centers, discrete) if distance is None else distance
    weights = _weights(off + np.abs(centers)[:, None] * tilt, margin)
    inflate = 1.0 + 16.0 * bound
    e = (off @ weights) / weights * inflate
    f = (tilt @ weights) / weights * inflate
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = np.where(f < 1.0, (e + np.abs(centers) * f) / (1.0 - f) * inflate, np.inf)
    if not (f < 1.0).all():
        radii = np.full(n, np.inf)
    return Discs(centers, radii, vectors, inverse)


def _distance(centers: np.ndarray, discrete: bool) -> np.ndarray:
    return np.abs(1.0 - np.abs(centers)) if discrete else np.abs(centers.real)


def _weights(error: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return row weights d that shrink error·d/d relative to the margin: a few steps of power iteration."""
    largest = float(margin.max(initial=0.0))
    if largest == 0.0:
        return np.ones(len(margin))
    target = np.maximum(margin, 1e-15 * largest)
    weights = np.ones(len(margin))
    for _ in range(4):
        weights = (error @ weights) / target + 1e-3 * weights
        weights /= weights.max()
        weights = np.maximum(weights, 1e-12)
    return weights


class Stability(StrEnum):
    """What is known about the spectrum of a state matrix."""

    STABLE = "stable"
    UNSTABLE = "unstable"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class SpectrumReport:
    """A stability statement, the computed eigenvalues, and the one that decides."""

    stability: Stability
    discs: Discs
    critical: complex | None

    @property
    def is_stable(self) -> bool:
        """Whether internal stability is proved."""
        return self.stability is Stability.STABLE


def internal_stability(a: MidRad, *, discrete: bool) -> SpectrumReport:
    """Prove that all eigenvalues lie in the open left half-plane (open unit disc), or say why not.

    STABLE is a proof for every member of the enclosure: by eigenvalue discs or, where eigenvectors are too
    ill-conditioned, by a Lyapunov matrix whose inequality is checked with rounding bounds. UNSTABLE: some
    computed eigenvalue is on or beyond the boundary, up to the backward error of the eigenvalue routine; poles
    on the boundary are not stable. UNDECIDED: nearer to the boundary than rounding can tell.
    """
    discs = eigenvalue_discs(a, discrete=discrete)
    n = a.shape[0]
    if n == 0:
        return SpectrumReport(Stability.STABLE, discs, None)
    excess = np.abs(discs.centers) - 1.0 if discrete else discs.centers.real
    critical = complex(discs.centers[int(np.argmax(excess))])
    if (excess + discs.radii * (1.0 + 1e-12) < 0.0).all():
        return SpectrumReport(Stability.STABLE, discs, critical)
    backward = 10.0 * n * np.finfo(float).eps * max(float(np.linalg.norm(a.mid)), 1.0 if discrete else 0.0)
    if excess.max() >= -backward:
        return SpectrumReport(Stability.UNSTABLE, discs, critical)
    if _lyapunov_proof(a, discrete):
        return SpectrumReport(Stability.STABLE, discs, critical)
    return SpectrumReport(Stability.UNDECIDED, discs, critical)


def _lyapunov_proof(a: MidRad, discrete: bool) -> bool:
    """Prove stability by P ≻ 0 with AᵀP + PA ≺ 0 (discrete: AᵀPA - P ≺ 0), from an untrusted P."""
    scaled, scaling = scipy.linalg.matrix_balance(a.mid, permute=False)
    rad = None if a.rad is None else a.rad * (np.diag(scaling)[None, :] / np.diag(scaling)[:, None])
    balanced = MidRad(scaled, rad)
    eye = np.eye(a.shape[0])
    solve = scipy.linalg.solve_discrete_lyapunov if discrete else scipy.linalg.solve_continuous_lyapunov
    try:
        guess = solve(scaled.T, eye if discrete else -eye)
    except (np.linalg.LinAlgError, ValueError):
        return False
    if not np.isfinite(guess).all():
        return False
    p = MidRad((guess + guess.T) / 2.0)
    cross = p @ balanced
    decrease = p - balanced.H @ cross if discrete else -(cross + cross.H)
    return smallest_eigenvalue_bound(p) > 0.0 and smallest_eigenvalue_bound(decrease) > 0.0
