"""What lies on either side of a margin: the loop with a perturbation just inside and just outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import CERTIFIED, FALSIFIED, GREY, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lipctrl.analysis import MarginSimulation


@styled
def margin_simulation_plot(
    simulation: MarginSimulation,
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the output that grows most over time, just inside a margin and just outside it.

    The growing run is drawn until it leaves three times the size of the other, so that both remain readable.

    Parameters
    ----------
    simulation : what `.simulate()` of a margin, a radius or a `Destabilization` returns.
    names : of the plant's outputs with their units; by default the plant's own `output_labels`, else y1, y2, …

    Raises
    ------
    ValueError
        When there are not as many names as outputs.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall, incremental_gain_margin
    >>> margin = incremental_gain_margin(control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0))
    >>> margin_simulation_plot(margin.simulate("lower"), names=["speed [m/s]"]).get_ylabel()
    'speed [m/s]'
    """
    outputs = simulation.outside.shape[1]
    if names is not None and len(names) != outputs:
        raise ValueError(f"names are {list(names)}; expected one for each of the {outputs} outputs")
    ax = axes_or_new(ax)
    channel = simulation.largest
    unit = f" {simulation.unit}" if simulation.unit else ""
    draw: dict[str, Any] = {"drawstyle": "steps-post"} if simulation.sample_time else {}
    runs = (
        (simulation.outside, simulation.outside_value, FALSIFIED, "--", "outside"),
        (simulation.inside, simulation.inside_value, CERTIFIED, "-", "inside"),
    )
    start = float(np.abs(simulation.outside[: max(len(simulation.time) // 20, 2), channel]).max())
    size = max(start, float(np.abs(simulation.inside[:, channel]).max()))
    left = np.flatnonzero(np.abs(simulation.outside[:, channel]) > 3.0 * size)
    last = min(int(left[0]) + 1, len(simulation.time)) if left.size else len(simulation.time)
    shown = min(len(simulation.time), 2 * last)
    for signals, value, color, line, side in runs:
        end = last if side == "outside" else shown
        name = f"{side}: {simulation.quantity} = {value:.4g}{unit}"
        ax.plot(simulation.time[:end], signals[:end, channel], line, color=color, lw=1.6, label=name, **draw)
    ax.set_ylim(-3.1 * size, 3.1 * size)
    ax.set_xlim(simulation.time[0], simulation.time[shown - 1])
    ax.axhline(0.0, color=GREY, lw=1.0)
    clock, rate = ("samples", "rad/sample") if simulation.counts_samples else ("s", "rad/s")
    own = simulation.name_of(channel) if simulation.output_names or outputs > 1 else "y"
    own = own if simulation.output_names else f"output {own} [plant's unit]"
    ax.set(xlabel=f"time [{clock}]", ylabel=own if names is None else names[channel])
    ax.set_title(title or f"Just inside and just outside{_oscillation(simulation, shown, rate)}")
    legend_below(ax, 2)
    return ax


def _oscillation(simulation: MarginSimulation, shown: int, rate: str) -> str:
    """Say how fast the drawn mode turns, where a turn could be seen at all: a double real pole is split by rounding."""
    turns = simulation.frequency * float(simulation.time[shown - 1] - simulation.time[0])
    return f", {simulation.frequency:.3g} {rate}" if turns > 1e-3 else ""
