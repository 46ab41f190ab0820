"""Delay margins against the rotations of an independent eigenvalue problem, and against roots of the delayed loop."""

from __future__ import annotations

import math
from typing import Any

import control
import numpy as np
import pytest
import scipy.linalg

from lipctrl.analysis import IncrementalBall, incremental_delay_margin


def random_loop(seed):
    """Return a, b, c, k: lightly damped modes in odd units of time and of the output, one to three channels."""
    rng = np.random.default_rng(seed)
    m, modes = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    unit, scale = 10.0 ** rng.choice([0, 0, -8, 8]), 10.0 ** rng.choice([0, 0, -8, 8])
    parts = [
        np.array([[0.0, w], [-w, -2.0 * 10.0 ** rng.uniform(-4.5, -0.5) * w]])
        for w in 10.0 ** rng.uniform(-1.0, 1.5, modes)
    ]
    a: Any = scipy.linalg.block_diag(*parts, [[-1.0]])
    b, c = rng.standard_normal((len(a), m)), rng.standard_normal((m, len(a)))
    k = rng.standard_normal((m, m))
    while np.linalg.eigvals(a + b @ k @ c).real.max() > -1e-5:
        k *= 0.7
    return a * unit, b * unit, c * scale, k / scale, rng


def responses(a, b, c, omegas):
    pencils = 1j * omegas[:, None, None] * np.eye(len(a)) - a
    return c @ np.linalg.solve(pencils, np.broadcast_to(b.astype(complex), (len(omegas), *b.shape)))


def frequencies(closed):
    """Return a grid that is fine against the damping of every mode."""
    poles = np.linalg.eigvals(closed)
    steps = np.concatenate([-np.geomspace(1e-3, 300.0, 30), [0.0], np.geomspace(1e-3, 300.0, 30)])
    around = poles.imag[:, None] + np.abs(poles.real)[:, None] * steps
    wide = np.geomspace(np.abs(poles).min() / 100.0, np.abs(poles).max() * 30.0, 300)
    grid = np.unique(np.concatenate([around.ravel(), wide]))
    return grid[grid > 0.0]


def lag(t, k, radius):
    """Return the smallest θ > 0 with a policy of the ball that e^{-jθ} makes singular: eigenvalues on the circle."""
    loop = k @ t
    n, eye, zero = np.eye(len(k)) + loop, np.eye(len(k)), np.zeros((len(k), len(k)))
    middle = n.conj().T @ n + loop.conj().T @ loop - radius**2 * t.conj().T @ t
    cross = n.conj().T @ loop
    left, right = np.block([[zero, eye], [-cross.conj().T, middle]]), scipy.linalg.block_diag(eye, cross)
    z = np.asarray(scipy.linalg.eigvals(left, right))
    z = z[np.isfinite(z)]
    z = z[np.abs(np.abs(z) - 1.0) < 1e-6]
    return np.mod(-np.angle(z), 2.0 * np.pi).min() if z.size else math.inf


def attack(seed):
    a, b, c, k, rng = random_loop(seed)
    closed = a + b @ k @ c
    grid = frequencies(closed)
    t = responses(closed, b, c, grid)
    radius = rng.choice([0.01, 0.1, 0.5, 0.9, 0.999]) / np.linalg.norm(t, 2, axis=(1, 2)).max()
    try:
        margin = incremental_delay_margin(control.ss(a, b, c, 0), IncrementalBall(k, radius))
    except ValueError:
        return None  # beside a peak that the grid cut
    shortest = min(lag(x, k, radius) / w for x, w in zip(t, grid, strict=True))
    assert margin.delay <= shortest * (1.0 + 1e-8)
    if math.isinf(margin.delay):
        return 1.0
    assert margin.falsified >= margin.delay
    return margin.delay / margin.falsified


def test_certified_delays_are_below_every_delay_found_and_near_the_falsified_one():
    """Low damping, balls that nearly fill the loop and units of 1e±8 used to stop a factor below, or at nothing."""
    shares = [attack(seed) for seed in range(4)]
    assert min(share for share in shares if share is not None) > 0.999
    assert shares.count(None) == 0


@pytest.mark.slow
def test_many_certified_delays_are_below_every_delay_found():
    shares = [share for seed in range(100, 130) if (share := attack(seed)) is not None]
    assert len(shares) > 20
    assert np.mean(np.array(shares) > 0.999) > 0.95
    assert min(shares) > 0.5


@pytest.mark.parametrize("zeta", [1e-2, 1e-4])
def test_a_delay_margin_at_low_damping_reaches_the_falsified_delay(zeta):
    plant = control.tf([1.0], [1.0, 2.0 * zeta, 1.0])
    margin = incremental_delay_margin(plant, IncrementalBall([[-0.3]], 0.1 * zeta))
    assert margin.falsified * 0.9999 < margin.delay < margin.falsified


@pytest.mark.parametrize("gain", [-1.0, -2.0, -0.1])
def test_the_delay_margin_of_an_integrator(gain):
    margin = incremental_delay_margin(control.tf([1.0], [1.0, 0.0]), IncrementalBall([[gain]], 0.0))
    assert margin.delay == pytest.approx(-0.5 * math.pi / gain, rel=1e-5)
    assert margin.delay < -0.5 * math.pi / gain < margin.falsified * (1.0 + 1e-9)


def spectral_abscissa(a, b, k, c, delay, degree=24):
    """Return the real part of the rightmost root of ẋ = ax + bkc·x(t - delay), by Chebyshev collocation."""
    points = np.cos(np.pi * np.arange(degree + 1) / degree)
    weights = np.array([2.0] + [1.0] * (degree - 1) + [2.0]) * (-1.0) ** np.arange(degree + 1)
    gaps = points[:, None] - points + np.eye(degree + 1)
    derive = np.outer(weights, 1.0 / weights) / gaps
    derive = (derive - np.diag(derive.sum(axis=1))) * 2.0 / delay
    n = len(a)
    whole = np.kron(derive, np.eye(n))
    whole[:n] = 0.0
    whole[:n, :n], whole[:n, -n:] = a, b @ k @ c
    return np.linalg.eigvals(whole).real.max()


@pytest.mark.parametrize("seed", range(2))
def test_the_delayed_loop_of_static_policies_has_no_root_on_the_right(seed):
    rng = np.random.default_rng(seed)
    a = np.array([[0.0, 1.0, 0.0], [-1.0, -0.2, 0.0], [0.3, 0.0, -2.0]])
    b, c = rng.standard_normal((3, 2)), rng.standard_normal((2, 3))
    k = -0.3 * c @ b
    while np.linalg.eigvals(a + b @ k @ c).real.max() > -0.02:
        k = 0.8 * k
    closed = a + b @ k @ c
    radius = 0.5 / np.linalg.norm(responses(closed, b, c, frequencies(closed)), 2, axis=(1, 2)).max()
    margin = incremental_delay_margin(control.ss(a, b, c, 0), IncrementalBall(k, radius))
    assert 0.0 < margin.delay < math.inf
    for share in (0.1, 0.5, 1.0):
        for _ in range(5):
            direction = rng.standard_normal((2, 2))
            member = k + radius * direction / np.linalg.norm(direction, 2)
            assert spectral_abscissa(a, b, member, c, share * margin.delay) < 0.0
    assert spectral_abscissa(a, b, k, c, 1e-3 * margin.delay) < 0.0
