"""Corrupted proofs of margins: what a proof rests on is checked against the exact equations, and altered it fails."""

from __future__ import annotations

import cmath
import itertools
import math
from dataclasses import replace

import control
import numpy as np
import pytest

from lipctrl.analysis import IncrementalBall, incremental_delay_margin, incremental_phase_margin
from lipctrl.analysis.continuation import Proof, _covers, march
from lipctrl.analysis.delay_proof import _with_delay, dies_out, tolerates_delays
from lipctrl.analysis.loop import NominalLoop, nominal_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.phase import certified_angle, rotation_path

s = control.tf("s")
PLANT = 25 / (s**3 + 10 * s**2 + 10 * s + 10)
BALL = IncrementalBall([[-1.0]], 0.1)
ALL = np.eye(1)


def loop_and_margin() -> tuple[NominalLoop, float, float]:
    loop = nominal_loop(PLANT, BALL.center)
    angle, _ = certified_angle(loop, BALL, ALL)
    return loop, angle, incremental_delay_margin(PLANT, BALL).delay


def test_a_delay_is_proved_for_its_own_numbers_only():
    loop, angle, delay = loop_and_margin()
    inside = 0.97 * delay
    assert tolerates_delays(loop, BALL, ALL, inside, angle)
    assert not tolerates_delays(loop, BALL, ALL, 1.01 * delay, angle)
    assert not tolerates_delays(loop, IncrementalBall([[-1.0]], 0.16), ALL, inside, angle)
    assert loop.system is not None
    system = loop.system
    for name, where, factor in (
        ("a", (0, 0), 0.5),
        ("a", (2, 1), 1.3),
        ("b", (0, 0), 1.3),
        ("c", (0, 2), 1.3),
    ):
        matrix = getattr(system, name)
        corrupted = matrix.mid.copy()
        corrupted[where] *= factor
        other = replace(loop, system=replace(system, **{name: MidRad(corrupted)}))
        assert not tolerates_delays(other, BALL, ALL, inside, angle), (name, where)


@pytest.mark.parametrize("band", [(1.0, 1.4), (5.0, 5.05), (-3.2, -3.0)])
def test_the_filter_of_a_band_is_as_near_to_the_delay_as_it_says_and_not_much_nearer(band):
    loop, _, delay = loop_and_margin()
    assert loop.system is not None
    whole, error = _with_delay(loop.system, np.array([[1.0]]), delay, band)
    reached = 0.0
    for omega in np.linspace(*band, 201):
        upper, lower = whole.response(float(omega))[:, 0]
        filtered = lower / upper
        reached = max(reached, abs(cmath.exp(-1j * omega * delay) - filtered))
    assert reached <= error
    assert reached >= 0.5 * error


def test_feed_through_that_returns_undamped_is_not_taken_for_dying():
    for gain, dies in ((0.5, True), (0.98, True), (1.02, False), (2.0, False)):
        plant = control.ss([[-1.0]], [[1e-3]], [[1.0]], [[gain]])
        loop = nominal_loop(plant, [[-1.0]])
        assert dies_out(loop, IncrementalBall([[-1.0]], 0.0), ALL) == dies


@pytest.mark.parametrize(
    ("first", "second", "covered"),
    [
        ((0.0, 1.0), (1.9, 1.0), True),
        ((0.0, 1.0), (2.1, 1.0), False),
        ((0.0, 0.25), (1.6, 1.0), False),
        ((0.0, -math.inf), (0.1, 1.0), False),
        ((0.0, math.nan), (0.1, 1.0), False),
        ((0.0, 0.0), (0.0, 0.0), False),
    ],
)
def test_two_proofs_cover_what_lies_between_them_only_if_near(first, second, covered):
    one, two = (Proof(at, lower, lower, 0.0) for at, lower in (first, second))
    assert _covers(one, two) == covered
    assert _covers(two, one) == covered


def test_a_walk_is_covered_point_by_point_and_nothing_beyond_its_end_is_proved():
    loop = nominal_loop(PLANT, BALL.center)
    honest = rotation_path(loop, BALL, ALL)
    steps = march(honest, -1.0, 1.0).proofs
    assert all(_covers(a, b) for a, b in itertools.pairwise(steps))
    angle = incremental_phase_margin(PLANT, BALL).angle
    assert honest.prove(math.tan(0.5 * 0.99 * angle - 0.25 * math.pi)).lower > 0.0
    beyond = honest.prove(math.tan(0.5 * 1.01 * angle - 0.25 * math.pi))
    assert beyond.lower == -math.inf
