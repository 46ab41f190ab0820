"""Popov and Zames-Falb: published values, and that they never pass for incremental statements."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest

from lipctrl.analysis.multipliers import popov_criterion, zames_falb
from lipctrl.analysis.polynomials import rational
from lipctrl.analysis.srg import scaled_relative_graphs, srg_discs
from lipctrl.analysis.trigonometric import positive_on_circle, positive_on_half_line

# Carrasco et al., "Convex searches for discrete-time Zames-Falb multipliers", IEEE TAC 65(11), Table II:
# numerator, denominator, circle criterion, best Zames-Falb value (odd φ), Nyquist value.
CARRASCO = {
    1: ([0.1, 0.0], [1.0, -1.8, 0.81], 0.7935, 13.5113, 36.1),
    2: ([1.0, -1.95, 0.9, 0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1984, 1.1056, 2.7455),
    3: ([-1.0, 1.95, -0.9, -0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1379, 0.3121, 0.3126),
    4: (
        [1.0, -1.5, 0.5, -0.5, 0.5],
        [4.4, -8.957, 9.893, -5.671, 2.207, -0.5],
        1.5312,
        3.8240,
        7.9070,
    ),
    5: ([-0.5, 0.1], [1.0, -0.9, 0.79, 0.089], 1.0273, 2.4475, 2.4475),
    6: ([2.0, 0.92], [1.0, -0.5, 0.0], 0.6510, 1.0870, 1.0870),
}


@pytest.mark.parametrize("example", CARRASCO)
def test_zames_falb_reaches_the_published_value_and_never_exceeds_nyquist(example):
    num, den, circle, best, nyquist = CARRASCO[example]
    found = zames_falb(control.tf(num, den, True), order=12, odd=True, tolerance=1e-4)
    assert found.slope == pytest.approx(best, rel=1e-3)
    assert circle < found.slope < nyquist * (1 + 1e-4)
    assert not found.incremental
    assert "non-incremental" in str(found)


def test_one_sided_multipliers_prove_less_than_odd_ones():
    plant = control.tf([1.0, -1.95, 0.9, 0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], True)
    assert zames_falb(plant, order=6).slope < zames_falb(plant, order=6, odd=True).slope


def test_popov_exact_value():
    """For 1/(s+1)³ the Popov criterion reaches the Hurwitz sector, k = 8."""
    assert popov_criterion(control.tf([1.0], [1.0, 3.0, 3.0, 1.0])).slope == pytest.approx(8.0, rel=1e-10)
    assert popov_criterion(control.tf([1.0], [1.0, 3.0, 3.0, 1.0])).slope < 8.0


@pytest.mark.parametrize("poles", [(1.0, 2.0, 3.0), (0.01, 1.0, 40.0), (5e3, 1e4, 7e5), (1.0, 1.0, 1.0)])
def test_popov_reaches_hurwitz_for_three_real_poles(poles):
    """k/((s+a)(s+b)(s+c)) is stable for k < (a+b+c)(ab+bc+ca) - abc, and Popov's line touches there."""
    a, b, c = poles
    exact = (a + b + c) * (a * b + b * c + c * a) - a * b * c
    found = popov_criterion(control.tf([1.0], np.poly([-a, -b, -c])))
    assert found.slope == pytest.approx(exact, rel=1e-8)
    assert found.slope <= exact * (1 + 1e-12)


@pytest.mark.parametrize(
    "plant",
    [
        control.tf([0.0], [1.0, 1.0]),
        control.tf([1.0], [1.0, 1e-4, 1.0]),
        control.tf([1.0, 0.0], [1.0, 1.0, 1.0]),
        control.ss(-np.eye(2), np.zeros((2, 2)), np.eye(2), np.zeros((2, 2))),
    ],
)
def test_popov_says_infinite_where_every_slope_is_proved(plant):
    found = popov_criterion(plant)
    assert math.isinf(found.slope)
    assert "[0, inf)" in str(found)


def test_zames_falb_in_continuous_time_stays_below_the_hurwitz_sector():
    slope = zames_falb(control.tf([1.0], [1.0, 3.0, 3.0, 1.0]), order=4).slope
    assert 7.9 < slope < 8.0


def test_positivity_is_decided_where_it_is_close():
    def polynomial(value):
        return rational([value, -2.0, 1.0])  # (x - 1)² + value - 1

    assert positive_on_half_line(polynomial(1.0 + 1e-12))
    assert not positive_on_half_line(polynomial(1.0))
    assert not positive_on_half_line(polynomial(1.0 - 1e-12))
    assert not positive_on_half_line(rational([-1.0, 1.0]))
    # 1 + c·cos ω
    assert positive_on_circle(np.array([0.5, 1.0, 0.499999]), 2.0)
    assert not positive_on_circle(np.array([0.5, 1.0, 0.5]), 2.0)


@pytest.mark.parametrize(
    "bad",
    [control.tf([1.0], [1.0, -1.0]), control.ss(-np.eye(2), np.eye(2), np.ones((1, 2)), np.zeros((1, 2)))],
)
def test_refusals_name_the_remedy(bad):
    with pytest.raises(ValueError, match="expected"):
        zames_falb(bad)
    with pytest.raises(ValueError, match="expected"):
        popov_criterion(bad)


def test_srg_needs_every_scaling_or_the_guard():
    """A loop with separation at τ = 1 that is unstable for every admissible constant slope."""
    plant = control.tf([10.0], [1.0, 3.0, 3.0, 1.0])
    graph = scaled_relative_graphs(plant, (2.0, 2.1))
    assert graph.separation > 0.0
    assert not graph.guard
    assert graph.verdict == "inconclusive"
    assert not graph.separation_all > 0.0
    unstable = control.feedback(plant, 2.05).poles()
    assert unstable.real.max() > 0.0


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [((0.0, 7.99), True), ((0.0, 8.01), False), ((-0.99, 0.99), True), ((-1.01, 0.5), False)],
)
def test_srg_agrees_with_the_circle_criterion(slopes, expected):
    graph = scaled_relative_graphs(control.tf([1.0], [1.0, 2.0, 1.0]), slopes)
    assert (graph.verdict == "certified") is expected


def test_srg_distance_bounds_the_measured_one():
    for plant, slopes in (
        (control.tf([1.0], [1.0, 0.4, 1.0]), (0.2, 0.3)),
        (control.tf([0.1, 0.0], [1.0, -1.8, 0.81], 0.1), (0.0, 0.5)),
        (control.tf([1.0, 2.0], [1.0, 0.4, 9.0]), (-0.3, 0.6)),
    ):
        graph = scaled_relative_graphs(plant, slopes, omega_num=300)
        edge = graph.forbidden(1.0, points=401)
        if len(edge) == 2:
            measured = np.abs(graph.hull.real - edge[0].real).min()
        else:
            measured = np.abs(graph.hull[:, None] - edge[None, :]).min()
        assert graph.separation <= measured * (1 + 1e-6)
        assert graph.separation >= 0.9 * measured


def test_srg_discs_hold_the_pairs_of_a_multivariable_plant():
    plant = control.ss([[-1.0, 1.0], [0.0, -2.0]], np.eye(2), np.eye(2), np.zeros((2, 2)))
    for center, radius in srg_discs(plant, [-0.5, 0.0, 0.5, 1.0]):
        rng = np.random.default_rng(0)
        for omega in (0.1, 1.0, 5.0):
            g = plant(1j * omega)
            u = rng.standard_normal((2, 2)) @ np.array([1.0, 1j])
            y = g @ u
            ratio = np.linalg.norm(y) / np.linalg.norm(u)
            cosine = np.real(np.vdot(u, y)) / np.linalg.norm(u) / np.linalg.norm(y)
            z = ratio * np.exp(1j * np.arccos(np.clip(cosine, -1, 1)))
            assert abs(z - center) <= radius * (1 + 1e-9)


@pytest.mark.parametrize("dt", [0, 0.1])
def test_srg_of_several_channels_agrees_with_one_and_keeps_the_guard(dt):
    single = control.tf([0.1, 0.05], [1.0, -1.5, 0.6], 0.1) if dt else control.tf([1.0], [1.0, 2.0, 1.0])
    both = control.append(control.ss(single), control.ss(single))
    for slopes in ((0.0, 1.5), (-0.2, 0.3), (0.4, 1.2)):
        one, two = (scaled_relative_graphs(p, slopes, omega_num=20) for p in (single, both))
        assert two.verdict == one.verdict
        assert two.separation == pytest.approx(one.separation, rel=1e-5)
    # Random rotations of the inputs make a coupled plant; its pairs keep the proved distance.
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((2, 2)))
    coupled = control.ss(both.A, both.B @ q, both.C, both.D, both.dt)
    graph = scaled_relative_graphs(coupled, (0.1, 0.4), omega_num=60)
    edge = graph.forbidden(1.0, points=721)
    distance = np.abs(graph.nyquist.ravel()[:, None] - edge[None, :]).min()
    if graph.separation > 0.0:
        assert distance >= graph.separation * (1 - 1e-3)
    unstable = control.append(*[control.ss(control.tf([10.0], [1.0, 3.0, 3.0, 1.0]))] * 2)
    guarded = scaled_relative_graphs(unstable, (2.0, 2.1), omega_num=20)
    assert guarded.separation > 0.0
    assert not guarded.guard
    assert guarded.verdict == "inconclusive"
