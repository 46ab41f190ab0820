"""Pictures of a network: the matrix that is proved, its discs, its singular values, its certificate's tree."""

from __future__ import annotations

import numpy as np
import pytest

from lipctrl import plots
from lipctrl.rules import Layer, Output, centered, linear, neurons, series
from tests.plots.subjects import (
    network,
)


def test_lmi_matrix_is_the_one_that_is_proved():
    """x ↦ relu(x) with Λ = 1 and L = 1: N = [[1, -1], [-1, 2 - 1]]."""
    node = neurons([Layer({0: [[1.0]]}, "relu")], Output({1: [[1.0]]}), [[1.0]], 1.0, in_features=1)
    matrix, sizes = plots.lmi_matrix(node)
    assert matrix == pytest.approx(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert sizes == (1, 1)
    discs = plots.gershgorin_discs(node)
    assert discs.eigenvalues == pytest.approx([0.0, 2.0], abs=1e-12)
    assert discs.dominant


def test_lmi_matrix_agrees_with_slopes_of_both_signs():
    rng = np.random.default_rng(1)
    c, b, a = rng.normal(size=(2, 3)), rng.normal(size=(3, 2)), rng.normal(size=(3, 3))
    node = neurons([Layer({0: c}, "abs")], Output({0: a, 1: b}), [[1.5, 1.5]], 2.0, in_features=3)
    matrix, _ = plots.lmi_matrix(node)
    x, w = rng.normal(size=3), rng.normal(size=2)
    z, v = np.concatenate([x, w]), c @ x
    quadratic = 4.0 * x @ x - (a @ x + b @ w) @ (a @ x + b @ w) + 2 * 1.5 * ((w - v) @ (w + v))
    assert z @ matrix @ z == pytest.approx(quadratic)


def test_discs_hold_all_eigenvalues_for_any_scaling():
    node = network().parts[0]
    for scaling in (None, np.linspace(0.5, 2.0, 7)):
        discs = plots.gershgorin_discs(node, scaling)
        gaps = np.abs(discs.eigenvalues[:, None] - discs.centers) - discs.radii
        assert (gaps.min(axis=1) <= 1e-12).all()
    with pytest.raises(ValueError, match="positive"):
        plots.gershgorin_discs(node, -np.ones(7))
    with pytest.raises(ValueError, match="parts"):
        plots.lmi_matrix(network())


def test_singular_values_of_a_linear_chain_are_exact():
    data = plots.block_singular_values(
        series(linear(np.diag([3.0, 1.0])), linear(np.diag([1.0, 2.0]))), points=2
    )
    assert data.blocks[0] == pytest.approx(np.array([[1.0, 1 / 3]] * 2), rel=1e-6)
    assert data.through[1] == pytest.approx(np.array([3.0 / 6.0] * 2), rel=1e-6)


def test_tree_folds_alike_siblings_and_keeps_their_product():
    cert = centered([[1.0, 0.0, 0.0]], network())
    rows = plots.tree_rows(cert)
    assert [r.rule for r in rows] == ["centered", "linear", "series", "neurons", "linear"]
    assert rows[3].count == 2
    assert rows[3].gain == pytest.approx(9.0)
    assert len(plots.tree_rows(cert, max_rows=2)) == 3


def test_tightness_refuses_a_bound_below_the_attained_gain():
    with pytest.raises(ValueError, match="lipsdp"):
        plots.tightness_plot({"product": 4.0, "lipsdp": 1.0}, 1.8)
