"""Closed-loop trajectories from many starts, beside those of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import BLACK, CERTIFIED, FALSIFIED, ORANGE, check_axes, label, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Trajectories:
    """Signals over time from many starts.

    `time` (T,) [s]; `signals` (starts, T, channels), NaN after an episode ended; `names` and `units` of the channels.
    """

    time: np.ndarray
    signals: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.signals.ndim != 3 or self.signals.shape[1:] != (len(self.time), len(self.names)):
            raise ValueError(
                f"signals have shape {self.signals.shape}; expected (starts, {len(self.time)}, {len(self.names)})"
            )
        if len(self.units) != len(self.names):
            raise ValueError(f"{len(self.units)} units for {len(self.names)} names; expected one each")


def simulate_plant(
    plant: Any,
    policy: Callable[[Any], Any],
    *,
    starts: int = 24,
    steps: int | None = None,
    seed: int = 0,
    disturbed: bool = True,
) -> Trajectories:
    """Run a policy on a plant of `lipctrl_envs` from random starts, all starts in one batch.

    Parameters
    ----------
    plant : what `env.unwrapped.plant` returns.
    policy : maps observations (starts, p) to actions (starts, m), torch tensors.
    steps : samples, by default the plant's horizon.
    disturbed : draw the plant's own disturbances; the same `seed` gives the same starts and disturbances to any policy.

    Returns the states and the actions that were applied (saturated).

    Examples
    --------
    >>> from lipctrl_envs import Pendulum
    >>> simulate_plant(Pendulum(), lambda y: -20.0 * y[..., :1], starts=3, steps=5).signals.shape
    (3, 5, 3)
    """
    import torch

    if starts < 1:
        raise ValueError(f"starts is {starts}; expected at least 1")
    count = plant.horizon if steps is None else steps
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64
    state = plant.initial_state(starts, generator, torch.device("cpu"), dtype)
    parameter = next(iter(getattr(policy, "parameters", list)()), None)
    inner = dtype if parameter is None else parameter.dtype
    ended = torch.zeros(starts, dtype=torch.bool)
    rows = []
    # A second thread makes batches of this size many times slower on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(count):
                action = plant.saturate(policy(plant.observe(state).to(inner)).to(dtype))
                row = torch.cat([state, action], dim=-1)
                rows.append(torch.where(ended[:, None], torch.nan, row))
                disturbance = (
                    plant.sample_disturbance(starts, generator, state.device, dtype) if disturbed else None
                )
                state = plant.transition(state, action, disturbance)
                ended |= plant.terminated(state)
    finally:
        torch.set_num_threads(threads)
    return Trajectories(
        plant.dt * np.arange(count),
        torch.stack(rows, dim=1).numpy(),
        (*plant.state_names, *plant.action_names),
        (*plant.state_units, *plant.action_units),
    )


@styled
def trajectory_plot(
    trajectories: Trajectories,
    *,
    baseline: Trajectories | None = None,
    channels: Sequence[str] | None = None,
    limits: Mapping[str, float] | None = None,
    names: tuple[str, str] = ("policy", "baseline"),
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """Draw every trajectory of the chosen channels over time, one panel a channel; returns the array of axes.

    Parameters
    ----------
    baseline : trajectories of another policy, drawn behind, dashed.
    channels : names of the signals to draw, all by default.
    limits : symmetric limits by channel name, drawn as dashed lines (actuator and track limits).
    names : of the policy and of the baseline, for the legend.

    Examples
    --------
    >>> from lipctrl_envs import Pendulum
    >>> runs = simulate_plant(Pendulum(), lambda y: -20.0 * y[..., :1], starts=3, steps=5)
    >>> len(trajectory_plot(runs, channels=runs.names[:2]))
    2
    """
    chosen = list(trajectories.names) if channels is None else list(channels)
    known = set(trajectories.names)
    for name in (*chosen, *(limits or {})):
        if name not in known:
            raise ValueError(
                f"there is no channel {name!r}; the trajectories hold {', '.join(trajectories.names)}"
            )
    axes: list[Axes]
    if ax is None:
        _, grid = new_axes(len(chosen), 1, (6.8, 1.0 + 1.45 * len(chosen)), sharex=True)
        axes = list(grid.ravel())
    else:
        axes = check_axes(ax, len(chosen))
    sets = [(trajectories, CERTIFIED, "-", 2)] + ([] if baseline is None else [(baseline, ORANGE, "--", 1)])
    width = 1.5 if len(trajectories.signals) <= 10 else 0.9
    for panel, name in zip(axes, chosen, strict=True):
        for data, color, line, order in sets:
            if name not in data.names:
                raise ValueError(f"the baseline has no channel {name!r}; it holds {', '.join(data.names)}")
            values = data.signals[:, :, data.names.index(name)]
            panel.plot(data.time, values.T, line, color=color, lw=width, alpha=0.65, zorder=order)
        panel.axhline(0.0, color=BLACK, lw=0.8)
        if limits and name in limits:
            for sign in (-1.0, 1.0):
                panel.axhline(sign * limits[name], color=FALSIFIED, ls="--", lw=1.6)
        unit = trajectories.units[trajectories.names.index(name)]
        panel.set_ylabel(label(name.replace("_", " ") + "\n" if len(name) > 8 else name, unit))
    axes[-1].set_xlabel("time [s]")
    handles = [axes[0].plot([], [], line, color=color)[0] for _, color, line, _ in sets]
    texts = list(names[: len(handles)])
    if limits:
        handles.append(axes[0].plot([], [], "--", color=FALSIFIED)[0])
        texts.append("limit")
    axes[0].legend(
        handles, texts, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(texts), frameon=False
    )
    axes[0].set_title(title or f"{len(trajectories.signals)} starts")
    return np.array(axes, dtype=object)
