"""Incremental gain margins: certified ≤ true ≤ falsified, every gain in between, lower ends above zero."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest

from lipctrl.analysis import IncrementalBall, ball_test, incremental_gain_margin, stability_radius
from lipctrl.analysis.falsify_linear import all_pass, closed_loop_matrix, worst_matrix
from lipctrl.analysis.plant import as_realization
from tests.analysis.linear.systems import random_system

s = control.tf("s")


def _loop(seed: int, dt: float):
    rng = np.random.default_rng(seed)
    n = 2 + seed % 4
    a, b = rng.normal(size=(n, n)), rng.normal(size=(n, 2))
    plant = control.ss(a, b, np.eye(n), np.zeros((n, 2)))
    if dt:
        plant = control.c2d(plant, dt)
        gain = control.dlqr(plant.A, plant.B, np.eye(n), np.eye(2))[0]
    else:
        gain = control.lqr(a, b, np.eye(n), np.eye(2))[0]
    return plant, -gain, rng.uniform(0.1, 0.9) * stability_radius(plant, gain)


KNOWN = [
    (1 / (s - 1), -3.0, 1.0, 0.5, math.inf),  # slopes [2k, 4k] must exceed 1
    (1 / (s - 1), -3.0, 0.0, 1.0 / 3.0, math.inf),
    (1 / (s + 1) ** 3, 0.0, 0.1, 0.0, 10.0),
    (1 / (s + 1) ** 3, -3.0, 0.0, 0.0, 8.0 / 3.0),
    (1 / (s - 1) / (s + 10), -30.0, 10.0, 0.5, None),
]


@pytest.mark.parametrize(("plant", "center", "radius", "lower", "upper"), KNOWN)
def test_known_margins(plant, center, radius, lower, upper):
    margin = incremental_gain_margin(plant, IncrementalBall([[center]], radius))
    assert margin.lower >= lower
    assert margin.lower == pytest.approx(lower, abs=1e-5)
    if upper is not None:
        assert margin.upper <= upper
        assert margin.upper == pytest.approx(min(upper, 1e4), rel=1e-5)
    if lower > 0.0:
        assert lower * (1 - 1e-3) <= margin.falsified_lower < margin.lower
        assert margin.lower_db == pytest.approx(20 * math.log10(margin.lower))
    else:
        assert margin.lower_db == -math.inf


@pytest.mark.parametrize("dt", [0, 0.05])
@pytest.mark.parametrize("seed", range(8))
def test_certified_inside_falsified_outside(seed, dt):
    plant, center, radius = _loop(seed, dt)
    ball = IncrementalBall(center, radius)
    margin = incremental_gain_margin(plant, ball)
    assert margin.lower < 1.0 < margin.upper
    for k in np.geomspace(max(margin.lower, 1e-2), min(margin.upper, 100.0), 9):
        test = ball_test(plant, ball.scaled(float(k)))
        # At the very ends the small-gain product is 1 - 1e-8 or so, which the norm's own slack may hide.
        if margin.lower * (1 + 1e-6) < k < margin.upper * (1 - 1e-6):
            assert test.verdict == "certified"
    if margin.lower > 0.0:
        assert ball_test(plant, ball.scaled(margin.lower * (1 - 1e-3))).verdict != "certified"
        assert 0.99 * margin.lower < margin.falsified_lower < margin.lower
    if margin.upper < 1e4:
        assert ball_test(plant, ball.scaled(margin.upper * (1 + 1e-3))).verdict != "certified"
        assert margin.upper < margin.falsified_upper < 1.01 * margin.upper
    for falsifier in margin.falsifiers:
        poles = np.linalg.eigvals(closed_loop_matrix(as_realization(plant), falsifier.policy))
        assert (np.abs(poles).max() > 1.0) if dt else (poles.real.max() > 0.0)


def test_an_interval_is_certified_not_its_ends():
    # Conditionally stable: stable for k near 1, unstable for smaller k, stable again for tiny k.
    plant = (s + 1) ** 2 / s**3
    margin = incremental_gain_margin(plant, IncrementalBall([[-2.0]], 0.0))
    assert 0.25 <= margin.lower < 0.251  # (s+1)²k + s³ is Hurwitz exactly for k > 1/2, here 2k
    tiny = control.tf([1, 2, 1], [1, 0.02, 1.0, 0.01])
    found = incremental_gain_margin(tiny, IncrementalBall([[-2.0]], 0.05))
    for k in np.linspace(max(found.lower, 1e-3), min(found.upper, 50.0), 60):
        assert ball_test(tiny, IncrementalBall([[-2.0 * k]], 0.0)).verdict == "certified"


@pytest.mark.parametrize("seed", range(4))
def test_residual_form_is_the_radius_ratio(seed):
    plant, center, radius = _loop(seed, 0.05)
    margin = incremental_gain_margin(plant, IncrementalBall(center, radius), form="residual")
    assert margin.upper == pytest.approx(stability_radius(plant, -center) / radius, rel=1e-7)
    assert margin.lower == 0.0
    assert margin.upper < margin.falsified_upper < 1.001 * margin.upper


def test_channels_are_at_least_as_wide_for_each_actuator_alone():
    plant, center, radius = _loop(3, 0.05)
    margin = incremental_gain_margin(plant, IncrementalBall(center, radius), channels=True)
    assert len(margin.channels) == 2
    for low, high in margin.channels:
        assert low < 1.0 < high
    index = np.eye(2)
    for channel, (low, high) in enumerate(margin.channels):
        for k in (low + 1e-6, min(high, 100.0) * (1 - 1e-6)):
            scale = np.eye(2) + (k - 1.0) * np.diag(index[channel])
            scaled = control.ss(plant.A, plant.B @ scale, plant.C, 0, plant.dt)
            assert ball_test(scaled, IncrementalBall(center, radius * (1 - 1e-6))).verdict == "certified"


@pytest.mark.parametrize("dt", [0, 0.1])
@pytest.mark.parametrize("omega", [0.0, 0.3, 7.0])
@pytest.mark.parametrize("seed", range(3))
def test_all_pass_takes_the_value_and_keeps_the_norm(seed, omega, dt):
    rng = np.random.default_rng(seed)
    m = rng.normal(size=(3, 2)) + 1j * rng.normal(size=(3, 2)) * (omega > 0.0)
    direction = worst_matrix(m)
    assert abs(np.linalg.det(np.eye(2) - direction @ m)) < 1e-12
    policy = all_pass(direction, omega, dt)
    system = control.ss(policy.a, policy.b, policy.c, policy.d, dt)
    for w in (0.0, 0.1, omega, 3.0, 20.0):
        point = np.exp(1j * w * dt) if dt else 1j * w
        value = np.asarray(system(point)).reshape(direction.shape)
        assert np.linalg.norm(value, 2) == pytest.approx(np.linalg.norm(direction, 2), rel=1e-9)
        if w == omega:
            assert value == pytest.approx(direction, rel=1e-8, abs=1e-10)


def test_refusals():
    with pytest.raises(ValueError, match="certified loop"):
        incremental_gain_margin(1 / (s - 1), IncrementalBall([[-3.0]], 2.1))
    with pytest.raises(ValueError, match="nominally unstable"):
        incremental_gain_margin(1 / (s - 1), IncrementalBall([[3.0]], 0.1))
    with pytest.raises(ValueError, match="nominal loop"):
        incremental_gain_margin(1 / (s - 1), IncrementalBall([[3.0]], 0.1), form="residual")
    with pytest.raises(ValueError, match="form"):
        incremental_gain_margin(1 / (s + 1), IncrementalBall([[0.0]], 0.1), form="both")


def test_print_names_units_and_both_ends():
    text = str(incremental_gain_margin(1 / (s - 1), IncrementalBall([[-3.0]], 1.0)))
    for word in ("certified", "falsified", "dB", "rad/s", "Hz"):
        assert word in text


def test_a_twenty_state_loop_has_a_margin_on_both_sides():
    plant = random_system(np.random.default_rng(0), 20, 2, 3)
    ball = IncrementalBall(np.zeros((2, 3)), 0.5 * stability_radius(plant))
    margin = incremental_gain_margin(plant, ball)
    assert margin.lower < 1.0 < margin.upper
    # A ball about zero: the nominal loop stays the open one, the radius alone is scaled.
    assert margin.upper == pytest.approx(2.0, rel=1e-6)


def test_a_walk_of_many_short_steps_reaches_its_end():
    # Units that do not suit the loop: a centre of gain 25 beside a radius of 0.05 leaves only short steps.
    plant = control.ss([[0.9]], [[-0.25, -0.1, 2.9]], [[0.7], [-0.53]], np.zeros((2, 3)), 1.0)
    ball = IncrementalBall([[-0.37, 7.7], [1.2, -24.0], [0.05, 0.01]], 0.05)
    margin = incremental_gain_margin(plant, ball)
    assert margin.falsified_upper < 1.001 * margin.upper
