"""Performance against certified margin over the runs of a sweep, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.pareto import undominated
from lipctrl.plots.style import BLACK, axes_or_new, categories, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SweepPoint:
    """One run: `performance` (a return, larger is better), certified `margin`, its `group` and a short `name`."""

    performance: float
    margin: float
    group: str = ""
    name: str = ""


def pareto_front(points: Sequence[Any]) -> list[Any]:
    """Return the points that no other point beats in both performance and margin, by rising margin.

    Points with a NaN in either value are left out. Margins that agree to a millionth count as equal.

    Examples
    --------
    >>> front = pareto_front([SweepPoint(1.0, 3.0), SweepPoint(2.0, 1.0), SweepPoint(0.5, 2.0)])
    >>> [(p.margin, p.performance) for p in front]
    [(1.0, 2.0), (3.0, 1.0)]
    """
    known = [p for p in points if np.isfinite(p.performance) and not np.isnan(p.margin)]
    return undominated(known, lambda p: (p.margin, p.performance))


@styled
def pareto_plot(
    points: Sequence[Any],
    *,
    performance: str = "mean return",
    margin: str = "certified gain margin, upper end [ratio]",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw every run and the front of those that no other run beats in both.

    Parameters
    ----------
    points : `SweepPoint`s, or what `SweepResult.points()` returns; a colour and a marker a group. Runs without a
        margin (NaN) are not drawn, but counted.
    performance, margin : labels of the axes with their units.

    Examples
    --------
    >>> runs = [SweepPoint(-150.0, 2.0, "L = 1"), SweepPoint(-120.0, 1.2, "L = 5")]
    >>> pareto_plot(runs, performance="mean return [-cost]").get_ylabel()
    'mean return [-cost]'
    """
    if not points:
        raise ValueError("points is empty; expected at least one SweepPoint")
    ax = axes_or_new(ax)
    groups = list(dict.fromkeys(p.group for p in points))
    for group, look in zip(groups, categories(groups).values(), strict=True):
        mine = [p for p in points if p.group == group]
        ax.plot([p.margin for p in mine], [p.performance for p in mine], look["marker"], color=look["color"],
                markersize=8, label=group or None)  # fmt: skip
    front = pareto_front(points)
    if len(front) > 1:
        ax.step([p.margin for p in front], [p.performance for p in front], where="pre", color=BLACK, lw=1.4, ls="--",
                label="Pareto front", zorder=1)  # fmt: skip
    for point in front:
        if point.name:
            ax.annotate(
                point.name, (point.margin, point.performance), (5, 6), textcoords="offset points", fontsize=10
            )
    # Room for the names to the right of the points.
    ax.margins(0.15, 0.12)
    _keep_scale(ax, [p.margin for p in points if np.isfinite(p.margin)])
    ax.set(xlabel=margin, ylabel=performance)
    missing = sum(bool(np.isnan(p.margin)) for p in points)
    ax.set_title(
        title or "Performance against margin" + (f" ({missing} runs without one)" if missing else "")
    )
    if any(groups) or len(front) > 1:
        legend_below(ax, 3)
    return ax


def _keep_scale(ax: Axes, margins: Sequence[float]) -> None:
    """Show margins that differ by rounding as equal, and no axis as an offset and a remainder."""
    ax.ticklabel_format(useOffset=False)
    if margins and max(margins) - min(margins) < 1e-3 * abs(max(margins)):
        middle = 0.5 * (max(margins) + min(margins))
        reach = 0.05 * abs(middle) or 1.0
        ax.set_xlim(middle - reach, middle + reach)
