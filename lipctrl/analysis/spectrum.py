"""Where the eigenvalues of a matrix lie, with proof: discs, half-planes and the unit circle."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy.linalg

from lipctrl.analysis.delay_chains import is_nilpotent
from lipctrl.analysis.discs import Discs, eigenvalue_discs
from lipctrl.analysis.midrad import MidRad, equilibrate, smallest_eigenvalue_bound
from lipctrl.analysis.modal import ModalBasis, modal_basis


class Stability(StrEnum):
    """What is known about the spectrum of a state matrix."""

    STABLE = "stable"
    UNSTABLE = "unstable"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class SpectrumReport:
    """A stability statement, the eigenvalue that decides, and the proof's modes where they gave it.

    `basis` belongs to the equilibrated matrix.
    """

    stability: Stability
    critical: complex | None
    basis: ModalBasis | None = None
    discs: Discs | None = None

    @property
    def modes(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Computed eigenvalues and eigenvectors, where there are any."""
        if self.discs is None or self.discs.vectors is None:
            return None
        return self.discs.centers, self.discs.vectors

    @property
    def is_stable(self) -> bool:
        """Whether internal stability is proved."""
        return self.stability is Stability.STABLE


def internal_stability(a: MidRad, *, discrete: bool, balanced: MidRad | None = None) -> SpectrumReport:
    """Prove that all eigenvalues lie in the open left half-plane (open unit disc), or say why not.

    STABLE is a proof for every member of the enclosure: by modes, by eigenvalue discs or, where eigenvectors are
    too ill-conditioned, by a Lyapunov matrix whose inequality is checked with rounding bounds. UNSTABLE: some
    computed eigenvalue is on or beyond the boundary, up to the backward error of the eigenvalue routine; poles
    on the boundary are not stable. UNDECIDED: nearer to the boundary than rounding can tell. `balanced` is the
    equilibrated matrix where the caller has it (`Realization.balanced`).
    """
    n = a.shape[0]
    if n == 0:
        return SpectrumReport(Stability.STABLE, None)
    if discrete and is_nilpotent(a):
        return SpectrumReport(Stability.STABLE, 0j)
    if balanced is None:
        balanced = _balanced(a)
    basis = modal_basis(balanced, discrete=discrete)
    if basis is not None:
        critical = complex(basis.poles[int(np.argmin(basis.decay))])
        return SpectrumReport(Stability.STABLE, critical, basis)
    discs = eigenvalue_discs(a, discrete=discrete)
    excess = np.abs(discs.centers) - 1.0 if discrete else np.real(discs.centers)
    critical = complex(discs.centers[int(np.argmax(excess))])
    if (excess + discs.radii * (1.0 + 1e-12) < 0.0).all():
        return SpectrumReport(Stability.STABLE, critical, discs=discs)
    size = float(np.linalg.norm(balanced.mid))
    backward = 10.0 * n * np.finfo(float).eps * max(size, 1.0 if discrete else 0.0)
    if excess.max() >= -backward:
        return SpectrumReport(Stability.UNSTABLE, critical, discs=discs)
    if _lyapunov_proof(balanced, discrete):
        return SpectrumReport(Stability.STABLE, critical, discs=discs)
    return SpectrumReport(Stability.UNDECIDED, critical, discs=discs)


def _balanced(a: MidRad) -> MidRad:
    t = equilibrate(a.mid)
    return a.rescaled(t[None, :] / t[:, None])


def _lyapunov_proof(balanced: MidRad, discrete: bool) -> bool:
    """Prove stability by P ≻ 0 with AᵀP + PA ≺ 0 (discrete: AᵀPA - P ≺ 0), from an untrusted P."""
    eye = np.eye(balanced.shape[0])
    solve = scipy.linalg.solve_discrete_lyapunov if discrete else scipy.linalg.solve_continuous_lyapunov
    try:
        # A warning of a near-singular equation is a failed guess.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            guess = solve(balanced.mid.T, eye if discrete else -eye)
    except (np.linalg.LinAlgError, ValueError, Warning):
        return False
    if not np.isfinite(guess).all():
        return False
    p = MidRad((guess + guess.T) / 2.0)
    cross = p @ balanced
    decrease = p - balanced.H @ cross if discrete else -(cross + cross.H)
    return smallest_eigenvalue_bound(p) > 0.0 and smallest_eigenvalue_bound(decrease) > 0.0
