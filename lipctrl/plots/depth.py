"""A measured quantity against depth or width, one line a parametrisation, with the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lipctrl.plots.style import GREY, axes_or_new, categories, legend_below, plain_log_ticks, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SizeSeries:
    """Measurements of one network family: `sizes` (N,) depths or widths, `values` (N, seeds)."""

    sizes: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        if self.sizes.ndim != 1 or self.values.ndim != 2 or len(self.sizes) != len(self.values):
            raise ValueError(
                f"sizes have shape {self.sizes.shape}, values {self.values.shape}; expected (N,) and (N, seeds)"
            )


@styled
def size_plot(
    series: Mapping[str, SizeSeries],
    *,
    quantity: str,
    size: str = "depth",
    log: bool = True,
    reference: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the median over seeds against size, with the range over seeds shaded.

    Parameters
    ----------
    series : by name of the parametrisation.
    quantity : label of the vertical axis with its unit, such as "tightness [ratio]".
    size : label of the horizontal axis, "depth [blocks]" or "width".
    log : logarithmic vertical axis; zeros and negative values are then left out.
    reference : a horizontal line, such as the bound.

    Examples
    --------
    >>> measured = SizeSeries(np.array([2, 8]), np.array([[0.9, 0.8], [0.7, 0.75]]))
    >>> size_plot({"lossless": measured}, quantity="tightness [ratio]", log=False).get_title("left")
    'Tightness against depth'
    """
    if not series:
        raise ValueError("series is empty; expected at least one name with its SizeSeries")
    ax = axes_or_new(ax)
    for (name, data), look in zip(series.items(), categories(list(series)).values(), strict=True):
        middle = np.median(data.values, axis=1)
        ax.fill_between(
            data.sizes,
            data.values.min(axis=1),
            data.values.max(axis=1),
            color=look["color"],
            alpha=0.15,
            lw=0,
        )
        ax.plot(data.sizes, middle, label=name, **look)
    if reference is not None:
        ax.axhline(reference, color=GREY, lw=1.4, ls="--")
    ax.set_xscale("log", base=2)
    sizes = sorted({int(v) for data in series.values() for v in data.sizes})
    ax.set_xticks(sizes, [str(v) for v in sizes])
    ax.minorticks_off()
    if log:
        ax.set_yscale("log")
        plain_log_ticks(ax)
    ax.set(xlabel=size, ylabel=quantity)
    name = quantity.partition(" [")[0]
    ax.set_title(title or f"{name[:1].upper()}{name[1:]} against {size.partition(' [')[0]}")
    legend_below(ax, 2)
    return ax
