"""Plants of the textbooks: the figures that are printed there, to the digits that are printed."""

import math

import control
import numpy as np
import pytest

from lipctrl.analysis import classical_margins, disk_margin, hinf_norm, stability_radius, worst_deviation


def two_masses():
    k1, k2, b1, b2, m1, m2 = 1.0, 4.0, 0.2, 0.1, 1.0, 2.0
    a = [
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [-k1 / m1, k1 / m1, -b1 / m1, b1 / m1],
        [k1 / m2, -(k1 + k2) / m2, b1 / m2, -(b1 + b2) / m2],
    ]
    return control.ss(a, [[0, 0], [0, 0], [1 / m1, 0], [0, 1 / m2]], np.eye(2, 4), np.zeros((2, 2)))


def transfer_matrix():
    return control.tf(
        [[[10.0, 10.0], [1.0]], [[1.0, 2.0], [5.0, 5.0]]],
        [[[1.0, 0.2, 100.0], [1.0, 1.0]], [[1.0, 0.1, 10.0], [1.0, 5.0, 6.0]]],
    )


@pytest.mark.parametrize(("plant", "printed"), [(two_masses(), 11.47), (transfer_matrix(), 50.25)])
def test_the_norms_of_zhou_doyle_and_glover(plant, printed):
    """Zhou, Doyle & Glover (1996), chapter on H2 and H∞ norms: mass, spring and damper, and a 2×2 transfer matrix."""
    assert hinf_norm(plant).value == pytest.approx(printed, abs=0.005)


GAINS = np.array([[87.8, -86.4], [108.2, -109.6]])


def test_the_distillation_column_of_skogestad_and_postlethwaite():
    """Skogestad & Postlethwaite (2005), section 3.7: σ̄ = 197.2; the inverting controller leaves L = 0.7/s I."""
    column = control.ss(-np.eye(2) / 75.0, np.eye(2), GAINS / 75.0, np.zeros((2, 2)))
    assert hinf_norm(column).value == pytest.approx(197.2, abs=0.05)
    inverse = np.linalg.inv(GAINS)
    controller = control.ss(np.zeros((2, 2)), np.eye(2), 0.7 * inverse, 0.7 * 75.0 * inverse)
    # At either end every channel is 0.7/s: all gains, 90° (α = 2), channels together or alone.
    for loop in ((controller, column), (column, controller)):
        margin = disk_margin(*loop)
        assert margin.alpha == pytest.approx(2.0, abs=1e-4)
        assert margin.alpha <= 2.0
    # The ratio of directions is what a full perturbation of the input sees: σ̄/σ̲ = 141.7.
    assert np.linalg.cond(GAINS) == pytest.approx(141.7, abs=0.05)


@pytest.mark.parametrize("q", [1.0, 100.0, 1e4])
def test_guaranteed_margins_for_lqg_regulators_there_are_none(q):
    """Doyle (1978): the gain interval of LQG shrinks to nothing; with f = 2 + √(4 + q) it ends at 1 + 1/f²."""
    f = 2.0 + math.sqrt(4.0 + q)
    a, b, c = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.0], [1.0]]), np.array([[1.0, 0.0]])
    k, l = f * np.ones((1, 2)), f * np.ones((2, 1))
    plant, regulator = control.ss(a, b, c, 0), control.ss(a - b @ k - l @ c, l, k, 0)
    exact = 1.0 + 1.0 / f**2
    assert classical_margins(plant, regulator).gain == pytest.approx(exact, rel=1e-6)
    low, high = disk_margin(plant, regulator).gain_margin
    assert high - 1.0 == pytest.approx(1.0 / f**2, rel=1e-4)
    assert high <= exact
    for gain, stable in ((low, True), (high, True), (1.0 + 1.001 / f**2, False)):
        closed = np.block([[a, -gain * b @ k], [l @ c, a - b @ k - l @ c]])
        assert (np.linalg.eigvals(closed).real.max() < 0.0) == stable


def test_the_real_radius_of_qiu_and_others():
    """Qiu et al. (1995), their example: the real stability radius is 0.5141, above the complex one."""
    a = [[79, 20, -30, -20], [-41, -12, 17, 13], [167, 40, -60, -38], [33.5, 9, -14.5, -11]]
    b = [[0.2190, 0.9347], [0.0470, 0.3835], [0.6789, 0.5194], [0.6793, 0.8310]]
    c = [[0.0346, 0.5297, 0.0077, 0.0668], [0.0535, 0.6711, 0.3834, 0.4175]]
    plant = control.ss(a, b, c, np.zeros((2, 2)))
    assert stability_radius(plant, field="real") == pytest.approx(0.5141, abs=5e-5)
    assert stability_radius(plant) < 0.4
    assert worst_deviation(plant, field="real").value == pytest.approx(0.5141, abs=5e-5)
