"""What lies on either side of a margin: the loop with a perturbation just inside and just outside."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import CERTIFIED, FALSIFIED, GREY, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def margin_simulation_plot(simulation: Any, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the largest output of both runs of a `lipctrl.analysis.MarginSimulation` over time.

    Growth is cut at three times the larger of the initial and the decaying run, so that both remain readable.
    """
    ax = axes_or_new(ax)
    channel = int(np.argmax(np.abs(simulation.outside).max(axis=0)))
    unit = f" {simulation.unit}" if simulation.unit else ""
    draw: dict[str, Any] = {"drawstyle": "steps-post"} if simulation.sample_time else {}
    runs = (
        (simulation.outside, simulation.outside_value, FALSIFIED, "--", "outside"),
        (simulation.inside, simulation.inside_value, CERTIFIED, "-", "inside"),
    )
    for outputs, value, color, line, side in runs:
        name = f"{side}: {simulation.quantity} = {value:.4g}{unit}"
        ax.plot(simulation.time, outputs[:, channel], line, color=color, lw=1.6, label=name, **draw)
    start = float(np.abs(simulation.outside[: max(len(simulation.time) // 20, 2), channel]).max())
    size = max(start, float(np.abs(simulation.inside[:, channel]).max()))
    ax.set_ylim(-3.0 * size, 3.0 * size)
    ax.set_xlim(simulation.time[0], simulation.time[-1])
    ax.axhline(0.0, color=GREY, lw=1.0)
    rate = f"{simulation.frequency:.3g} rad/s" if math.isfinite(simulation.frequency) else ""
    ax.set(
        xlabel="time [s]",
        ylabel=f"output y{channel + 1} [plant's unit]" if outputs.shape[1] > 1 else "output y",
    )
    ax.set_title(title or f"Just inside and just outside, {rate}")
    legend_below(ax, 2)
    return ax
