"""The search for constant scalings finds the minimum, from anywhere, and never makes a certified value larger."""

from __future__ import annotations

import numpy as np
import pytest

from lipctrl.analysis import structured_radius
from lipctrl.analysis.blocks import best_scaling, spread
from tests.analysis.linear.systems import random_system, response


@pytest.mark.parametrize("blocks", [((1, 1),) * 2, ((1, 1),) * 4, ((2, 1), (1, 2), (1, 1))])
@pytest.mark.parametrize("seed", range(3))
def test_the_minimum_does_not_depend_on_the_start(blocks, seed):
    rng = np.random.default_rng(seed)
    rows, columns = sum(c for _, c in blocks), sum(r for r, _ in blocks)
    responses = rng.normal(size=(3, rows, columns)) + 1j * rng.normal(size=(3, rows, columns))
    responses *= np.exp(2.0 * rng.normal(size=(1, rows, 1)))
    first, value = best_scaling(responses, blocks, np.ones(len(blocks)))
    _, again = best_scaling(responses, blocks, np.exp(2.0 * rng.normal(size=len(blocks))))
    assert again == pytest.approx(value, rel=1e-8)
    # Convex in log d: no neighbour is smaller.
    for _ in range(200):
        d = first * np.exp(rng.normal(size=len(blocks)) * 10.0 ** rng.uniform(-4, 1))
        scaled = spread(d, [c for _, c in blocks])[:, None] * responses / spread(d, [r for r, _ in blocks])
        assert np.linalg.norm(scaled, 2, axis=(1, 2)).max() >= value * (1 - 1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_proof_reaches_the_best_constant_scaling_of_a_dense_grid(seed):
    plant = random_system(np.random.default_rng(seed), 4, 3, 3)
    blocks = [(1, 1)] * 3
    result = structured_radius(plant, blocks=blocks)
    grid = np.stack([response(plant, w) for w in np.append(0.0, np.geomspace(1e-2, 1e2, 400))])
    _, size = best_scaling(grid, blocks, np.ones(3))
    assert result.radius <= 1.0 / size * (1 + 1e-9)
    assert result.radius == pytest.approx(1.0 / size, rel=1e-3)
