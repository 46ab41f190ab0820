"""Classical plants: our values against published or independently recomputed ones.

Exact criteria are compared to 1e-5. Independent values come from root finding on polynomials, which shares no code with
the level-set and linear-programming routines under test.
"""

from __future__ import annotations

import control
import numpy as np
import pytest
import scipy.optimize

from lipctrl.analysis import (
    disk_margin,
    hinf_norm,
    max_slope,
    popov_criterion,
    scaled_relative_graphs,
    zames_falb,
)

# Carrasco et al., "Convex searches for discrete-time Zames-Falb multipliers", IEEE TAC 65(11), Table II: numerator,
# denominator, circle criterion, Nyquist value (example 4: recomputed, see the test of Nyquist values).
CARRASCO = {
    "1": ([0.1, 0.0], [1.0, -1.8, 0.81], 0.7935, 36.1),
    "2": ([1.0, -1.95, 0.9, 0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1984, 2.7455),
    "3": ([-1.0, 1.95, -0.9, -0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1379, 0.3126),
    "4": ([1.0, -1.5, 0.5, -0.5, 0.5], [4.4, -8.957, 9.893, -5.671, 2.207, -0.5], 1.5312, 7.9070),
    "5": ([-0.5, 0.1], [1.0, -0.9, 0.79, 0.089], 1.0273, 2.4475),
    "6": ([2.0, 0.92], [1.0, -0.5, 0.0], 0.6510, 1.0870),
    "7": (
        [1.341, -1.221, 0.6285, -0.5618, 0.1993],
        [1.0, -0.935, 0.7697, -1.118, 0.6917, -0.1352],
        0.1069,
        1.1766,
    ),
}


def recomputed_circle(num, den, points=200_001):
    """Return 1/(-min Re G) on the unit circle: a grid, polished by a scalar minimisation."""

    def real(omega):
        z = np.exp(1j * omega)
        return (np.polyval(num, z) / np.polyval(den, z)).real

    grid = np.linspace(0.0, np.pi, points)
    at = grid[np.argmin(real(grid))]
    step = np.pi / points
    best = scipy.optimize.minimize_scalar(
        real, bounds=(max(at - step, 0.0), min(at + step, np.pi)), method="bounded", options={"xatol": 1e-12}
    )
    return -1.0 / min(best.fun, real(at))


@pytest.mark.parametrize("example", CARRASCO)
def test_incremental_circle_criterion(example):
    num, den, published, nyquist = CARRASCO[example]
    ours = max_slope(control.tf(num, den, True))
    assert ours == pytest.approx(recomputed_circle(num, den), rel=1e-5)
    assert ours == pytest.approx(published, abs=1.5e-4)
    assert ours < nyquist


def test_carrasco_example_one_to_five_digits():
    assert max_slope(control.tf([0.1, 0.0], [1.0, -1.8, 0.81], True)) == pytest.approx(0.79338, abs=5e-6)


@pytest.mark.parametrize("example", CARRASCO)
def test_nothing_exceeds_the_nyquist_value(example):
    """The published Nyquist value, recomputed from the closed-loop poles, bounds every criterion."""
    num, den, _, nyquist = CARRASCO[example]
    padded = np.concatenate([np.zeros(len(den) - len(num)), num])

    def radius(k):
        return np.abs(np.roots(np.asarray(den) + k * padded)).max()

    assert radius(0.999 * nyquist) < 1.0 < radius(1.001 * nyquist)
    found = zames_falb(control.tf(num, den, True), order=6, odd=True, tolerance=1e-3)
    assert max_slope(control.tf(num, den, True)) <= found.slope * (1 + 1e-6)
    assert found.slope <= nyquist * (1 + 1e-4)


# Plants of our own whose circle value follows from polynomial roots.
CONTINUOUS = {
    "third-order lag": ([1.0], [1.0, 3.0, 3.0, 1.0]),
    "zero at the origin": ([1.0, 0.0], [1.0, 2.0, 2.0, 1.0]),
    "non-minimum phase": ([1.0, -0.2, -0.1], [1.0, 2.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_circle_by_polynomial_roots(name):
    """-min Re G over ω from the real roots of the derivative of a rational function of ω²."""
    num, den = (np.asarray(p) for p in CONTINUOUS[name])

    def even(p):
        low = p[::-1]
        return np.polynomial.Polynomial(low[::2] * (-1.0) ** np.arange(len(low[::2])))

    mirrored = den * (-1.0) ** np.arange(len(den) - 1, -1, -1)
    top, bottom = even(np.polymul(num, mirrored)), even(np.polymul(den, mirrored))
    stationary = (top.deriv() * bottom - top * bottom.deriv()).roots()
    x = [0.0, *(r.real for r in stationary if abs(r.imag) < 1e-9 and r.real > 0.0)]
    lowest = min(float((top(v) / bottom(v)).real) for v in x)
    assert max_slope(control.tf(num, den)) == pytest.approx(-1.0 / lowest, rel=1e-5)
    assert popov_criterion(control.tf(num, den)).slope >= max_slope(control.tf(num, den)) * (1 - 1e-6)


def test_popov_reaches_hurwitz_for_the_third_order_lag():
    assert popov_criterion(control.tf([1.0], [1.0, 3.0, 3.0, 1.0])).slope == pytest.approx(8.0, rel=1e-9)
    assert max_slope(control.tf([1.0], [1.0, 3.0, 3.0, 1.0])) == pytest.approx(4.0, rel=1e-5)


def test_scaled_relative_graph_of_a_textbook_lag():
    """P = 1/(s+1)² and slopes [0, b]: separation 1/b - 1/8."""
    for b in (1.0, 4.0, 7.0):
        graph = scaled_relative_graphs(control.tf([1.0], [1.0, 2.0, 1.0]), (0.0, b), omega_num=20)
        assert graph.separation == pytest.approx(1.0 / b - 0.125, rel=1e-5)


def test_resonance_norm():
    """‖1/(s²+2ζs+1)‖∞ = 1/(2ζ√(1-ζ²)), also at ζ = 1e-5."""
    for zeta in (0.1, 1e-3, 1e-5):
        exact = 1.0 / (2.0 * zeta * np.sqrt(1.0 - zeta**2))
        assert hinf_norm(control.tf([1.0], [1.0, 2.0 * zeta, 1.0])).value == pytest.approx(exact, rel=1e-5)


def test_disk_margin_of_a_textbook_loop():
    """Seiler, Packard & Gahinet (2020), L = 25/(s³+10s²+10s+10): α = 0.46 to the digits printed there."""
    found = disk_margin(control.tf([25.0], [1.0, 10.0, 10.0, 10.0]), 1.0)
    assert found.alpha == pytest.approx(0.46, abs=5e-3)
