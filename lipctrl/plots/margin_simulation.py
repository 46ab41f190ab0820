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

    The growing run is drawn until it leaves three times the size of the other, so that both remain readable.
    """
    ax = axes_or_new(ax)
    channel = int(np.argmax(np.abs(simulation.outside).max(axis=0)))
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
    for outputs, value, color, line, side in runs:
        end = last if side == "outside" else shown
        name = f"{side}: {simulation.quantity} = {value:.4g}{unit}"
        ax.plot(simulation.time[:end], outputs[:end, channel], line, color=color, lw=1.6, label=name, **draw)
    ax.set_ylim(-3.1 * size, 3.1 * size)
    ax.set_xlim(simulation.time[0], simulation.time[shown - 1])
    ax.axhline(0.0, color=GREY, lw=1.0)
    rate = f"{simulation.frequency:.3g} rad/s" if math.isfinite(simulation.frequency) else ""
    ax.set(
        # One sample is a second, or (dt=True) the unit of time itself: "samples" is right for both.
        xlabel="time [samples]" if simulation.sample_time == 1.0 else "time [s]",
        ylabel=f"output y{channel + 1} [plant's unit]" if outputs.shape[1] > 1 else "output y",
    )
    ax.set_title(title or f"Just inside and just outside, {rate}")
    legend_below(ax, 2)
    return ax
