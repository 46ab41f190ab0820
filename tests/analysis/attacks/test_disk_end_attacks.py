"""What an α is said to mean, in exact arithmetic: no gain and no angle beyond the disk, however small it is."""

from __future__ import annotations

import math
from fractions import Fraction

import control
import numpy as np
import pytest

from lipctrl.analysis import (
    IncrementalBall,
    delayed,
    disk_margin,
    incremental_delay_margin,
    structured_radius,
)
from lipctrl.analysis.disk_ends import gain_interval, phase_of_disk

SKEWS = (0.0, 0.5, -0.5, 1.0, -1.0, 2.5, -3.0, 1e3, -1e6)


def disks():
    rng = np.random.default_rng(0)
    for skew in SKEWS:
        for alpha in (1.2e-8, 1e-8, 1e-4, *10.0 ** rng.uniform(-12.0, 1.0, 40), 2.0, 2.0 / (1.0 + abs(skew))):
            yield float(alpha), skew


def allowed(f, alpha, skew):
    a, b = (1 + Fraction(skew)) / 2, (1 - Fraction(skew)) / 2
    return abs(f - 1) <= Fraction(alpha) * abs(a * f + b)


def test_gains_of_a_disk_lie_in_it():
    for alpha, skew in disks():
        low, high = gain_interval(alpha, skew)
        assert 0.0 <= low <= 1.0 <= high
        ends = [Fraction(f) for f in (low, high) if 0.0 < f < math.inf]
        inside = [Fraction(10) ** 18] if high == math.inf else []
        assert all(allowed(f, alpha, skew) for f in ends + inside), (alpha, skew, low, high)


def test_phases_of_a_disk_lie_in_it_and_fill_it():
    """An angle read from its cosine was up to 24 % too large where the disk is as small as the root of rounding."""
    for alpha, skew in disks():
        phase = phase_of_disk(alpha, skew)
        ab = (1.0 - skew**2) / 4.0

        def reaches(angle, alpha=alpha, ab=ab):
            s = Fraction(math.sin(0.5 * angle))
            return 4 * s**2 >= Fraction(alpha) ** 2 * (1 - 4 * Fraction(ab) * s**2)

        if phase < math.pi:
            assert not reaches(phase * (1.0 - 1e-15)), (alpha, skew)
            assert reaches(min(phase * (1.0 + 1e-7), math.pi)), (alpha, skew)
        else:
            assert not reaches(math.pi * (1.0 - 1e-7)), (alpha, skew)


def test_what_has_no_finite_square_is_refused_in_words():
    plant = control.tf([1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="skew"):
        disk_margin(plant, 1.0, 1e300)
    with pytest.raises(ValueError, match="units"):
        incremental_delay_margin(control.tf([1e-160], [1.0, 1.0]), IncrementalBall([[-2e160]], 1e159))
    for samples in (1j, "2", True, None, [0.5]):
        with pytest.raises(ValueError, match="whole number"):
            delayed(control.tf([1.0], [1.0, 0.5], True), samples)


@pytest.mark.parametrize("unit", [1.0, 1e-140, 1e-160, 1e140])
def test_blocks_that_destabilise_have_the_size_they_say_in_any_units(unit):
    """Squares of 1e-160 are rounded: a falsified size was 1e-3 below the certified one."""
    found = structured_radius(control.tf([unit], [1.0, 1.0]), 2.0 / unit)
    assert found.radius == pytest.approx(3.0 / unit, rel=1e-6)
    assert found.radius <= found.falsified <= 3.0 / unit * (1.0 + 1e-6)
