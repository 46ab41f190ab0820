"""A state matrix in the coordinates of its modes, with a bound of everything that rounding leaves out.

With approximate eigenvectors V and eigenvalues Λ of A, the residual R = AV - VΛ and W ≈ V⁻¹, F = WV - I: if
‖F‖_∞ < 1, then V is regular and V⁻¹AV = Λ + E exactly, E = (I + F)⁻¹WR. If moreover θ = max_i Σ_j|E_ij|/d_i < 1, d_i
the distance of λ_i to the boundary of stability, then s - Λ - E is regular on and beyond the boundary, so A is
stable; and x = (s - Λ - E)⁻¹b is (s - Λ)⁻¹(b + Ex), whose last term is bounded uniformly in s. The state matrix is
therefore exactly diagonal for the price of a small uncertainty of the input matrix.

Complex pairs v ± jw are kept as two real columns (v, w), in which Λ has blocks [α β; -β α].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg.lapack

from lipctrl.analysis.midrad import TINY, UNIT, MidRad, rounding, sharp_product
from lipctrl.analysis.plant import Realization

# Routines of LAPACK without the checks that `numpy.linalg` repeats at every call.
_dgeev: Any = scipy.linalg.lapack.dgeev  # pyright: ignore[reportAttributeAccessIssue]
# From this size on, a product whose leading part is exact beats the worst-case bound of an ordinary one.
_SHARP_FROM = 12
_INFLATE = 1.0 + 1e-12


@dataclass(frozen=True)
class ModalBasis:
    """A proof that A is stable, from its modes: V⁻¹AV = Λ + E with |E|x bounded by `spill`."""

    poles: np.ndarray
    decay: np.ndarray
    first: np.ndarray
    vectors: np.ndarray
    inverse: np.ndarray
    tilt: float
    error: np.ndarray
    slack: np.ndarray
    theta: float

    def spill(self, x: np.ndarray) -> np.ndarray:
        """Bound |E|x entrywise for x ≥ 0."""
        y = np.abs(self.error) @ x + np.abs(self.inverse) @ (self.slack @ x)
        return self.spread(y)

    def spread(self, y: np.ndarray) -> np.ndarray:
        """Bound |(I + F)⁻¹||y|, rows of equal length counted by their norms."""
        return (y + self.tilt / (1.0 - self.tilt) * y.max(axis=0)) * _INFLATE

    def paired(self, y: np.ndarray) -> np.ndarray:
        """Sum the two rows of every complex pair, in both places."""
        if self.first.size:
            y = y.copy()
            y[self.first] += y[self.first + 1]
            y[self.first + 1] = y[self.first]
        return y


def modal_basis(a: MidRad, *, discrete: bool) -> ModalBasis | None:
    """Prove by its modes that every member of a real square matrix is stable; None where that fails."""
    if a.mid.dtype.kind == "c" or a.shape[0] == 0:
        return None
    # What overflows ends in infinite or undefined bounds, which prove nothing.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _modal_basis(a, discrete)


def _modal_basis(a: MidRad, discrete: bool) -> ModalBasis | None:
    n = a.shape[0]
    real, imaginary, _, vectors, info = _dgeev(a.mid, compute_vl=0)
    poles = real + 1j * imaginary
    decay = 1.0 - np.abs(poles) * (1.0 + 8.0 * UNIT) - UNIT if discrete else -real
    if info != 0 or not decay.min() > 0.0:
        return None
    try:
        inverse = np.linalg.inv(vectors)
    except np.linalg.LinAlgError:
        return None
    first = np.flatnonzero(imaginary > 0.0)
    residual, slack = _residual(a, vectors, real, imaginary, first)
    gamma = rounding(n, False)
    size = np.abs(inverse)
    defect = inverse @ vectors
    defect.flat[:: n + 1] -= 1.0
    rounded = 1.01 * gamma * (size @ np.abs(vectors).sum(axis=1)) + 4.0 * n * n * TINY
    tilt = float((np.abs(defect).sum(axis=1) + rounded).max()) * _INFLATE
    if not tilt < 0.1:
        return None
    slack = slack + gamma * _INFLATE * np.abs(residual)
    error = inverse @ residual
    row = np.abs(error).sum(axis=1) + size @ slack.sum(axis=1)
    basis = ModalBasis(poles, decay, first, vectors, inverse, tilt, error, slack, 0.0)
    theta = float((basis.paired(basis.spread(row)) / decay).max()) * _INFLATE
    if not theta < 0.1:
        return None
    return replace(basis, theta=theta)


def _residual(
    a: MidRad, vectors: np.ndarray, real: np.ndarray, imaginary: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return R = AV - VΛ as one product [A, -sV][V; Λ/s], and an entrywise bound of its error."""
    n = len(real)
    peak = float(np.abs(a.mid).max())
    unit = 2.0 ** round(np.log2(peak)) if peak > 0.0 else 1.0
    left, right = np.empty((n, 2 * n)), np.zeros((2 * n, n))
    left[:, :n] = a.mid
    np.multiply(vectors, -unit, out=left[:, n:])
    right[:n] = vectors
    right.flat[n * n :: n + 1] = real / unit
    if first.size:
        right[n + first, first + 1] = imaginary[first] / unit
        right[n + first + 1, first] = -imaginary[first] / unit
    value, slack = _product(left, right)
    # Λ/s underflows by no more than TINY, and A may be known up to a radius only.
    slack = slack + 4.0 * n * TINY * unit
    if a.rad is not None:
        slack = slack + (a.rad @ np.abs(vectors)) * _INFLATE
    return value, slack


@dataclass(frozen=True)
class ModalForm:
    """G(jν) = Σ_i R_i/(jν - p_i) + D up to `slack` in norm, uniformly; ν is mapped to ω by `frequency`.

    `residues` holds the R_i flattened, shape (n, outputs·inputs), `sizes` their norms' upper bounds. In discrete
    time z = (1 + s)/(1 - s) maps the circle to the axis, so that every form is continuous.
    """

    poles: np.ndarray
    residues: np.ndarray
    sizes: np.ndarray
    d: np.ndarray
    slack: float
    sample_time: float

    def frequency(self, nu: float) -> float:
        """Return the frequency [rad/s] of s = jν."""
        return nu if self.sample_time == 0.0 else 2.0 * float(np.arctan(nu)) / self.sample_time


def modal_form(system: Realization, basis: ModalBasis) -> ModalForm | None:
    """Return the partial fractions of a stable system in the basis of its modes, with their error."""
    if any(m.mid.dtype.kind == "c" for m in (system.b, system.c, system.d)):
        return None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        form = _modal_form(system, basis)
    # Whatever overflowed has entered the slack.
    return form if math.isfinite(form.slack) and float(np.real(form.poles).max()) < 0.0 else None


def _modal_form(system: Realization, basis: ModalBasis) -> ModalForm:
    b, b_error = _input_rows(system.b, basis)
    c, c_error = _output_columns(system.c, basis)
    c_size, b_size = np.sqrt(np.square(np.abs(c)).sum(axis=0)), np.sqrt(np.square(np.abs(b)).sum(axis=1))
    # x in real columns: a pair's x_v, x_w are at most twice the larger modal coordinate.
    weight = np.ones(len(c_size))
    weight[basis.first] = weight[basis.first + 1] = 2.0
    start = weight * (b_size + b_error) / basis.decay
    crude = start + 2.0 * basis.theta / (1.0 - basis.theta) * start.max()
    state = start + basis.paired(basis.spill(crude)) / basis.decay
    b_error = b_error + basis.paired(basis.spill(state)) / weight
    sizes = c_size * b_size * _INFLATE
    error = c_size * b_error + c_error * (b_size + b_error)
    residues = (c.T[:, :, None] * b[:, None, :]).reshape(len(sizes), -1)
    slack = float(((error + 8.0 * UNIT * sizes) / basis.decay).sum())
    if system.d.rad is not None:
        slack += float(np.sqrt(np.square(system.d.rad).sum()))
    if not system.is_discrete:
        return ModalForm(basis.poles, residues, sizes, system.D, slack * _INFLATE, 0.0)
    far = 1.0 + basis.poles
    poles = (basis.poles - 1.0) / far
    factor = 2.0 / far**2
    d = system.D - np.real((residues / far[:, None]).sum(axis=0)).reshape(system.D.shape)
    mapped = sizes * np.abs(factor) * (1.0 + 32.0 * UNIT)
    decay = -poles.real
    # What rounding of the mapped poles, residues and feed-through may change.
    slack += float((sizes / basis.decay * (16.0 * UNIT * np.abs(poles) / decay)).sum())
    slack += float((mapped / decay).sum()) * 32.0 * UNIT
    slack += (4.0 * len(sizes) + 32.0) * UNIT * float((sizes / np.abs(far)).sum() + np.abs(system.D).sum())
    return ModalForm(poles, residues * factor[:, None], mapped, d, slack * _INFLATE, system.sample_time)


def _input_rows(b: MidRad, basis: ModalBasis) -> tuple[np.ndarray, np.ndarray]:
    """Return V⁻¹B in complex modes, and a bound of its rows' errors from the residual B - V(WB)."""
    inputs = b.shape[1]
    value = basis.inverse @ b.mid
    left, right = np.hstack([b.mid, basis.vectors]), np.vstack([np.eye(inputs), -value])
    residual, slack = _product(left, right)
    if b.rad is not None:
        slack = slack + b.rad
    n = len(value)
    slack = slack + (rounding(n, False) * _INFLATE) * np.abs(residual)
    near = np.abs(basis.inverse @ residual) + np.abs(basis.inverse) @ slack
    error = basis.spread(np.sqrt(np.square(near).sum(axis=1)))
    rows = value.astype(np.complex128)
    if basis.first.size:
        first = basis.first
        rows[first] = 0.5 * (value[first] - 1j * value[first + 1])
        rows[first + 1] = rows[first].conj()
        error = basis.paired(error)
        error[first] *= 0.5
        error[first + 1] *= 0.5
    return rows, error + 4.0 * UNIT * np.abs(rows).sum(axis=1)


def _output_columns(c: MidRad, basis: ModalBasis) -> tuple[np.ndarray, np.ndarray]:
    """Return CV in complex modes, and a bound of its columns' errors."""
    value, slack = _product(c.mid, basis.vectors)
    if c.rad is not None:
        slack = slack + (c.rad @ np.abs(basis.vectors)) * _INFLATE
    error = np.sqrt(np.square(slack).sum(axis=0))
    columns = value.astype(np.complex128)
    if basis.first.size:
        first = basis.first
        columns[:, first] = value[:, first] + 1j * value[:, first + 1]
        columns[:, first + 1] = columns[:, first].conj()
        error = basis.paired(error)
    return columns, error * _INFLATE


def _product(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a product and an entrywise bound of its error."""
    length = left.shape[1]
    if length >= _SHARP_FROM:
        return sharp_product(left, right)
    slack = (rounding(length, False) * _INFLATE) * (np.abs(left) @ np.abs(right)) + 4.0 * length * TINY
    return left @ right, slack
