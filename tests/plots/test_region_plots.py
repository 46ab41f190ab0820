"""Regions of attraction: shadow, section and boundary belong to one ellipsoid."""

from __future__ import annotations

import numpy as np
import pytest

from lipctrl import plots
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
