"""Pictures of a loop: the forbidden set, peaks, sweeps, poles and maps are those of the analysis."""

from __future__ import annotations

import math
from dataclasses import replace

import control
import numpy as np
import pytest

from lipctrl import plots
from lipctrl.analysis import IncrementalBall, ScaledBall, analyze, incremental_gain_margin
from lipctrl.analysis.srg import scaled_relative_graphs
from lipctrl.plots.html_report import html_page
from tests.plots.subjects import (
    BALL,
    MARGIN,
    PLANT,
)


def is_shaded(ax, x):
    """Tell whether the picture is vermilion just above the point x of the real axis."""
    ax.figure.canvas.draw()
    picture = np.asarray(ax.figure.canvas.buffer_rgba())
    column, row = ax.transData.transform((x, 0.0))
    red, _, blue, _ = picture[picture.shape[0] - 1 - (round(row) + 5), round(column) + 5].astype(int)
    return red - blue > 25


def forbidden_patch(ax):
    return next(p for p in ax.patches if str(p.get_label()).startswith("forbidden"))


def test_the_forbidden_disc_is_that_of_the_circle_criterion():
    ax = plots.nyquist_plot(plots.loop_response(PLANT, BALL))
    disc = forbidden_patch(ax)
    # Slopes [1.5, 4.5]: diameter [-1/1.5, -1/4.5].
    assert disc.center[0] == pytest.approx((-1 / 1.5 - 1 / 4.5) / 2)
    assert disc.radius == pytest.approx((1 / 1.5 - 1 / 4.5) / 2)
    assert "certified" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    ("center", "radius", "inside", "outside"),
    [(-3.0, 1.5, -0.4, -1.0), (0.0, 0.5, -2.5, 0.0), (-0.5, 1.0, -0.8, 0.0), (-0.5, 0.5, -1.5, 0.3)],
)
def test_forbidden_points_are_minus_one_over_a_gain_of_the_ball(center, radius, inside, outside):
    """The shaded set is {-1/κ}: for points inside some κ of the ball fits, for points outside none does."""
    ax = plots.nyquist_plot(
        plots.loop_response(control.tf([0.2], [1, 1]), IncrementalBall([[center]], radius))
    )
    for point, shaded in ((inside, True), (outside, False)):
        kappa = math.inf if point == 0.0 else -1.0 / point
        assert (abs(kappa + center) <= radius) == shaded
        assert is_shaded(ax, point) == shaded


def test_inverse_plane_modulus_is_the_margin_of_the_ball_test():
    from lipctrl.analysis import ball_test

    plant = control.ss([[0, 1], [2, -1]], [[0], [1]], np.eye(2), 0)
    ball = IncrementalBall([[-6.0, -2.0]], 1.0)
    ax = plots.nyquist_plot(plots.loop_response(plant, ball))
    (closest,) = [line for line in ax.lines if str(line.get_label()).startswith("closest")]
    x, y = closest.get_xydata()[0]
    assert math.hypot(x, y) == pytest.approx(ball_test(plant, ball).margin, rel=1e-4)


def test_nyquist_refuses_several_inputs_and_names_the_alternative():
    plant = control.ss(-np.eye(2), np.eye(2), np.eye(2), 0)
    response = plots.loop_response(plant, IncrementalBall(np.zeros((2, 2)), 0.5))
    with pytest.raises(ValueError, match="sigma_plot"):
        plots.nyquist_plot(response)
    assert plots.sigma_plot(response).get_title(loc="left").endswith("certified")


def test_sigma_never_shows_a_proved_peak_below_the_curve():
    response = plots.loop_response(control.tf([1], [1, 1e-3, 1]), IncrementalBall([[0.0]], 1e-4))
    assert response.norm >= response.singular_values.max()
    assert response.singular_values.max() > 0.99 * response.norm


def test_frequency_grid_stays_below_the_nyquist_frequency():
    response = plots.loop_response(control.tf([0.1], [1, -0.9], 0.5), IncrementalBall([[0.0]], 0.1))
    assert response.omega.max() <= math.pi / 0.5 + 1e-12
    assert "Nyquist frequency" in plots.sigma_plot(response).get_legend_handles_labels()[1]


def test_gain_sweep_is_infinite_where_the_nominal_loop_is_unstable():
    sweep = plots.gain_sweep(PLANT, BALL, margin=MARGIN, k=[0.1, 1.0])
    assert math.isinf(sweep.product[0])
    assert sweep.product[1] == pytest.approx(1.5 / 2.0, rel=1e-6)


def test_pole_spread_of_one_state_lies_in_the_interval_of_gains():
    spread = plots.pole_spread(PLANT, BALL, samples=200)
    assert spread.nominal.real == pytest.approx([-2.0])
    assert spread.poles.real.min() == pytest.approx(-3.5)
    assert spread.poles.real.max() == pytest.approx(-0.5)
    assert spread.unstable == 0
    assert plots.pole_spread(PLANT, IncrementalBall([[-3.0]], 3.0), samples=200).unstable > 0


def test_pole_spread_through_feed_through_matches_the_closed_loop():
    plant = control.ss([[-1.0]], [[1.0]], [[1.0]], [[0.5]])
    spread = plots.pole_spread(plant, IncrementalBall([[-2.0]], 0.0), samples=2)
    # u = -2y, y = x + 0.5u: u = -x, so x' = -2x.
    assert spread.nominal.real == pytest.approx([-2.0])


def test_robustness_map_agrees_with_the_test_at_each_point():
    data = plots.robustness_map(
        lambda a, b: control.tf([b], [1, -a]),
        BALL,
        [0.5, 1.0, 1.6],
        [1.0, 0.3],
        names=("a", "b"),
        units=("rad/s", ""),
    )
    # a = 0.5..1.6 with unit gain: 3b - 1.5b > a is needed.
    assert data.verdict[0].tolist() == ["certified", "certified", "inconclusive"]
    assert "nominally unstable" in data.verdict[1]


@pytest.mark.parametrize(
    ("slopes", "inside", "outside"),
    [((0.5, 2.0), -1.0, 0.3), ((-0.5, 0.4), -2.6, 0.3), ((0.0, 0.5), -2.1, 0.3)],
)
def test_srg_shades_minus_one_over_the_slopes(slopes, inside, outside):
    ax = plots.srg_plot(scaled_relative_graphs(control.tf([1.0], [1, 1]), slopes))
    for point, expected in ((inside, True), (outside, False)):
        kappa = -1.0 / point
        assert (slopes[0] <= kappa <= slopes[1]) == expected
        assert is_shaded(ax, point) == expected


def test_an_integrator_is_not_drawn_as_a_slit():
    response = plots.loop_response(control.tf([1], [1, 1, 0]), IncrementalBall([[-1.0]], 0.5))
    ax = plots.nyquist_plot(response)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert right - left >= 0.69 * (top - bottom)


def test_a_legend_keeps_to_the_width_of_its_figure():
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(4.0, 4.0))
    plots.gain_sweep_plot(plots.gain_sweep(PLANT, BALL, margin=MARGIN), ax=ax)
    figure.canvas.draw()
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    plt.close(figure)


def test_the_picture_of_unseparated_graphs_claims_no_separation():
    graphs = scaled_relative_graphs(control.tf([10], [1, 3, 3, 1]), (0.2, 0.7))
    texts = [text.get_text() for text in plots.srg_plot(graphs).get_legend().get_texts()]
    assert "proved separation: none at τ = 1, none over all τ" in texts


def test_a_simulation_beyond_a_margin_is_named_and_stays_readable():
    plant = control.ss([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], np.eye(2), 0)
    margin = incremental_gain_margin(plant, IncrementalBall([[-1.0, -1.0]], 0.3))
    simulation = margin.simulate("lower")
    ax = plots.margin_simulation_plot(simulation, names=["position [m]", "speed [m/s]"])
    grown = int(np.abs(simulation.outside).max(axis=0).argmax())
    assert ax.get_ylabel() == ["position [m]", "speed [m/s]"][grown]
    drawn = {
        line.get_label().partition(":")[0]: line.get_ydata() for line in ax.lines if ":" in line.get_label()
    }
    assert np.array_equal(drawn["outside"], simulation.outside[: len(drawn["outside"]), grown])
    assert np.array_equal(drawn["inside"], simulation.inside[: len(drawn["inside"]), grown])
    assert ax.get_ylim()[1] < 4.0 * np.abs(drawn["inside"]).max()
    with pytest.raises(ValueError, match="each of the 2 outputs"):
        plots.margin_simulation_plot(simulation, names=["position [m]"])


def test_no_oscillation_is_told_where_none_is_seen():
    """A double real pole that rounding has split turns by 1e-9 rad/s or so, which is none."""
    simulation = incremental_gain_margin(PLANT, BALL).simulate("lower")
    split = replace(simulation, frequency=6.6e-9)
    assert plots.margin_simulation_plot(split).get_title("left") == "Just inside and just outside"
    turning = replace(simulation, frequency=2.0, sample_time=1.0, counts_samples=True)
    assert plots.margin_simulation_plot(turning).get_title("left").endswith(", 2 rad/sample")


def test_pictures_of_scaled_signals_say_so_and_show_the_poles_of_the_plant_that_was_given():
    plant = control.ss([[0.0, 1.0], [1.0, 0.0]], [[0.0], [1.0]], np.diag([1.0, 0.01]), 0)
    ball = ScaledBall([[-3.0, -200.0]], 0.5, [1.0, 2.0**-7])
    spread = plots.pole_spread(plant, ball, samples=50)
    nominal = np.linalg.eigvals(plant.A + plant.B @ ball.center @ plant.C)
    np.testing.assert_allclose(np.sort_complex(spread.nominal), np.sort_complex(nominal))
    report = analyze(plant, ball, margins=False)
    for label in (
        plots.pole_spread_plot(spread).get_legend().get_texts()[0].get_text(),
        plots.sigma_plot(plots.loop_response(plant, ball)).get_ylabel(),
        html_page(report),
    ):
        assert "between scaled signals" in label
    plain = plots.pole_spread(plant, ball.raw(), samples=5)
    assert "scaled" not in plots.pole_spread_plot(plain).get_legend().get_texts()[0].get_text()
