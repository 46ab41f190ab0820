"""A state matrix in the coordinates of its modes, with a bound of everything that rounding leaves out.

With approximate eigenvectors V and eigenvalues Λ of A, the residual R = AV - VΛ and W ≈ V⁻¹, F = WV - I: if
‖F‖_∞ < 1, then V is regular and V⁻¹AV = Λ + E exactly, E = (I + F)⁻¹WR. If moreover θ = max_i Σ_j|E_ij|/d_i < 1, d_i
the distance of λ_i to the boundary of stability, then s - Λ - E is regular on and beyond the boundary, so A is
stable; and x = (s - Λ - E)⁻¹b is (s - Λ)⁻¹(b + Ex), whose last term is bounded uniformly in s. The state matrix is
therefore exactly diagonal for the price of a small uncertainty of the input matrix.

Complex pairs v ± jw are kept as two real columns, in which Λ has blocks [α β; -β α]: first the columns v of all
pairs, then the columns w, then the real eigenvectors. Small matrices cost calls, not arithmetic: what follows is
written for few of them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg.lapack

from lipctrl.analysis.midrad import TINY, MidRad, ones, rounding, sharp_product
from lipctrl.analysis.plant import Realization
from lipctrl.arithmetic import UNIT

# Routines of LAPACK without the checks that `numpy.linalg` repeats at every call.
_dgeev: Any = scipy.linalg.lapack.dgeev  # pyright: ignore[reportAttributeAccessIssue]
_dgetrf: Any = scipy.linalg.lapack.dgetrf  # pyright: ignore[reportAttributeAccessIssue]
_dgetri: Any = scipy.linalg.lapack.dgetri  # pyright: ignore[reportAttributeAccessIssue]
# From this size on, a product whose leading part is exact is worth its time.
_SHARP_FROM = 16
# Errors of B and C in these coordinates are not divided by the decay, and matter later.
_SHARP_SIDES_FROM = 40
_INFLATE = 1.0 + 1e-12
# Below it lie the squares that underflow, and all that they add up to.
_SQUARE_TINY = 1e-300


class ModalBasis(NamedTuple):
    """A proof that A is stable, from its modes: V⁻¹AV = Λ + E with |E|x bounded by `spill`.

    The first `pairs` modes have their conjugates in the next `pairs` places. `absolute` is |V|, `inverse` W ≈ V⁻¹,
    `size` is |W|, `defect` bounds |WV - I| with room for products by W, `error` bounds |WR|.
    """

    poles: np.ndarray
    decay: np.ndarray
    pairs: int
    vectors: np.ndarray
    absolute: np.ndarray
    inverse: np.ndarray
    size: np.ndarray
    defect: np.ndarray
    tilt: float
    error: np.ndarray
    theta: float

    def spill(self, x: np.ndarray) -> np.ndarray:
        """Bound |E|x for x ≥ 0, the two rows of a complex pair summed."""
        return self.spread(self.error.dot(x))

    def spread(self, y: np.ndarray) -> np.ndarray:
        """Bound |(I + F)⁻¹||y|, rows of equal length counted by their norms and those of pairs summed; changes y."""
        return _paired(_spread(y, self.tilt), self.pairs)


def _spread(y: np.ndarray, tilt: float) -> np.ndarray:
    # For a tilt below 0.1, twice it is more than tilt/(1 - tilt)², rounding included.
    y += 2.0 * tilt * y.item(y.argmax())
    return y


def _paired(y: np.ndarray, pairs: int) -> np.ndarray:
    """Sum the two rows of every complex pair, in both places, and in place."""
    if pairs:
        y[:pairs] += y[pairs : 2 * pairs]
        y[pairs : 2 * pairs] = y[:pairs]
    return y


def modal_basis(a: MidRad, *, discrete: bool) -> ModalBasis | None:
    """Prove by its modes that every member of a real square matrix is stable; None where that fails."""
    if a.mid.dtype.kind == "c" or a.shape[0] == 0:
        return None
    # What overflows ends in infinite or undefined bounds, which prove nothing.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _modal_basis(a, discrete)


def _modal_basis(a: MidRad, discrete: bool) -> ModalBasis | None:
    n = len(a.mid)
    real, imaginary, _, vectors, info = _dgeev(a.mid, compute_vl=0)
    if info != 0:
        return None
    turns: list[float] = imaginary.tolist()
    above = [i for i, turn in enumerate(turns) if turn > 0.0]
    pairs = len(above)
    if pairs:
        # LAPACK returns the columns v, w of a pair side by side.
        order = np.array(above + [i + 1 for i in above] + [i for i, turn in enumerate(turns) if turn == 0.0])
        real, imaginary, vectors = real.take(order), imaginary.take(order), vectors.take(order, axis=1)
    poles = np.empty(n, np.complex128)
    poles.real, poles.imag = real, imaginary
    decay = 1.0 - np.abs(poles) * (1.0 + 8.0 * UNIT) - UNIT if discrete else -real
    if not decay.item(decay.argmin()) > 0.0:
        return None
    factors, pivots, info = _dgetrf(vectors)
    inverse, failed = _dgetri(factors, pivots, lwork=32 * n)
    if info != 0 or failed != 0:
        return None
    absolute, size = np.abs(vectors), np.abs(inverse)
    defect = inverse.dot(vectors)
    defect.ravel()[:: n + 1] -= 1.0
    np.abs(defect, out=defect)
    # What F may be in exact arithmetic, as much again for a product by W, and 8u for one by a rounded factor.
    defect += (2.02 * rounding(n, False) + 10.0 * UNIT) * size.dot(absolute)
    row = defect.dot(ones(n))
    tilt = (row.item(row.argmax()) + 8.0 * n * n * TINY) * _INFLATE
    if not tilt < 0.1:
        return None
    residual, slack = _residual(a, vectors, absolute, _rotation(real, imaginary, pairs))
    error = np.abs(inverse.dot(residual))
    error += size.dot(slack)
    strain = _paired(_spread(error.dot(ones(n)), tilt), pairs) / decay
    theta = strain.item(strain.argmax()) * _INFLATE
    if not theta < 0.1:
        return None
    return ModalBasis(poles, decay, pairs, vectors, absolute, inverse, size, defect, tilt, error, theta)


def _rotation(real: np.ndarray, imaginary: np.ndarray, pairs: int) -> np.ndarray:
    """Return Λ in real columns, with blocks [α β; -β α]."""
    n = len(real)
    matrix = np.zeros((n, n))
    flat = matrix.ravel()
    flat[:: n + 1] = real
    if pairs:
        turn = imaginary[:pairs]
        flat[pairs : pairs * n : n + 1] = turn
        flat[pairs * n : 2 * pairs * n : n + 1] = -turn
    return matrix


def _residual(
    a: MidRad, vectors: np.ndarray, absolute: np.ndarray, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return R = AV - VΛ, and an entrywise bound of its error and of the rounding of a product by it.

    Of large matrices the leading part is exact.
    """
    n = len(rotation)
    if n >= _SHARP_FROM:
        value, slack = _sharp_residual(a.mid, vectors, rotation)
        slack += (rounding(n, False) * _INFLATE) * np.abs(value)
    else:
        # Every entry is an inner product of length n + 2 at most.
        value = a.mid.dot(vectors)
        value -= vectors.dot(rotation)
        slack = np.abs(a.mid).dot(absolute)
        slack += absolute.dot(np.abs(rotation))
        slack += np.abs(value)
        slack *= rounding(n + 2, False) * _INFLATE
        slack += 4.0 * (n + 2) * TINY
    if a.rad is not None:
        slack += a.rad.dot(absolute) * _INFLATE
    return value, slack


def _sharp_residual(
    a: np.ndarray, vectors: np.ndarray, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return R as one product [A, -sV][V; Λ/s], s a power of two."""
    n = len(rotation)
    peak = float(np.abs(a).max())
    unit = 2.0 ** round(math.log2(peak)) if peak > 0.0 else 1.0
    left, right = np.empty((n, 2 * n)), np.empty((2 * n, n))
    left[:, :n], right[:n] = a, vectors
    np.multiply(vectors, -unit, out=left[:, n:])
    np.divide(rotation, unit, out=right[n:])
    value, slack = sharp_product(left, right)
    # Λ/s underflows by no more than TINY.
    return value, slack + 4.0 * n * TINY * unit


class ModalForm(NamedTuple):
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
    if "c" in (system.B.dtype.kind, system.C.dtype.kind, system.D.dtype.kind):
        return None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        form = _modal_form(system, basis)
    # Whatever overflowed has entered the slack.
    decay = -np.real(form.poles)
    return form if math.isfinite(form.slack) and decay.item(decay.argmin()) > 0.0 else None


def _modal_form(system: Realization, basis: ModalBasis) -> ModalForm:
    pairs, decay = basis.pairs, basis.decay
    b, b_size, b_error = _input_rows(system.b, basis)
    c, c_size, c_error = _output_columns(system.c, basis)
    # A complex row is (b_v - jb_w)/2: the halves of pairs enter here.
    share = 1.0 / decay
    share[: 2 * pairs] *= 0.5
    # Real coordinates x_v, x_w are at most twice the complex one.
    start = (b_size + b_error) / decay
    crude = start + 2.0 * basis.theta / (1.0 - basis.theta) * start.item(start.argmax())
    if basis.theta > 1e-9:
        crude = start + basis.spill(crude) / decay
    b_error += basis.spill(crude)
    gains = c_size * b_size * share
    error = c_size * b_error + c_error * (b_size + b_error)
    slack = float(error.dot(share))
    if system.d.rad is not None:
        slack += float(np.sqrt(np.square(system.d.rad).sum() + _SQUARE_TINY))
    residues = _residues(b, c, pairs)
    if not system.is_discrete:
        return ModalForm(basis.poles, residues, gains * decay * _INFLATE, system.D, slack * _INFLATE, 0.0)
    return _mapped(system, basis, residues, gains, slack)


def _mapped(
    system: Realization, basis: ModalBasis, residues: np.ndarray, gains: np.ndarray, slack: float
) -> ModalForm:
    """Map the circle to the axis: z - p = (1 + p)(s - q)/(1 - s), q = (p - 1)/(p + 1); `gains` are ‖R_i‖/d_i."""
    far = 1.0 + basis.poles
    inverse = 1.0 / far
    poles = (basis.poles - 1.0) / far
    factor = 2.0 * inverse * inverse
    d = system.D - np.real(inverse.dot(residues)).reshape(system.D.shape)
    sizes = gains * basis.decay
    sizes *= np.abs(factor)
    # What rounding of the mapped poles may change; that of residues and feed-through, as |1 + p| ≥ d and
    # ‖R_i·2/(1 + p)²‖/-Re q ≤ 2‖R_i‖/d.
    slack += 16.0 * UNIT * float(gains.dot(np.abs(poles) / -np.real(poles)))
    total = float(gains.dot(ones(len(gains))))
    slack += (4.0 * len(gains) + 96.0) * UNIT * (total + sum(map(abs, system.D.ravel().tolist())))
    sizes *= _INFLATE
    return ModalForm(poles, residues * factor[:, None], sizes, d, slack * _INFLATE, system.sample_time)


def _residues(b: np.ndarray, c: np.ndarray, pairs: int) -> np.ndarray:
    """Return the products of the complex columns of c and rows of b, flattened."""
    outputs, inputs = len(c), b.shape[1]
    out = np.empty((len(b), outputs, inputs), np.complex128)
    if pairs:
        # The columns of c and the conjugate rows of b have the same form v + jw.
        both = np.concatenate((c.T[: 2 * pairs], b[: 2 * pairs]), axis=1)
        joined = 1j * both[pairs:]
        joined += both[:pairs]
        rows = joined[:, None, outputs:].conj()
        rows *= 0.5
        np.multiply(joined[:, :outputs, None], rows, out=out[:pairs])
        np.conjugate(out[:pairs], out=out[pairs : 2 * pairs])
    if 2 * pairs < len(b):
        np.multiply(c.T[2 * pairs :, :, None], b[2 * pairs :, None, :], out=out[2 * pairs :])
    return out.reshape(len(out), -1)


def _input_rows(b: MidRad, basis: ModalBasis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return WB in real rows, the norms of the rows of pairs, and bounds of their distance to V⁻¹B and of 8u of them.

    Of small matrices V⁻¹B - WB = -(I + F)⁻¹F·WB. The rounding of WB is at most γ|W||B| ≤ T|V⁻¹B| with T = γ|W||V|, as
    B = V(V⁻¹B), for which the defect has room. Of large ones V⁻¹B - WB is (I + F)⁻¹W times the residual B - V(WB).
    """
    n, inputs = b.mid.shape
    value = basis.inverse.dot(b.mid)
    norms = np.sqrt(_paired(np.square(value).dot(ones(inputs)), basis.pairs) + _SQUARE_TINY)
    if n < _SHARP_SIDES_FROM:
        error = basis.defect.dot(norms)
    else:
        left, right = np.hstack([b.mid, basis.vectors]), np.vstack([np.eye(inputs), -value])
        residual, slack = sharp_product(left, right)
        slack += (rounding(n, False) * _INFLATE) * np.abs(residual)
        # The sum of a row is no less than its norm.
        error = (np.abs(basis.inverse.dot(residual)) + basis.size.dot(slack)).dot(ones(inputs))
        error += 8.0 * UNIT * norms
    if b.rad is not None:
        error += basis.size.dot(b.rad.dot(ones(inputs)))
    return value, norms, basis.spread(error)


def _output_columns(c: MidRad, basis: ModalBasis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return CV in real columns, the norms of the columns of pairs, and bounds of their errors."""
    outputs, n = c.mid.shape
    if n < _SHARP_SIDES_FROM:
        value = c.mid.dot(basis.vectors)
        error = (rounding(n, False) * _INFLATE) * ones(outputs).dot(np.abs(c.mid)).dot(basis.absolute)
    else:
        value, slack = sharp_product(c.mid, basis.vectors)
        error = ones(outputs).dot(slack)
    if c.rad is not None:
        error += ones(outputs).dot(c.rad).dot(basis.absolute)
    norms = np.sqrt(_paired(ones(outputs).dot(np.square(value)), basis.pairs) + _SQUARE_TINY)
    return value, norms, _paired(error, basis.pairs)
