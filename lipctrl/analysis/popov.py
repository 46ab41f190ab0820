"""The smallest eigenvalue of a Popov function over all frequencies, bounded from below with proof.

A Popov function is Φ(ω) = [X; I]ᴴ [Q S; Sᴴ R] [X; I] with X = (λI - A)⁻¹B, λ = jω (discrete: e^{jωdt}), here given by
weights on the outputs and inputs of a system. H∞ norms
(Φ = -GᴴG), positive realness, the circle criterion and every margin of this package ask the same question:
for which c is Φ(ω) ≻ cI at all ω? Where A has no eigenvalue on the boundary (imaginary axis, unit circle), the
answer is yes exactly if R ≻ cI (discrete: Φ ≻ cI at one frequency) and the pencil

    [A 0 B; -Q -Aᴴ -S; Sᴴ Bᴴ R-cI] - λ·diag(I, I, 0)      (continuous)
    [A 0 B; -Q I -S; Sᴴ 0 R-cI] - λ·[I 0 0; 0 Aᴴ 0; 0 -Bᴴ 0]   (discrete)

has no eigenvalue on the boundary (Boyd, Balakrishnan & Kabamba 1989; Bruinsma & Steinbuch 1990). Here that is
*proved*: the eigenvalues are enclosed in discs that miss the boundary. The discrete pencil is first mapped
by λ = (1+s)/(1-s), so that the boundary is the imaginary axis and no eigenvalue is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lipctrl.analysis.discs import Discs, pencil_discs
from lipctrl.analysis.kyp import kyp_proof
from lipctrl.analysis.midrad import UNIT, MidRad, block, equilibrate, smallest_eigenvalue_bound
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.sweep import ModalSweep, Modes

# Up to this many states a Riccati equation is affordable as a second way to a proof; where A has no basis of
# eigenvectors, as with delays, it is the only way, and worth more.
_KYP_STATES = 40
_KYP_STATES_DEFECTIVE = 120
# Where crossings are wanted, discs of eigenvalues on the boundary may be of these sizes relative to the spectrum's.
_FLOORS = (1e-9, 1e-12, 1e-7)
# Rounds of better samples before the gap grows: convergence is quadratic, so more only chase rounding.
_SAMPLES = 30


@dataclass(frozen=True)
class PopovForm:
    """Φ = [G; I]ᴴ [yy yu; yuᴴ uu] [G; I] for a system G: the weights of its outputs and inputs."""

    system: Realization
    yy: MidRad
    yu: MidRad
    uu: MidRad

    @cached_property
    def q(self) -> MidRad:
        return self.system.c.H @ self.yy @ self.system.c

    @cached_property
    def s(self) -> MidRad:
        return self.system.c.H @ (self.yy @ self.system.d + self.yu)

    @cached_property
    def r(self) -> MidRad:
        d = self.system.d
        cross = d.H @ self.yu
        return d.H @ self.yy @ d + cross + cross.H + self.uu

    @property
    def states(self) -> int:
        return self.system.states

    @property
    def size(self) -> int:
        return self.system.inputs

    @cached_property
    def two_sided(self) -> bool:
        """Whether Φ(-ω) is not simply the conjugate of Φ(ω)."""
        system = self.system
        data = (system.a, system.b, system.c, system.d, self.yy, self.yu, self.uu)
        return any(np.iscomplexobj(m.mid) for m in data)

    def of_response(self, g: np.ndarray) -> np.ndarray:
        """Return Φ for frequency responses G of shape (..., p, m), unverified."""
        gh = g.conj().swapaxes(-1, -2)
        cross = gh @ self.yu.mid
        return gh @ (self.yy.mid @ g) + cross + cross.conj().swapaxes(-1, -2) + self.uu.mid

    def lowest(self, omega: float) -> float:
        """Return λ_min(Φ(ω)), unverified; inf where it cannot be evaluated."""
        try:
            value = self.of_response(self.system.response(omega))
        except np.linalg.LinAlgError:
            return math.inf
        return float(np.linalg.eigvalsh(value)[0]) if np.isfinite(value).all() else math.inf


@dataclass(frozen=True)
class LevelTest:
    """Whether Φ ≻ cI is proved; if not, the frequencies ± radii [rad/s] where it may fail."""

    proved: bool
    crossings: np.ndarray
    radii: np.ndarray


_NOTHING = LevelTest(False, np.zeros(0), np.zeros(0))


def level_test(form: PopovForm, level: float) -> LevelTest:
    """Try to prove Φ(ω) ≻ level·I for all ω; A must have no eigenvalue on the boundary.

    Otherwise return the frequencies near which Φ - level·I may be singular.
    """
    if not math.isfinite(level):
        return _NOTHING
    if form.states == 0 or not form.system.is_discrete:
        anchor = smallest_eigenvalue_bound(form.r - MidRad(level * np.eye(form.size)))
    else:
        anchor = _anchor(form, level)
    if form.states == 0 or not anchor > 0.0:
        return LevelTest(anchor > 0.0, np.zeros(0), np.zeros(0))
    if form.q.is_zero() and form.s.is_zero():
        # Φ does not depend on the frequency.
        return LevelTest(True, np.zeros(0), np.zeros(0))
    discs = _pencil_spectrum(form, level)
    if discs is None:
        return _NOTHING
    near = ~(discs.radii * (1.0 + 1e-12) < np.abs(np.real(discs.centers)))
    crossings, radii = np.imag(discs.centers)[near], discs.radii[near]
    if form.system.is_discrete:
        # s = jν is z = e^{jωdt} with ν = tan(ωdt/2).
        radii = radii * 2.0 / (form.system.sample_time * (1.0 + crossings**2))
        crossings = 2.0 * np.arctan(crossings) / form.system.sample_time
    return LevelTest(not near.any(), crossings, radii)


def band_test(form: PopovForm, level: float, low: float, high: float) -> LevelTest:
    """Try to prove Φ(ω) ≻ level·I for low ≤ ω ≤ high [rad/s], one of them finite; elsewhere Φ may do anything.

    Φ - level·I is proved positive at one frequency of the band and proved regular at all others: no disc around an
    eigenvalue of the pencil touches the band. Otherwise return the frequencies of the discs that touch it.
    """
    ends = [end for end in (low, high) if math.isfinite(end)]
    if not (math.isfinite(level) and ends and low <= high):
        return _NOTHING
    anchor = sum(ends) / len(ends)
    if form.states == 0:
        return level_test(form, level)
    discs = _pencil_spectrum(form, level)
    if discs is None or not _value_bound(form, level, anchor) > 0.0:
        return _NOTHING
    crossings, left, right = _touched(form, discs)
    slack = 1e-12 * sum(abs(end) for end in ends)
    touching = ~((right < low - slack) | (left > high + slack))
    return LevelTest(not touching.any(), crossings[touching], 0.5 * (right - left)[touching])


def clear_band(form: PopovForm, level: float, omega: float) -> tuple[float, float] | None:
    """Return a band (low, high) around omega [rad/s] on which Φ ≻ level·I is proved, as wide as it is; None without.

    -inf and inf stand for all frequencies on that side, the limit included.
    """
    if form.states == 0 or not (math.isfinite(level) and math.isfinite(omega)):
        return (-math.inf, math.inf) if level_test(form, level).proved else None
    if not _value_bound(form, level, omega) > 0.0:
        return None
    for floor in _FLOORS:
        discs = _pencil_spectrum(form, level, floor)
        if discs is None:
            return None
        _, left, right = _touched(form, discs)
        if ((right < omega) | (left > omega)).all():
            break
    else:
        return None
    low, high = right[right < omega].max(initial=-math.inf), left[left > omega].min(initial=math.inf)
    if not form.system.is_discrete and (math.isinf(low) or math.isinf(high)):
        limit = smallest_eigenvalue_bound(form.r - MidRad(level * np.eye(form.size)))
        if not limit > 0.0:
            far = 10.0 * max(abs(omega), float(np.abs(discs.centers).max()))
            low, high = max(low, -far), min(high, far)
    # Inwards by more than the rounding of the ends.
    low, high = low * (1.0 + math.copysign(1e-12, low)), high * (1.0 - math.copysign(1e-12, high))
    return math.nextafter(low, math.inf) if math.isfinite(low) else low, (
        math.nextafter(high, -math.inf) if math.isfinite(high) else high
    )


def _touched(form: PopovForm, discs: Discs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the frequencies [rad/s] of the discs that touch the boundary, and the ends of what they touch there."""
    near = ~(discs.radii * (1.0 + 1e-12) < np.abs(np.real(discs.centers)))
    crossings, radii = np.imag(discs.centers)[near], discs.radii[near]
    left, right = crossings - radii, crossings + radii
    if form.system.is_discrete:
        crossings, left, right = (
            2.0 * np.arctan(point) / form.system.sample_time for point in (crossings, left, right)
        )
    return crossings, left, right


def _value_bound(form: PopovForm, level: float, omega: float) -> float:
    """Return a proved lower bound of λ_min(Φ(ω) - level·I), with the point jω (e^{jωdt}) as it was rounded."""
    system, point = form.system, complex(form.system.point(omega))
    shift = MidRad(
        np.eye(form.states) * point,
        np.eye(form.states) * (4.0 * UNIT * abs(point) if system.is_discrete else 0.0),
    )
    inverse = (shift - system.a).inverse()
    if inverse is None:
        return -math.inf
    x = inverse @ system.b
    cross = x.H @ form.s
    return smallest_eigenvalue_bound(
        x.H @ form.q @ x + cross + cross.H + form.r - MidRad(level * np.eye(form.size))
    )


def _anchor(form: PopovForm, level: float) -> float:
    """Return a proved lower bound of λ_min(Φ - level·I) at z = 1 or z = -1, whichever A is farther from."""
    eye = MidRad.eye(form.states)
    best = -math.inf
    for sign in (1.0, -1.0):
        inverse = (eye.scaled(sign) - form.system.a).inverse()
        if inverse is None:
            continue
        x = inverse @ form.system.b
        cross = x.H @ form.s
        value = x.H @ form.q @ x + cross + cross.H + form.r - MidRad(level * np.eye(form.size))
        best = max(best, smallest_eigenvalue_bound(value))
        if best > 0.0:
            break
    return best


def _pencil_spectrum(form: PopovForm, level: float, floor: float = 1e-15) -> Discs | None:
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


@dataclass(frozen=True)
class PopovMinimum:
    """min over ω of λ_min(Φ): `lower` is proved (-inf if nothing could be), `upper` was sampled at `frequency`."""

    lower: float
    upper: float
    frequency: float


def popov_minimum(
    form: PopovForm,
    scale: float,
    *,
    modes: Modes | None = None,
    tightest: float = 1e-9,
    loosest: float = 1.0,
) -> PopovMinimum:
    """Bound min over ω of λ_min(Φ(ω)) from both sides, the lower bound with proof.

    The level-set iteration of Bruinsma & Steinbuch: samples give an upper bound v; a level just below it,
    v - gap·scale, is tested; frequencies where the test fails give better samples; the loop ends with a proof.
    The gap grows from `tightest` to `loosest` when rounding forbids less. A must have no eigenvalue on the
    boundary. `scale = 0` means the magnitude of v. `modes` are eigenvalues and eigenvectors of A, if known.
    """
    sweep = ModalSweep.of(form, modes)
    where = 0.0 if sweep is None else sweep.minimizer()
    best = form.lowest(where)
    gap = tightest if sweep is None else max(tightest, _attainable_gap(form, sweep, where))
    failed, samples = 0.0, 0
    # A minimum of exactly zero has no magnitude: only a scale helps.
    while gap <= loosest and math.isfinite(best) and (scale or best != 0.0):
        depth = gap * (scale or abs(best))
        test = level_test(form, best - depth)
        if test.proved:
            return PopovMinimum(_tighten(form, best, failed, depth), best, where)
        if sweep is not None:
            improved, best, where = _improve(form, test, sweep, best, where)
            samples += 1
            if improved and samples < _SAMPLES:
                continue
            affordable = _KYP_STATES_DEFECTIVE if sweep.direct else _KYP_STATES
            if form.states <= affordable and kyp_proof(form, best - depth, best, sweep):
                return PopovMinimum(best - depth, best, where)
        failed = depth
        gap *= _growth(form, test, best, where, depth)
    return PopovMinimum(-math.inf, best, where)


def _tighten(form: PopovForm, best: float, failed: float, proved: float) -> float:
    """Return a higher proved level than best - proved, given that best - failed could not be proved."""
    for _ in range(2):
        between = math.sqrt(failed * proved)
        if not 0.0 < 3.0 * failed < between:
            break
        if level_test(form, best - between).proved:
            proved = between
        else:
            failed = between
    return best - proved


def _attainable_gap(form: PopovForm, sweep: ModalSweep, omega: float) -> float:
    """Estimate the relative gap that rounding allows: a resonance amplifies it by ‖A‖ over its decay rate."""
    if form.states <= _KYP_STATES or math.isinf(omega):
        return 0.0
    distance = np.abs(form.system.point(omega) - sweep.poles).min()
    return min(4e3 * UNIT * float(np.abs(sweep.poles).max()) / max(distance, 1e-300), 1e-6)


def _growth(form: PopovForm, test: LevelTest, best: float, where: float, depth: float) -> float:
    """Return by what factor to enlarge the gap: until Φ rises by as much within the radius of the discs."""
    if test.radii.size == 0 or not np.isfinite(test.radii).all() or depth == 0.0:
        return 10.0
    critical = int(np.argmin(np.abs(np.abs(test.crossings) - abs(where))))
    omega, radius = float(test.crossings[critical]), 0.7 * float(test.radii[critical])
    rise = min(form.lowest(omega - radius), form.lowest(omega + radius)) - best
    return min(max(rise / depth, 4.0), 100.0)


def _improve(
    form: PopovForm, test: LevelTest, sweep: ModalSweep, best: float, where: float
) -> tuple[bool, float, float]:
    """Sample Φ at the crossings and between them; say whether anything lower than `best` was found."""
    points = np.unique(test.crossings if form.two_sided else np.abs(test.crossings))
    if points.size == 0:
        return False, best, where
    points = np.unique(np.concatenate([points, (points[1:] + points[:-1]) / 2.0]))
    start = best
    values = sweep.lowest(points)
    for omega in points[np.argsort(values)[:2]]:
        sample = form.lowest(float(omega))
        if sample < best:
            best, where = sample, float(omega)
    return best < start - 1e-12 * abs(start), best, where
