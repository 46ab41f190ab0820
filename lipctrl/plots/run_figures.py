"""Figures of a run folder by name: what `lipctrl plot RUN KIND` draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# kind -> (what it shows, function of this file); the functions import what they need.
RUN_FIGURES: dict[str, tuple[str, Callable[[Any], Any]]] = {}


def _figure(kind: str, shows: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def enter(draw: Callable[[Any], Any]) -> Callable[[Any], Any]:
        RUN_FIGURES[kind] = (shows, draw)
        return draw

    return enter


def run_figure(run: Any, kind: str) -> Figure:
    """Draw one figure of a run.

    Parameters
    ----------
    run : what `lipctrl.load_run(path)` returns.
    kind : a key of `RUN_FIGURES`.

    Raises
    ------
    ValueError
        For an unknown kind, or a kind that this run cannot have (an environment without a linear model, a
        plant with several inputs for a Nyquist plot); the message says what to do.

    Examples
    --------
    >>> import lipctrl
    >>> from lipctrl.training import lqr_gain
    >>> from lipctrl_envs import Pendulum
    >>> network = lipctrl.LipschitzResNet(2, 1, lipschitz=0.5, width=4, depth=1)
    >>> policy = lipctrl.ResidualPolicy(lqr_gain(Pendulum()), network)
    >>> run = lipctrl.train("lipctrl/Pendulum-v0", policy, algorithm="apg", steps=512, out="run", progress=False)
    >>> run_figure(run, "sigma").axes[0].get_ylabel()
    'σ of T [ratio]'
    """
    if kind not in RUN_FIGURES:
        raise ValueError(f"there is no figure {kind!r}; expected one of {', '.join(RUN_FIGURES)}")
    axes = np.asarray(RUN_FIGURES[kind][1](run), dtype=object).ravel()
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    return figure


def _plant(run: Any) -> Any:
    from lipctrl.training import find_task

    name = run.config["trained_on"]
    plant = find_task(name, run.config["env_options"] if name == run.env_id else None).plant
    if plant is None:
        raise ValueError(
            f"{run.env_id} has no differentiable plant in lipctrl_envs; use the plot functions of lipctrl.plots with "
            "a linear model of your own"
        )
    return plant


@_figure("training", "return and proved gain over environment steps")
def training(run: Any) -> Any:
    """Draw the training curve of a run."""
    from lipctrl.plots.training import training_curve, training_metrics

    metrics = training_metrics(run.path)
    seen = {
        name: np.isfinite(metrics.columns.get(name, np.zeros(0))).sum()
        for name in ("validation_return", "mean_return")
    }
    # A short run has too few validations for a curve; the return of its training episodes is the next best.
    few = seen["validation_return"] <= 2 < seen["mean_return"]
    return training_curve(metrics, y="mean_return" if few else "validation_return")


@_figure("trajectories", "closed loop from many starts, with the disturbances of the environment")
def trajectories(run: Any) -> Any:
    """Draw closed-loop trajectories of the trained policy, beside those of its own linear part where it has one."""
    import torch

    from lipctrl.plots.trajectories import simulate_plant, trajectory_plot

    plant, policy = _plant(run), run.policy
    drawn = simulate_plant(plant, policy, starts=6)
    gain = getattr(policy, "gain", None)
    baseline = None
    if gain is not None:
        linear = gain.to(torch.float64)
        baseline = simulate_plant(plant, lambda y: -y.to(torch.float64) @ linear.T, starts=6)
    limits = {
        name: float(limit)
        for name, limit in zip(plant.action_names, np.ravel(plant.action_limit), strict=False)
        if np.isfinite(limit)
    }
    return trajectory_plot(
        drawn, baseline=baseline, limits=limits, names=("trained policy", "its linear part")
    )


def _response(run: Any) -> Any:
    from lipctrl.plots.response import loop_response

    return loop_response(_plant(run).linearize(), run.certificate)


@_figure("nyquist", "the loop, the set that the policy's ball forbids, and its centre")
def nyquist(run: Any) -> Axes:
    """Draw the Nyquist plot of the linearised plant and the policy's ball."""
    from lipctrl.plots.nyquist import nyquist_plot

    return nyquist_plot(_response(run))


@_figure("sigma", "singular values of the transformed loop with the line 1/ρ")
def sigma(run: Any) -> Axes:
    """Draw the singular values of T with 1/ρ."""
    from lipctrl.plots.sigma import sigma_plot

    return sigma_plot(_response(run))


@_figure("margins", "small-gain product over the factor k, certified and falsified ends")
def margins(run: Any) -> Axes:
    """Draw the sweep of the incremental gain margin."""
    from lipctrl.plots.margins import gain_sweep, gain_sweep_plot

    return gain_sweep_plot(gain_sweep(_plant(run).linearize(), run.certificate))


@_figure(
    "disk-margin", "gains and phases that every actuator may have at once, and those found to destabilise"
)
def disk_margin(run: Any) -> Axes:
    """Draw the disk margin of the linearised plant with every policy of the ball."""
    from lipctrl.analysis import incremental_disk_margin
    from lipctrl.plots.disk_margin import disk_margin_plot

    return disk_margin_plot(incremental_disk_margin(_plant(run).linearize(), run.certificate))


@_figure(
    "margin-simulation", "the loop with the policy scaled a little less and a little more than it can be"
)
def margin_simulation(run: Any) -> Axes:
    """Draw the loop on both sides of the falsified gain, the upper one where there is one."""
    from lipctrl.analysis import incremental_gain_margin
    from lipctrl.plots.margin_simulation import margin_simulation_plot
    from lipctrl.plots.style import label

    plant = _plant(run)
    margin = incremental_gain_margin(plant.linearize(), run.certificate)
    simulation = margin.simulate("upper" if np.isfinite(margin.falsified_upper) else "lower")
    names = [label(s.name.replace("_", " "), s.unit) for s in plant.observations]
    return margin_simulation_plot(simulation, names=names)


@_figure("structured-margins", "gain margins from the policy's own neurons around those of the ball")
def structured_margins(run: Any) -> Axes:
    """Draw both forms of the structured gain margin over those of the ball."""
    from lipctrl.analysis import structured_gain_margin
    from lipctrl.plots.margin_intervals import margin_intervals_plot

    plant = _plant(run).linearize()
    forms = {"whole policy": "policy", "residual": "residual"}
    return margin_intervals_plot(
        {
            name: structured_gain_margin(plant, run.certificate, form, limit=20.0, tolerance=2e-2)
            for name, form in forms.items()
        }
    )


@_figure(
    "region", "ellipsoidal region of attraction of the nonlinear plant, with simulations from its boundary"
)
def region(run: Any) -> Axes:
    """Draw the region of attraction of the plant's Lur'e form with its actuator limit: convergence, may saturate."""
    from lipctrl.analysis import region_of_attraction
    from lipctrl.plots.region import region_data, region_plot

    plant = _plant(run)
    found = region_of_attraction(
        plant, run.certificate, action_limit=np.ravel(plant.action_limit), incremental=False
    )
    extra = len(found.center) - len(plant.state_names)
    names = (*plant.state_names, *(f"delayed_{k + 1}" for k in range(extra)))
    units = (*plant.state_units, *("1" for _ in range(extra)))
    ellipsoid, simulated = region_data(found, names, units)
    return region_plot(ellipsoid, trajectories=simulated, title="Region of attraction, saturation included")


@_figure("trade-off", "LQR cost against the Lipschitz constant that each gain leaves to a network")
def trade_off(run: Any) -> Axes:
    """Draw the trade-off of the linearised plant, with the gain of the run's network."""
    from lipctrl.analysis import as_realization, in_own_units
    from lipctrl.analysis import trade_off as curve
    from lipctrl.plots.trade_off import trade_off_plot

    system, ball, scales = in_own_units(as_realization(_plant(run).linearize()), run.certificate)
    # The cost stays that of the plant's own actions; only the budget is one of scaled signals.
    ax = trade_off_plot(curve(system, action_weights=scales.action**2), used=ball.radius)
    if not scales.trivial:
        ax.set_ylabel("Lipschitz budget between scaled signals")
    return ax


@_figure("poles", "closed-loop poles of the linear policies in the ball")
def poles(run: Any) -> Axes:
    """Draw the pole spread of the policy family."""
    from lipctrl.plots.poles import pole_spread, pole_spread_plot

    return pole_spread_plot(pole_spread(_plant(run).linearize(), run.certificate))


@_figure("certificate", "the derivation tree of the certificate")
def certificate(run: Any) -> Axes:
    """Draw the certificate's tree."""
    from lipctrl.plots.tree import tree_plot

    return tree_plot(run.certificate)


@_figure("singular-values", "singular values of every block's Jacobian")
def singular_values(run: Any) -> Axes:
    """Draw the singular values of the trained network's blocks."""
    from lipctrl.plots.singular_values import block_singular_values, singular_values_plot

    return singular_values_plot(block_singular_values(run.policy.network.certificate()))


@_figure("gershgorin", "Gershgorin discs of the first block's LMI over its eigenvalues")
def gershgorin(run: Any) -> Axes:
    """Draw the Gershgorin discs of the first LMI of the certificate."""
    from lipctrl.plots.gershgorin import gershgorin_discs, gershgorin_plot

    node = next((c for c in run.certificate.nodes() if c.rule == "neurons"), None)
    if node is None:
        raise ValueError("the certificate holds no LMI over neurons; draw the kind 'certificate' instead")
    return gershgorin_plot(gershgorin_discs(node))
