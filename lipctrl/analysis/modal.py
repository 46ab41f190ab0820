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

from lipctrl.analysis.midrad import TINY, UNIT, MidRad, rounding, sharp_product
from lipctrl.analysis.plant import Realization

# Routines of LAPACK without the checks that `numpy.linalg` repeats at every call.
_dgeev: Any = scipy.linalg.lapack.dgeev  # pyright: ignore[reportAttributeAccessIssue]
_dgetrf: Any = scipy.linalg.lapack.dgetrf  # pyright: ignore[reportAttributeAccessIssue]
_dgetri: Any = scipy.linalg.lapack.dgetri  # pyright: ignore[reportAttributeAccessIssue]
# From this size on, a product whose leading part is exact is worth its time.
_SHARP_FROM = 16
_INFLATE = 1.0 + 1e-12
# Below it lie the squares that underflow, and all that they add up to.
_SQUARE_TINY = 1e-300


class ModalBasis(NamedTuple):
    """A proof that A is stable, from its modes: V⁻¹AV = Λ + E with |E|x bounded by `spill`.

    The first `pairs` modes have their conjugates in the next `pairs` places. `absolute` is |V|, `inverse`
    approximates V⁻¹, `size` is its absolute value, `error` that of WR.
    """

    poles: np.ndarray
    decay: np.ndarray
    pairs: int
    vectors: np.ndarray
    absolute: np.ndarray
    inverse: np.ndarray
    size: np.ndarray
    tilt: float
    error: np.ndarray
    slack: np.ndarray
    theta: float

    def spill(self, x: np.ndarray) -> np.ndarray:
        """Bound |E|x entrywise for x ≥ 0."""
        return self.spread(self.error.dot(x) + self.size.dot(self.slack.dot(x)))

    def spread(self, y: np.ndarray) -> np.ndarray:
        """Bound |(I + F)⁻¹||y|, rows of equal length counted by their norms."""
        return _spread(y, self.tilt)

    def paired(self, y: np.ndarray) -> np.ndarray:
        """Sum the two rows of every complex pair, in both places, and in place."""
        return _paired(y, self.pairs)


def _spread(y: np.ndarray, tilt: float) -> np.ndarray:
    return y * _INFLATE + tilt / (1.0 - tilt) * _INFLATE * y.item(y.argmax())


def _paired(y: np.ndarray, pairs: int) -> np.ndarray:
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
        real, imaginary, vectors = real[order], imaginary[order], vectors[:, order]
    poles = real + 1j * imaginary
    decay = 1.0 - np.abs(poles) * (1.0 + 8.0 * UNIT) - UNIT if discrete else -real
    if not decay.item(decay.argmin()) > 0.0:
        return None
    factors, pivots, info = _dgetrf(vectors)
    inverse, failed = _dgetri(factors, pivots, lwork=32 * n)
    if info != 0 or failed != 0:
        return None
    ones, gamma = np.ones(n), rounding(n, False)
    absolute = np.abs(vectors)
    residual, slack = _residual(a, (vectors, absolute), real, imaginary, pairs)
    size = np.abs(inverse)
    defect = inverse.dot(vectors)
    defect.flat[:: n + 1] -= 1.0
    rounded = 1.01 * gamma * size.dot(absolute.dot(ones)) + 4.0 * n * n * TINY
    rounded += np.abs(defect).dot(ones)
    tilt = rounded.item(rounded.argmax()) * _INFLATE
    if not tilt < 0.1:
        return None
    slack = slack + gamma * _INFLATE * np.abs(residual)
    error = np.abs(inverse.dot(residual))
    row = error.dot(ones) + size.dot(slack.dot(ones))
    strain = _paired(_spread(row, tilt), pairs) / decay
    theta = strain.item(strain.argmax()) * _INFLATE
    if not theta < 0.1:
        return None
    return ModalBasis(poles, decay, pairs, vectors, absolute, inverse, size, tilt, error, slack, theta)


def _residual(
    a: MidRad, basis: tuple[np.ndarray, np.ndarray], real: np.ndarray, imaginary: np.ndarray, pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return R = AV - VΛ from V, |V| and Λ, and an entrywise bound of its error.

    Of large matrices the leading part is exact.
    """
    n = len(real)
    vectors, absolute = basis
    if n >= _SHARP_FROM:
        value, slack = _sharp_residual(a.mid, vectors, real, imaginary, pairs)
    else:
        # Every entry is an inner product of length n + 2 at most.
        value = a.mid.dot(vectors)
        slack = np.abs(a.mid).dot(absolute) + absolute * np.abs(real)
        value -= vectors * real
        if pairs:
            v, w, turn = vectors[:, :pairs], vectors[:, pairs : 2 * pairs], imaginary[:pairs]
            value[:, :pairs] += w * turn
            value[:, pairs : 2 * pairs] -= v * turn
            slack[:, :pairs] += absolute[:, pairs : 2 * pairs] * turn
            slack[:, pairs : 2 * pairs] += absolute[:, :pairs] * turn
        slack = slack * (rounding(n + 2, False) * _INFLATE) + 4.0 * (n + 2) * TINY
    if a.rad is not None:
        slack += a.rad.dot(absolute) * _INFLATE
    return value, slack


def _sharp_residual(
    a: np.ndarray, vectors: np.ndarray, real: np.ndarray, imaginary: np.ndarray, pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return R as one product [A, -sV][V; Λ/s], s a power of two."""
    n = len(real)
    peak = float(np.abs(a).max())
    unit = 2.0 ** round(math.log2(peak)) if peak > 0.0 else 1.0
    left, right = np.empty((n, 2 * n)), np.zeros((2 * n, n))
    left[:, :n] = a
    np.multiply(vectors, -unit, out=left[:, n:])
    right[:n] = vectors
    right.flat[n * n :: n + 1] = real / unit
    if pairs:
        v = np.arange(pairs)
        right[n + v, pairs + v] = imaginary[:pairs] / unit
        right[n + pairs + v, v] = -imaginary[:pairs] / unit
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
    return form if math.isfinite(form.slack) and np.real(form.poles).max() < 0.0 else None


def _modal_form(system: Realization, basis: ModalBasis) -> ModalForm:
    pairs = basis.pairs
    b, b_error = _input_rows(system.b, basis)
    c, c_error = _output_columns(system.c, basis)
    b_size = np.sqrt(_paired(np.square(b).dot(np.ones(b.shape[1])), pairs) + _SQUARE_TINY)
    c_size = np.sqrt(_paired(np.ones(len(c)).dot(np.square(c)), pairs) + _SQUARE_TINY)
    # A complex row is (b_v - jb_w)/2; x in real columns: x_v, x_w are at most twice the modal coordinate.
    b_size[: 2 * pairs] *= 0.5
    start = b_size + b_error
    start[: 2 * pairs] *= 2.0
    start /= basis.decay
    crude = start + 2.0 * basis.theta / (1.0 - basis.theta) * start.item(start.argmax())
    if basis.theta > 1e-9:
        crude = start + basis.paired(basis.spill(crude)) / basis.decay
    spilled = basis.paired(basis.spill(crude))
    spilled[: 2 * pairs] *= 0.5
    b_error = b_error + spilled
    sizes = c_size * b_size * _INFLATE
    error = c_size * b_error + c_error * (b_size + b_error) + 8.0 * UNIT * sizes
    slack = float(error.dot(1.0 / basis.decay))
    if system.d.rad is not None:
        slack += float(np.sqrt(np.square(system.d.rad).sum() + _SQUARE_TINY))
    residues = _residues(b, c, pairs)
    if not system.is_discrete:
        return ModalForm(basis.poles, residues, sizes, system.D, slack * _INFLATE, 0.0)
    return _mapped(system, basis, residues, sizes, slack)


def _mapped(
    system: Realization, basis: ModalBasis, residues: np.ndarray, sizes: np.ndarray, slack: float
) -> ModalForm:
    """Map the circle to the axis: z - p = (1 + p)(s - q)/(1 - s), q = (p - 1)/(p + 1)."""
    far = 1.0 + basis.poles
    inverse = 1.0 / far
    poles = (basis.poles - 1.0) / far
    factor = 2.0 * inverse * inverse
    d = system.D - np.real(inverse.dot(residues)).reshape(system.D.shape)
    mapped = sizes * np.abs(factor) * (1.0 + 32.0 * UNIT)
    near = 1.0 / -np.real(poles)
    # What rounding of the mapped poles, residues and feed-through may change.
    slack += 16.0 * UNIT * float((sizes / basis.decay).dot(np.abs(poles) * near))
    slack += 32.0 * UNIT * float(mapped.dot(near))
    total = float(sizes.dot(np.abs(inverse))) + float(np.abs(system.D).sum())
    slack += (4.0 * len(sizes) + 32.0) * UNIT * total
    return ModalForm(poles, residues * factor[:, None], mapped, d, slack * _INFLATE, system.sample_time)


def _residues(b: np.ndarray, c: np.ndarray, pairs: int) -> np.ndarray:
    """Return the products of the complex columns of c and rows of b, flattened."""
    columns = c.T[:, :, None]
    if not pairs:
        return (columns * b[:, None, :]).reshape(len(b), -1).astype(np.complex128)
    rows = (0.5 * b[:pairs] - 0.5j * b[pairs : 2 * pairs])[:, None, :]
    upper = ((columns[:pairs] + 1j * columns[pairs : 2 * pairs]) * rows).reshape(pairs, -1)
    parts = [upper, upper.conj()]
    if 2 * pairs < len(b):
        parts.append((columns[2 * pairs :] * b[2 * pairs :, None, :]).reshape(len(b) - 2 * pairs, -1))
    return np.concatenate(parts)


def _input_rows(b: MidRad, basis: ModalBasis) -> tuple[np.ndarray, np.ndarray]:
    """Return V⁻¹B in real rows, and a bound of its complex rows' errors from the residual B - V(WB)."""
    n, inputs = b.mid.shape
    value = basis.inverse.dot(b.mid)
    if n >= _SHARP_FROM:
        left, right = np.hstack([b.mid, basis.vectors]), np.vstack([np.eye(inputs), -value])
        residual, slack = sharp_product(left, right)
    else:
        residual = b.mid - basis.vectors.dot(value)
        slack = np.abs(b.mid) + basis.absolute.dot(np.abs(value))
        slack = slack * (rounding(n + 1, False) * _INFLATE) + 4.0 * (n + 1) * TINY
    if b.rad is not None:
        slack = slack + b.rad
    slack += (rounding(n, False) * _INFLATE) * np.abs(residual)
    near = np.abs(basis.inverse.dot(residual)) + basis.size.dot(slack)
    # The sum of a row is no less than its norm; rounding of the complex products comes last.
    ones = np.ones(inputs)
    error = basis.spread(near.dot(ones)) + 4.0 * UNIT * np.abs(value).dot(ones)
    error = basis.paired(error)
    error[: 2 * basis.pairs] *= 0.5
    return value, error


def _output_columns(c: MidRad, basis: ModalBasis) -> tuple[np.ndarray, np.ndarray]:
    """Return CV in real columns, and a bound of its complex columns' errors."""
    outputs, n = c.mid.shape
    absolute = basis.absolute
    if n >= _SHARP_FROM:
        value, slack = sharp_product(c.mid, basis.vectors)
    else:
        value = c.mid.dot(basis.vectors)
        slack = np.abs(c.mid).dot(absolute) * (rounding(n, False) * _INFLATE) + 4.0 * n * TINY
    if c.rad is not None:
        slack = slack + c.rad.dot(absolute) * _INFLATE
    return value, basis.paired(np.ones(outputs).dot(slack)) * _INFLATE
