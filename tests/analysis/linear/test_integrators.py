"""Chains of integrators: the margins of the commonest plants, whose lower end lies near zero."""

from __future__ import annotations

import control
import numpy as np
import pytest

import lipctrl

CONTINUOUS = control.ss([[0, 1], [0, 0]], [[0], [1]], np.eye(2), 0)
DISCRETE = control.ss([[1, 0.1], [0, 1]], [[0.005], [0.1]], np.eye(2), 0, 0.1)


@pytest.mark.parametrize("plant", [CONTINUOUS, DISCRETE])
@pytest.mark.parametrize("radius", [0.01, 0.1, 0.5])
def test_margins_of_the_double_integrator_hold_between_their_ends_and_fail_outside(plant, radius):
    ball = lipctrl.IncrementalBall([[-2.0, -3.0]], radius)
    margin = lipctrl.incremental_gain_margin(plant, ball)
    # Without feedback an integrator is not stable, so the lower end is above zero.
    assert 0.0 < margin.lower < 0.05
    assert margin.upper > 5.0
    if np.isfinite(margin.falsified_upper):
        assert margin.falsified_upper >= margin.upper
    for k in np.geomspace(margin.lower, min(margin.upper, 1e3), 9):
        test = lipctrl.analyze(plant, ball.scaled(float(k)), margins=False)
        assert test.verdict == "certified", k
    assert lipctrl.analyze(plant, ball.scaled(0.0), margins=False).verdict == "nominally unstable"
