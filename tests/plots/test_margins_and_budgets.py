"""Intervals of certified gains and the price of a Lipschitz budget: what is drawn is what was computed."""

from __future__ import annotations

import control
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lipctrl.analysis import IncrementalBall, incremental_gain_margin, structured_gain_margin, trade_off
from lipctrl.plots import RUN_FIGURES, margin_intervals_plot, trade_off_plot


@pytest.fixture
def plant():
    return control.ss([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]], np.eye(2), np.zeros((2, 1)), 0.1)


def test_intervals_end_where_the_margin_does(plant):
    margin = structured_gain_margin(plant, IncrementalBall([[-1.0, -2.0]], 0.2), tolerance=0.1, limit=50.0)
    _, ax = plt.subplots()
    assert margin_intervals_plot({"policy": margin}, ax=ax) is ax
    spans = [line.get_xdata() for line in ax.lines]
    assert any(np.allclose(s, [max(margin.lower, 1e-2), margin.upper]) for s in spans if len(s) == 2)
    assert any(
        np.allclose(s, [max(margin.ball_lower, 1e-2), margin.ball_upper]) for s in spans if len(s) == 2
    )
    assert [t.get_text() for t in ax.get_yticklabels()] == ["policy"]
    plt.close("all")
    with pytest.raises(ValueError, match="empty"):
        margin_intervals_plot({})
    ball = incremental_gain_margin(plant, IncrementalBall([[-1.0, -2.0]], 0.2))
    with pytest.raises(ValueError, match="'policy' is a GainMargin; expected a StructuredMargin"):
        margin_intervals_plot({"policy": ball})


def test_the_front_rises_with_the_price(plant):
    curve = trade_off(plant, prices=[0.1, 1.0, 10.0])
    _, ax = plt.subplots()
    trade_off_plot(curve, used=0.5, ax=ax)
    dots = ax.lines[0]
    assert sorted(dots.get_ydata()) == pytest.approx(sorted(c.lipschitz for c in curve.choices))
    assert any(np.allclose(line.get_ydata(), 0.5) for line in ax.lines)
    plt.close("all")
    with pytest.raises(ValueError, match="stabilis"):
        trade_off_plot(type(curve)(()))


def test_a_run_can_be_drawn_by_these_names():
    assert {"region", "structured-margins", "trade-off"} <= set(RUN_FIGURES)
