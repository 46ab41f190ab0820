"""Incremental phase margins: exact against python-control for radius 0, sampled inside, falsified just outside."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lipctrl.analysis import (
    IncrementalBall,
    ball_test,
    continuation,
    incremental_phase_margin,
    stability_radius,
)
from tests.analysis.linear.systems import random_system, response

s = control.tf("s")
EXAMPLE = 25 / (s**3 + 10 * s**2 + 10 * s + 10)


@pytest.mark.parametrize(
    ("plant", "gain"),
    [
        (EXAMPLE, 1.0),
        (1 / (s - 1), 3.0),
        (1 / s**2 * (s + 1) / (0.1 * s + 1), 2.0),
        (control.tf([0.1], [1, -1.05], True), 2.0),
    ],
)
def test_without_a_ball_it_is_the_classical_phase_margin(plant, gain):
    expected = math.radians(control.stability_margins(gain * plant)[1])
    margin = incremental_phase_margin(plant, IncrementalBall([[-gain]], 0.0))
    assert margin.angle == pytest.approx(expected, rel=1e-5)
    assert margin.angle <= margin.falsified <= margin.angle * (1 + 1e-5)


def test_a_known_answer_with_a_ball():
    # P = 1/(s-1), u = -3y·e^{jθ} + φ: the loop is lost where |jω - 1 + 3e^{jθ}| = ρ, ω free: Re = 0 … 3cos θ - 1 = ρ.
    for radius in (0.3, 1.0):
        margin = incremental_phase_margin(1 / (s - 1), IncrementalBall([[-3.0]], radius))
        assert margin.angle == pytest.approx(math.acos((1 + radius) / 3), rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9), st.sampled_from([0, 0.1, True]), st.booleans())
def test_certified_is_below_falsified_and_inside_nothing_is_unstable(seed, share, dt, feedthrough):
    rng = np.random.default_rng(seed)
    m, p = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    plant = random_system(rng, 3, m, p, dt, feedthrough=feedthrough)
    center = rng.normal(size=(m, p))
    center *= 0.7 * stability_radius(plant) / np.linalg.norm(center, 2) * rng.uniform(0.5, 1.4)
    room = stability_radius(plant, -center)
    assume(room > 0.0)
    ball = IncrementalBall(center, share * room)
    assume(ball_test(plant, ball).verdict == "certified")
    margin = incremental_phase_margin(plant, ball)
    assert not margin.falsified < margin.angle
    step = 1.0 if dt is True else float(dt)
    top = math.pi / step if step else 50.0
    for theta in rng.uniform(-margin.angle, margin.angle, size=4):
        for omega in [0.0, *rng.uniform(0.0, top, size=20)]:
            g = response(plant, omega)
            t = g @ np.linalg.inv(np.eye(m) - np.exp(1j * theta) * center @ g)
            assert ball.radius * np.linalg.norm(t, 2) < 1.0
        deviation = rng.normal(size=(m, p)) + 1j * rng.normal(size=(m, p))
        gain = np.exp(1j * theta) * (center + ball.radius * 0.999 * deviation / np.linalg.norm(deviation, 2))
        a = np.asarray(plant.A) + plant.B @ np.linalg.solve(np.eye(m) - gain @ plant.D, gain @ plant.C)
        poles = np.linalg.eigvals(a)
        assert (np.abs(poles).max() < 1.0) if step else (poles.real.max() < 0.0)


def test_the_simulation_decays_inside_and_grows_outside():
    margin = incremental_phase_margin(EXAMPLE, IncrementalBall([[-1.0]], 0.1))
    inside, outside = margin.simulate().growth
    assert inside < 0.5 < 2.0 < outside
    assert margin.destabilization.pole.real > 0.0


def test_single_channels_have_more_than_all_together():
    plant = control.ss([[0, 10], [-10, 0]], np.eye(2), [[1, 10], [-10, 1]], np.zeros((2, 2)))
    margin = incremental_phase_margin(plant, IncrementalBall(-np.eye(2), 0.05), channels=True)
    assert all(angle > margin.angle for angle in margin.channels)


def test_any_phase_where_the_gain_is_small_and_of_a_residual():
    assert incremental_phase_margin(1 / (s + 1), IncrementalBall([[-0.5]], 0.4)).angle == math.pi
    assert (
        incremental_phase_margin(1 / (s - 1), IncrementalBall([[-3.0]], 0.4), form="residual").angle
        == math.pi
    )
    with pytest.raises(ValueError, match="nothing of the class"):
        incremental_phase_margin(1 / (s + 1), IncrementalBall([[-0.5]], 0.4)).simulate()


@pytest.mark.parametrize(
    ("plant", "ball", "reason"),
    [
        (1 / (s - 1), IncrementalBall([[0.5]], 0.1), "nominally unstable"),
        (1 / (s - 1), IncrementalBall([[-3.0]], 2.5), "inconclusive"),
        (s / (s + 1), IncrementalBall([[1.0]], 0.1), "ill-posed"),
        (control.tf([math.nan], [1, 1]), IncrementalBall([[-1.0]], 0.1), "NaN"),
        (np.eye(2), IncrementalBall([[-0.1]], 0.1), "outputs"),
    ],
)
def test_loops_without_a_margin_are_refused(plant, ball, reason):
    with pytest.raises(ValueError, match=reason):
        incremental_phase_margin(plant, ball)


@pytest.mark.parametrize("seed", [3, 5])
@pytest.mark.parametrize("dt", [0, 0.1])
def test_a_walk_without_a_ball_proves_few_points(seed, dt, monkeypatch):
    """The loop becomes singular without Φ changing its sign: the walk must not halve its steps down to rounding."""
    rng = np.random.default_rng(seed)
    plant = random_system(rng, 5, 3, 3, dt)
    center = rng.normal(size=(3, 3))
    center *= stability_radius(plant) / np.linalg.norm(center, 2)
    loops = [
        c for c in (3.0 * center, 0.9 * center) if ball_test(plant, IncrementalBall(c, 0.0)).margin > 1.0
    ]
    tests = []
    original = continuation.level_test
    monkeypatch.setattr(continuation, "level_test", lambda *args: tests.append(0) or original(*args))
    margin = incremental_phase_margin(plant, IncrementalBall(loops[0], 0.0))
    assert len(tests) <= 100
    if margin.angle < math.pi:
        assert margin.angle <= margin.falsified <= margin.angle * (1 + 1e-4)
