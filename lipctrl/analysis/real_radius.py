"""The real stability radius by level sets: the peak over frequency of Qiu's formula, covered interval by interval.

For a real perturbation Δ of a loop with response M = T(jω), the smallest ‖Δ‖ with det(I - ΔM) = 0 is 1/μ(M),
μ(M) = inf over g in (0, 1] of σ₂[Re M, -g·Im M; Im M/g, Re M] (Qiu, Bernhardsson, Rantzer, Davison, Young &
Doyle 1995, Theorem 1). For fixed g the matrix is unitarily D_g·diag(M, M̄)·D_g⁻¹, so the frequencies at which one
of its singular values equals a level are boundary eigenvalues of a pencil (Sreedhar, Van Dooren & Tits 1996).
Between consecutive crossings the number of singular values above the level is constant; hence whole
intervals are settled by one g each.

For one input and one output Δ is a number k, μ jumps (it is |M| where M is real, else 0), and level sets of σ₂ miss the
jumps. There the interval of k is walked through instead: |1 - kM|² is quadratic in k, and proofs at two k cover
all k between them (`lipctrl.analysis.continuation`). That radius is proved.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import scipy.optimize

from lipctrl.analysis.continuation import Path, Quadratic, march
from lipctrl.analysis.hinf import HinfNorm
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization

# A real number is not tried beyond this multiple of the complex radius.
_FARTHEST = 1e4


def scalar_ends(system: Realization, norm: HinfNorm) -> tuple[float, float]:
    """Return (k₋, k₊), k₋ < 0 < k₊: u = ky is proved stable for every real k between; one input, one output.

    ±1e4/‖T‖_∞ means that larger numbers were not tried.
    """
    one, none = MidRad.eye(1), MidRad.zeros(1, 1)
    path = Path(system, lambda k: Quadratic(one, MidRad(np.full((1, 1), -k)), none), none, one)
    far = _FARTHEST / norm.value
    # Small gain proves the first stretch; rounding may end a walk before it.
    sure = math.nextafter(1.0 / norm.value, 0.0)
    down, up = march(path, 0.0, -far).end, march(path, 0.0, far).end
    return min(math.nextafter(down, 0.0), -sure), max(math.nextafter(up, 0.0), sure)


def real_peak(system: Realization, norm: HinfNorm) -> float:
    """Return an upper bound of sup over ω of μ(T(jω)), tight to about 1e-6 relative; system stable."""
    high = norm.value
    modes = np.linalg.eigvals(system.A)
    if system.is_discrete:
        seen = np.abs(np.angle(modes)) / system.sample_time
    else:
        seen = np.concatenate([np.abs(modes), np.abs(modes.imag)])
    points = {0.0, norm.frequency, system.highest_frequency, *seen.tolist()}
    low = max((_mu(system.response(w)) for w in points if not math.isnan(w)), default=0.0)
    low = min(low, high)
    attempt = min(low * (1.0 + 1e-6) + 1e-12 * high, high)
    if _covered(system, attempt):
        return attempt
    for _ in range(60):
        if high - low <= 1e-6 * high:
            break
        middle = 0.5 * (low + high) if low < 0.5 * high else math.sqrt(low * high)
        if _covered(system, middle):
            high = middle
        else:
            low = middle
    return high


def worst_real(m: np.ndarray) -> np.ndarray | None:
    """Return a real Δ with det(I - Δm) = 0 of about the smallest norm, 1/μ(m); None where none was found.

    From singular vectors u, v of σ₂ at the best g: Δ = [Re v, Im v]·[Re u, Im u]⁺/σ₂ in the complex notation of the
    source (Qiu et al. 1995, Section 3); what is returned is checked, not trusted.
    """
    re = np.real(m)
    if np.abs(np.imag(m)).max() <= 1e-14 * np.abs(m).max(initial=0.0):
        left, sizes, right = np.linalg.svd(re)
        return None if sizes[0] == 0.0 else np.outer(right[0], left[:, 0]) / sizes[0]
    _, g = _best(m)
    stack = np.block([[re, -g * np.imag(m)], [np.imag(m) / g, re]])
    left, sizes, right = np.linalg.svd(stack)
    if len(sizes) < 2 or sizes[1] == 0.0:
        return None
    p, q = m.shape
    u = np.stack([left[:p, 1], left[p:, 1]], axis=1)
    v = np.stack([right[1, :q], right[1, q:]], axis=1)
    delta = v @ np.linalg.pinv(u) / sizes[1]
    residue = np.linalg.svd(np.eye(q) - delta @ m, compute_uv=False)[-1]
    return delta if residue <= 1e-4 * (1.0 + float(np.linalg.norm(delta @ m, 2))) else None


def _sigma(m: np.ndarray, g: float) -> float:
    re, im = np.real(m), np.imag(m)
    stack = np.block([[re, -g * im], [im / g, re]])
    return float(np.linalg.svd(stack, compute_uv=False)[1])


def _best(m: np.ndarray) -> tuple[float, float]:
    """Return Qiu's infimum and the g that attains it, to numerical accuracy."""
    grid = np.exp(np.linspace(-12.0, 0.0, 25))
    values = [_sigma(m, g) for g in grid]
    k = int(np.argmin(values))
    left, right = math.log(grid[max(k - 1, 0)]), math.log(grid[min(k + 1, 24)])
    found = scipy.optimize.minimize_scalar(
        lambda t: _sigma(m, math.exp(t)), bounds=(left, right), method="bounded", options={"xatol": 1e-6}
    )
    value, g = min((float(found.fun), math.exp(float(found.x))), (values[k], float(grid[k])))
    return value, g


def _gentle(m: np.ndarray, level: float) -> tuple[float, float]:
    """Return Qiu's infimum and the largest g of a grid well below the level: pencils of small g are ill-conditioned."""
    value, g = _best(m)
    for trial in np.exp(np.linspace(0.0, math.log(g), 25)[:-1]):
        if _sigma(m, trial) < 0.5 * (value + level):
            return value, float(trial)
    return value, g


def _mu(m: np.ndarray) -> float:
    if np.abs(np.imag(m)).max() <= 1e-14 * np.abs(m).max(initial=0.0):
        return float(np.linalg.norm(np.real(m), 2))
    return _best(m)[0]


def _crossings(system: Realization, g: float, level: float) -> np.ndarray:
    """Return the frequencies where a singular value of D_g diag(M, M̄) D_g⁻¹ in real form equals the level."""
    if system.is_discrete:
        return _discrete_crossings(system, g, level)
    n, p, m = system.states, system.outputs, system.inputs
    a, b, c, d = system.A, system.B, system.C, system.D
    # On the axis M̄(jω) = M(-jω), so [Re M, -g Im M; Im M/g, Re M] = L·diag(M(s), M(-s))·R with constant L and R.
    left = np.block([[np.eye(p), np.eye(p)], [-1j / g * np.eye(p), 1j / g * np.eye(p)]]) / 2.0
    right = np.block([[np.eye(m), 1j * g * np.eye(m)], [np.eye(m), -1j * g * np.eye(m)]])
    zero = np.zeros((n, n))
    big_a = np.block([[a, zero], [zero, -a]])
    big_b = scipy.linalg.block_diag(b, -b) @ right
    big_c = left @ np.asarray(scipy.linalg.block_diag(c, c))
    big_d = left @ np.asarray(scipy.linalg.block_diag(d, d)) @ right
    r = level**2 * np.eye(2 * m) - big_d.conj().T @ big_d
    try:
        rc = np.linalg.solve(r, big_d.conj().T @ big_c)
        rb = np.linalg.solve(r, big_b.conj().T)
    except np.linalg.LinAlgError:
        return np.zeros(0)
    top = big_a + big_b @ rc
    hamiltonian = np.block(
        [
            [top, big_b @ rb],
            [-big_c.conj().T @ (big_c + big_d @ rc), -top.conj().T],
        ]
    )
    values = np.linalg.eigvals(hamiltonian)
    # A crossing too many costs a round, one that is missed the answer.
    near = np.abs(values.real) <= 1e-4 * np.abs(values) + 1e-10 * np.abs(values).max(initial=0.0)
    return np.unique(np.abs(values.imag[near]))


def _discrete_crossings(system: Realization, g: float, level: float) -> np.ndarray:
    """Do the same in discrete time on the Cayley image s = (z-1)/(z+1), on which frequencies map one to one."""
    n = system.states
    a, b, c, d = system.A, system.B, system.C, system.D
    inverse = np.linalg.inv(np.eye(n) + a)
    image = Realization(
        MidRad(inverse @ (a - np.eye(n))),
        MidRad(inverse @ b),
        MidRad(2.0 * c @ inverse),
        MidRad(d - c @ inverse @ b),
        0.0,
        "continuous image",
    )
    nus = _crossings(image, g, level)
    return 2.0 * np.arctan(nus) / system.sample_time


def _covered(system: Realization, level: float) -> bool:
    """Tell whether μ(T(jω)) < level is settled at all frequencies, interval by interval."""
    top = system.highest_frequency
    pending = [(0.0, top)]
    for _ in range(200):
        if not pending:
            return True
        left, right = pending.pop()
        middle = _middle(system, left, right)
        response = system.response(middle)
        value, g = _gentle(response, level)
        if not value < level:
            return False
        cuts = _crossings(system, g, level)
        below = cuts[cuts < middle]
        above = cuts[cuts > middle]
        start = max(left, float(below.max())) if below.size else left
        stop = min(right, float(above.min())) if above.size else right
        start, stop = _sampled(system, g, level, start, middle, stop)
        # A real response at one frequency only shows in a narrow interval.
        width = 1e-12 * max(abs(middle), 1e-300)
        if start - left > width:
            pending.append((left, start))
        if right - stop > width:
            pending.append((stop, right))
    return False


def _sampled(
    system: Realization, g: float, level: float, start: float, middle: float, stop: float
) -> tuple[float, float]:
    """Shrink (start, stop) to the samples around the middle whose σ₂ is below the level, should a cut be missing."""

    def reach(end: float) -> float:
        far = 1e3 * middle if math.isinf(end) else end
        for step in np.linspace(0.0, 1.0, 18)[1:-1]:
            omega = middle + step * (far - middle)
            if not _sigma(system.response(omega), g) < level:
                return middle + (step - 1.0 / 17.0) * (far - middle)
        return end

    return reach(start), reach(stop)


def _middle(system: Realization, left: float, right: float) -> float:
    scale = float(np.abs(system.A).max(initial=0.0)) or 1.0
    if math.isinf(right):
        return max(2.0 * left, scale)
    if left == 0.0:
        return 0.5 * right
    return math.sqrt(left * right)
