"""Disk margins against brute force: spectral radii over phases of the channels, gains at the ends, fixed scalings."""

from __future__ import annotations

import math
from typing import Any

import control
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from lipctrl.analysis import disk_margin
from lipctrl.analysis.continuation import Path, Quadratic, march
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import as_realization


def random_loop(seed):
    """Return a loop of two or three channels: lightly damped, with feed-through, of unlike scales, sampled or not."""
    rng = np.random.default_rng(seed)
    m, n, dt = int(rng.integers(2, 4)), 2 * int(rng.integers(1, 4)), (0.0, 0.1)[rng.integers(2)]
    if rng.random() < 0.4:
        modes = [(10.0 ** rng.uniform(-1.0, 1.2), 10.0 ** rng.uniform(-4.0, -0.5)) for _ in range(n // 2)]
        a = scipy.linalg.block_diag(*([[0.0, 1.0], [-w * w, -2.0 * z * w]] for w, z in modes))
    else:
        a = rng.standard_normal((n, n))
        a -= (np.linalg.eigvals(a).real.max() + rng.uniform(0.05, 1.0)) * np.eye(n)
    a = scipy.linalg.expm(a * dt) if dt else a
    b = rng.standard_normal((n, m)) * 10.0 ** rng.uniform(-1.0, 1.0, m)
    feed = rng.standard_normal((m, m)) * rng.uniform(0.05, 1.0) * (rng.random() < 0.5)
    system: Any = control.ss(a, b, rng.uniform(0.1, 1.0) * rng.standard_normal((m, n)), feed, dt)
    return system, 10.0 ** rng.uniform(-2.5, 0.0), float(rng.choice([0.0, 0.0, 0.5, -1.0, 1.0])), rng


def largest_radius(matrix):
    """Return max ρ(MU) over phases U of the channels, found from a grid and refined: a lower bound of μ."""
    m = len(matrix)

    def negative(angles):
        return -np.abs(np.linalg.eigvals(matrix * np.exp(1j * np.append(angles, 0.0)))).max()

    turns = np.linspace(0.0, 2.0 * np.pi, 13)[:-1]
    grid = np.stack(np.meshgrid(*[turns] * (m - 1)), axis=-1).reshape(-1, m - 1)
    best = sorted(grid, key=negative)[:2]
    return max(
        -scipy.optimize.minimize(negative, start, method="Nelder-Mead", tol=1e-9).fun for start in best
    )


def attack(seed):
    system, k, skew, rng = random_loop(seed)
    m, n, dt = system.ninputs, system.nstates, float(system.dt)
    try:
        margin = disk_margin(system, k * np.eye(m), skew)
    except ValueError:
        return False
    a, b, c, d = system.A, k * system.B, system.C, k * system.D

    def response(w):
        point = np.exp(1j * w * dt) if dt else 1j * w
        loop = d if math.isinf(w) else c @ np.linalg.solve(point * np.eye(n) - a, b) + d
        return np.linalg.inv(np.eye(m) + loop) + 0.5 * (skew - 1.0) * np.eye(m)

    poles = np.linalg.eigvals(a - b @ np.linalg.solve(np.eye(m) + d, c)).astype(complex)
    poles = np.log(poles) / dt if dt else poles
    top = math.pi / dt if dt else math.inf
    near = np.abs(
        np.abs(poles.imag)[:, None] + np.abs(poles.real)[:, None] * [-2.0, -0.7, -0.2, 0.0, 0.2, 0.7, 2.0]
    )
    omegas = np.unique(np.minimum(np.concatenate([[0.0, top, margin.frequency], near.ravel()]), top))
    responses = np.stack([response(w) for w in omegas])
    crude = np.linalg.norm(responses, 2, axis=(1, 2))
    worst = max(largest_radius(responses[i]) for i in np.argsort(-crude)[:4])
    worst = max(worst, largest_radius(response(margin.frequency)))
    assert margin.alpha * worst <= 1.0 + 1e-9
    assert margin.alpha_varying <= margin.alpha <= margin.alpha_upper
    # A constant scaling, chosen here with all these frequencies in view.
    norm = min(
        scipy.optimize.minimize(
            lambda t: np.linalg.norm(
                np.exp(np.append(t, 0.0))[:, None] * responses * np.exp(-np.append(t, 0.0)), 2, axis=(1, 2)
            ).max(),
            start * np.ones(m - 1),
            method="Nelder-Mead",
            tol=1e-9,
        ).fun
        for start in (0.0, 2.0, -2.0)
    )
    assert margin.alpha_varying <= (1.0 + 1e-6) / norm
    assert not margin.falsified_varying < margin.alpha_varying
    low, high = margin.gain_margin
    for _ in range(30):
        f = rng.choice(
            [
                low * (1.0 + 1e-9) + 1e-12,
                min(high, 1e6) * (1.0 - 1e-9),
                1.0,
                rng.uniform(low, min(high, 10.0)),
            ],
            m,
        )
        closed = a - b @ np.diag(f) @ np.linalg.solve(np.eye(m) + d @ np.diag(f), c)
        eigenvalues = np.linalg.eigvals(closed)
        beyond = np.abs(eigenvalues).max() - 1.0 if dt else eigenvalues.real.max()
        assert beyond < 1e-9 * max(1.0, np.abs(closed).max())
    return True


def test_no_phases_refute_a_disk_margin():
    assert sum(attack(seed) for seed in range(8)) >= 3


@pytest.mark.slow
def test_no_phases_refute_many_disk_margins():
    assert sum(attack(seed) for seed in range(8, 60)) > 15


def test_the_proofs_of_a_walk_cover_it_without_a_gap():
    """Every two neighbours of a walk cover what lies between them, and |1 - kG| stays positive there."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 5))
        a = rng.standard_normal((n, n))
        a -= (np.linalg.eigvals(a).real.max() + 10.0 ** rng.uniform(-2.0, 0.0)) * np.eye(n)
        system: Any = control.ss(a, rng.standard_normal((n, 1)), rng.standard_normal((1, n)), [[0.0]])
        one, none = MidRad.eye(1), MidRad.zeros(1, 1)
        path = Path(
            as_realization(system),
            lambda k, o=one, z=none: Quadratic(o, MidRad(np.full((1, 1), -k)), z),
            none,
            one,
        )
        for goal in (-20.0, 20.0):
            walk = march(path, 0.0, goal)
            places = [proof.at for proof in walk.proofs]
            assert places[0] == 0.0
            assert places[-1] == walk.end
            assert all(proof.lower > 0.0 for proof in walk.proofs)
            for left, right in zip(walk.proofs[:-1], walk.proofs[1:], strict=True):
                assert abs(left.at - right.at) < math.sqrt(left.lower) + math.sqrt(right.lower)
            for k in np.linspace(0.0, walk.end, 40):
                assert np.linalg.eigvals(a + k * system.B @ system.C).real.max() < 1e-9 * (1.0 + abs(k))
