"""Pictures of training: files, shapes and fronts are checked before they are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lipctrl import plots
from tests.plots.subjects import (
    metrics,
    trajectories,
)


def test_metrics_name_missing_columns_and_empty_files(tmp_path):
    with pytest.raises(ValueError, match="validation_return"):
        metrics(tmp_path).column("loss")
    (tmp_path / "metrics.csv").write_text("steps,loss\n")
    with pytest.raises(ValueError, match="no rows"):
        plots.training_metrics(tmp_path)


def test_trajectories_check_their_shapes_and_channels():
    with pytest.raises(ValueError, match="shape"):
        plots.Trajectories(np.zeros(3), np.zeros((2, 4, 1)), ("a",), ("m",))
    with pytest.raises(ValueError, match="angle, torque"):
        plots.trajectory_plot(trajectories(), channels=["speed"])


def test_margins_that_differ_by_rounding_are_drawn_as_one():
    points = [plots.SweepPoint(-1.0, 14.545764), plots.SweepPoint(-2.0, 14.545764 + 3e-8)]
    ax = plots.pareto_plot(points)
    low, high = ax.get_xlim()
    assert high - low > 1.0
    ax.figure.canvas.draw()
    assert ax.xaxis.get_offset_text().get_text() == ""
    ax.figure.clear()


def test_pareto_front_leaves_out_runs_without_a_margin():
    points = [plots.SweepPoint(1.0, math.nan), plots.SweepPoint(0.5, 2.0), plots.SweepPoint(0.4, 1.0)]
    assert plots.pareto_front(points) == [points[1]]
