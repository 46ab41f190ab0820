"""FIR filters and long delays: bounded tightly, never below a dense grid, structure read from zeros alone."""

from __future__ import annotations

import control
import numpy as np
import pytest

from lipctrl.analysis import delayed, hinf_norm
from lipctrl.analysis.delay_chains import is_nilpotent, without_common_delay
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import as_realization
from tests.analysis.linear.systems import random_system, response


def filter_of(taps: np.ndarray, dt: float = 1.0) -> control.StateSpace:
    """Return Σ taps[k] z^{-k}, taps of shape (N + 1, outputs, inputs)."""
    count, inputs = len(taps) - 1, taps.shape[2]
    a = np.kron(np.eye(count, k=-1), np.eye(inputs))
    b = np.vstack([np.eye(inputs), np.zeros(((count - 1) * inputs, inputs))])
    return control.ss(a, b, np.hstack(list(taps[1:])), taps[0], dt)


@pytest.mark.parametrize(("count", "outputs", "inputs"), [(3, 1, 1), (40, 2, 3), (300, 1, 1)])
def test_filters_against_a_fine_transform(count, outputs, inputs):
    taps = np.random.default_rng(count).normal(size=(count + 1, outputs, inputs))
    fine = np.fft.fft(taps, 2**15, axis=0)
    peak = np.linalg.norm(fine, 2, axis=(1, 2)).max()
    norm = hinf_norm(filter_of(taps, 0.1))
    assert norm.value >= peak * (1 - 1e-13)
    assert norm.value - norm.lower <= 1e-8 * norm.value
    assert norm.value == pytest.approx(peak, rel=1e-2)
    at = np.exp(-0.1j * norm.frequency * np.arange(count + 1))
    assert np.linalg.norm(np.einsum("k,kij->ij", at, taps), 2) >= norm.lower * (1 - 1e-12)


def test_a_long_delay_is_exact_and_a_moving_average_peaks_at_zero():
    line = hinf_norm(delayed(control.ss([], [], [], [[2.0]], 1.0), 200))
    assert 2.0 <= line.value <= 2.0 * (1 + 1e-10)
    mean = hinf_norm(filter_of(np.full((250, 1, 1), 1.0 / 250)))
    assert 1.0 <= mean.value <= 1.0 + 1e-8
    assert mean.frequency == 0.0


def test_an_almost_flat_filter_is_bounded_honestly():
    taps = np.zeros((201, 1, 1))
    taps[0], taps[-1] = 1e-9, 1.0
    norm = hinf_norm(filter_of(taps))
    assert 1.0 + 1e-9 <= norm.value <= 1.0 + 1e-5
    assert norm.lower <= 1.0 + 1e-9


@pytest.mark.parametrize("at", ["input", "output"])
def test_a_common_delay_does_not_change_the_norm(at):
    plant = random_system(np.random.default_rng(4), 3, 2, 2, 0.5)
    exact = hinf_norm(plant).value
    late = delayed(plant, 150, at)
    assert hinf_norm(late).value == pytest.approx(exact, rel=1e-8)
    assert without_common_delay(as_realization(late)).states == 3


@pytest.mark.parametrize("at", ["input", "output"])
def test_unequal_delays_are_not_taken_off(at):
    plant = random_system(np.random.default_rng(4), 3, 2, 2, 0.5)
    late = delayed(plant, [2, 3], at)
    assert without_common_delay(as_realization(late)).states == 8
    peak = max(np.linalg.norm(response(late, w), 2) for w in np.linspace(0.0, np.pi / 0.5, 2000))
    assert peak * (1 - 1e-12) <= hinf_norm(late).value <= peak * 1.01


def test_a_delay_with_a_way_around_it_stays():
    core = control.ss([[0.5]], [[1.0]], [[1.0]], [[0.0]], 1.0)
    both = core + delayed(core, 30)
    assert without_common_delay(as_realization(both)).states == both.nstates
    peak = max(abs(response(both, w)[0, 0]) for w in np.linspace(0.0, np.pi, 4000))
    assert hinf_norm(both).value >= peak * (1 - 1e-12)


def test_only_exact_zeros_make_a_chain():
    shift = np.eye(4, k=-1)
    assert is_nilpotent(MidRad(shift))
    assert is_nilpotent(MidRad(shift[[2, 0, 3, 1]][:, [2, 0, 3, 1]]))
    closed = shift.copy()
    closed[0, -1] = 1e-300
    assert not is_nilpotent(MidRad(closed))
    radius = np.zeros((4, 4))
    radius[0, -1] = 1e-20
    assert not is_nilpotent(MidRad(shift, radius))
    assert not is_nilpotent(MidRad(np.diag([0.0, 0.5])))
