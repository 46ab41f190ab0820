"""Regions of attraction: shadow, section and boundary belong to one ellipsoid."""

from __future__ import annotations

import numpy as np
import pytest

import lipctrl_envs
from lipctrl import plots, rules
from lipctrl.analysis import basin
from tests.plots.subjects import (
    ellipsoid,
)


def test_shadow_holds_the_ellipsoid_and_the_section_lies_in_it():
    region = ellipsoid()
    starts = region.boundary(500)
    offset = starts - region.center
    assert np.einsum("ki,ij,kj->k", offset, region.shape, offset) == pytest.approx(np.ones(500))
    ring = region.shadow(("a", "c")) - region.center[[0, 2]]
    spread = np.linalg.inv(np.linalg.inv(region.shape)[np.ix_([0, 2], [0, 2])])
    assert np.einsum("ki,ij,kj->k", ring, spread, ring) == pytest.approx(np.ones(len(ring)))
    assert (np.einsum("ki,ij,kj->k", offset[:, [0, 2]], spread, offset[:, [0, 2]]) <= 1.0 + 1e-9).all()
    cut = region.section(("a", "c")) - region.center[[0, 2]]
    assert (np.einsum("ki,ij,kj->k", cut, spread, cut) <= 1.0 + 1e-9).all()


@pytest.mark.parametrize("shape", [np.diag([1.0, -1.0]), np.array([[1.0, 2.0], [0.0, 1.0]]), np.eye(3)])
def test_bad_ellipsoids_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        plots.Ellipsoid(shape, ("a", "b"), ("m", "m"))
    with pytest.raises(ValueError, match="speed"):
        ellipsoid().shadow(("a", "speed"))


def test_a_portrait_turns_paths_to_the_basin_and_marks_where_they_enter():
    gain = rules.linear([[0.0, -22.8, -6.9]])
    found = basin(lipctrl_envs.PendulumSwingUp(), gain, [0.4, 2.0], action_limit=5.0)
    starts = found.boundary(6) * 0.9
    starts[3:, 0] += 2.0 * np.pi
    names, units = ("angle", "angle_rate"), ("rad", "rad/s")
    drawn = plots.portrait_data(found, names, units, starts, steps=300, turns=["angle"])
    assert np.abs(drawn.paths[:, -1] - found.center).max() < 1e-3
    assert drawn.entered.tolist() == [0] * 6
    away = plots.portrait_data(found, names, units, starts, steps=300)
    assert away.entered.tolist() == [0, 0, 0, -1, -1, -1]
    with pytest.raises(ValueError, match="speed"):
        plots.portrait_data(found, names, units, starts, turns=["speed"])
    nothing = basin(lipctrl_envs.PendulumSwingUp(), rules.linear([[0.0, -1.0, 0.0]]), [0.4, 2.0])
    with pytest.raises(ValueError, match="no basin was proved"):
        plots.portrait_data(nothing, names, units, starts)
