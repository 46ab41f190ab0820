"""Disks of fixed and of varying perturbations: both ends of each, exact values, attacks, corruption."""

from __future__ import annotations

import math
from dataclasses import replace

import control
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from lipctrl.analysis import IncrementalBall, disk_margin, incremental_disk_margin, stability_radius
from lipctrl.analysis.disk import _sensitivity
from lipctrl.analysis.disk_loop import DiskLoop
from lipctrl.analysis.loop import nominal_loop
from lipctrl.analysis.periodic import periodic_blocks
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.pointwise import holds, pointwise_alpha
from lipctrl.analysis.popov_levels import clear_band
from tests.analysis.linear.systems import random_system, response

# T = [0 g; h 0] with g = 1/(s+1) large at low frequencies and h = 10s/((s+1)(s+10)) at higher ones.
A = np.diag([-1.0, -1.0, -10.0])
B = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
C = np.array([[1.0, 0.0, 0.0], [0.0, -10.0 / 9.0, 100.0 / 9.0]])
CROSSED = control.ss(A + B @ C, B, C, np.zeros((2, 2)))


def crossed_problem() -> DiskLoop:
    return DiskLoop(_sensitivity(as_realization(CROSSED), (0, 1), -1.0), 2, 0.0)


def test_two_channels_that_are_large_at_different_frequencies():
    """Fixed δ meet √|gh| at one frequency; varying ones carry the peak of g to the peak of h: √(‖g‖‖h‖)."""
    margin = disk_margin(CROSSED, np.eye(2), -1.0)
    w = np.linspace(0.5, 2.0, 200_001)
    fixed = 1.0 / math.sqrt((10.0 * w / ((1.0 + w**2) * np.hypot(w, 10.0))).max())
    varying = math.sqrt(11.0 / 10.0)
    assert margin.alpha <= fixed * (1 + 1e-12)
    assert margin.alpha == pytest.approx(fixed, rel=2e-4)
    assert margin.alpha <= margin.alpha_upper <= fixed * (1 + 1e-6)
    assert margin.alpha_varying <= varying <= margin.falsified_varying
    assert margin.alpha_varying == pytest.approx(varying, rel=1e-7)
    assert margin.falsified_varying == pytest.approx(varying, rel=1e-4)
    assert "time-varying" in str(margin)
    inside, outside = margin.varying.simulate().growth
    assert inside < 1.0 < outside
    assert margin.simulate().growth[1] > 1.0


def test_varying_blocks_of_that_gain_are_seen_in_a_plain_simulation(monkeypatch):
    """The loop u = q + w, q = -Lu, step by step: growth over a period is the eigenvalue that was computed."""
    # A short period, which a simulation can resolve.
    monkeypatch.setattr("lipctrl.analysis.periodic._FINENESS", (64,))
    problem = crossed_problem()
    alpha, _, d = problem.constant(set())
    found = periodic_blocks(problem, d, alpha)
    assert found is not None
    level, blocks = 1.02 * found[0], found[1]
    steps = 1 << 14
    time = np.arange(steps + 1) * (blocks.period / steps)
    waves = np.exp(1j * np.outer(blocks.lines, time))
    played = np.stack([np.real(wave[:, 0] @ waves) for wave in blocks.played])
    heard = np.stack([np.real(wave[:, 0] @ waves) for wave in blocks.heard])
    for wave in (*played, *heard):
        assert np.trapezoid(wave**2, time) == pytest.approx(1.0, rel=1e-6)
    h = time[1]
    held = scipy.linalg.expm(
        np.block([[A, B, 0 * B], [np.zeros((2, 5)), np.eye(2) / h], [np.zeros((2, 7))]]) * h
    )
    step, first, second = held[:3, :3], held[:3, 3:5], held[:3, 5:]
    values, vectors = np.linalg.eig(blocks.monodromy(problem, level))
    growth = values.max().real
    start = np.real(vectors[:, int(np.argmax(values))])
    assert growth > 1.01
    x, w = start[:3], level * start[3:, None] * played
    q = np.empty((2, steps + 1))
    for k in range(steps):
        q[:, k] = -C @ x
        # x' = (A + BC)x + Bu with u = q + w.
        x = step @ x + first @ w[:, k] + second @ (w[:, k + 1] - w[:, k])
    q[:, -1] = -C @ x
    after = np.concatenate([x, np.trapezoid(heard * q, time, axis=1)])
    assert after == pytest.approx(growth * start, rel=1e-3, abs=1e-3 * np.abs(start).max())
    assert np.abs(np.linalg.eigvals(blocks.monodromy(problem, 0.98 * alpha))).max() < 1.0


def mu(matrix: np.ndarray) -> float:
    """Return min over D of ‖DMD⁻¹‖ by a general-purpose minimiser: exact for three scalar blocks."""

    def size(logs: np.ndarray) -> float:
        d = np.exp(np.append(logs, 0.0))
        return float(np.linalg.norm(d[:, None] * matrix / d, 2))

    starts = [np.zeros(len(matrix) - 1), np.ones(len(matrix) - 1)]
    return min(
        scipy.optimize.minimize(size, s, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).fun
        for s in starts
    )


@pytest.mark.parametrize(("seed", "channels", "dt"), [(0, 2, 0), (1, 3, 0), (2, 3, 0.1), (3, 2, 0.1)])
def test_the_margin_of_fixed_perturbations_is_the_structured_singular_value(seed, channels, dt):
    rng = np.random.default_rng(seed)
    plant = random_system(rng, 4, channels, channels, dt)
    gain = rng.normal(size=(channels, channels))
    gain *= 0.7 * stability_radius(plant) / np.linalg.norm(gain, 2)
    margin = disk_margin(plant, gain)
    grid = np.append(np.geomspace(1e-2, math.pi / dt if dt else 30.0, 60), margin.frequency)
    eye = np.eye(channels)
    peak = max(mu(np.linalg.inv(eye + response(plant, w) @ gain) - 0.5 * eye) for w in grid)
    assert margin.alpha <= (1 + 1e-7) / peak
    assert margin.alpha == pytest.approx(1 / peak, rel=2e-3)
    assert margin.alpha_varying <= margin.alpha <= margin.alpha_upper <= margin.alpha * (1 + 2e-3)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 0.1]), st.sampled_from([-0.5, 0.0, 1.0]))
def test_no_fixed_filter_and_no_varying_gain_inside_the_disks_destabilises(seed, dt, skew):
    rng = np.random.default_rng(seed)
    m, p = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    plant = random_system(rng, 3, m, p, dt)
    center = rng.normal(size=(m, p))
    center *= 0.8 * stability_radius(plant) / np.linalg.norm(center, 2)
    ball = IncrementalBall(center, 0.5 * stability_radius(plant, -center))
    margin = incremental_disk_margin(plant, ball, skew)
    assert margin.alpha_varying <= margin.alpha * (1 + 1e-12)
    assert not margin.falsified < margin.alpha
    assert not margin.falsified_varying < margin.alpha_varying
    if m == 1:
        assert margin.falsified <= margin.alpha * (1 + 1e-4)
    assert margin.falsified_varying <= margin.alpha_varying * (1 + 2e-2)
    a, b = 0.5 * (1 + skew), 0.5 * (1 - skew)
    c = np.asarray(plant.C)
    for _ in range(20):
        # Gains that vary periodically, δ(t) and policy: the product of the loops over a period must contract.
        product = np.eye(3)
        for _ in range(4):
            delta = 0.999 * margin.alpha_varying * rng.choice([-1.0, 1.0], size=m)
            step = rng.normal(size=(m, p))
            gain = center + 0.999 * ball.radius * step / np.linalg.norm(step, 2)
            if (1 - a * delta <= 0).any():
                gain, delta = center, 0 * delta
            closed = np.asarray(plant.A) + plant.B @ (((1 + b * delta) / (1 - a * delta))[:, None] * gain) @ c
            product = (closed if dt else scipy.linalg.expm(closed * rng.uniform(0.1, 3.0))) @ product
        assert np.abs(np.linalg.eigvals(product)).max() < 1.0


def test_bands_cover_the_axis_and_spoiled_ones_prove_nothing():
    plant = random_system(np.random.default_rng(11), 3, 2, 2, 0)
    problem = DiskLoop(nominal_loop(plant, np.zeros((2, 2))).system, 2, 0.0)
    found = pointwise_alpha(problem, *problem.constant(set()))
    bands = found.bands
    assert len(bands) > 1
    assert holds(problem, found.alpha, bands)
    assert not holds(problem, found.sampled * (1 + 1e-6), bands)
    assert not holds(problem, found.alpha, ())
    ordered = sorted(bands, key=lambda band: band.low)
    assert not holds(problem, found.alpha, tuple(ordered[1:]))
    assert not holds(problem, found.alpha, tuple(ordered[:-1]))
    for band in bands:
        others = tuple(other for other in bands if other is not band)
        wrong = replace(band, d=band.d * np.array([30.0, 1.0]))
        assert not holds(problem, found.alpha, (*others, wrong))
        # No constant scaling does what the bands do together.
        assert not holds(problem, found.alpha, (replace(band, low=0.0, high=math.inf),))


@pytest.mark.parametrize("dt", [0, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_a_clear_band_ends_where_the_function_does(seed, dt):
    rng = np.random.default_rng(seed)
    plant = random_system(rng, 4, 2, 2, dt, feedthrough=True)
    problem = DiskLoop(nominal_loop(plant, np.zeros((2, 2))).system, 2, 0.0)
    d = np.exp(rng.normal(size=2))
    grid = np.geomspace(1e-3, math.pi / dt if dt else 1e4, 4000)
    values = problem.levels(d, problem.responses(grid))
    form = problem.form(d, 1.0 / math.sqrt(np.quantile(values, 0.7)))
    lowest = np.array([form.lowest(w) for w in grid])
    for k in rng.integers(0, len(grid), size=6):
        band = clear_band(form, 0.0, float(grid[k]))
        if lowest[k] <= 0.0:
            assert band is None
            continue
        assert band is not None
        assert band[0] < grid[k] < band[1]
        within = (grid >= band[0]) & (grid <= band[1])
        assert (lowest[within] > 0.0).all()
        left, right = np.flatnonzero(within)[[0, -1]]
        # As wide as the samples allow.
        assert left == 0 or lowest[left - 1] <= 1e-2 * lowest.max()
        assert right == len(grid) - 1 or lowest[right + 1] <= 1e-2 * lowest.max()


def test_a_band_to_infinity_needs_the_limit():
    plant = control.ss([[-1.0]], [[1.0]], [[-1.0]], [[1.0]])
    problem = DiskLoop(as_realization(plant), 1, 0.0)
    # |G| = ω/√(1+ω²) rises to 1: at α = 1 every finite frequency is safe and the limit is not.
    band = clear_band(problem.form(np.ones(1), 1.0), 0.0, 1.0)
    assert band is None or math.isfinite(band[1])
    assert clear_band(problem.form(np.ones(1), 0.999), 0.0, 1.0)[1] == math.inf
