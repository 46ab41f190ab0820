"""Incremental delay margins and delay models: exact answers, roots of the exact equation, traps of feed-through."""

from __future__ import annotations

import cmath
import math

import control
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lipctrl.analysis import (
    IncrementalBall,
    ball_test,
    delayed,
    incremental_delay_margin,
    pade,
    stability_radius,
)
from tests.analysis.linear.systems import random_system, response

s = control.tf("s")
EXAMPLE = 25 / (s**3 + 10 * s**2 + 10 * s + 10)


@pytest.mark.parametrize(("plant", "gain"), [(EXAMPLE, 1.0), (1 / (s - 1), 3.0), (1 / (s * (s + 1)), 2.0)])
def test_without_a_ball_it_is_the_classical_delay_margin(plant, gain):
    _, phase, _, _, crossing, _ = control.stability_margins(gain * plant)
    margin = incremental_delay_margin(plant, IncrementalBall([[-gain]], 0.0))
    assert margin.delay == pytest.approx(math.radians(phase) / crossing, rel=1e-5)
    assert margin.delay <= margin.falsified <= margin.delay * (1 + 1e-5)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.8))
def test_every_delay_inside_keeps_the_small_gain_condition(seed, share):
    rng = np.random.default_rng(seed)
    m, p = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    plant = random_system(rng, 3, m, p)
    center = rng.normal(size=(m, p))
    center *= 1.5 * stability_radius(plant) / np.linalg.norm(center, 2)
    room = stability_radius(plant, -center)
    assume(room > 0.0)
    ball = IncrementalBall(center, share * room)
    margin = incremental_delay_margin(plant, ball)
    assert not margin.falsified < margin.delay
    for tau in rng.uniform(0.0, min(margin.delay, 1e3), size=5):
        for omega in rng.exponential(3.0, size=30):
            g = response(plant, omega)
            t = g @ np.linalg.inv(np.eye(m) - cmath.exp(-1j * omega * tau) * center @ g)
            assert ball.radius * np.linalg.norm(t, 2) < 1.0


def test_the_falsified_delay_is_a_root_of_the_exact_equation_and_its_simulation_grows():
    margin = incremental_delay_margin(EXAMPLE, IncrementalBall([[-1.0]], 0.1))
    found = margin.destabilization
    pole, policy = found.pole, found.policy
    pi = policy.d + policy.c @ np.linalg.solve(pole * np.eye(len(policy.a)) - policy.a, policy.b)
    assert abs(1.0 - cmath.exp(-pole * found.value) * pi[0, 0] * EXAMPLE(pole)) < 1e-8
    assert pole.real > 0.0
    inside, outside = margin.simulate().growth
    assert inside < 0.5 < 2.0 < outside


def test_the_ball_shortens_the_delay_and_single_channels_have_more():
    plant = control.ss([[0, 10], [-10, 0]], np.eye(2), [[1, 10], [-10, 1]], np.zeros((2, 2)))
    margin = incremental_delay_margin(plant, IncrementalBall(-np.eye(2), 0.05), channels=True)
    assert min(margin.channels) > margin.delay
    bare = incremental_delay_margin(1 / (s - 1), IncrementalBall([[-3.0]], 0.1))
    assert incremental_delay_margin(1 / (s - 1), IncrementalBall([[-3.0]], 0.5)).delay < bare.delay


def test_feed_through_above_one_tolerates_no_delay_although_every_rotation_is_stable():
    # 1 + 2e^{-sτ}(s+2)/(s+1) has roots near (ln 2)/τ for every τ, yet |L| > 1 everywhere: no rotation is singular.
    margin = incremental_delay_margin((s + 2) / (s + 1), IncrementalBall([[-2.0]], 0.1))
    assert margin.delay == 0.0
    assert "feed-through" in str(margin)


def test_discrete_feed_through_above_one_is_not_taken_for_any_delay():
    # 1 + 2z⁻ᵈ is unstable for every d ≥ 1, although no rotation of the static loop gain 2 is singular.
    plant = control.ss([[0.0]], [[0.0]], [[0.0]], [[1.0]], 0.1)
    margin = incremental_delay_margin(plant, IncrementalBall([[-2.0]], 0.1))
    assert margin.samples == 0
    assert math.isnan(margin.falsified) or margin.falsified == pytest.approx(0.1)


def test_any_delay_where_the_gain_is_small():
    margin = incremental_delay_margin(1 / (s + 1), IncrementalBall([[-0.5]], 0.4))
    assert math.isinf(margin.delay)
    assert "any delay" in str(margin)


@pytest.mark.parametrize("dt", [0.1, True])
def test_discrete_delays_are_whole_samples_and_exact(dt):
    plant, ball = control.tf([0.1], [1, -1.05], dt), IncrementalBall([[-2.0]], 0.2)
    margin = incremental_delay_margin(plant, ball)
    step = 1.0 if dt is True else dt
    for samples in range(margin.samples + 1):
        assert ball_test(delayed(plant, samples), ball).verdict == "certified"
    assert ball_test(delayed(plant, margin.samples + 1), ball).verdict != "certified"
    assert margin.delay == pytest.approx(margin.samples * step)
    assert margin.samples < margin.fractional < margin.samples + 1
    assert margin.falsified == pytest.approx((margin.samples + 1) * step)
    inside, outside = margin.simulate().growth
    assert inside < 0.5 < 2.0 < outside


@pytest.mark.parametrize("at", ["input", "output"])
def test_delayed_is_exact(at):
    plant = random_system(np.random.default_rng(1), 3, 2, 2, 0.1, feedthrough=True)
    counts = [2, 0]
    late = delayed(plant, counts, at)
    for omega in (0.1, 3.0, 20.0):
        z = np.exp(0.1j * omega)
        shift = np.diag([z**-k for k in counts])
        expected = plant(z) @ shift if at == "input" else shift @ plant(z)
        assert late(z) == pytest.approx(expected, rel=1e-12)
    assert late.dt == 0.1


@pytest.mark.parametrize("order", [1, 2, 5, 8, 12])
@pytest.mark.parametrize("tau", [1e-3, 0.37, 20.0])
def test_the_error_of_pade_is_bounded_and_its_weight_covers_it(order, tau):
    late = pade(1 / (s + 1), tau, order)
    omega = np.logspace(-2, 3, 120) / tau
    filter_values = late.system(1j * omega) * (1j * omega + 1)
    error = np.abs(filter_values - np.exp(-1j * omega * tau))
    rounding = 1e-11 * (1 + omega * tau)
    assert (error <= late.error(omega) + rounding).all()
    assert (np.abs(late.weight()(1j * omega)) >= late.error(omega) * (1 - 1e-9)).all()
    # Not vacuous where the filter is good.
    assert late.error(0.3 * order / tau) < 0.1


def test_the_norm_of_a_delayed_loop_is_above_a_grid_and_near_it():
    tau, gain = 0.2, 2.0
    bound = pade(1 / (s + 1), tau, 6).hinf_norm(gain)
    omega = np.logspace(-2, 2, 4000)
    p = np.exp(-1j * omega * tau) / (1j * omega + 1)
    true = np.abs(p / (1 + gain * p)).max()
    assert true * (1 - 1e-9) <= bound <= 1.5 * true
    assert pade(1 / (s + 1), 2.0, 6).hinf_norm(5.0) == math.inf


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: delayed(1 / (s + 1), 1), "continuous"),
        (lambda: delayed(control.tf([1], [1, 0.5], 0.1), -1), "whole number"),
        (lambda: delayed(control.tf([1], [1, 0.5], 0.1), 1.5), "whole number"),
        (lambda: delayed(control.tf([1], [1, 0.5], 0.1), [1, 2]), "whole number"),
        (lambda: pade(control.tf([1], [1, 0.5], 0.1), 1.0), "discrete"),
        (lambda: pade(1 / (s + 1), -1.0), "positive"),
        (lambda: pade(1 / (s + 1), math.nan), "positive"),
        (lambda: pade(1 / (s + 1), 1.0, 13), "order"),
        (lambda: pade(1 / (s + 1), 1.0).hinf_norm(np.eye(2)), "shape"),
        (lambda: incremental_delay_margin(1 / (s - 1), IncrementalBall([[-0.5]], 0.1)), "nominally unstable"),
    ],
)
def test_refusals(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
