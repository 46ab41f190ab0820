"""Classical margins beside the certified ones: no nan in print, no infinite modulus of a finite curve."""

import control
import numpy as np
import pytest

from lipctrl.analysis.classical import classical_margins

LOOPS = [
    control.ss([[0, 1], [2, -0.5]], [[0], [1]], [[6, 3]], 0),
    control.tf([1], [1, 1, 1]),
    control.tf([2], [1, 3, 2]),
    control.tf([0.3], [1, -0.5], 0.1),
]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_modulus_is_the_distance_of_the_curve(loop):
    margins = classical_margins(loop)
    omega = np.geomspace(1e-4, np.pi / loop.dt if loop.dt else 1e5, 20_001)
    distance = np.abs(1.0 + loop(np.exp(1j * omega * loop.dt) if loop.dt else 1j * omega)).min()
    assert margins.modulus <= distance * (1.0 + 1e-6)
    assert margins.modulus == pytest.approx(distance, rel=1e-3)
    assert "nan" not in str(margins)
