"""Small gain, circle criterion, largest slopes and stability radii against exact values and falsifiers."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest
import scipy.optimize

from lipctrl.analysis import circle_criterion, max_slope, small_gain, stability_radius
from tests.analysis.linear.systems import random_system, response

s = control.tf("s")
# Discrete example 1 of Carrasco, Heath & Wang; the published circle value is 0.79338.
CARRASCO = control.tf([0.1, 0], [1, -1.8, 0.81], True)

SLOPES = [
    (CARRASCO, 0.0, 0.7933824),
    (1 / (s + 1) ** 2, 0.0, 8.0),
    (1 / (s + 1) ** 3, 0.0, 4.0),
    (1 / (s + 1), "symmetric", 1.0),
    (1 / (s + 1), 0.0, math.inf),
    ((s + 2) / (s**2 + 3 * s + 2.5), 0.0, math.inf),
    ((s + 1) / (s + 2), 0.0, math.inf),
    (1 / (s - 1), 1.5, math.inf),
    (-1 / (s + 1), 0.0, 1.0),
    (-1 / (s + 1), -2.0, 1.0),
    (1 / (s - 1), 0.0, 0.0),
    (1 / (s - 1), "symmetric", 0.0),
    (1 / s, 0.0, 0.0),
    (np.ones((1, 1)), "symmetric", 1.0),
]


@pytest.mark.parametrize(("plant", "lower", "exact"), SLOPES)
def test_largest_slopes(plant, lower, exact):
    slope = max_slope(plant, lower)
    assert slope <= exact
    assert slope == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("lower", [-2.0, 0.999])
@pytest.mark.parametrize(
    "plant", [1 / (s - 1), (s - 1) / ((s - 1) * (s + 1) * (s + 3)), control.ss([[1]], [[0]], [[1]], [[0]])]
)
def test_no_slope_is_named_where_none_is_certified(plant, lower):
    with pytest.raises(
        ValueError, match=r"no slopes .* certified: .* nominally unstable.*expected a `lower`"
    ):
        max_slope(plant, lower)


def test_an_algebraic_loop_of_the_lower_slope_is_named():
    with pytest.raises(ValueError, match="ill-posed"):
        max_slope(np.ones((1, 1)), -1.0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dt", [0, 0.1])
def test_largest_slope_is_certified_and_no_larger_one_is(seed, dt):
    plant = random_system(np.random.default_rng(seed), 1 + seed % 5, dt=dt, feedthrough=seed % 2 == 0)
    for lower in (0.0, "symmetric", -0.01):
        slope = max_slope(plant, lower)
        if math.isinf(slope):
            assert circle_criterion(plant, (float(lower), 1e6)).certified
            continue
        low = -slope if lower == "symmetric" else float(lower)
        if slope == low:
            continue
        assert circle_criterion(plant, (low, slope)).certified
        beyond = -slope * 1.001 if lower == "symmetric" else low
        assert not circle_criterion(plant, (beyond, slope + 1e-3 * abs(slope - low))).certified


@pytest.mark.parametrize("seed", range(6))
def test_criterion_agrees_with_the_nyquist_disc(seed):
    plant = random_system(np.random.default_rng(seed), 4)
    bound = max_slope(plant, 0.0)
    omegas = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 20000)])
    lowest = min(float(response(plant, w)[0, 0].real) for w in omegas[::10])
    exact = math.inf if lowest >= 0.0 else -1.0 / lowest
    assert bound <= exact * (1.0 + 1e-9)
    if math.isfinite(exact):
        assert bound >= 0.98 * exact


def test_unstable_plants_need_the_centre():
    plant = 1 / (s - 1)
    assert small_gain(plant, 0.5).verdict == "nominally unstable"
    assert circle_criterion(plant, (1.5, 8.0)).verdict == "certified"
    assert circle_criterion(plant, (0.5, 8.0)).verdict == "inconclusive"  # slope 0.5 does not stabilise
    assert circle_criterion(plant, (-8.0, -1.5)).verdict == "nominally unstable"  # the wrong sign


def test_integrators_do_not_tolerate_slope_zero():
    assert circle_criterion(1 / s, (0.0, 1.0)).verdict == "inconclusive"
    assert circle_criterion(1 / s, (1e-3, 1.0)).verdict == "certified"
    assert small_gain(1 / s, 0.1).verdict == "nominally unstable"


def test_algebraic_loops_both_ways():
    plant = (s + 3) / (s + 1)
    assert circle_criterion(plant, (-1.0, -1.0)).verdict == "ill-posed"
    # Here the centre is well posed and stable, but not every slope is.
    assert circle_criterion((s + 0.1) / (s + 1), (-1.5, 0.0)).verdict == "ill-posed"
    assert small_gain(plant, 1.0).verdict == "ill-posed"
    assert small_gain((s + 0.1) / (s + 1), 0.9).verdict == "certified"


def test_a_single_slope_is_the_linear_loop():
    result = circle_criterion(1 / (s - 1), (2.0, 2.0))
    assert result.certified
    assert result.margin == math.inf
    assert "rad/s" in str(result)
    assert "certified" in str(result)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: small_gain(1 / (s + 1), -1.0), "≥ 0"),
        (lambda: small_gain(1 / (s + 1), math.nan), "finite"),
        (lambda: small_gain(1 / (s + 1), "many"), "number"),
        (lambda: circle_criterion(1 / (s + 1), (2.0, 1.0)), "a ≤ b"),
        (lambda: circle_criterion(1 / (s + 1), (0.0, math.inf)), "finite"),
        (lambda: circle_criterion(1 / (s + 1), 1.0), "two numbers"),
        (lambda: circle_criterion(np.ones((2, 1)), (0.0, 1.0)), "square"),
        (lambda: max_slope(1 / (s + 1), "both"), "symmetric"),
        (lambda: max_slope(1 / (s + 1), math.nan), "finite"),
        (lambda: stability_radius(1 / (s + 1), field="octonion"), "complex"),
        (lambda: stability_radius(1 / (s + 1), gain=[[1.0, 2.0]]), "observations"),
        (lambda: stability_radius(1 / (s + 1), gain=math.nan), "finite"),
    ],
)
def test_bad_arguments_are_value_errors(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_unknown_keywords_raise():
    with pytest.raises(TypeError):
        circle_criterion(1 / (s + 1), (0.0, 1.0), tolerance=1.0)


RADII = [
    (1 / (s - 1), 3.0, 2.0),
    (1 / (s + 1) ** 3, None, 1.0),
    (1 / (s - 1), None, 0.0),
    (1 / (s - 1), -3.0, 0.0),
]


@pytest.mark.parametrize(("plant", "gain", "exact"), RADII)
@pytest.mark.parametrize("field", ["complex", "real"])
def test_known_radii(plant, gain, exact, field):
    radius = stability_radius(plant, gain, field)
    assert radius <= exact
    assert radius == pytest.approx(exact, rel=1e-5)


def test_real_radius_of_a_resonance():
    # u = Δy, T = 1/(s² + 0.2s + 1): real Δ moves the stiffness only and is lost at Δ = 1, complex Δ at 0.199.
    plant = 1 / (s**2 + 0.2 * s + 1)
    assert stability_radius(plant, field="complex") == pytest.approx(0.2 * math.sqrt(0.99), rel=1e-6)
    assert stability_radius(plant, field="real") == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dt", [0, 0.1])
def test_real_perturbations_inside_the_real_radius_are_harmless(seed, dt):
    rng = np.random.default_rng(seed)
    plant = random_system(rng, 4, 2, 2, dt)
    real, complex_ = stability_radius(plant, field="real"), stability_radius(plant)
    assert real >= complex_ * (1.0 - 1e-6)

    def worst(flat):
        delta = flat.reshape(2, 2) / np.linalg.norm(flat.reshape(2, 2), 2) * 0.999 * real
        poles = np.linalg.eigvals(plant.A + plant.B @ delta @ plant.C)
        return -float(np.abs(poles).max() - 1.0 if dt else poles.real.max())

    for _ in range(4):
        found = scipy.optimize.minimize(
            worst, rng.normal(size=4), method="Nelder-Mead", options={"maxiter": 150}
        )
        assert found.fun > 0.0
