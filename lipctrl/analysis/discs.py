"""Discs that provably contain the eigenvalues of a matrix or pencil, sharp to a few units of rounding.

Let XV = YVΛ + R with approximate eigenvectors V and eigenvalues Λ of the pencil X - λY, Z = YV, W ≈ Z⁻¹ and
F = WZ - I. If ‖F‖_∞ < 1, then Z is regular and the eigenvalues are those of Λ + E, E = (I + F)⁻¹WR, so
Gershgorin's theorem with any positive weights d puts each in the union of the discs
|λ - λ_i| ≤ (|E|d)_i/d_i. Directions that Y annihilates (infinite eigenvalues) complete V by columns N with
YN = 0, and Z by XN. All that matters is R, which is computed nearly without error by splitting
the factors into two parts whose leading product is exact in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipctrl.analysis.midrad import MidRad, rounding, sharp_product
from lipctrl.arithmetic import UNIT


@dataclass(frozen=True)
class Discs:
    """Every finite eigenvalue of every member of an enclosure lies in the union of these discs.

    `radii` are inf where nothing could be proved. `vectors` are the approximate eigenvectors (columns), if any.
    """

    centers: np.ndarray
    radii: np.ndarray
    vectors: np.ndarray | None = None


def eigenvalue_discs(matrix: MidRad, *, discrete: bool = False) -> Discs:
    """Enclose the eigenvalues of a matrix, tightest near the imaginary axis (unit circle if `discrete`)."""
    n = matrix.shape[0]
    if n == 0:
        return Discs(np.zeros(0), np.zeros(0))
    try:
        centers, vectors = np.linalg.eig(matrix.mid)
    except np.linalg.LinAlgError:
        return Discs(np.full(n, np.nan), np.full(n, np.inf))
    return pencil_discs(matrix, None, centers, vectors, discrete=discrete)


def pencil_discs(
    x: MidRad,
    y: MidRad | None,
    centers: np.ndarray,
    vectors: np.ndarray,
    *,
    infinite: int = 0,
    discrete: bool = False,
    floor: float = 1e-15,
) -> Discs:
    """Enclose the finite eigenvalues of X - λY from approximate eigenpairs (columns of `vectors`).

    Discs are made small against their distances to the boundary, counted as no less than `floor` of the largest: a
    larger floor where some eigenvalues lie on the boundary, and the others shall keep off it.

    `y = None` is the identity. The last `infinite` coordinates are directions that Y maps exactly to zero.
    Complex eigenvectors of a real pencil must come as neighbouring conjugate pairs, the positive imaginary
    part first, as LAPACK returns them.
    """
    # What overflows ends in infinite or undefined radii, which prove nothing.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _pencil_discs(
            x, y, np.asarray(centers, dtype=np.complex128), vectors, infinite, (discrete, floor)
        )


def _pencil_discs(
    x: MidRad,
    y: MidRad | None,
    centers: np.ndarray,
    vectors: np.ndarray,
    infinite: int,
    boundary: tuple[bool, float],
) -> Discs:
    unknown = Discs(centers, np.full(len(centers), np.inf), vectors)
    if not (np.isfinite(centers).all() and np.isfinite(vectors).all()):
        return unknown
    real = not any(m is not None and np.iscomplexobj(m.mid) for m in (x, y))
    pairs = real and np.iscomplexobj(vectors)
    first = np.flatnonzero(np.imag(centers) > 0.0) if pairs else np.zeros(0, dtype=int)
    basis = _real_basis(vectors, first) if pairs else vectors
    found = _error(x, y, centers, basis, first, infinite)
    if found is None:
        return unknown
    value, error = found
    magnitude = _complex_magnitudes(value, error, first) if pairs else np.abs(value) + error
    margin = np.abs(1.0 - np.abs(centers)) if boundary[0] else np.abs(np.real(centers))
    weights = _weights(magnitude, margin, boundary[1])
    radii = (magnitude @ weights) / weights * (1.0 + 4.0 * rounding(len(centers)))
    return Discs(centers, radii, vectors)


def _real_basis(vectors: np.ndarray, first: np.ndarray) -> np.ndarray:
    basis = np.real(vectors).copy()
    basis[:, first + 1] = np.imag(vectors)[:, first]
    return basis


def _times_eigenvalues(
    z: np.ndarray, centers: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ZΛ in the (real) basis, and the entrywise size of its terms."""
    if first.size == 0 and np.iscomplexobj(z):
        product = z * centers
        return product, np.abs(product)
    second = first + 1
    product = z * np.real(centers)
    size = np.abs(product)
    imaginary = np.imag(centers)[first]
    a, b = z[:, first] * imaginary, z[:, second] * imaginary
    # (v + jw)(α + jβ): the real part takes αv - βw, the imaginary part αw + βv.
    product[:, first] -= b
    product[:, second] += a
    size[:, first] += np.abs(b)
    size[:, second] += np.abs(a)
    return product, size


def _error(
    x: MidRad, y: MidRad | None, centers: np.ndarray, basis: np.ndarray, first: np.ndarray, infinite: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return E = (I + F)⁻¹WR as a value and an entrywise error; None if Z may be singular."""
    n = x.shape[0]
    bound = rounding(n, np.iscomplexobj(basis) or np.iscomplexobj(x.mid))
    right = np.abs(basis)
    if y is None:
        z, loose = basis, np.zeros(basis.shape)
    else:
        z, loose = sharp_product(y.mid, basis)
        loose = loose if y.rad is None else loose + y.rad @ right * (1.0 + 4.0 * bound)
    shifted, size = _times_eigenvalues(z, centers, first)
    product, slack = sharp_product(x.mid, basis)
    residual = product - shifted
    slack = slack + 4.0 * UNIT * size + 2.0 * UNIT * np.abs(residual)
    if y is not None:
        slack += _times_eigenvalues_bound(loose, centers, first)
    if x.rad is not None:
        slack += x.rad @ right * (1.0 + 4.0 * bound)
    if infinite:
        z = np.hstack([z, x.mid[:, n - infinite :].astype(z.dtype)])
        loose = np.hstack([loose, x.radius()[:, n - infinite :]])
    try:
        inverse = np.linalg.inv(z)
    except np.linalg.LinAlgError:
        return None
    left = np.abs(inverse)
    value = inverse @ residual
    error = left @ (slack + 2.0 * bound * np.abs(residual)) * (1.0 + 4.0 * bound)
    defect = inverse @ z
    defect.flat[:: n + 1] -= 1.0
    # Crude but sufficient: rounding of WZ in the ∞-norm.
    spill = left.sum(axis=1) * (2.0 * bound * np.abs(z) + loose).sum(axis=1).max()
    tilt = float((np.abs(defect).sum(axis=1) + spill * (1.0 + 4.0 * bound)).max())
    if not (tilt < 0.5 and np.isfinite(error).all() and np.isfinite(value).all()):
        return None
    # ‖(I + F)⁻¹ - I‖_∞ ≤ t/(1 - t) spreads each column's largest entry.
    spread = tilt / (1.0 - tilt) * (np.abs(value) + error).max(axis=0)
    finite = n - infinite
    return value[:finite], ((error + spread) * (1.0 + 8.0 * bound))[:finite]


def _times_eigenvalues_bound(loose: np.ndarray, centers: np.ndarray, first: np.ndarray) -> np.ndarray:
    out = loose * np.abs(centers)
    if first.size:
        both = loose[:, first] + loose[:, first + 1]
        out[:, first] = out[:, first + 1] = both * np.abs(centers[first])
    return out * (1.0 + 8.0 * UNIT)


def _complex_magnitudes(value: np.ndarray, error: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Turn a real-basis matrix into the magnitudes of its entries in the complex eigenvector basis.

    A pair (v, w) of real columns stands for v ± jw, so columns combine as z_v ± jz_w and rows as
    (z_v ∓ jz_w)/2; conjugate rows have equal magnitudes in conjugate columns.
    """
    second = first + 1
    mixed = value.astype(np.complex128)
    mixed[:, first] = value[:, first] + 1j * value[:, second]
    mixed[:, second] = mixed[:, first].conj()
    rows = mixed.copy()
    rows[first] = 0.5 * (mixed[first] - 1j * mixed[second])
    rows[second] = 0.5 * (mixed[first] + 1j * mixed[second])
    loose = error + 8.0 * UNIT * np.abs(value)
    loose[:, first] += loose[:, second]
    loose[:, second] = loose[:, first]
    loose[first] = loose[second] = 0.5 * (loose[first] + loose[second])
    return (np.abs(rows) + loose) * (1.0 + 16.0 * UNIT)


def _weights(error: np.ndarray, margin: np.ndarray, floor: float) -> np.ndarray:
    """Return row weights d for which |E|d/d is small relative to the margin: a few power iterations."""
    largest = float(margin.max(initial=0.0))
    weights = np.ones(len(margin))
    if largest == 0.0:
        return weights
    target = np.maximum(margin, floor * largest)
    for _ in range(5):
        weights = (error @ weights) / target
        peak = weights.max()
        if not 0.0 < peak < np.inf:
            return np.ones(len(margin))
        weights = np.maximum(weights / peak, 1e-10)
    return weights
