"""The door for plants: what is accepted, how it is realised, and what every refusal says."""

from __future__ import annotations

import math
import re

import control
import numpy as np
import pytest

from lipctrl.analysis import IncrementalBall, Verdict, as_realization, ball_test
from tests.analysis.linear.systems import random_system


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (control.ss([[np.nan]], [[1.0]], [[1.0]], 0), ("NaN", "A", "finite")),
        (control.ss([[-1.0]], [[np.inf]], [[1.0]], 0), ("infinite", "B", "finite")),
        (control.tf([1, 2, 1], [1, 2]), ("improper", "pole")),
        (control.tf([np.nan], [1, 1]), ("NaN", "numerator")),
        (control.tf([[[1], [1, 0, 1]]], [[[1, 1], [1, 2]]]), ("improper", "(0, 1)")),
        (np.array([[np.inf]]), ("infinite",)),
        (np.zeros((0, 2)), ("at least one",)),
        (np.zeros((2, 2, 2)), ("shape",)),
        ("plant", ("str", "StateSpace")),
        (None, ("StateSpace",)),
        (control.frd([1, 2], [1, 2]), ("finite linear realisation", "frequency data")),
        ([[control.tf(1, [1, 1]), control.tf(1, [1, 1], 0.1)]], ("mixes", "timebase")),
        ([[control.tf(1, [1, 1])], [control.tf(1, [1, 1]), 2.0]], ("equal lengths",)),
    ],
)
def test_refusals_say_what_and_how(plant, words):
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        as_realization(plant)
    for word in words:
        assert word in str(error.value)


def test_nonlinear_systems_are_refused_with_a_remedy():
    system = control.nlsys(lambda t, x, u, params: -x, inputs=1, outputs=1, states=1)
    with pytest.raises(ValueError, match=r"[Ll]inearise"):
        as_realization(system)


@pytest.mark.parametrize(("dt", "step"), [(0, 0.0), (0.1, 0.1), (True, 1.0), (None, 0.0)])
def test_time_bases(dt, step):
    plant = as_realization(control.ss([[-0.5]], [[1.0]], [[1.0]], 0, dt))
    assert plant.sample_time == step
    assert plant.is_discrete == (step > 0.0)
    assert ("read as continuous" in plant.timebase) == (dt is None)
    assert ("one sample" in plant.timebase) == (dt is True)
    assert plant.highest_frequency == (math.pi / step if step else math.inf)


def test_transfer_functions_keep_cancelled_poles():
    plant = as_realization(control.tf([1, -1], [1, 1, -2]))
    assert sorted(np.linalg.eigvals(plant.A).real) == pytest.approx([-2.0, 1.0])


def test_entries_share_the_modes_of_their_column_or_row():
    # Position and angle of a cart with a pendulum: the angle's denominator divides the position's.
    cart = control.tf([[[1, 0, -5]], [[2]]], [[[1, 0, -10, 0, 0]], [[1, 0, -10]]])
    assert as_realization(cart).states == 4
    two_inputs = control.tf([[[1], [3]]], [[[1, -1], [1, -1]]])
    assert as_realization(two_inputs).states == 1


@pytest.mark.parametrize("pole", [1.0, 0.3, -0.7])
def test_entries_share_poles_that_neither_denominator_exhausts(pole):
    first, second = np.poly([pole, -2.0]), np.poly([pole, -3.0, -4.0])
    column = as_realization(control.tf([[[1.0]], [[1.0, 5.0]]], [[first], [second]]))
    assert column.states == 4
    assert not column.redundant
    value = column.response(0.8)[:, 0]
    exact = [1.0 / np.polyval(first, 0.8j), (0.8j + 5.0) / np.polyval(second, 0.8j)]
    assert value == pytest.approx(np.array(exact), rel=1e-10)
    double = control.tf([[[1.0]], [[1.0]]], [[np.poly([pole, pole, -2.0])], [np.poly([pole, -3.0])]])
    assert as_realization(double).states in (4, 5)


def test_an_unstable_pole_held_twice_is_called_by_its_remedy():
    # Both inputs excite one unstable mode; entry by entry it takes two states.
    entry, lag = [1.0, -1.0], [1.0, 3.0]
    plant = control.tf([[[1.0], [1.0]], [[1.0], [1.0]]], [[entry, entry], [lag, entry]])
    test = ball_test(plant, IncrementalBall([[-3.0, 0.0], [0.0, 0.0]], 0.1))
    assert test.verdict is Verdict.NOMINALLY_UNSTABLE
    assert "minimal state-space model" in test.reason


@pytest.mark.parametrize("dt", [0, 0.2])
def test_transfer_matrices_are_realised_exactly(dt):
    rng = np.random.default_rng(3)
    num = [[rng.normal(size=2) for _ in range(3)] for _ in range(2)]
    den = [[np.concatenate([[2.0], rng.uniform(0.1, 0.9, size=2)]) for _ in range(3)] for _ in range(2)]
    plant = as_realization(control.tf(num, den, dt))
    for omega in (0.0, 0.3, 2.0):
        point = np.exp(1j * omega * dt) if dt else 1j * omega
        tops = np.array([[np.polyval(entry, point) for entry in row] for row in num])
        bottoms = np.array([[np.polyval(entry, point) for entry in row] for row in den])
        assert plant.response(omega) == pytest.approx(tops / bottoms, rel=1e-10)


def test_nested_lists_are_assembled():
    g, h = random_system(np.random.default_rng(0), 2), random_system(np.random.default_rng(1), 3)
    plant = as_realization([[g, 2.0], [0.0, h]])
    assert (plant.outputs, plant.inputs, plant.states) == (2, 2, 5)
    value = plant.response(1.5)
    assert value[0, 0] == pytest.approx(g(1.5j))
    assert value[1, 1] == pytest.approx(h(1.5j))
    assert value[0, 1] == 2.0
    assert value[1, 0] == 0.0


def test_balancing_is_exact():
    plant = as_realization(control.tf([1e-9], [1, 3e-3, 3e-6, 1e-9]))
    balanced, t = plant.balanced()
    assert np.array_equal(np.exp2(np.round(np.log2(t))), t)
    assert np.array_equal(balanced.A * t[:, None] / t[None, :], plant.A)
    assert balanced.response(1e-3) == pytest.approx(plant.response(1e-3))
