"""Sampled delays and finite impulse responses: every pole at z = 0, which has a single eigenvector."""

import control
import numpy as np
import pytest

import lipctrl


def fir(taps):
    """Return Σ taps[i]·z^{-(n-i)} as a chain of delays."""
    n = len(taps)
    return control.ss(np.eye(n, k=1), np.eye(n)[:, -1:], np.atleast_2d(taps), 0, 0.1)


def sampled_peak(taps):
    z = np.exp(1j * np.linspace(0.0, np.pi, 100_001))
    return np.abs(np.polyval(taps, z)).max()


@pytest.mark.parametrize("count", [1, 2, 4, 10, 20, 60])
def test_the_norm_of_a_finite_impulse_response_is_tight(count):
    for taps in (np.eye(count)[0], np.ones(count), np.random.default_rng(count).standard_normal(count)):
        norm, peak = lipctrl.hinf_norm(fir(taps)), sampled_peak(taps)
        assert peak * (1.0 - 1e-13) <= norm.value <= peak * (1.0 + 1e-5)
        assert peak * (1.0 - 1e-6) <= norm.lower <= norm.value


@pytest.mark.parametrize("samples", [1, 3, 5, 20])
def test_a_delay_does_not_change_the_norm(samples):
    plant = control.tf([0.1], np.concatenate([[1.0, -0.9], np.zeros(samples)]), 0.1)
    assert 1.0 <= lipctrl.hinf_norm(plant).value <= 1.0 + 1e-5


def test_slopes_behind_a_delay():
    plant = control.tf([0.1], [1, -0.9, 0, 0, 0], 0.1)
    z = np.exp(1j * np.linspace(0.0, np.pi, 400_001))
    exact = -1.0 / np.real(0.1 / (z**3 * (z - 0.9))).min()
    assert lipctrl.max_slope(plant) == pytest.approx(exact, rel=1e-6)
    assert lipctrl.max_slope(plant) <= exact * (1.0 + 1e-9)
