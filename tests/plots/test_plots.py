"""Every plot function keeps one contract."""

from __future__ import annotations

import inspect

import control
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lipctrl import plots
from lipctrl.analysis import disk_margin, separating_pair, structured_gain_margin, trade_off
from lipctrl.analysis.srg import scaled_relative_graphs
from tests.plots.subjects import (
    BALL,
    MARGIN,
    PLANT,
    curves,
    double_integrator,
    ellipsoid,
    grid_of_verdicts,
    metrics,
    network,
    portrait,
    simulation,
    stability_report,
    trajectories,
)

# name of the plot -> (positional arguments from tmp_path, number of axes it needs)
CASES = {
    "nyquist_plot": (lambda _: (plots.loop_response(PLANT, BALL),), 1),
    "sigma_plot": (lambda _: (plots.loop_response(PLANT, BALL),), 1),
    "srg_plot": (lambda _: (scaled_relative_graphs(control.tf([1.0], [1, 1]), (0.2, 2.0)),), 1),
    "gain_sweep_plot": (lambda _: (plots.gain_sweep(PLANT, BALL, margin=MARGIN),), 1),
    "disk_margin_plot": (lambda _: (disk_margin(control.tf([25], [1, 10, 10, 10])),), 1),
    "margin_intervals_plot": (
        lambda _: ({"policy": structured_gain_margin(PLANT, BALL, tolerance=0.3, limit=3.0)},),
        1,
    ),
    "trade_off_plot": (lambda _: (trade_off(double_integrator(), prices=[0.1, 1.0]),), 1),
    "pair_plot": (lambda _: (separating_pair(lambda x, d: 1.01 * x, 1, steps=9, tries=1),), 1),
    "pole_spread_plot": (lambda _: (plots.pole_spread(PLANT, BALL, samples=20),), 1),
    "robustness_map_plot": (lambda _: (grid_of_verdicts(),), 1),
    "region_plot": (lambda _: (ellipsoid(),), 1),
    "portrait_plot": (lambda _: (portrait(),), 1),
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
def test_takes_axes_and_title_and_refuses_unknown_keywords(name, tmp_path):
    arguments, _ = CASES[name]
    with pytest.raises(TypeError, match="colour"):
        getattr(plots, name)(*arguments(tmp_path), colour="red", **EXTRA.get(name, {}))
    parameters = inspect.signature(getattr(plots, name)).parameters
    assert all(parameters[n].kind is inspect.Parameter.KEYWORD_ONLY for n in ("ax", "title"))
    kinds = {p.kind for p in parameters.values()}
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


def test_unknown_run_figure_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"expected one of training, .*nyquist"):
        plots.run_figure(object(), "bode")


def test_no_public_name_is_hidden_by_a_file_of_the_same_name():
    import pkgutil

    files = {m.name for m in pkgutil.iter_modules(plots.__path__)}
    assert not files & set(plots.__all__)
