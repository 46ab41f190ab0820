"""Cost of the nominal gain against the Lipschitz constant that it leaves to a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import BLACK, CERTIFIED, POLICY, axes_or_new, legend_below, plain_log_ticks, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def trade_off_plot(
    curve: Any, *, used: float | None = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw the gains of a trade-off: quadratic cost against the proved Lipschitz budget, with the Pareto front.

    Parameters
    ----------
    curve : `lipctrl.analysis.trade_off(plant)`. used : Lipschitz constant of a network to mark, or None.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import trade_off
    >>> plant = control.ss([[0, 1], [1, 0]], [[0], [1]], [[1, 0], [0, 1]], 0)
    >>> trade_off_plot(trade_off(plant, prices=[0.1, 1.0])).get_ylabel()
    'Lipschitz budget [action/observation]'
    """
    points = [c for c in curve.choices if np.isfinite(c.cost) and c.lipschitz > 0.0]
    if not points:
        raise ValueError(
            "no gain of the curve stabilises the plant; expected a TradeOff with stabilising gains"
        )
    ax = axes_or_new(ax)
    ax.plot([c.cost for c in points], [c.lipschitz for c in points], "o", color=CERTIFIED, label="LQR gains")
    front = [c for c in curve.pareto() if np.isfinite(c.cost) and c.lipschitz > 0.0]
    ax.step([c.cost for c in front], [c.lipschitz for c in front], where="post", color=BLACK, ls="--", lw=1.4,
            label="Pareto front", zorder=1)  # fmt: skip
    if used is not None:
        ax.axhline(used, color=POLICY, ls="-.", label="the network's Lipschitz constant")
    ax.set_xscale("log")
    ax.set_yscale("log")
    plain_log_ticks(ax, "x")
    ax.set(xlabel="quadratic cost, trace of the cost matrix", ylabel="Lipschitz budget [action/observation]")
    ax.set_title(title or "Price of a Lipschitz budget")
    legend_below(ax, 2)
    return ax
