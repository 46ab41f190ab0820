"""H∞ norms: never below the truth, close to it, and infinite wherever the system is not stable."""

from __future__ import annotations

import math
from fractions import Fraction

import control
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipctrl.analysis import hinf_norm
from tests.analysis.linear.systems import grid_peak, random_system

s = control.tf("s")

KNOWN = [
    (1 / (s + 1), 1.0, 0.0),
    (-3 / (s + 1), 3.0, 0.0),
    ((s - 1) / (s + 1), 1.0, None),
    (s / (s + 1), 1.0, math.inf),
    (1 / (s + 1) ** 5, 1.0, 0.0),
    (1e6 / (s + 1e6), 1.0, 0.0),
    (1 / (s + 1e-12), 1e12, 0.0),
    (1 / ((s + 1) * (s + 1e4) * (s + 1e8)), 1e-12, 0.0),
    (1 / (s + 1e-3) ** 6, 1e18, 0.0),
    (control.tf([1], [1, 0, 0], 0.1), 1.0, None),
    (control.tf([1, 0], [1, 0], True), 1.0, 0.0),
    (control.tf([1], [1, -1.8, 0.81], 0.1), 100.0, 0.0),
    (control.tf([1], [1, 1.8, 0.81], True), 100.0, math.pi),
    (np.array([[3.0, 0.0], [0.0, -4.0]]), 4.0, None),
    (0 * s, 0.0, None),
    (control.ss([[-1.0]], [[1.0]], [[0.0]], 0), 0.0, None),
]


@pytest.mark.parametrize(("system", "norm", "frequency"), KNOWN)
def test_known_norms(system, norm, frequency):
    found = hinf_norm(system)
    assert found.value >= norm
    assert found.value == pytest.approx(norm, rel=1e-6)
    assert found.lower <= found.value
    assert found.lower == pytest.approx(norm, rel=1e-6)
    if frequency is not None and math.isinf(frequency):
        assert found.frequency > 1e3
    elif frequency is not None:
        assert found.frequency == pytest.approx(frequency, abs=1e-3)


@pytest.mark.parametrize("zeta", [0.5, 1e-2, 1e-5])
@pytest.mark.parametrize("omega", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("dt", [0.0, 0.1])
def test_resonances_are_never_missed(zeta, omega, dt):
    exact = 1.0 / (2.0 * zeta * math.sqrt(1.0 - zeta**2))
    if dt == 0.0:
        system = control.tf([omega**2], [1.0, 2.0 * zeta * omega, omega**2])
    else:
        omega = 1.0
        # The bilinear image takes the same values as the continuous system, on a warped frequency axis.
        system = control.c2d(control.tf([1.0], [1.0, 2.0 * zeta, 1.0]), dt, method="bilinear")
    found = hinf_norm(system)
    # Discretising rounds the coefficients: at ζ = 1e-5 that moves the true norm by parts in 1e-9.
    slack = 1e-13 / zeta
    assert found.value >= exact * (1.0 - (slack if dt else 1e-14))
    assert found.value <= exact * (1.0 + 1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    states=st.integers(1, 12),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    dt=st.sampled_from([0, 0.1, True]),
    damping=st.sampled_from([None, 0.3, 1e-3, 1e-5]),
    feedthrough=st.booleans(),
)
def test_bound_lies_above_every_sample(seed, states, inputs, outputs, dt, damping, feedthrough):
    rng = np.random.default_rng(seed)
    system = random_system(rng, states, inputs, outputs, dt, damping=damping, feedthrough=feedthrough)
    found = hinf_norm(system)
    peak = grid_peak(system, 60)
    assert found.value >= peak * (1.0 - 1e-10)
    assert math.isfinite(found.value)
    assert found.value <= found.lower * (1.0 + 1e-3)


@pytest.mark.parametrize("dt", [0, 0.1])
@pytest.mark.parametrize("states", [2, 7, 30])
@pytest.mark.parametrize("damping", [None, 1e-3])
def test_agrees_with_slycot(dt, states, damping):
    slycot = pytest.importorskip("slycot")
    rng = np.random.default_rng(states)
    system = random_system(rng, states, 2, 3, dt, damping=damping, feedthrough=True)
    norm, _ = slycot.ab13dd(
        "D" if dt else "C", "I", "N", "D", states, 2, 3,
        np.array(system.A), np.eye(states), np.array(system.B), np.array(system.C), np.array(system.D), tol=1e-10,
    )  # fmt: skip
    assert hinf_norm(system).value == pytest.approx(norm, rel=1e-5)
    assert hinf_norm(system).value >= norm * (1.0 - 1e-9)


def test_hundreds_of_states():
    system = random_system(np.random.default_rng(1), 150, 2, 2)
    found = hinf_norm(system)
    assert grid_peak(system, 20) <= found.value <= found.lower * (1.0 + 1e-6)


@pytest.mark.parametrize(
    "system",
    [
        1 / (s - 1),
        1 / s,
        1 / s**2,
        1 / (s**2 + 1),
        (s - 1) / ((s - 1) * (s + 2)),
        control.tf([1], [1, -1], 0.1),
        control.tf([1], [1, 1], True),
        control.ss([[-1.0, 0.0], [0.0, 1.0]], [[1.0], [0.0]], [[1.0, 1.0]], 0),  # uncontrollable
        control.ss([[-1.0, 0.0], [0.0, 1.0]], [[1.0], [1.0]], [[1.0, 0.0]], 0),  # unobservable
        control.ss([[0.5, 0.0], [0.0, 1.0]], [[1.0], [0.0]], [[1.0, 0.0]], 0, 0.1),  # hidden integrator
    ],
)
def test_unstable_marginal_and_hidden_modes_are_infinite(system):
    found = hinf_norm(system)
    assert found.value == math.inf
    assert "not" in found.note


def test_stability_is_claimed_only_where_exact_arithmetic_agrees():
    # Eigenvalues near 0 and -1e-9 whose coupling makes them move by 1e-8 under rounding.
    rng = np.random.default_rng(0)
    verdicts = set()
    for _ in range(60):
        q = np.linalg.qr(rng.normal(size=(2, 2)))[0]
        a = q @ np.array([[0.0, 1.0], [0.0, -1e-9]]) @ q.T
        stable = math.isfinite(hinf_norm(control.ss(a, [[1.0], [1.0]], [[1.0, 1.0]], 0)).value)
        (p, r), (t, w) = [[Fraction(float(x)) for x in row] for row in a]
        if stable:
            assert p + w < 0
            assert p * w - r * t > 0
        verdicts.add(stable)
    assert False in verdicts


def test_a_stable_pole_of_any_size_is_stable():
    for pole in (1e-17, 1e-3, 1e12):
        assert hinf_norm(control.ss([[-pole]], [[1.0]], [[pole]], 0)).value == pytest.approx(1.0)
    # Squares underflow here: the bound may be infinite, never too small.
    assert hinf_norm(control.ss([[-1e-300]], [[1.0]], [[1e-300]], 0)).value >= 1.0


@pytest.mark.parametrize("factor", [2.0**-560, 2.0**-600])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_gains_whose_squares_underflow_are_not_lost(shape, factor):
    system = random_system(np.random.default_rng(7), 4, shape[1], shape[0], feedthrough=True)
    found = hinf_norm(system)
    tiny = hinf_norm(control.ss(system.A, system.B, factor * system.C, factor * system.D, 0))
    assert found.lower * factor <= tiny.value <= found.value * factor * (1.0 + 1e-5)


def test_zero_by_cancellation_is_tiny():
    system = control.ss([[-1.0, 0.3], [0.0, -1.0]], [[0.0], [0.0]], [[1.0, 1.0]], 0)
    assert hinf_norm(system).value == 0.0
    cancelled = control.ss(np.diag([-1.0, -1.0]), [[1.0], [1.0]], [[1.0, -1.0]], 0)
    assert 0.0 <= hinf_norm(cancelled).value < 1e-6


def test_prints_its_units():
    text = str(hinf_norm(1 / (s**2 + 0.1 * s + 1)))
    assert "rad/s" in text
    assert "Hz" in text
    assert "dB" in text
    assert float(hinf_norm(1 / (s + 1))) == pytest.approx(1.0)


@pytest.mark.parametrize("dt", [0.1, True])
def test_a_peak_at_zero_frequency_with_no_room_for_more_samples_beside_it(dt):
    """A stable double pole through one input: the gain at zero is 5.099, by hand (I - A)⁻¹B = (5, 1)."""
    norm = hinf_norm(control.ss([[0.9, 0.5], [0.0, 0.9]], [[0.0], [0.1]], np.eye(2), 0.0, dt))
    assert norm.lower <= math.sqrt(26.0) * (1 + 1e-12)
    assert math.sqrt(26.0) <= norm.value <= math.sqrt(26.0) * (1 + 1e-8)
