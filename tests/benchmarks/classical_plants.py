"""Classical plants with their sources, and values recomputed by other means than those of the package.

References share no code with what they judge: roots of polynomials, dense sweeps polished by scalar minimisation, and a
Kalman-Yakubovich inequality solved by cvxpy.
"""

from __future__ import annotations

from typing import Any

import control
import cvxpy as cp
import numpy as np
import scipy.optimize

# Carrasco, Heath, Zhang, Ahmad & Wang, IEEE TAC 65(11), 2020, Table II: numerator, denominator, published circle value,
# best published Zames-Falb value (odd φ) and Nyquist value.
CARRASCO = {
    "Carrasco 1": ([0.1, 0.0], [1.0, -1.8, 0.81], 0.7935, 13.5113, 36.1000),
    "Carrasco 2": ([1.0, -1.95, 0.9, 0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1984, 1.1056, 2.7455),
    "Carrasco 3": ([-1.0, 1.95, -0.9, -0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1379, 0.3121, 0.3126),
    "Carrasco 4": (
        [1.0, -1.5, 0.5, -0.5, 0.5],
        [4.4, -8.957, 9.893, -5.671, 2.207, -0.5],
        1.5312,
        3.824,
        7.907,
    ),
    "Carrasco 5": ([-0.5, 0.1], [1.0, -0.9, 0.79, 0.089], 1.0273, 2.4475, 2.4475),
    "Carrasco 6": ([2.0, 0.92], [1.0, -0.5, 0.0], 0.6510, 1.0870, 1.0870),
}


def park() -> control.StateSpace:
    """Park, IEEE TAC 47(2), 2002, example 3 (three channels); the source's positive feedback is turned round."""
    a = -np.diag([1.0, 4.0, 6.0, 2.0, 9.0, 8.0, 3.0, 10.0, 12.0])
    b = np.zeros((9, 3))
    for channel, states in enumerate(([0, 4, 7], [1, 3, 8], [2, 5, 6])):
        b[states, channel] = 1.0
    return control.ss(a, b, np.kron(np.eye(3), np.ones((1, 3))), np.zeros((3, 3)))


def fetzer_scherer() -> control.StateSpace:
    """Fetzer & Scherer, IJRNC 27(17), 2017, example 5.6 with -(s² + 1) and slow pole 1e-5 (two channels)."""
    slow = 1e-5
    p11 = control.ss(control.tf([1.0, 0.0, 1.0], np.polymul([1.0, slow, 1.0], [1.0, 10.0])))
    p12 = control.ss(control.tf([-1.0], [1.0, 1.0]))
    whole = control.append(p11, p12, p12, fetzer_scherer_lag())
    into = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    out = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    return control.ss(whole.A, whole.B @ into, out @ whole.C, out @ whole.D @ into)


def fetzer_scherer_lag() -> control.StateSpace:
    """Fetzer & Scherer, IJRNC 27(17), 2017, example 5.7: 40/((s + 1e-5)(s + 1)(s² + 0.8s + 16))."""
    den = np.polymul(np.polymul([1.0, 1e-5], [1.0, 1.0]), [1.0, 0.8, 16.0])
    return control.ss(control.tf([40.0], den))


def fetzer_scherer_four() -> control.StateSpace:
    """Fetzer & Scherer, IJRNC 27(17), 2017, example 4.9 (four channels, three states)."""
    a = np.array([[-4.0, -3.0, 0.0], [2.0, 0.0, 0.0], [-1.0, -1.0, -2.0]])
    b = np.array([[0.0, 4.0, 1.0, 3.0], [2.0, 0.0, 3.0, 1.0], [1.0, 0.0, 3.0, 1.0]])
    c = np.array([[-0.1, -0.2, 1.0], [-1.0, -0.3, 0.1], [-0.2, 0.1, 1.0], [0.1, -0.2, 0.2]])
    return control.ss(a, b, c, np.zeros((4, 4)))


def fitts() -> control.TransferFunction:
    """Fitts, IEEE TAC 11(3), 1966: s²/(((s + 0.01)² + 0.9²)((s + 0.01)² + 1.1²)), stable for all constant gains > 0."""
    return control.tf([1.0, 0.0, 0.0], np.polymul([1.0, 0.02, 1e-4 + 0.81], [1.0, 0.02, 1e-4 + 1.21]))


def satellite() -> control.StateSpace:
    """Spinning satellite (Doyle 1978; Seiler, Packard & Gahinet 2020): a = 10."""
    return control.ss([[0.0, 10.0], [-10.0, 0.0]], np.eye(2), [[1.0, 10.0], [-10.0, 1.0]], np.zeros((2, 2)))


def vehicle() -> control.StateSpace:
    """Vehicle of Yin, Seiler & Arcak 2021, §V-B: errors (e, ė, θ, θ̇), steering angle, explicit Euler with 0.02 s."""
    speed, front, rear, mass, inertia, a, b, dt = 28.0, -123190.0, -104190.0, 1670.0, 2100.0, 0.99, 1.7, 0.02
    both, turn, spin = front + rear, a * front - b * rear, a**2 * front + b**2 * rear
    flow = np.array(
        [
            [0.0, 1.0, 0.0, 0.0],
            [0.0, both / (mass * speed), -both / mass, turn / (mass * speed)],
            [0.0, 0.0, 0.0, 1.0],
            [0.0, turn / (inertia * speed), -turn / inertia, spin / (inertia * speed)],
        ]
    )
    steer = np.array([[0.0], [-front / mass], [0.0], [-a * front / inertia]])
    return control.ss(np.eye(4) + dt * flow, dt * steer, np.eye(4), np.zeros((4, 1)), dt)


def pendulum() -> control.StateSpace:
    """Inverted pendulum of Yin, Seiler & Arcak 2021, §V-A, linearised upright, explicit Euler with 0.02 s."""
    dt, inertia = 0.02, 0.15 * 0.5**2
    a = [[1.0, dt], [dt * 9.81 / 0.5, 1.0 - dt * 0.5 / inertia]]
    return control.ss(a, [[0.0], [dt / inertia]], np.eye(2), np.zeros((2, 1)), dt)


def _polished(function: Any, grid: np.ndarray) -> float:
    """Return the minimum of a function over a grid (array in, array out), polished around its three best points."""
    values = function(grid)
    best = float(np.nanmin(values))
    for k in np.argsort(values)[:3]:
        ends = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
        found = scipy.optimize.minimize_scalar(
            lambda w: float(function(np.array([w]))[0]),
            bounds=ends,
            method="bounded",
            options={"xatol": 1e-13},
        )
        best = min(best, float(found.fun))
    return best


def sweep(plant: Any) -> np.ndarray:
    """Return a dense grid of frequencies for a plant."""
    poles = plant.poles()
    if plant.dt:
        step = 1.0 if plant.dt is True else plant.dt
        return np.linspace(0.0, np.pi / step, 40001)
    around = [abs(p.imag) + abs(p.real) * np.linspace(-20.0, 20.0, 4001) for p in poles if p.imag > 0.0]
    wide = np.geomspace(1e-3 * np.abs(poles).min(), 1e3 * np.abs(poles).max(), 40001)
    grid = np.unique(np.concatenate([[0.0], wide, *around]))
    return grid[grid >= 0.0]


def responses(plant: Any, omega: np.ndarray) -> np.ndarray:
    """Return (frequencies, outputs, inputs), by python-control."""
    step = (1.0 if plant.dt is True else plant.dt) if plant.dt else 0
    s = np.exp(1j * omega * step) if plant.dt else 1j * omega
    values = plant(s, squeeze=False)
    return np.moveaxis(np.atleast_3d(values), 2, 0)


def circle_by_sweep(plant: Any) -> float:
    """Return -1/min Re G of a SISO plant."""
    return -1.0 / _polished(lambda w: responses(plant, w)[:, 0, 0].real, sweep(plant))


def peak_by_sweep(plant: Any) -> float:
    """Return the largest singular value over frequency."""
    return -_polished(lambda w: -np.linalg.svd(responses(plant, w), compute_uv=False)[:, 0], sweep(plant))


def radius_by_roots(num: Any, den: Any, discrete: bool, highest: float = 1e4) -> float:
    """Return the smallest |k| at which den + k·num has a root on the boundary: crossings of the real axis."""
    num, den = np.asarray(num, float), np.asarray(den, float)
    padded = np.concatenate([np.zeros(len(den) - len(num)), num])

    def unstable(k: float) -> bool:
        roots = np.roots(den + k * padded)
        return bool((np.abs(roots) >= 1.0).any() if discrete else (roots.real >= 0.0).any())

    found = np.inf
    for sign in (1.0, -1.0):
        low = 0.0
        for k in np.geomspace(1e-4, highest, 4001):
            if unstable(sign * k):
                high = k
                for _ in range(80):
                    middle = 0.5 * (low + high)
                    low, high = (low, middle) if unstable(sign * middle) else (middle, high)
                found = min(found, high)
                break
            low = k
    return found


def scaled_circle_by_sweep(plant: Any) -> float:
    """Return the circle value of two diagonal channels: one scaling by scalar minimisation over a dense sweep."""
    g = responses(plant, sweep(plant))

    def level(ratio: float) -> float:
        root = np.array([1.0, np.exp(0.5 * ratio)])
        scaled = g * (root[:, None] / root[None, :])
        return float(np.linalg.eigvalsh(-0.5 * (scaled + scaled.conj().swapaxes(1, 2)))[:, -1].max())

    return 1.0 / scipy.optimize.minimize_scalar(level, bounds=(-12.0, 12.0), method="bounded").fun


def slope_by_inequality(plant: control.StateSpace, popov: bool) -> float:
    """Return the largest slope of diagonal φ by the Kalman-Yakubovich inequality (continuous time, cvxpy, bisected)."""
    a, b, c = plant.A, plant.B, plant.C
    n, m = b.shape
    p, t, eta = cp.Variable((n, n), symmetric=True), cp.Variable(m), cp.Variable(m, nonneg=True)
    kappa, margin = cp.Parameter(nonneg=True), cp.Variable()
    big_t, big_n = cp.diag(t), cp.diag(eta) if popov else np.zeros((m, m))
    side = p @ b - c.T @ big_t - a.T @ c.T @ big_n
    corner = big_n @ c @ b + (big_n @ c @ b).T + 2.0 * kappa * big_t
    matrix = cp.bmat([[-(a.T @ p + p @ a), side], [side.T, corner]])
    problem = cp.Problem(
        cp.Maximize(margin), [cp.sum(t) == m, t >= 0.0, matrix >> margin * np.eye(n + m), margin <= 1.0]
    )
    low, high = 1e-3, 1e4
    while high / low > 1.0 + 1e-7:
        kappa.value = 1.0 / np.sqrt(low * high)
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        if problem.status in ("optimal", "optimal_inaccurate") and margin.value > 1e-9:
            low = np.sqrt(low * high)
        else:
            high = np.sqrt(low * high)
    return low


def popov_by_sweep(plant: Any) -> float:
    """Return the Popov value of a SISO plant: the best slope of Popov's line over a dense sweep."""
    omega = sweep(plant)
    g = responses(plant, omega)[:, 0, 0]

    def level(log_eta: float) -> float:
        return float((np.exp(log_eta) * omega * g.imag - g.real).max())

    found = [
        scipy.optimize.minimize_scalar(level, bounds=(x, x + 8.0), method="bounded").fun
        for x in (-16, -8, 0, 8)
    ]
    return 1.0 / min([*found, float((-g.real).max())])


def disk_by_sweep(loop: Any) -> float:
    """Return the balanced disk margin α = 1/max μ(S - I/2) of one or two channels, one scaling for two."""
    omega = sweep(loop)
    eye = np.eye(loop.ninputs)

    def measured(w: np.ndarray) -> np.ndarray:
        return np.linalg.inv(eye + responses(loop, w)) - 0.5 * eye

    if loop.ninputs == 1:
        return 1.0 / -_polished(lambda w: -np.abs(measured(w)[:, 0, 0]), omega)
    # One full norm with the best constant scaling; at the frequency where it peaks the scaling of two blocks is exact.
    values = measured(omega)

    def norm(ratio: float) -> float:
        d = np.array([1.0, np.exp(ratio)])
        return float(np.linalg.svd(values * (d[:, None] / d[None, :]), compute_uv=False)[:, 0].max())

    return (
        1.0
        / scipy.optimize.minimize_scalar(
            norm, bounds=(-5.0, 5.0), method="bounded", options={"xatol": 1e-10}
        ).fun
    )
