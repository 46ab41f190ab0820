"""A guarantee that was stored is proved again for its plant; one altered number, or another plant, and it is not."""

import math
from dataclasses import replace

import control
import numpy as np

from lipctrl.runs import StabilityGuarantee


def test_a_stored_guarantee_is_proved_again_for_its_plant_only():
    plant = control.ss([[0.0, 1.0], [2.0, -0.5]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    slower = control.ss([[0.0, 1.0], [4.0, -0.5]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    for sizes in ((None, None), ([1.0, 8.0], [2.0])):
        stored = StabilityGuarantee.of(plant, [[6.0, 3.0]], *sizes).to_dict()
        guarantee = StabilityGuarantee.from_dict(stored)
        assert guarantee.recheck(plant)
        assert not guarantee.recheck(slower)
        for change in (
            {"radius": stored["radius"] * (1.0 + 1e-12)},
            {"radius": -stored["radius"]},
            {"gain": [[4.0, 3.0]]},
            {"gain": [[1.0, 3.0]]},
            {"gain": [[6.0, -3.0]]},
            {"observation_scale": [0.25, 8.0]},
            {"action_scale": [16.0]},
        ):
            assert not StabilityGuarantee.from_dict({**stored, **change}).recheck(plant), change
        for radius in (math.nan, math.inf):
            assert not replace(guarantee, radius=radius).recheck(plant)
    assert replace(guarantee, radius=0.5 * guarantee.radius).recheck(plant)
