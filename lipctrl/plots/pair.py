"""Two trajectories of one loop under the same inputs: how far apart they are over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import BLACK, FALSIFIED, GREY, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def pair_plot(attack: Any, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw ‖Δx‖ of a `lipctrl.analysis.PairAttack` over the steps: vermilion where the pair separates, else grey.

    A pair that ends farther apart than it began refutes contraction from these states; one that does not proves
    nothing, and the title says so.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> from lipctrl.analysis import loop_step, separating_pair
    >>> policy = rules.series(rules.elementwise("tanh", 1), rules.linear([[-0.6]]))
    >>> step = loop_step(control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True), policy)
    >>> pair_plot(separating_pair(step, 1, distance=1.0, scale=5.0, steps=60)).get_xlabel()
    'step'
    """
    ax = axes_or_new(ax)
    distance = np.maximum(attack.distance, np.finfo(float).tiny)
    color, said = (FALSIFIED, "separates") if attack.separates else (GREY, "nothing found")
    ax.semilogy(distance, color=color, label="distance ‖Δx‖ of the worst pair found")
    ax.axhline(distance[0], color=BLACK, ls="--", lw=1.2, label="distance at the start")
    ax.set_ylim(bottom=max(float(distance.min()), 1e-6 * float(distance.max())) / 2.0)
    ax.set_xlim(0, len(distance) - 1)
    ax.set(xlabel="step", ylabel="‖Δx‖ [units of the state]")
    ax.set_title(title or f"Pair of trajectories: {said}")
    legend_below(ax, 2)
    return ax
