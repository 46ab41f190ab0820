"""The page of a stability report, and encoded figures: nothing is fetched, nothing escapes."""

from __future__ import annotations

import control
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lipctrl import plots
from lipctrl.analysis import IncrementalBall
from tests.plots.subjects import (
    BALL,
    MARGIN,
    PLANT,
    stability_report,
)


def test_encoded_figures_are_self_contained_and_repeatable():
    figure, ax = plt.subplots()
    ax.plot([1, 2], label="ω")
    assert plots.figure_png(figure).startswith(b"\x89PNG")
    assert plots.figure_svg(figure) == plots.figure_svg(figure)
    text = plots.figure_html(figure, "a <b> & c")
    assert "&lt;b&gt;" in text
    assert "http" not in text


def test_report_page_is_self_contained_and_escapes(tmp_path):
    report = stability_report(PLANT, BALL, incremental_gain_margin=MARGIN, extras={"disk": "α & β"})
    page = report.save(tmp_path / "report.html").read_text()
    assert "&lt;limits&gt;" in page
    assert "α &amp; β" in page
    assert page.count("<figure>") == 4
    assert "http" not in page
    assert "certified" in page
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("plant", "ball", "figures"),
    [
        (PLANT, IncrementalBall([[0.0]], 0.5), 2),  # nominally unstable: Nyquist and sigma remain
        (control.ss(-np.eye(2), np.eye(2), np.eye(2), 0), IncrementalBall(np.zeros((2, 2)), 0.5), 2),
        (control.ss([[-1.0]], [[1.0]], [[1.0]], [[1.0]]), IncrementalBall([[1.0]], 0.1), 1),  # ill-posed
    ],
)
def test_reports_without_a_proof_are_drawn_too(plant, ball, figures):
    report = stability_report(plant, ball)
    assert len(plots.report_figures(report)) == figures
    assert isinstance(report.plot(), Axes)
