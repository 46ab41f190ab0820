"""The pencil whose eigenvalues on the boundary are the frequencies at which a Popov function meets a level c.

    [A 0 B; -Q -Aᴴ -S; Sᴴ Bᴴ R-cI] - λ·diag(I, I, 0)      (continuous)
    [A 0 B; -Q I -S; Sᴴ 0 R-cI] - λ·[I 0 0; 0 Aᴴ 0; 0 -Bᴴ 0]   (discrete)

The discrete pencil is first mapped by λ = (1+s)/(1-s), so that the boundary is the imaginary axis and no eigenvalue is
infinite.
"""

from __future__ import annotations

import numpy as np

from lipctrl.analysis.discs import Discs, pencil_discs
from lipctrl.analysis.midrad import MidRad, block, equilibrate
from lipctrl.analysis.popov import PopovForm


def pencil_spectrum(form: PopovForm, level: float, floor: float = 1e-15) -> Discs | None:
    """Enclose the finite eigenvalues of the (mapped) pencil, after an exact diagonal scaling."""
    n, m = form.states, form.size
    r_c = form.r - MidRad(level * np.eye(m))
    approximate = _hamiltonian(form, r_c.mid)
    if approximate is None:
        return None
    scale, centers, state, costate, inputs = approximate
    d, e = (scale[:n], 1.0 / scale[:n]), (scale[n:], 1.0 / scale[n:])
    size = np.abs(np.real(r_c.mid.diagonal()))
    unit = np.exp2(-np.round(np.log2(np.where(size > 0.0, size, 1.0)) / 2.0))
    # In scaled coordinates x = d·x̃, p = e·p̃, u = unit·ũ; powers of two make every product below exact.
    a, ah = _similar(d[1], form.system.a, d[0]), _similar(e[1], form.system.a.H, e[0])
    b, bh = _similar(d[1], form.system.b, unit), _similar(unit, form.system.b.H, e[0])
    q, s = _similar(e[1], form.q, d[0]), _similar(e[1], form.s, unit)
    sh, r_c = _similar(unit, form.s.H, d[0]), _similar(unit, r_c, unit)
    zero = MidRad.zeros(n, n)
    vectors = np.vstack([state, costate, inputs / unit[:, None]])
    if not form.system.is_discrete:
        x = block([[a, zero, b], [-q, -ah, -s], [sh, bh, r_c]])
        y = MidRad(np.diag(np.concatenate([np.ones(2 * n), np.zeros(m)])))
        return pencil_discs(x, y, centers, vectors, infinite=m, floor=floor)
    eye = MidRad.eye(n)
    x = block([[a - eye, zero, b], [-q, eye - ah, -s], [sh, bh, r_c]])
    y = block([[a + eye, zero, b], [-q, eye + ah, -s], [sh, -bh, r_c]])
    # u alone is the eigenvector of z = ∞, that is s = 1.
    vectors = np.hstack([vectors, np.vstack([np.zeros((2 * n, m)), np.eye(m)])])
    return pencil_discs(x, y, np.concatenate([centers, np.ones(m)]), vectors, floor=floor)


def _similar(left: np.ndarray, matrix: MidRad, right: np.ndarray) -> MidRad:
    """Multiply by diagonal matrices of powers of two: exact, but for what underflows."""
    return matrix.rescaled(left[:, None] * right[None, :])


def _hamiltonian(
    form: PopovForm, r_c: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Return scaling, eigenvalues s and (x, p, u) parts of approximate eigenvectors: nothing here is trusted."""
    n = form.states
    a, b, q, s = form.system.a.mid, form.system.b.mid, form.q.mid, form.s.mid
    if form.system.is_discrete:
        return _symplectic(form, r_c)
    try:
        rs, rb = np.linalg.solve(r_c, s.conj().T), np.linalg.solve(r_c, b.conj().T)
    except np.linalg.LinAlgError:
        return None
    top = a - b @ rs
    matrix = np.block([[top, -b @ rb], [s @ rs - q, -top.conj().T]])
    if not np.isfinite(matrix).all():
        return None
    scale = equilibrate(matrix)
    balanced = matrix * (scale[None, :] / scale[:, None])
    try:
        centers, vectors = np.linalg.eig(balanced)
    except np.linalg.LinAlgError:
        return None
    inputs = -(rs * scale[:n]) @ vectors[:n] - (rb * scale[n:]) @ vectors[n:]
    return scale, centers, vectors[:n], vectors[n:], inputs


def _symplectic(
    form: PopovForm, r_c: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Do the same for the discrete pencil, through the Cayley image of its Hamiltonian matrix."""
    n = form.states
    a, b, q, s = form.system.a.mid, form.system.b.mid, form.q.mid, form.s.mid
    m = r_c.shape[0]
    eye, zero = np.eye(n), np.zeros((n, n))
    x = np.block([[a - eye, zero, b], [-q, eye - a.conj().T, -s], [s.conj().T, b.conj().T, r_c]])
    y = np.block([[a + eye, zero, b], [-q, eye + a.conj().T, -s], [s.conj().T, -b.conj().T, r_c]])
    # Eliminating u: both pencils share the column [B; -S; R] of u, so their difference does not hold u.
    try:
        full = np.linalg.solve(y, x)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(full).all():
        return None
    # u is an eigenvector of s = 1: the matrix is block triangular, [M 0; N I].
    core, tail = full[: 2 * n, : 2 * n], full[2 * n :, : 2 * n]
    scale = equilibrate(core)
    balanced = core * (scale[None, :] / scale[:, None])
    try:
        centers, vectors = np.linalg.eig(balanced)
    except np.linalg.LinAlgError:
        return None
    shift = centers - 1.0
    if not (shift != 0.0).all():
        return None
    inputs = (tail * scale) @ vectors / shift
    return scale, centers, vectors[:n], vectors[n:], inputs if m else np.zeros((0, 2 * n))
