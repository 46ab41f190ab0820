"""Gains whose squares leave the range of float64 compose like others."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lipctrl import check, rules
from lipctrl.rules.base import sqrt_up


@pytest.mark.parametrize("gain", [5e-324, 1e-310, 3e-200, 1e-160, 1.0, 1e160, 7e300])
def test_a_concatenation_of_extreme_gains_has_their_root(gain):
    cert = rules.concat(rules.scaling([gain]), rules.scaling([gain]))
    assert check(cert).ok
    assert Fraction(cert.gain) ** 2 >= 2 * Fraction(gain) ** 2
    assert cert.gain <= 1.4143 * gain + 1e-323
    assert sqrt_up(Fraction(0)) == 0.0
