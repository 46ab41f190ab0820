"""Largest slopes where the real part of the plant touches zero: textbook positive real plants."""

from typing import Any

import control
import numpy as np
import pytest

import lipctrl

s: Any = control.tf("s")

TOUCHING = [
    s / (s + 1),
    s / (s + 1) ** 2,
    (s**2 + 1) / (s + 1) ** 2,
    control.tf([1, -1], [1, -0.5], True),
    control.ss(-np.eye(2), np.eye(2), np.eye(2), 0),
    control.ss([[-1, 0], [0, -2]], np.eye(2), np.eye(2), 0),
]


@pytest.mark.parametrize("plant", TOUCHING)
@pytest.mark.filterwarnings("error")
def test_a_positive_real_plant_takes_any_practical_slope(plant):
    slope = lipctrl.max_slope(plant)
    assert slope >= 1e5
    if np.isfinite(slope):
        assert lipctrl.circle_criterion(plant, (0.0, slope)).certified


@pytest.mark.parametrize("plant", [-s / (s + 1), -1 / (s + 1), -(s + 1) / (s + 2)])
def test_the_wrong_sign_is_not_positive_real(plant):
    # 1 + kG loses a root at k = 1/|peak|: slopes beyond are unstable.
    assert lipctrl.max_slope(plant) <= 1.0 / lipctrl.hinf_norm(plant).lower


def test_no_plant_takes_every_slope():
    assert lipctrl.max_slope(control.tf([0], [1, 1])) == np.inf


def test_multipliers_take_a_static_gain():
    assert lipctrl.zames_falb(-2.0).slope == pytest.approx(0.5, rel=1e-4)
    assert lipctrl.zames_falb(-2.0).slope <= 0.5
