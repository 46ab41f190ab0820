"""Disk margins: published values, agreement with a dense grid from below, and perturbations that do destabilise."""

from __future__ import annotations

import math
import warnings

import control
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipctrl.analysis.disk import disk_margin

EXAMPLE = control.tf([25], [1, 10, 10, 10])


def satellite(a=10.0):
    """Two channels that are perfect one at a time and fragile together (Doyle's spinning satellite)."""
    return control.ss([[0, a], [-a, 0]], np.eye(2), [[1, a], [-a, 1]], np.zeros((2, 2)))


def test_the_published_example():
    # Seiler, Packard & Gahinet 2020: α = 0.46, gain 0.63 … 1.59, phase ±26°.
    margin = disk_margin(EXAMPLE, 1.0)
    assert margin.alpha == pytest.approx(0.4580926, rel=1e-6)
    assert margin.gain_margin == pytest.approx((0.62726, 1.59423), rel=1e-4)
    assert math.degrees(margin.phase_margin) == pytest.approx(25.80, abs=0.01)
    assert margin.frequency == pytest.approx(1.955, abs=1e-3)
    assert disk_margin(EXAMPLE).alpha == margin.alpha  # a loop that is multiplied out needs no gain
    assert disk_margin(satellite()).alpha == disk_margin(satellite(), np.eye(2)).alpha


def test_the_spinning_satellite():
    margin = disk_margin(satellite(), np.eye(2))
    assert margin.alpha == pytest.approx(0.09975124, rel=1e-5)
    # One loop at a time the satellite stands anything of positive real part.
    assert [m.alpha for m in margin.channels] == pytest.approx([2.0, 2.0], rel=1e-6)


def test_two_channels_that_need_unequal_scalings():
    """With K = [1 -2; 0 1] the structured singular value is 1/0.376152; scalings by powers of two give 0.3618."""
    margin = disk_margin(satellite(), np.array([[1.0, -2.0], [0.0, 1.0]]))
    assert margin.alpha == pytest.approx(0.3761520692, rel=1e-7)
    assert margin.alpha <= margin.alpha_upper <= margin.alpha * (1 + 1e-6)
    assert np.count_nonzero(margin.perturbation - np.diag(np.diag(margin.perturbation))) == 0
    inside, outside = margin.simulate().growth
    assert inside < 0.5 < 2.0 < outside


def test_an_integrator_says_that_its_gain_is_limited_by_rounding_only():
    margin = disk_margin(control.tf([1], [1, 0]), 1.0)
    assert margin.gain_margin[1] > 1e7
    assert "0 … inf up to the rounding" in str(margin)
    assert "rounding" not in str(disk_margin(EXAMPLE, 1.0))


@pytest.mark.parametrize("skew", [-1.0, 0.0, 1.0, 2.0])
def test_agreement_with_a_dense_grid(skew):
    margin = disk_margin(EXAMPLE, 1.0, skew)
    response = EXAMPLE(1j * np.logspace(-2, 2, 200_001))
    grid = 1.0 / np.abs(1.0 / (1.0 + response) + 0.5 * (skew - 1.0)).max()
    assert margin.alpha <= grid * (1 + 1e-12)
    assert margin.alpha == pytest.approx(grid, rel=1e-6)


def loops(a, b, k):
    plant = control.tf([b], [1.0, a, 1.0])
    return plant, k


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.05, 3.0),
    st.floats(0.1, 5.0),
    st.floats(0.1, 5.0),
    st.sampled_from([-1.0, -0.3, 0.0, 0.5, 1.0]),
)
def test_the_worst_perturbation_makes_the_loop_singular_and_smaller_ones_do_not(a, b, k, skew):
    plant, gain = loops(a, b, k)
    margin = disk_margin(plant, gain, skew)
    delta = margin.perturbation[0, 0]
    p, q = 0.5 * (1 + skew), 0.5 * (1 - skew)
    factor = (1 + q * delta) / (1 - p * delta)
    assert abs(delta) >= margin.alpha
    if np.isfinite(factor) and abs(factor) < 1e6:
        open_loop = plant(1j * margin.frequency) * gain
        assert abs(1 + factor * open_loop) <= 1e-5 * (1 + abs(factor * open_loop))
    low, high = margin.gain_margin
    for f in (low + 1e-6 + 0.001 * (1 - low), min(high, 1e6) * 0.999):
        if low < f < high:
            assert (control.feedback(plant * gain * f, 1).poles().real < 0).all()


@given(st.floats(0.0, 0.99))
def test_every_phase_inside_the_margin_is_tolerated(fraction):
    margin = disk_margin(EXAMPLE, 1.0)
    turn = np.exp(-1j * fraction * margin.phase_margin)
    # det(1 + e^{-jθ}L) keeps its winding: no crossing of -1 between no rotation and this one.
    response = EXAMPLE(1j * np.logspace(-3, 3, 20_001))
    path = 1 + np.exp(np.linspace(0, 1, 30)[:, None] * np.log(turn)) * response
    assert np.abs(path).min() > 0.0


def test_sharp_peaks_between_grid_points_are_not_missed():
    zeta = 1e-5
    plant = control.tf([1e-3], [1, 2 * zeta, 1]) + control.tf([1.0], [1.0, 1.0])
    coarse = np.logspace(-2, 2, 101)
    grid = 1.0 / np.abs(1.0 / (1.0 + plant(1j * coarse)) - 0.5).max()
    assert disk_margin(plant, 1.0).alpha < 0.98 * grid


@pytest.mark.parametrize(
    ("plant", "gain", "reason"),
    [
        (control.tf([10], [1, 3, 3, 1]), 1.0, "unstable"),  # a peer gives it a margin of 0.1087
        (control.tf([1], [1, -1]), 0.5, "unstable"),
        (control.tf([-1], [1]), 1.0, "ill-posed"),
        (satellite(), 1.0, "shape"),
        (control.tf([math.nan], [1, 1]), 1.0, "NaN"),
        (control.tf([1, 0, 0], [1, 1]), 1.0, "improper"),
        (EXAMPLE, math.nan, "NaN"),
    ],
)
def test_loops_without_a_margin_are_refused(plant, gain, reason):
    with pytest.raises(ValueError, match=reason):
        disk_margin(plant, gain)


def test_discrete_time_and_dynamic_controllers():
    plant = control.ss([[0.9]], [[0.1]], [[1.0]], 0, 0.1)
    controller = control.tf([1.0, -0.5], [1.0, -0.2], 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        omega = np.linspace(1e-4, np.pi / 0.1, 100_001)
    response = plant(np.exp(0.1j * omega)) * controller(np.exp(0.1j * omega))
    grid = 1.0 / np.abs(1.0 / (1.0 + response) - 0.5).max()
    margin = disk_margin(plant, controller)
    assert margin.alpha == pytest.approx(grid, rel=1e-5)
    assert margin.alpha <= grid * (1 + 1e-12)
    with pytest.raises(ValueError, match="timebase"):
        disk_margin(plant, control.tf([1.0], [1.0, 2.0]))


def test_it_prints_itself():
    text = str(disk_margin(EXAMPLE, 1.0))
    assert "rad/s" in text
    assert "dB" in text
    assert "°" in text
