"""Curves of what perturbations take: read, measured against the undisturbed policy, drawn."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest

from lipctrl import plots
from lipctrl.plots.style import BLACK

TABLE = """environment,policy,seed,condition,level,return
Cart,MLP,0,nominal,0,-100
Cart,MLP,0,noise,0.5,-130
Cart,MLP,1,nominal,0,-110
Cart,MLP,1,noise,0.5,-160
Cart,MLP,1,noise,1,-900
Cart,bounded,0,nominal,0,-105
Cart,bounded,0,noise,0.5,-106
Cart,bounded,0,gain,0.5,-111
Cart,bounded,0,gain,2,-101
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "measured.csv"
    path.write_text(TABLE)
    return path


def test_losses_are_against_the_same_seed_undisturbed(table: Path) -> None:
    plain, bounded = plots.degradations(table, "Cart", "noise")
    # The level that only one seed was tried at is left out.
    np.testing.assert_array_equal(plain.levels, [0.0, 0.5])
    np.testing.assert_array_equal(plain.lost, [[0.0, 30.0], [0.0, 50.0]])
    np.testing.assert_array_equal(bounded.lost, [[0.0, 1.0]])


def test_a_gain_of_one_changes_nothing_and_gaining_is_negative(table: Path) -> None:
    curves = [c for c in plots.degradations(table, "Cart", "gain") if c.name == "bounded"]
    np.testing.assert_array_equal(curves[0].levels, [0.5, 1.0, 2.0])
    np.testing.assert_array_equal(curves[0].lost, [[6.0, 0.0, -4.0]])
    ax = plots.degradation_plot(curves)
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.5", "1", "2"]


def test_the_picture_shows_means_and_the_range_of_the_seeds(table: Path) -> None:
    _, axes = plots.subplots(1, 1)
    ax = plots.degradation_plot(plots.degradations(table, "Cart", "noise"), ax=axes[0, 0], title="noise")
    assert ax is axes[0, 0]
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_array_equal(lines["MLP"], [0.0, 40.0])
    assert len(ax.collections) == 1, "one seed has no range"


def test_the_policy_to_compare_with_is_black(table: Path) -> None:
    curves = plots.degradations(table, "Cart", "noise")
    colours = {
        line.get_label(): line.get_color() for line in plots.degradation_plot(curves, reference="MLP").lines
    }
    assert colours["MLP"] == BLACK != colours["bounded"]
    with pytest.raises(ValueError, match="reference is 'LQR'"):
        plots.degradation_plot(curves, reference="LQR")


def test_errors_say_what_there_is(table: Path) -> None:
    with pytest.raises(ValueError, match="holds no 'delay' of 'Cart'"):
        plots.degradations(table, "Cart", "delay")
    with pytest.raises(ValueError, match="at least one"):
        plots.degradation_plot([])
    mixed = [*plots.degradations(table, "Cart", "noise"), *plots.degradations(table, "Cart", "gain")]
    with pytest.raises(ValueError, match="one condition"):
        plots.degradation_plot(mixed)
    with pytest.raises(ValueError, match="expected 0 among them"):
        plots.Degradation("x", "noise", np.array([1.0]), np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"\(seeds, 2\)"):
        plots.Degradation("x", "noise", np.array([0.0, 1.0]), np.zeros((1, 1)))
