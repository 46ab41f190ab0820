"""Padé's stated error and norm against the exact delay e^{-sτ}: several channels, feed-through, unstable plants."""

from __future__ import annotations

import math
from dataclasses import replace

import control
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipctrl.analysis.delays import delayed
from lipctrl.analysis.pade_delay import pade


def random_loop(seed):
    """Return a plant, a delay and a gain; unstable plants and feed-through among them."""
    rng = np.random.default_rng(seed)
    n, m, p = rng.integers(1, 4), rng.integers(1, 3), rng.integers(1, 3)
    a = rng.standard_normal((n, n)) * 10.0 ** rng.uniform(-1, 1)
    if rng.random() < 0.7:
        a -= (np.linalg.eigvals(a).real.max() + rng.uniform(0.05, 1.0)) * np.eye(n)
    b, c = rng.standard_normal((n, m)), rng.standard_normal((p, n))
    d = 0.1 * rng.standard_normal((p, m)) * (rng.random() < 0.4)
    size = np.linalg.norm(c @ np.linalg.solve(a - 0.1j * np.eye(n), b) + d, 2)
    gain = rng.standard_normal((m, p)) * rng.uniform(0.05, 1.0) / size
    if np.linalg.eigvals(a).real.max() > 0.0:
        lqr, _, _ = control.lqr(a, b, np.eye(n), np.eye(m))
        c, d = np.eye(n), np.zeros((n, m))
        gain = np.asarray(lqr)
    speed = max(np.abs(np.linalg.eigvals(a - b @ gain @ c)).max(), 0.1)
    return control.ss(a, b, c, d), 10.0 ** rng.uniform(-3, 0.3) / speed, gain, rng


def true_gain(plant, tau, gain, omega):
    """Return ‖P(I + gain·P)⁻¹‖ at frequencies, P with the exact delay, and det(I + gain·P)."""
    eye = np.eye(plant.nstates)
    g = (
        plant.C @ np.linalg.solve(1j * omega[:, None, None] * eye - plant.A, plant.B.astype(complex))
        + plant.D
    )
    g = g * np.exp(-1j * omega * tau)[:, None, None]
    back = np.eye(len(gain)) + gain @ g
    return np.linalg.norm(g @ np.linalg.inv(back), 2, axis=(1, 2)), np.linalg.det(back)


def attack(seed):
    plant, tau, gain, rng = random_loop(seed)
    at = ("input", "output")[seed % 2]
    late = pade(plant, tau, int(rng.integers(2, 7)), at)
    bound = late.hinf_norm(gain)
    if math.isinf(bound):
        return False
    speed = np.abs(np.linalg.eigvals(plant.A)).max() + 1.0 / tau
    omega = np.concatenate([[0.0], speed * np.geomspace(1e-5, 1e4, 6000)])
    values, _ = true_gain(plant, tau, gain, omega)
    worst = np.argsort(values)[-3:]
    near = np.concatenate([omega[k] * np.linspace(0.995, 1.005, 200) for k in worst])
    assert max(values.max(), true_gain(plant, tau, gain, near)[0].max()) <= bound * (1 + 1e-9)
    poles = np.linalg.eigvals(plant.A)
    if not plant.D.any() and np.abs(poles.real).min() > 1e-2:
        # A finite norm claims stability: the exact Nyquist curve must turn once for each unstable pole.
        line = np.concatenate([-omega[:0:-1], omega])
        turn = np.unwrap(np.angle(true_gain(plant, tau, gain, line)[1]))
        assert round((turn[-1] - turn[0]) / (2.0 * np.pi)) == (poles.real > 0.0).sum()
    return True


def test_no_frequency_refutes_the_norm_of_a_delayed_loop():
    assert sum(attack(seed) for seed in range(24, 40)) > 12


@pytest.mark.slow
def test_no_frequency_refutes_the_norms_of_many_delayed_loops():
    assert sum(attack(seed) for seed in range(24)) > 6


@settings(max_examples=40, deadline=None)
@given(order=st.integers(1, 12), exponent=st.floats(-6.0, 6.0), share=st.floats(1e-3, 50.0))
def test_no_frequency_refutes_the_error_of_pade(order, exponent, share):
    tau = 10.0**exponent
    late = pade(np.eye(1), tau, order)
    omega = share * np.linspace(0.5, 1.5, 31) / tau
    response = np.array([late.filter.response(w)[0, 0] for w in omega])
    error = np.abs(response - np.exp(-1j * omega * tau))
    assert (error <= late.error(omega) + 1e-12 * (1.0 + omega * tau)).all()


def test_the_error_of_pade_at_the_ends_of_the_axis():
    late = pade(np.eye(1), 2.0, 1)
    assert late.error([0.0, 1e300, math.inf]).tolist() == [0.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="NaN"):
        late.error(math.nan)


def test_a_smaller_error_than_proved_would_be_seen():
    """Corruption: with the coefficients of the error cut, the stated norm falls below the true one, so they matter."""
    plant, tau, gain = control.tf([1.0], [1.0, 0.4, 1.0]), 0.9, np.array([[0.2]])
    late = pade(plant, tau, 1)
    honest = late.hinf_norm(gain)
    spoiled = replace(late, coefficients=1e-3 * late.coefficients)
    omega = np.linspace(0.01, 5.0, 2001)
    model = control.ss(plant)
    assert true_gain(model, tau, gain, omega)[0].max() <= honest
    assert spoiled.hinf_norm(gain) < honest
    fast = np.linspace(0.2, 3.0, 50)
    response = np.array([late.filter.response(w)[0, 0] for w in fast])
    assert (np.abs(response - np.exp(-1j * fast * tau)) > spoiled.error(fast)).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: pade(np.eye(1), None),
        lambda: pade(np.eye(1), "0.1"),
        lambda: pade(np.eye(1), 1e-300),
        lambda: pade(np.eye(1), 1e300),
        lambda: pade(np.eye(1), 0.1, True),
        lambda: pade(control.tf([1.0], [1.0, 1.0]), 0.1).hinf_norm(math.nan),
        lambda: delayed(control.tf([1.0], [1.0, 0.5], 0.1), 10**12),
        lambda: delayed(control.tf([1.0], [1.0, 0.5], 0.1), math.inf),
    ],
)
def test_delays_that_are_no_delays_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
