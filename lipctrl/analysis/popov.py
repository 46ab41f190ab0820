"""The smallest eigenvalue of a Popov function over all frequencies, bounded from below with proof.

A Popov function is Φ(jω) = [X; I]ᴴ [Q S; Sᴴ R] [X; I] with X = (jωI - A)⁻¹B. H∞ norms (Φ = -GᴴG), positive
realness, the circle criterion and every margin of this package ask the same question: for which c is
Φ(jω) ≻ cI at all ω? Where A has no eigenvalue on the imaginary axis, the answer is yes exactly if
R ≻ cI and the Hamiltonian matrix

    H_c = [A - BR_c⁻¹Sᴴ, -BR_c⁻¹Bᴴ;  -Q + SR_c⁻¹Sᴴ, -(A - BR_c⁻¹Sᴴ)ᴴ],   R_c = R - cI,

has no eigenvalue on it (Boyd, Balakrishnan & Kabamba 1989; Bruinsma & Steinbuch 1990). Here that is *proved*:
H_c is assembled with rounding radii and its eigenvalues are enclosed in discs that miss the axis.
Discrete time is mapped to continuous time by the Cayley transformation, which leaves Φ unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from lipctrl.analysis.midrad import MidRad, block, smallest_eigenvalue_bound
from lipctrl.analysis.spectrum import Discs, eigenvalue_discs

# Relative gaps between the best sample and the level that is proved, tried in this order.
LADDER = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)


@dataclass(frozen=True)
class PopovForm:
    """A Popov function in continuous time; `flip` and `sample_time` tell how frequencies map back."""

    a: MidRad
    b: MidRad
    q: MidRad
    s: MidRad
    r: MidRad
    sample_time: float = 0.0
    flip: bool = False

    def value(self, nu: float) -> np.ndarray:
        """Return Φ(jν), Hermitian, in unverified float64; ν = inf gives R."""
        if math.isinf(nu) or self.a.shape[0] == 0:
            return self.r.mid
        pencil = 1j * nu * np.eye(self.a.shape[0]) - self.a.mid
        try:
            x = np.linalg.solve(pencil, self.b.mid.astype(np.complex128))
        except np.linalg.LinAlgError:
            return np.full(self.r.shape, -np.inf)
        cross = x.conj().T @ self.s.mid
        return x.conj().T @ self.q.mid @ x + cross + cross.conj().T + self.r.mid

    def lowest(self, nu: float) -> float:
        """Return the smallest eigenvalue of Φ(jν), unverified."""
        value = self.value(nu)
        if not np.isfinite(value).all():
            return -math.inf
        return float(np.linalg.eigvalsh(value)[0])

    def frequency(self, nu: float) -> float:
        """Map the variable ν to a frequency in rad/s (the Cayley map in discrete time)."""
        if self.sample_time == 0.0:
            return nu
        angle = 2.0 * math.atan(nu)
        if self.flip:
            angle = math.copysign(math.pi, angle) - angle if angle != 0.0 else math.pi
        return angle / self.sample_time

    def variable(self, omega: float) -> float:
        """Map a frequency in rad/s to the variable ν."""
        if self.sample_time == 0.0:
            return omega
        angle = omega * self.sample_time
        if self.flip:
            angle = math.copysign(math.pi, angle) - angle if angle != 0.0 else math.pi
        return math.inf if abs(abs(angle) - math.pi) < 1e-15 else math.tan(angle / 2.0)


def discrete_form(
    a: MidRad, b: MidRad, q: MidRad, s: MidRad, r: MidRad, sample_time: float
) -> PopovForm | None:
    """Return the continuous-time form of a discrete Popov function, or None if A has an eigenvalue at ±1.

    With z = (1+σ)/(1-σ):  (zI-A)⁻¹B = F(σI-A_c)⁻¹B_c + G, where B_c = (I+A)⁻¹B, A_c = (I+A)⁻¹(A-I),
    F = 2(I+A)⁻¹ and G = -(I+A)⁻¹B. When I - A is the better conditioned of the two, z → -z comes first.
    """
    n = a.shape[0]
    if n == 0:
        return PopovForm(a, b, q, s, r, sample_time)
    eye = MidRad.eye(n)
    flip = _smallest_singular_value(eye.mid + a.mid) < _smallest_singular_value(eye.mid - a.mid)
    if flip:
        a, b = -a, -b
    inverse = (eye + a).inverse()
    if inverse is None:
        return None
    twice = inverse.scaled(2.0)
    b_c = inverse @ b
    # A_c = I - 2(I+A)⁻¹ avoids a second product.
    a_c = eye - twice
    qg = q @ b_c
    r_c = r + b_c.H @ qg - (b_c.H @ s + s.H @ b_c)
    return PopovForm(a_c, b_c, twice.H @ q @ twice, twice.H @ (s - qg), r_c, sample_time, flip)


def _smallest_singular_value(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False)[-1])


@dataclass(frozen=True)
class LevelTest:
    """Whether Φ ≻ cI is proved; if not, the frequencies ν at which it may fail."""

    proved: bool
    crossings: np.ndarray
    radii: np.ndarray


def level_test(form: PopovForm, level: float) -> LevelTest:
    """Try to prove Φ(jω) ≻ level·I for all ω; the form's A must have no eigenvalue on the imaginary axis.

    Otherwise return the frequencies ν (and enclosing radii) near which Φ - level·I may be singular.
    """
    nothing = np.zeros(0)
    m = form.r.shape[0]
    if not math.isfinite(level):
        return LevelTest(False, nothing, nothing)
    r_c = form.r - MidRad(level * np.eye(m))
    if not smallest_eigenvalue_bound(r_c) > 0.0:
        return LevelTest(False, nothing, nothing)
    if form.a.shape[0] == 0:
        return LevelTest(True, nothing, nothing)
    discs = _hamiltonian_discs(form, r_c)
    if discs is None:
        return LevelTest(False, nothing, nothing)
    near = ~(discs.radii * (1.0 + 1e-12) < np.abs(discs.centers.real))
    return LevelTest(not near.any(), discs.centers.imag[near], discs.radii[near])


def _hamiltonian_discs(form: PopovForm, r_c: MidRad) -> Discs | None:
    inverse = r_c.inverse()
    if inverse is None:
        return None
    rs = inverse @ form.s.H
    top = form.a - form.b @ rs
    corner = form.b @ inverse @ form.b.H
    lower = form.s @ rs - form.q
    hamiltonian = block([[top, -corner], [lower, -top.H]])
    if not np.isfinite(hamiltonian.mid).all():
        return None
    _, (scale, _) = scipy.linalg.matrix_balance(hamiltonian.mid, permute=False, separate=True)
    grid = scale[None, :] / scale[:, None]
    rad = None if hamiltonian.rad is None else hamiltonian.rad * grid
    return eigenvalue_discs(MidRad(hamiltonian.mid * grid, rad))


@dataclass(frozen=True)
class PopovMinimum:
    """min over ω of λ_min(Φ): `lower` is proved (-inf if nothing could be), `upper` was attained at ν."""

    lower: float
    upper: float
    variable: float


def popov_minimum(
    form: PopovForm,
    scale: float,
    *,
    start: Iterable[float] = (),
    ladder: tuple[float, ...] = LADDER,
) -> PopovMinimum:
    """Bound min over ω of λ_min(Φ(jω)) from both sides, the lower bound with proof.

    The level-set iteration of Bruinsma & Steinbuch: samples give an upper bound v; a level just below v (by
    `ladder` × `scale`) is tested; frequencies where it fails give better samples. The loop ends when the test
    is a proof. A must be stable.
    """
    best, where = math.inf, 0.0
    for nu in {0.0, math.inf, *start, *_candidates(form)}:
        sample = form.lowest(nu)
        if sample < best:
            best, where = sample, nu
    for gap in ladder:
        for _ in range(30):
            if not math.isfinite(best):
                return PopovMinimum(-math.inf, best, where)
            level = best - gap * scale
            test = level_test(form, level)
            if test.proved:
                return PopovMinimum(level, best, where)
            improved, best, where = _improve(form, test, best, where)
            if not improved:
                break
    return PopovMinimum(-math.inf, best, where)


def _improve(form: PopovForm, test: LevelTest, best: float, where: float) -> tuple[bool, float, float]:
    """Sample Φ at the crossings and between them; say whether anything lower than `best` was found."""
    points = np.unique(test.crossings)
    if points.size == 0:
        return False, best, where
    if not np.iscomplexobj(form.r.mid) and not np.iscomplexobj(form.a.mid):
        points = np.unique(np.abs(points))
    middles = (points[1:] + points[:-1]) / 2.0
    start = best
    for nu in (*middles, *points):
        sample = form.lowest(float(nu))
        if sample < best:
            best, where = sample, float(nu)
    if best < start:
        best, where = _polish(form, best, where)
    return best < start - 1e-13 * abs(start), best, where


def _candidates(form: PopovForm) -> list[float]:
    """Return a locally refined guess of the minimising frequency, from a modal sweep."""
    n = form.a.shape[0]
    if n == 0:
        return []
    sweep = _ModalSweep.of(form)
    if sweep is None:
        return []
    grid = sweep.grid()
    lowest = sweep.lowest(grid)
    found = []
    for k in np.argsort(lowest)[:2]:
        left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
        nu = grid[k]
        for _ in range(5):
            fine = np.linspace(left, right, 25)
            values = sweep.lowest(fine)
            j = int(np.argmin(values))
            nu, left, right = fine[j], fine[max(j - 1, 0)], fine[min(j + 1, 24)]
        found.append(_polish(form, form.lowest(float(nu)), float(nu))[1])
    return found


def _polish(form: PopovForm, best: float, where: float) -> tuple[float, float]:
    """Improve a minimum by a few parabola steps on accurate samples."""
    if where == 0.0 or not math.isfinite(where):
        return best, where
    width = 1e-4 * abs(where)
    for _ in range(6):
        low, high = form.lowest(where - width), form.lowest(where + width)
        curvature = low + high - 2.0 * best
        if not curvature > 0.0:
            shift = width * (1.0 if high < low else -1.0)
        else:
            shift = float(np.clip(0.5 * width * (low - high) / curvature, -width, width))
        sample = form.lowest(where + shift)
        if sample < best:
            best, where = sample, where + shift
        width *= 0.1 if abs(shift) < 0.5 * width else 1.0
    return best, where


@dataclass(frozen=True)
class _ModalSweep:
    """A quick, unverified evaluation of λ_min(Φ) on many frequencies through the eigenvectors of A."""

    poles: np.ndarray
    q: np.ndarray
    s: np.ndarray
    r: np.ndarray
    b: np.ndarray

    @classmethod
    def of(cls, form: PopovForm) -> _ModalSweep | None:
        poles, vectors = np.linalg.eig(form.a.mid)
        try:
            b = np.linalg.solve(vectors, form.b.mid)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(b).all():
            return None
        h = vectors.conj().T
        return cls(poles, h @ form.q.mid @ vectors, h @ form.s.mid, form.r.mid, b)

    def grid(self) -> np.ndarray:
        size = np.abs(self.poles)
        size = size[size > 0.0]
        if size.size == 0:
            return np.array([1.0])
        centers = np.unique(np.concatenate([np.abs(self.poles.imag), size]))
        centers = centers[centers > 0.0]
        between = np.sqrt(centers[1:] * centers[:-1])
        return np.unique(np.concatenate([[0.0], centers, between, [centers[0] / 10.0, 10.0 * centers[-1]]]))

    def lowest(self, nus: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            x = self.b[None] / (1j * nus[:, None] - self.poles[None])[:, :, None]
            xh = x.conj().transpose(0, 2, 1)
            cross = xh @ self.s
            phi = xh @ (self.q @ x) + cross + cross.conj().transpose(0, 2, 1) + self.r
        phi = np.where(np.isfinite(phi).all(axis=(1, 2))[:, None, None], phi, 0.0)
        return np.linalg.eigvalsh(phi)[:, 0]
