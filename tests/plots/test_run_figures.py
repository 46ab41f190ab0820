"""`lipctrl plot RUN KIND`: every kind draws a run that was just trained."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt

import lipctrl
from lipctrl.plots import RUN_FIGURES, run_figure, simulate_plant

ENVIRONMENT = "lipctrl/CartPole-v0"
# Kinds that ask for more than a bound of the plant's Jacobian.
EXACT_FORM = {"region"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return short_run(tmp_path_factory.mktemp("runs") / "run", ENVIRONMENT, 10.0)


def short_run(folder, environment, limit):
    import torch

    from lipctrl.training import find_task, lqr_gain

    K = lqr_gain(find_task(environment).plant)
    torch.manual_seed(0)
    network = lipctrl.LipschitzResNet(K.shape[1], 1, lipschitz=1.0, width=8, depth=2)
    policy = lipctrl.ResidualPolicy(gain=K, network=network, action_limits=limit)
    return lipctrl.train(environment, policy, algorithm="apg", steps=4096, out=folder, progress=False)


def test_the_region_needs_a_plant_whose_nonlinearity_is_known(run, tmp_path):
    with pytest.raises(ValueError, match="only bounds the plant's Jacobian"):
        run_figure(run, "region")
    assert drawn_share(short_run(tmp_path / "run", "lipctrl/Pendulum-v0", 2.0), "region", tmp_path) > 0.005


@pytest.mark.parametrize("kind", [k for k in RUN_FIGURES if k not in EXACT_FORM])
def test_every_kind_draws(run, kind, tmp_path):
    assert drawn_share(run, kind, tmp_path) > 0.005


def test_the_trade_off_of_a_policy_with_scales_prices_the_same_actions_in_its_units(run):
    import types

    plain = run_figure(run, "trade-off").axes[0]
    network = lipctrl.LipschitzResNet(4, 1, lipschitz=1.0, width=8, depth=2)
    scaled = lipctrl.ResidualPolicy(run.policy.gain, network, [1.0, 2.0, 0.5, 4.0], action_scale=8.0)
    fields = {name: getattr(run, name) for name in ("config", "env_id")}
    own = run_figure(types.SimpleNamespace(**fields, certificate=scaled.certificate()), "trade-off").axes[0]
    assert own.get_ylabel() == "Lipschitz budget between scaled signals"
    costs = [np.sort(ax.lines[0].get_xdata()) for ax in (plain, own)]
    np.testing.assert_allclose(*costs, rtol=1e-6)
    plt.close("all")


def drawn_share(run, kind, tmp_path):
    figure = run_figure(run, kind)
    figure.savefig(tmp_path / "figure.png")
    plt.close("all")
    pixels = matplotlib.image.imread(tmp_path / "figure.png")[..., :3]
    return (pixels.min(axis=-1) < 0.9).mean()


def test_simulation_repeats_and_compares_under_the_same_disturbances(run):
    from lipctrl.training import find_task

    plant = find_task(ENVIRONMENT).plant
    first = simulate_plant(plant, run.policy, starts=3, steps=20, seed=4)
    again = simulate_plant(plant, run.policy, starts=3, steps=20, seed=4)
    assert np.array_equal(first.signals, again.signals)
    idle = simulate_plant(plant, lambda y: 0.0 * y[:, :1], starts=3, steps=20, seed=4)
    assert np.array_equal(first.signals[:, 0, :4], idle.signals[:, 0, :4])
    assert not np.array_equal(first.signals[:, -1, :4], idle.signals[:, -1, :4])
    assert np.nanmax(np.abs(first.signals[..., first.names.index("force")])) <= 10.0


def test_simulation_stops_where_an_episode_ends():
    from lipctrl.training import find_task

    plant = find_task(ENVIRONMENT).plant
    fallen = simulate_plant(plant, lambda y: 0.0 * y[:, :1], starts=4, steps=400, disturbed=False)
    angle = fallen.signals[..., fallen.names.index("angle")]
    assert np.isnan(angle[:, -1]).all()
    assert (np.isfinite(angle).sum(axis=1) > 10).all()


def test_a_run_without_a_plant_says_what_to_do(run, monkeypatch):
    from types import SimpleNamespace

    black_box = SimpleNamespace(
        env_id="InvertedPendulum-v5", config={"trained_on": "MountainCarContinuous-v0", "env_options": {}}
    )
    with pytest.raises(ValueError, match="no differentiable plant"):
        run_figure(black_box, "nyquist")
