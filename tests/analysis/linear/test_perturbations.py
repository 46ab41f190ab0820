"""Disk margins with a ball, structured and real radii, classical margins: both ends, and runs that show them."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lipctrl
from lipctrl.analysis import (
    IncrementalBall,
    classical_margins,
    disk_margin,
    incremental_delay_margin,
    incremental_disk_margin,
    incremental_gain_margin,
    incremental_phase_margin,
    stability_radius,
    structured_radius,
    worst_deviation,
)
from tests.analysis.linear.systems import random_system, response

s = control.tf("s")
EXAMPLE = 25 / (s**3 + 10 * s**2 + 10 * s + 10)
SATELLITE = control.ss([[0, 10], [-10, 0]], np.eye(2), [[1, 10], [-10, 1]], np.zeros((2, 2)))


@pytest.mark.parametrize("skew", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize(
    ("plant", "gain"), [(EXAMPLE, np.eye(1)), (SATELLITE, np.eye(2)), (1 / (s - 1), 3 * np.eye(1))]
)
def test_without_a_ball_it_is_the_classical_disk_margin(plant, gain, skew):
    margin = incremental_disk_margin(plant, IncrementalBall(-gain, 0.0), skew)
    classical = disk_margin(gain, plant, skew)
    assert margin.alpha == pytest.approx(classical.alpha, rel=1e-5)
    assert np.minimum(margin.gain_margin, 1e3) == pytest.approx(
        np.minimum(classical.gain_margin, 1e3), rel=1e-4
    )
    assert margin.channels == pytest.approx([c.alpha for c in classical.channels], rel=1e-5)


@settings(max_examples=4, deadline=None)
@given(
    st.integers(0, 10**6), st.floats(0.1, 0.8), st.sampled_from([0, 0.1]), st.sampled_from([-0.5, 0.0, 1.0])
)
def test_disk_and_ball_together_leave_no_unstable_loop_inside(seed, share, dt, skew):
    rng = np.random.default_rng(seed)
    m, p = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    plant = random_system(rng, 3, m, p, dt)
    center = rng.normal(size=(m, p))
    center *= 0.8 * stability_radius(plant) / np.linalg.norm(center, 2)
    ball = IncrementalBall(center, share * stability_radius(plant, -center))
    margin = incremental_disk_margin(plant, ball, skew)
    assert not margin.falsified < margin.alpha
    assert margin.alpha <= incremental_disk_margin(plant, IncrementalBall(center, 0.0), skew).alpha * (
        1 + 1e-6
    )
    a, b = 0.5 * (1 + skew), 0.5 * (1 - skew)
    for _ in range(20):
        delta = margin.alpha * 0.999 * np.exp(2j * np.pi * rng.uniform(size=m))
        deviation = rng.normal(size=(m, p)) + 1j * rng.normal(size=(m, p))
        gain = center + 0.999 * ball.radius * deviation / np.linalg.norm(deviation, 2)
        gain = np.diag((1 + b * delta) / (1 - a * delta)) @ gain
        if (abs(a * delta) >= 1).any():
            continue
        poles = np.linalg.eigvals(np.asarray(plant.A) + plant.B @ gain @ plant.C)
        assert (np.abs(poles).max() < 1.0) if dt else (poles.real.max() < 0.0)


def test_the_two_ends_of_the_disk_meet_for_one_channel():
    margin = incremental_disk_margin(EXAMPLE, IncrementalBall([[-1.0]], 0.1))
    assert margin.alpha <= margin.falsified <= margin.alpha * (1 + 1e-6)
    inside, outside = margin.simulate().growth
    assert inside < 0.5 < 2.0 < outside


def test_structured_radius_of_a_triangular_plant():
    plant = control.ss([[-1, 4], [0, -2]], np.eye(2), np.eye(2), np.zeros((2, 2)))
    diagonal = structured_radius(plant)
    assert diagonal.radius == pytest.approx(1.0, rel=1e-5)
    assert diagonal.radius <= diagonal.falsified <= 1.0 + 1e-6
    assert structured_radius(plant, blocks=[(2, 2)]).radius == pytest.approx(
        stability_radius(plant), rel=1e-6
    )


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 0.1, True]))
def test_structured_ends_enclose_and_samples_inside_are_stable(seed, dt):
    rng = np.random.default_rng(seed)
    plant = random_system(rng, 4, 3, 3, dt)
    shapes = [(1, 1), (2, 2)] if seed % 2 else [(1, 2), (2, 1)]
    result = structured_radius(plant, blocks=shapes)
    assert result.radius >= stability_radius(plant) * (1 - 1e-9)
    assert result.radius <= result.falsified
    for _ in range(10):
        delta, i, j = np.zeros((3, 3)), 0, 0
        for r, c in shapes:
            block = rng.normal(size=(r, c))
            delta[i : i + r, j : j + c] = 0.999 * result.radius * block / np.linalg.norm(block, 2)
            i, j = i + r, j + c
        poles = np.linalg.eigvals(np.asarray(plant.A) - plant.B @ delta @ plant.C)
        assert (np.abs(poles).max() < 1.0) if dt else (poles.real.max() < 0.0)
    inside, outside = result.simulate().growth
    assert inside < outside


def test_structured_perturbation_is_singular_where_it_says():
    plant = random_system(np.random.default_rng(3), 4, 2, 2)
    result = structured_radius(plant)
    t = response(plant, result.frequency)
    assert abs(np.linalg.det(np.eye(2) + result.perturbation @ t)) < 1e-6
    assert np.count_nonzero(result.perturbation) == 2


def test_structured_refusals_and_loops_without_a_radius():
    assert structured_radius(control.ss([[1.0]], [[1.0]], [[1.0]], 0)).radius == 0.0
    for blocks in ([(1, 1)], [(0, 2)], "ab", [(3, 3)]):
        with pytest.raises(ValueError, match="blocks"):
            structured_radius(SATELLITE, np.eye(2), blocks)
    with pytest.raises(ValueError, match="left"):
        structured_radius(SATELLITE, np.eye(2), left=np.eye(3))


@pytest.mark.parametrize("field", ["complex", "real"])
@pytest.mark.parametrize("dt", [0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_the_worst_deviation_is_as_large_as_the_radius(seed, dt, field):
    plant = random_system(np.random.default_rng(seed), 4, 2, 3, dt)
    worst = worst_deviation(plant, None, field)
    radius = stability_radius(plant, None, field)
    assert radius <= worst.value <= radius * (1 + 1e-4)
    if field == "real":
        assert np.isrealobj(worst.matrix)
        assert np.linalg.norm(worst.matrix, 2) == pytest.approx(worst.value, rel=1e-6)
    inside, outside = worst.simulate().growth
    assert inside < 0.5 < 2.0 < outside
    with pytest.raises(ValueError, match="not stable"):
        worst_deviation(control.tf([1], [1, -1]), None, field)


@pytest.mark.parametrize("form", ["policy", "residual"])
def test_gain_margins_simulate(form):
    margin = incremental_gain_margin(EXAMPLE, IncrementalBall([[-1.0]], 0.1), form)
    inside, outside = margin.simulate("upper").growth
    assert inside < 0.5 < 2.0 < outside
    with pytest.raises(ValueError, match="lower end"):
        margin.simulate("lower")
    lower = incremental_gain_margin(1 / (s - 1), IncrementalBall([[-3.0]], 1.0)).simulate("lower")
    assert lower.outside_value < lower.inside_value < 1.0


def test_disk_margins_simulate():
    for margin in (disk_margin(EXAMPLE, 1.0), disk_margin(SATELLITE, np.eye(2))):
        inside, outside = margin.simulate().growth
        assert inside < 0.5 < 2.0 < outside


def test_a_slow_mode_elsewhere_does_not_drive_a_simulation_away_from_its_margin():
    plant = control.tf([8.0], [1, 12, 20]) * control.tf([1, 0.012], [1, 0.01]) * control.tf([10.0], [1, 10])
    loop, ball = control.ss(plant), IncrementalBall([[-6.0]], 0.2)
    for margin in (incremental_gain_margin(loop, ball), incremental_phase_margin(loop, ball)):
        simulation = margin.simulate()
        inside, outside = simulation.growth
        assert inside < 0.5 < 2.0 < outside
        assert abs(simulation.outside_value / simulation.inside_value - 1.0) < 0.1
    sampled = incremental_delay_margin(control.c2d(loop, 0.02), ball).simulate()
    assert 0.0 <= sampled.outside_value - sampled.inside_value <= 3.0


def test_classical_margins_are_guarded():
    margins = classical_margins(EXAMPLE)
    assert margins.gain == pytest.approx(3.6)
    assert classical_margins(control.tf([10], [1, 3, 3, 1])).verdict == "nominally unstable"
    assert math.isnan(classical_margins(control.tf([10], [1, 3, 3, 1])).gain)
    assert classical_margins(control.tf([-1], [1])).verdict == "ill-posed"
    with pytest.raises(ValueError, match="single loop"):
        classical_margins(SATELLITE, np.eye(2))


def test_a_report_with_all_margins_carries_them_everywhere(tmp_path):
    report = lipctrl.analyze(EXAMPLE, IncrementalBall([[-1.0]], 0.1), margins="all")
    text, page = report.summary(), report.save(tmp_path / "r.html").read_text(encoding="utf-8")
    for words in (
        "incremental phase margin",
        "incremental delay margin",
        "incremental disk margin",
        "classical gain",
    ):
        assert words in text
        assert words in page
    data = report.to_dict()
    assert data["incremental_delay_margin"]["delay"] == pytest.approx(0.217957, rel=1e-4)
    quick = lipctrl.analyze(EXAMPLE, IncrementalBall([[-1.0]], 0.1))
    assert quick.incremental_delay_margin is None
    with pytest.raises(ValueError, match="margins"):
        lipctrl.analyze(EXAMPLE, IncrementalBall([[-1.0]], 0.1), margins="some")
