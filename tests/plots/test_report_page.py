"""The page of a stability report, and encoded figures: nothing is fetched, nothing escapes."""

from __future__ import annotations

import control
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lipctrl import plots
from lipctrl.analysis import IncrementalBall, ScaledBall, analyze
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


@pytest.mark.parametrize(
    "plant", [control.tf([1], [1, 0, 1]), control.tf([1], [1, 0, 1], True), control.tf([1], [1, 0, 0])]
)
def test_an_undamped_pole_on_the_grid_is_no_obstacle_to_a_report(plant, tmp_path):
    report = analyze(plant, IncrementalBall([[0.0]], 0.1))
    assert report.verdict == "nominally unstable"
    page = report.save(tmp_path / "report.html").read_text()
    assert "nominally unstable" in page
    assert plt.get_fignums() == []
    assert np.isfinite(plots.loop_response(plant, report.ball).plant).all()


def test_frequencies_of_an_undamped_pole_are_left_out_of_a_response():
    response = plots.loop_response(
        control.tf([1], [1, 0, 1]), IncrementalBall([[0.0]], 0.1), omega=[0.5, 1.0, 2.0]
    )
    assert response.omega.tolist() == [0.5, 2.0]
    both = control.tf([1], np.polymul([1, 0, 1], [1, 0, 4]))
    with pytest.raises(ValueError, match="poles only"):
        plots.loop_response(both, IncrementalBall([[0.0]], 0.1), omega=[1.0, 2.0])


def test_a_plant_that_counts_samples_has_no_seconds_in_its_report(tmp_path):
    report = analyze(control.tf([0.5], [1, -1.05], True), IncrementalBall([[-0.6]], 0.05), margins="all")
    page = report.save(tmp_path / "report.html").read_text()
    for text in (report.summary(), page):
        assert "rad/sample" in text
        assert "rad/s " not in text
        assert "Hz)" not in text
    assert "certified up to 3 samples (3.915 by the phase)" in report.summary()
    assert "rad/sample" in plots.sigma_plot(plots.loop_response(report.loop.plant, report.ball)).get_xlabel()
    seconds = analyze(control.tf([0.5], [1, -1.05], 0.1), IncrementalBall([[-0.6]], 0.05))
    assert "rad/sample" not in seconds.summary()


def test_a_report_names_the_centre_gain_and_what_its_verdict_means():
    plant = control.tf([1], [1, -1])
    assert "K₀ = [[-3]]" in analyze(plant, IncrementalBall([[-3.0]], 1.0)).summary()
    assert "does not mean unstable" in analyze(plant, IncrementalBall([[-3.0]], 9.0)).summary()
    assert "about the centre" in analyze(plant, IncrementalBall([[3.0]], 1.0)).summary()


def test_a_disk_margin_that_was_asked_for_is_drawn():
    report = analyze(PLANT, IncrementalBall([[-3.0]], 0.5), margins="all")
    captions = list(plots.report_figures(report))
    assert sum("Gains and phases" in caption for caption in captions) == 1
    plain = analyze(PLANT, IncrementalBall([[-3.0]], 0.5))
    assert not any("Gains and phases" in caption for caption in plots.report_figures(plain))


def test_signals_that_were_scaled_are_said_to_be():
    plant = control.ss([[0.0, 1.0], [1.0, 0.0]], [[0.0], [1.0]], np.eye(2), 0)
    scaled = ScaledBall([[-4.0, -2.0]], 0.5, [4.0, 0.5])
    assert (
        plots.sigma_plot(plots.loop_response(plant, scaled)).get_ylabel()
        == "σ of T between scaled signals [ratio]"
    )
    plain = plots.loop_response(plant, IncrementalBall([[-4.0, -2.0]], 0.5))
    assert plots.sigma_plot(plain).get_ylabel() == "σ of T [ratio]"
