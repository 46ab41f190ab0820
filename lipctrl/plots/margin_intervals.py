"""Intervals of the policy's gain that were certified, by the ball around the policy and by its own neurons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lipctrl.analysis.structured import StructuredMargin
from lipctrl.plots.style import BLACK, CERTIFIED, SKY, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A lower end of zero gain has no place on a logarithmic axis.
_FLOOR = 1e-2


@styled
def margin_intervals_plot(
    margins: Mapping[str, Any], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw certified intervals of the gain k, one row a margin: the structured test's around the ball test's.

    Parameters
    ----------
    margins : `lipctrl.analysis.StructuredMargin` by name. An end at `limit` (the largest k that was tried) or at zero
        is drawn as an arrow: at least that far.

    Raises
    ------
    ValueError
        For anything else; `gain_sweep_plot` draws the margin of a ball alone.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall, structured_gain_margin
    >>> plant, ball = control.tf([1], [1, 2]), IncrementalBall(center=[[-1.0]], radius=0.5)
    >>> margin = structured_gain_margin(plant, ball, tolerance=0.3, limit=3.0)
    >>> [tick.get_text() for tick in margin_intervals_plot({"policy": margin}).get_yticklabels()]
    ['policy']
    """
    if not margins:
        raise ValueError("margins is empty; expected at least one StructuredMargin by name")
    for name, margin in margins.items():
        if not isinstance(margin, StructuredMargin):
            raise ValueError(
                f"the margin {name!r} is a {type(margin).__name__}; expected a StructuredMargin "
                "(structured_gain_margin). Draw incremental_gain_margin with gain_sweep_plot(gain_sweep(plant, policy))"
            )
    ax = axes_or_new(ax, (6.4, 1.6 + 0.9 * len(margins)))
    labelled = False
    for row, margin in enumerate(margins.values()):
        low, high = max(margin.lower, _FLOOR), margin.upper
        ax.plot([low, high], [row, row], color=CERTIFIED, lw=9, solid_capstyle="butt", alpha=0.9,
                label="policy's own neurons" if row == 0 else None)  # fmt: skip
        if not math.isnan(margin.ball_lower):
            ball = max(margin.ball_lower, _FLOOR), margin.ball_upper
            ax.plot(ball, [row, row], color=SKY, lw=4, solid_capstyle="butt",
                    label=None if labelled else "ball around the policy")  # fmt: skip
            labelled = True
        for end, open_end, marker in ((low, margin.lower < _FLOOR, "<"), (high, high >= margin.limit, ">")):
            if open_end:
                ax.plot(end, row, marker, color=CERTIFIED, markersize=13)
        text = f"{margin.lower:.3g} … {margin.upper:.3g}"
        ax.annotate(text, (high, row), (6, 9), textcoords="offset points", ha="right", fontsize=10)
    ax.axvline(1.0, color=BLACK, ls="--", lw=1.4, label="k = 1")
    ax.set_xscale("log")
    ax.set_yticks(range(len(margins)), list(margins))
    ax.set_ylim(-0.6, len(margins) - 0.4)
    ax.set(xlabel="gain k of the policy [ratio]")
    ax.grid(axis="y", visible=False)
    ax.set_title(title or "Certified gain margins")
    legend_below(ax, 2)
    return ax
