"""Gains and phases of disk margins: the drawn border is the disk's, the crosses lie on it and destabilise."""

from __future__ import annotations

import itertools

import control
import numpy as np
import pytest
from matplotlib.contour import ContourSet

from lipctrl.analysis import IncrementalBall, disk_margin, incremental_disk_margin, incremental_gain_margin
from lipctrl.plots import disk_margin_plot, subplots

LOOP = control.tf([25], [1, 10, 10, 10])
# One channel is large at low frequencies, the other at higher ones: the two classes of perturbations differ.
_A = np.diag([-1.0, -1.0, -10.0])
_B = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
_C = np.array([[1.0, 0.0, 0.0], [0.0, -10.0 / 9.0, 100.0 / 9.0]])
CROSSED = control.ss(_A + _B @ _C, _B, _C, np.zeros((2, 2)))


def borders(ax):
    """Return the drawn borders as complex f, one array a disk."""
    lines = [c for c in ax.collections if isinstance(c, ContourSet) and not c.filled]
    return [as_f(np.vstack([p.vertices for p in line.get_paths()])) for line in lines]


def crosses(ax):
    (line,) = [line for line in ax.lines if line.get_marker() == "X"]
    return as_f(line.get_xydata())


def as_f(places):
    return 10.0 ** (places[:, 0] / 20.0) * np.exp(1j * np.radians(places[:, 1]))


def size(f, skew):
    """Return |δ| of f = (1 + bδ)/(1 - aδ)."""
    return np.abs((f - 1.0) / (0.5 * (1.0 + skew) * f + 0.5 * (1.0 - skew)))


@pytest.mark.parametrize("skew", [-2.0, 0.0, 1.5])
def test_the_border_is_that_of_the_disk_and_the_cross_makes_the_loop_singular(skew):
    margin = disk_margin(LOOP, skew=skew)
    ax = disk_margin_plot(margin)
    (border,) = borders(ax)
    assert size(border, skew) == pytest.approx(margin.alpha, rel=2e-3)
    (f,) = crosses(ax)
    assert size(f, skew) == pytest.approx(margin.alpha_upper, rel=1e-9)
    response = complex(LOOP(1j * margin.frequency))
    assert min(abs(1.0 + f * response), abs(1.0 + np.conj(f) * response)) < 1e-6
    dots = next(line for line in ax.lines if line.get_marker() == "o").get_xdata()
    assert 10.0 ** (np.asarray(dots) / 20.0) == pytest.approx(margin.gain_margin)


def test_both_classes_of_perturbations_are_drawn_where_they_differ():
    margin = disk_margin(CROSSED, np.eye(2), -1.0)
    ax = disk_margin_plot(margin)
    fixed, varying, alone = borders(ax)
    assert size(fixed, -1.0) == pytest.approx(margin.alpha, rel=1e-2)
    assert size(alone, -1.0) == pytest.approx(min(single.alpha for single in margin.channels), rel=1e-2)
    assert size(varying, -1.0) == pytest.approx(margin.alpha_varying, rel=1e-2)
    assert len(crosses(ax)) == 2
    assert sum(text.get_text().startswith("f") for text in ax.texts) == 2


def test_the_crosses_of_two_channels_make_the_loop_singular_together():
    s = control.tf("s")
    drives = control.append(control.ss(2 / (s * (s + 1))), control.ss(20 / (s * (s + 4))))
    gain = np.array([[1.0, 0.6], [-0.6, 1.0]])
    margin = disk_margin(gain, drives)
    ax = disk_margin_plot(margin)
    signs = [np.sign(float(text.get_text().partition(": ")[2].rstrip("°"))) for text in ax.texts]
    folded = crosses(ax)
    f = np.where(np.array(signs) < 0.0, folded.conj(), folded)
    singular = np.eye(2) + np.diag(f) @ gain @ drives(1j * margin.frequency)
    assert abs(np.linalg.det(singular)) < 1e-5
    # The signs matter: with the phases that are drawn, all upwards, the loop would not be singular.
    assert abs(np.linalg.det(np.eye(2) + np.diag(folded) @ gain @ drives(1j * margin.frequency))) > 1e-2


def test_the_margin_of_a_ball_shows_what_was_falsified():
    margin = incremental_disk_margin(LOOP, IncrementalBall([[-1.0]], 0.1))
    ax = disk_margin_plot(margin)
    (f,) = crosses(ax)
    assert size(f, 0.0) == pytest.approx(margin.falsified, rel=1e-6)
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f"certified: α < {margin.alpha:.4g}" in words
    assert any(text.startswith(f"falsified: α = {margin.falsified:.4g} at") for text in words)


def test_a_disk_without_an_end_runs_off_the_sheet():
    ax = disk_margin_plot(disk_margin(control.tf([0], [1])))
    assert ax.get_xlim() == (-20.0, 20.0)
    assert not [line for line in ax.lines if line.get_marker() == "X"]
    every = disk_margin_plot(disk_margin(control.tf([0], [1]), skew=-1.0))
    assert every.get_ylim() == (0.0, 180.0)
    assert "certified: every α" in [text.get_text() for text in every.get_legend().get_texts()]


def test_another_margin_is_refused_by_name():
    margin = incremental_gain_margin(LOOP, IncrementalBall([[-1.0]], 0.1))
    with pytest.raises(ValueError, match=r"a GainMargin; expected a DiskMargin .* gain_sweep_plot"):
        disk_margin_plot(margin)


def test_legends_side_by_side_do_not_meet():
    figure, axes = subplots(1, 3)
    for ax in axes[0]:
        disk_margin_plot(disk_margin(LOOP), ax=ax)
    figure.canvas.draw()
    edges = [ax.get_legend().get_window_extent() for ax in axes[0]]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(edges))
