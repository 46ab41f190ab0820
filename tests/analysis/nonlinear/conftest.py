"""Policies and plants that the nonlinear analysis tests share."""

from __future__ import annotations

import control
import numpy as np
import pytest

from lipctrl import rules


def random_network(seed: int, inputs: int, outputs: int, width: int, gain: float, activation: str = "tanh"):
    """Return a certificate of a random one-layer network whose certificate is the product of spectral norms."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((width, inputs))
    first /= np.linalg.norm(first, 2)
    last = rng.standard_normal((outputs, width))
    last *= gain / np.linalg.norm(last, 2) / 1.0001
    hidden = rules.series(rules.linear(first), rules.elementwise(activation, width), rules.linear(last))
    assert hidden.gain <= gain
    return hidden


@pytest.fixture
def network():
    """Return the function that makes random certified networks."""
    return random_network


@pytest.fixture
def double_integrator() -> control.StateSpace:
    dt = 0.1
    return control.ss([[1.0, dt], [0.0, 1.0]], [[0.0], [dt]], np.eye(2), np.zeros((2, 1)), dt)
