"""One visual style for every figure: colour-blind safe, readable at half size, the same colour for the same claim.

Colours are Okabe and Ito's (2008). A role has one colour everywhere: what is certified is blue, what is
falsified or forbidden is vermilion, the nominal system is black, the trained policy is green. Roles also differ in line
style or marker, so that a figure survives a grey printer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from cycler import cycler

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#1A1A1A", "#7F7F7F"

CERTIFIED, FALSIFIED, POLICY = BLUE, VERMILION, GREEN
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))

# Sequential map for fields: even in lightness, so it also reads in grey.
FIELD = "cividis"

RC: dict[Any, Any] = {
    "figure.figsize": (6.4, 4.2),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 110,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "svg.hashsalt": "lipctrl",
    "axes.prop_cycle": cycler(color=list(CYCLE)),
}

Complex = npt.NDArray[np.complex128]
Arguments = ParamSpec("Arguments")
Drawn = TypeVar("Drawn")


def styled(plot: Callable[Arguments, Drawn]) -> Callable[Arguments, Drawn]:
    """Draw inside the style, leaving the user's own settings as they were."""

    @functools.wraps(plot)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Drawn:
        with mpl.rc_context(RC):
            return plot(*args, **kwargs)

    return drawn


def axes_or_new(ax: Axes | None, size: tuple[float, float] | None = None) -> Axes:
    """Return the caller's axes, or those of a new figure; never shows it."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=size or RC["figure.figsize"])[1]


def new_axes(
    rows: int, columns: int, size: tuple[float, float], *, sharex: bool = False
) -> tuple[Figure, Any]:
    """Return a new figure and its (rows, columns) array of axes."""
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=sharex)


def fit_height(ax: Axes, legend_rows: int) -> None:
    """Give a figure of one equal-aspect axes the height that its data, its title and its legend need [inches]."""
    figure = ax.get_figure(root=True)
    if figure is None or len(figure.axes) != 1:
        return
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    width = figure.get_size_inches()[0]
    drawn = (width - 1.0) * abs(top - bottom) / abs(right - left)
    figure.set_size_inches(width, min(max(drawn, 2.0), 6.5) + 1.5 + 0.27 * legend_rows)


@styled
def subplots(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] | None = None
) -> tuple[Figure, Any]:
    """Return a figure in the style of this package and its (rows, columns) array of axes, to pass as `ax`.

    Examples
    --------
    >>> figure, axes = subplots(1, 2)
    >>> axes.shape
    (1, 2)
    """
    return new_axes(rows, columns, size or (5.6 * columns, 5.0 * rows))


def check_axes(axes: Any, count: int) -> list[Axes]:
    """Return `count` axes from what a caller passed as `ax`: one axes, a list or an array of them."""
    flat = list(np.asarray(axes, dtype=object).ravel())
    if len(flat) < count:
        raise ValueError(f"ax holds {len(flat)} axes; this figure draws {count} panels, so pass {count} axes")
    return flat[:count]


def legend_below(ax: Axes, columns: int = 1, *, handles: list[Any] | None = None) -> None:
    """Put the legend under the axis labels, where it covers nothing."""
    figure = ax.get_figure(root=True)
    height = 4.0 if figure is None else ax.get_position().height * figure.get_size_inches()[1]
    # The axis label and the tick labels take about 0.62 inches, whatever the height of the axes.
    anchor = (-0.02, -0.62 / max(height, 1.0))
    look: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": anchor, "borderaxespad": 0.0}
    look |= {"frameon": False, "handlelength": 1.8, "columnspacing": 1.4}
    shown = ax.get_legend_handles_labels()[0] if handles is None else handles
    width = 6.4 if figure is None else figure.get_size_inches()[0]
    for count in range(columns, 0, -1):
        legend = ax.legend(handles=shown, ncols=count, **look)
        if figure is None or _inches_wide(legend, figure) <= _room_right(ax, figure) * width:
            return


def _room_right(ax: Axes, figure: Figure) -> float:
    """Return the share of the figure's width from the left of some axes to the next ones, or to the edge."""
    left = ax.get_position().x0
    panels = (other.get_position().x0 for other in figure.axes if other.get_label() != "<colorbar>")
    return min((x for x in panels if x > left + 1e-3), default=1.0) - left


def _inches_wide(legend: Any, figure: Figure) -> float:
    return float(legend.get_window_extent().width / figure.dpi)


def room_across(ax: Axes, share: float = 0.7) -> None:
    """Widen the view of an equal-aspect plot that would be a slit, to at least a share of its height."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    missing = share * (top - bottom) - (right - left)
    if missing > 0.0:
        ax.set_xlim(left - 0.5 * missing, right + 0.5 * missing)


def plain_log_ticks(ax: Axes, axis: str = "y") -> None:
    """Label a logarithmic axis with 1, 2, 5 times powers of ten, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    which = ax.yaxis if axis == "y" else ax.xaxis
    low, high = which.get_view_interval()
    decades = math.log10(high / low)
    which.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    which.set_minor_formatter(NullFormatter())


def forbidden_look(name: str) -> dict[str, Any]:
    """Return how a forbidden region looks."""
    return {"facecolor": FALSIFIED, "alpha": 0.25, "edgecolor": FALSIFIED, "lw": 1.5, "label": name}


def shade_outside(ax: Axes, middle: float, size: float, style: dict[str, Any]) -> None:
    """Shade everything outside a circle, far beyond the view."""
    from matplotlib.patches import Annulus

    far = 60.0 * max(*np.abs(ax.get_xlim()), *np.abs(ax.get_ylim()), size)
    ax.add_patch(Annulus((middle, 0.0), far, far - size, **style))


def label(name: str, unit: str | None) -> str:
    """Return 'name [unit]', with a bare name for a quantity without one."""
    return f"{name} [{unit}]" if unit else name


def categories(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return colour, marker and line style for each name, in order of appearance."""
    return {
        name: {
            "color": CYCLE[i % len(CYCLE)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i % len(LINES)],
        }
        for i, name in enumerate(names)
    }
