"""Upper bounds of one network by method over its lower bound: how much each method leaves on the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lipctrl.plots.style import (
    BLACK,
    CERTIFIED,
    FALSIFIED,
    axes_or_new,
    legend_below,
    plain_log_ticks,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def tightness_plot(
    bounds: Mapping[str, float], lower: float, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw certified upper bounds as bars beside the attained lower bound; tightness is their ratio.

    Parameters
    ----------
    bounds : proved gain by method, loosest first or in any order (they are sorted).
    lower : a gain that was attained, such as `lipctrl.lipschitz_lower_bound`; the true constant lies between.

    Raises
    ------
    ValueError
        When a bound lies below `lower`: one of the two is wrong, and a picture must not hide it.

    Examples
    --------
    >>> tightness_plot({"product": 3.0, "LipSDP": 2.0}, 1.9).get_xlabel()
    'Lipschitz bound [output unit / input unit]'
    """
    if not bounds or not all(np.isfinite([*bounds.values(), lower])) or lower < 0.0:
        raise ValueError(
            f"bounds are {dict(bounds)!r} and lower {lower!r}; expected at least one bound by name, and finite numbers"
        )
    wrong = [name for name, value in bounds.items() if value < lower * (1.0 - 1e-9)]
    if wrong:
        raise ValueError(
            f"the bounds of {', '.join(wrong)} lie below the attained gain {lower:.9g}; expected bounds of the network "
            "and of the inputs that attained it"
        )
    names = sorted(bounds, key=lambda name: bounds[name], reverse=True)
    values = np.array([bounds[name] for name in names])
    ax = axes_or_new(ax, (6.4, 1.6 + 0.42 * len(names)))
    low = 0.5 * (lower or values.min())
    ax.barh(
        names, values - low, left=low, height=0.62, color=CERTIFIED, alpha=0.85, label="proved upper bound"
    )
    for y, value in enumerate(values):
        percent = f"  ({100.0 * lower / value:.0f} % tight)" if lower > 0.0 else ""
        ax.text(value * 1.03, y, f"{value:.4g}{percent}", va="center", color=BLACK, fontsize=11)
    if lower > 0.0:
        ax.axvline(lower, color=FALSIFIED, ls="--", lw=2.2, label=f"attained by ascent: {lower:.4g}")
    ax.set_xscale("log")
    ax.set_xlim(low, values.max() * max(2.5, (values.max() / low) ** 0.45))
    plain_log_ticks(ax, "x")
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="Lipschitz bound [output unit / input unit]")
    ax.set_title(title or "Bounds by method")
    legend_below(ax, 2)
    return ax
