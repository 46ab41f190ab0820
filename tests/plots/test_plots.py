"""Every plot function keeps one contract; what a picture says is what its data says."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace

import control
import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lipctrl import plots
from lipctrl.analysis import IncrementalBall, incremental_gain_margin, structured_gain_margin, trade_off
from lipctrl.analysis.srg import scaled_relative_graphs
from lipctrl.rules import Layer, Output, centered, linear, neurons, series

MARGIN = SimpleNamespace(lower=0.4, upper=1.8, falsified_lower=0.3, falsified_upper=2.5, falsifiers=())
PLANT = control.tf([1], [1, -1])
BALL = IncrementalBall([[-3.0]], 1.5)


def network():
    rng = np.random.default_rng(0)
    c, b = 0.5 * rng.normal(size=(4, 3)), 0.3 * rng.normal(size=(3, 4))
    block = neurons(
        [Layer({0: c}, "relu")], Output({0: 0.2 * np.eye(3), 1: b}), [np.full(4, 2.0)], 3.0, in_features=3
    )
    return series(block, block, linear([[1.0, 0.0, 2.0]]))


def metrics(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("steps,validation_return,certified_gain\n0,-500,\n100,-200,1.5\n200,-150,1.4\n")
    return plots.training_metrics(file)


def grid_of_verdicts():
    verdict = np.array([["certified", "inconclusive"], ["nominally unstable", "ill-posed"]])
    return plots.RobustnessMap(
        np.array([1.0, 2.0]),
        np.array([0.1, 0.2]),
        np.array([[1.7, 0.8], [0.0, 0.0]]),
        verdict,
        ("m", "l"),
        ("kg", "m"),
    )


def trajectories():
    time = np.linspace(0.0, 1.0, 11)
    return plots.Trajectories(
        time, np.zeros((3, 11, 2)) + time[None, :, None], ("angle", "torque"), ("rad", "N·m")
    )


def ellipsoid():
    root = np.array([[2.0, 0.3, 0.1], [0.0, 1.0, -0.4], [0.0, 0.0, 0.5]])
    return plots.Ellipsoid(
        root.T @ root, ("a", "b", "c"), ("m", "m/s", "N"), center=np.array([1.0, 0.0, -1.0])
    )


def double_integrator():
    return control.ss([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]], np.eye(2), np.zeros((2, 1)), 0.1)


def curves():
    levels = np.array([0.0, 0.1, 0.2])
    return [plots.Degradation(name, "noise", levels, np.array([[-1.0, -2.0, -3.0]] * 2)) for name in "ab"]


def simulation():
    return incremental_gain_margin(PLANT, BALL).simulate("lower")


# name of the plot -> (positional arguments from tmp_path, number of axes it needs)
CASES = {
    "nyquist_plot": (lambda _: (plots.loop_response(PLANT, BALL),), 1),
    "sigma_plot": (lambda _: (plots.loop_response(PLANT, BALL),), 1),
    "srg_plot": (lambda _: (scaled_relative_graphs(control.tf([1.0], [1, 1]), (0.2, 2.0)),), 1),
    "gain_sweep_plot": (lambda _: (plots.gain_sweep(PLANT, BALL, margin=MARGIN),), 1),
    "margin_intervals_plot": (
        lambda _: ({"policy": structured_gain_margin(PLANT, BALL, tolerance=0.3, limit=3.0)},),
        1,
    ),
    "trade_off_plot": (lambda _: (trade_off(double_integrator(), prices=[0.1, 1.0]),), 1),
    "pole_spread_plot": (lambda _: (plots.pole_spread(PLANT, BALL, samples=20),), 1),
    "robustness_map_plot": (lambda _: (grid_of_verdicts(),), 1),
    "region_plot": (lambda _: (ellipsoid(),), 1),
    "trajectory_plot": (lambda _: (trajectories(),), 2),
    "training_curve": (lambda tmp: (metrics(tmp),), 2),
    "pareto_plot": (
        lambda _: ([plots.SweepPoint(-1.0, 2.0, "a", "x"), plots.SweepPoint(-2.0, 3.0, "b")],),
        1,
    ),
    "size_plot": (
        lambda _: ({"a": plots.SizeSeries(np.array([2, 4]), np.array([[1.0, 2.0], [0.5, 0.6]]))},),
        1,
    ),
    "tightness_plot": (lambda _: ({"product": 4.0, "lipsdp": 2.0}, 1.8), 1),
    "singular_values_plot": (lambda _: (plots.block_singular_values(network(), points=4),), 1),
    "gershgorin_plot": (lambda _: (plots.gershgorin_discs(network().parts[0]),), 1),
    "tree_plot": (lambda _: (network(),), 1),
    "degradation_plot": (lambda _: (curves(),), 1),
    "margin_simulation_plot": (lambda _: (simulation(),), 1),
    "report_plot": (lambda _: (stability_report(PLANT, BALL),), 1),
}
EXTRA = {"size_plot": {"quantity": "error [ratio]"}}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def all_axes(returned):
    return list(np.asarray(returned, dtype=object).ravel())


def test_every_plot_function_is_in_the_table():
    drawing = {n for n in plots.__all__ if n.endswith("_plot") or n == "training_curve"}
    assert drawing == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_draws_without_touching_the_users_settings_and_never_shows(name, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("a plot function called show"))
    before = dict(matplotlib.rcParams)
    arguments, count = CASES[name]
    axes = all_axes(getattr(plots, name)(*arguments(tmp_path), **EXTRA.get(name, {})))
    assert len(axes) == count
    assert all(isinstance(a, Axes) for a in axes)
    assert dict(matplotlib.rcParams) == before
    axes[0].figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 3000


@pytest.mark.parametrize("name", CASES)
def test_draws_into_the_callers_axes(name, tmp_path):
    arguments, count = CASES[name]
    figure, grid = plt.subplots(1, count, squeeze=False)
    target = grid[0, 0] if count == 1 else grid[0]
    axes = all_axes(getattr(plots, name)(*arguments(tmp_path), ax=target, **EXTRA.get(name, {})))
    assert axes == list(grid[0])
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("name", CASES)
def test_refuses_unknown_keywords(name, tmp_path):
    arguments, _ = CASES[name]
    with pytest.raises(TypeError, match="colour"):
        getattr(plots, name)(*arguments(tmp_path), colour="red", **EXTRA.get(name, {}))
    kinds = {p.kind for p in inspect.signature(getattr(plots, name)).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize("name", [n for n in CASES if n not in {"tree_plot"}])
def test_axes_are_labelled(name, tmp_path):
    arguments, _ = CASES[name]
    axes = all_axes(getattr(plots, name)(*arguments(tmp_path), **EXTRA.get(name, {})))
    named_rows = {"tightness_plot", "margin_intervals_plot"}  # the ticks are the names
    assert all(a.get_ylabel() for a in axes if name not in named_rows)
    assert axes[-1].get_xlabel()


def test_too_few_axes_are_refused():
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="2 panels"):
        plots.trajectory_plot(trajectories(), ax=ax)


# -- loop ---------------------------------------------------------------------------------------------


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


# -- networks -----------------------------------------------------------------------------------------


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


# -- training -----------------------------------------------------------------------------------------


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


def test_pareto_front_leaves_out_runs_without_a_margin():
    points = [plots.SweepPoint(1.0, math.nan), plots.SweepPoint(0.5, 2.0), plots.SweepPoint(0.4, 1.0)]
    assert plots.pareto_front(points) == [points[1]]


def test_unknown_run_figure_lists_the_known_ones():
    with pytest.raises(ValueError, match="nyquist"):
        plots.run_figure(object(), "bode")


def test_encoded_figures_are_self_contained_and_repeatable():
    figure, ax = plt.subplots()
    ax.plot([1, 2], label="ω")
    assert plots.figure_png(figure).startswith(b"\x89PNG")
    assert plots.figure_svg(figure) == plots.figure_svg(figure)
    text = plots.figure_html(figure, "a <b> & c")
    assert "&lt;b&gt;" in text
    assert "http" not in text


def test_no_public_name_is_hidden_by_a_file_of_the_same_name():
    import pkgutil

    files = {m.name for m in pkgutil.iter_modules(plots.__path__)}
    assert not files & set(plots.__all__)


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


# -- reports ------------------------------------------------------------------------------------------


def stability_report(plant, ball, **changes):
    from lipctrl.analysis import StabilityReport, ball_test
    from lipctrl.analysis.report import TestResult

    test = ball_test(plant, ball)
    return StabilityReport(
        verdict=test.verdict,
        scope=("while <limits> are inactive",),
        plant="a plant",
        policy=str(ball),
        ball=ball,
        loop=test.loop,
        hinf=test.norm,
        tests=(TestResult("ball", test.verdict, test.reason, test.margin, test.frequency),),
        **changes,
    )


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
