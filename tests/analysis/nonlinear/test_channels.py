"""Several channels: constant multipliers, Popov and Zames-Falb, against exact values and against linear gains."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest

from lipctrl.analysis import diagonal_slope, max_slope, popov_criterion, zames_falb
from lipctrl.analysis.channels import square_stable
from lipctrl.analysis.zames_falb_channels import ChannelSearch, Multiplier


def lag(gain=1.0):
    return control.tf([gain], [1.0, 3.0, 3.0, 1.0])


def side_by_side(first, second):
    return control.append(control.ss(first), control.ss(second))


def random_plant(seed, discrete):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((4, 4))
    poles = np.linalg.eigvals(a)
    a = a * 0.8 / np.abs(poles).max() if discrete else a - (poles.real.max() + 0.4) * np.eye(4)
    return control.ss(
        a, rng.standard_normal((4, 2)), rng.standard_normal((2, 4)), np.zeros((2, 2)), 0.1 if discrete else 0
    )


def smallest_unstable_gain(plant, limit, seed=0):
    """Return the smallest k for which some constant diagonal gain in [0, k] was seen to be unstable, or inf."""
    rng = np.random.default_rng(seed)
    shapes = np.vstack([np.eye(2), np.ones((1, 2)), rng.random((40, 2))])
    discrete = plant.dt > 0
    worst = np.inf
    for shape in shapes / shapes.max(axis=1, keepdims=True):
        for k in limit * np.geomspace(1e-2, 1.0, 60):
            poles = np.linalg.eigvals(plant.A - plant.B @ np.diag(k * shape) @ plant.C)
            if (np.abs(poles).max() > 1.0) if discrete else (poles.real.max() > 0.0):
                worst = min(worst, k)
                break
    return worst


def test_separate_channels_are_the_worse_of_both():
    both = side_by_side(lag(), lag(2.0))
    assert diagonal_slope(both) == pytest.approx(2.0, rel=1e-5)
    assert popov_criterion(both).slope == pytest.approx(4.0, rel=1e-4)
    assert max_slope(both) <= diagonal_slope(both) * (1 + 1e-6)


def test_scaling_is_found():
    """G = [g, 9g; 0, g]: a cascade is as safe as its diagonal, which a full block does not see."""
    plant = control.ss(
        np.kron(np.eye(2), lag_matrix()), np.kron(np.array([[1.0, 9.0], [0.0, 1.0]]), [[1.0], [0.0], [0.0]]),
        np.kron(np.eye(2), [[0.0, 0.0, 1.0]]), np.zeros((2, 2)),
    )  # fmt: skip
    assert diagonal_slope(plant) == pytest.approx(4.0, rel=1e-3)
    assert max_slope(plant) < 1.0


def lag_matrix():
    return np.array([[-1.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])


def test_a_lower_slope_stabilises():
    unstable = side_by_side(control.tf([1.0], [1.0, -1.0]), control.tf([1.0], [1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="lower"):
        diagonal_slope(unstable)
    assert diagonal_slope(unstable, lower=1.5) > 4.0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("discrete", [True, False])
def test_no_certified_slope_is_refuted_by_constant_gains(seed, discrete):
    plant = random_plant(seed, discrete)
    incremental = diagonal_slope(plant)
    assert incremental >= max_slope(plant) * (1 - 1e-6)
    found = [incremental]
    if not discrete:
        found.append(popov_criterion(plant).slope)
        assert found[-1] >= incremental * (1 - 1e-5)
    else:
        multiplier = zames_falb(plant, order=1, tolerance=0.3)
        assert multiplier.slope >= incremental
        assert not multiplier.incremental
        found.append(multiplier.slope)
    refuted = smallest_unstable_gain(plant, 1.2 * max([k for k in found if math.isfinite(k)], default=1e4))
    assert all(math.isinf(k) or k < refuted for k in found)
    if any(math.isinf(k) for k in found):
        assert math.isinf(smallest_unstable_gain(plant, 1e4))


@pytest.mark.slow
def test_zames_falb_of_separate_channels_reaches_the_scalar_value():
    plant = control.tf([0.1, 0.0], [1.0, -1.8, 0.81], True)
    scalar = zames_falb(plant, order=2, odd=True, tolerance=1e-2).slope
    both = zames_falb(side_by_side(plant, plant), order=2, odd=True, tolerance=3e-2)
    assert both.slope == pytest.approx(scalar, rel=0.06)
    assert "non-incremental" in str(both)


def test_claims_name_the_repeated_nonlinearity():
    plant = side_by_side(lag(), lag())
    test = zames_falb(plant, order=1, repeated=True, tolerance=0.3)
    assert "same φ" in test.claim
    assert "repeated" in test.criterion


def test_dominance_is_checked_in_exact_arithmetic():
    h, none = np.eye(2), np.zeros((1, 2, 2))
    full = np.array([[[0.4, 0.3], [0.3, 0.4]]])
    fine = Multiplier(h, full, none)
    assert fine.admissible(odd=False, repeated=True)
    assert not fine.admissible(odd=False, repeated=False)
    assert not Multiplier(h, -full, none).admissible(odd=False, repeated=True)
    assert Multiplier(h, -full, none).admissible(odd=True, repeated=True)
    lopsided = np.array([[[0.4, 0.5], [0.0, 0.6]]])
    assert not Multiplier(h, lopsided, none).admissible(odd=False, repeated=True)
    assert not Multiplier(h, none, np.array([[[1.0 + 1e-15, 0.0], [0.0, 0.5]]])).admissible(
        odd=False, repeated=False
    )
    assert not Multiplier(h * np.nan, none, none).admissible(odd=False, repeated=False)


def test_a_multiplier_of_another_slope_is_not_proved():
    system = square_stable(side_by_side(lag(), lag()))
    search = ChannelSearch(system, 2, odd=False, repeated=False)
    found = search.guess(6.0)
    assert search.prove(6.0, found) is None
    assert search.prove(8.5, found) is not None


def test_algebraic_loops_are_not_certified():
    """1 + kD = 0 inside the slopes: the loop has no unique solution, whatever the multiplier says."""
    plant = control.ss([[0.1]], [[1.0]], [[0.0]], [[-0.5]], True)
    assert zames_falb(plant, order=2).slope <= 2.0
    both = side_by_side(plant, plant)
    assert zames_falb(both, order=1, tolerance=0.1).slope <= 2.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lower", [0.0, -0.15])
def test_no_periodic_switching_refutes_an_incremental_slope(seed, lower):
    """Slopes of diagonal maps may change from sample to sample: incremental claims hold for those too."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((3, 3))
    a *= 0.7 / np.abs(np.linalg.eigvals(a)).max()
    plant = control.ss(a, rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), np.zeros((2, 2)), 1.0)
    upper = diagonal_slope(plant, lower=lower)
    assert upper > lower
    worst = 0.0
    for _ in range(40):
        choice = rng.integers(0, 2, (4, 2))
        for _ in range(3):
            for t, k in np.ndindex(4, 2):
                trials = []
                for value in (0, 1):
                    choice[t, k] = value
                    product = np.eye(3)
                    for row in choice:
                        slopes = np.where(row == 1, upper, lower)
                        product = (plant.A - plant.B @ (slopes[:, None] * plant.C)) @ product
                    trials.append(np.abs(np.linalg.eigvals(product)).max())
                choice[t, k] = int(trials[1] > trials[0])
                worst = max(worst, *trials)
    assert worst < 1.0
