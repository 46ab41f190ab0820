"""Certified margin over two plant parameters: where one trained policy is proved to stabilise, and where not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import BLACK, FIELD, axes_or_new, label, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


UNPROVED = (
    (("inconclusive",), "//", "inconclusive"),
    (("nominally unstable", "ill-posed"), "xxxx", "nominal loop unstable or ill-posed"),
)


@dataclass(frozen=True)
class RobustnessMap:
    """Margins 1/(ρ‖T‖_∞) at grid points of two parameters: `margin[i, j]` belongs to `y[i]` and `x[j]`.

    `verdict[i, j]` is the word of the small-gain test. Each point is proved for exactly those parameters; nothing
    is claimed between grid points.
    """

    x: np.ndarray
    y: np.ndarray
    margin: np.ndarray
    verdict: np.ndarray
    names: tuple[str, str]
    units: tuple[str, str]


def robustness_map(
    make_plant: Callable[[float, float], Any],
    policy: Any,
    x: Any,
    y: Any,
    *,
    names: tuple[str, str],
    units: tuple[str, str] = ("", ""),
) -> RobustnessMap:
    """Run the small-gain test of one policy against the plant at every point of a parameter grid.

    Parameters
    ----------
    make_plant : (x, y) ↦ LTI plant; policy : as `lipctrl.analysis.as_ball` takes it, u = π(y).
    x, y : one-dimensional parameter values.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> ball = IncrementalBall(center=[[-1.0]], radius=0.5)
    >>> grid = robustness_map(
    ...     lambda gain, pole: control.tf([gain], [1, pole]), ball, [0.5, 1.0], [1.0, 2.0], names=("gain", "pole")
    ... )
    >>> grid.margin.round(6).tolist()        # (pole + gain) / (0.5 gain), rows are poles
    [[6.0, 4.0], [10.0, 6.0]]
    """
    from lipctrl.analysis import ball_test, own_ball

    ball = own_ball(policy)
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.ndim != 1 or ys.ndim != 1 or not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ValueError(
            f"x and y have shapes {xs.shape} and {ys.shape}; expected one-dimensional arrays of finite parameter values"
        )
    tests = [[ball_test(make_plant(float(a), float(b)), ball) for a in xs] for b in ys]
    margin = np.array([[t.margin for t in row] for row in tests])
    verdict = np.array([[str(t.verdict) for t in row] for row in tests])
    return RobustnessMap(xs, ys, margin, verdict, names, units)


@styled
def robustness_map_plot(
    data: RobustnessMap,
    *,
    nominal: tuple[float, float] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the margin over two parameters; only points with a margin above 1 are certified.

    Cells without a proof are hatched: `inconclusive` thinly, an unstable or ill-posed nominal loop densely.
    `nominal` marks the parameters that the policy was trained for.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> ball = IncrementalBall(center=[[-1.0]], radius=0.5)
    >>> grid = robustness_map(
    ...     lambda gain, pole: control.tf([gain], [1, pole]), ball, [0.5, 1.0], [1.0, 2.0], names=("gain", "pole")
    ... )
    >>> robustness_map_plot(grid).get_xlabel()
    'gain'
    """
    from matplotlib.patches import Patch

    ax = axes_or_new(ax, (6.4, 5.0))
    figure = ax.get_figure(root=True)
    proved = np.where(data.verdict == "certified", np.clip(data.margin, 1.0, None), np.nan)
    finite = proved[np.isfinite(proved)]
    top = max(float(finite.max(initial=1.0)), 1.01)
    mesh = ax.pcolormesh(
        data.x, data.y, np.minimum(proved, top), cmap=FIELD, vmin=1.0, vmax=top, shading="nearest"
    )
    if figure is not None:
        figure.colorbar(mesh, ax=ax, label="certified margin 1/(ρ‖T‖) [ratio]")
    handles = []
    for words, hatch, name in UNPROVED:
        chosen = np.isin(data.verdict, words)
        if chosen.any():
            _hatch(ax, data, chosen, hatch)
            handles.append(Patch(facecolor="white", edgecolor="#555555", hatch=hatch, label=name))
    if nominal is not None:
        handles += ax.plot(
            *nominal, "P", color=BLACK, markeredgecolor="white", markersize=13, label="nominal plant"
        )
    ax.grid(visible=False)
    ax.set(xlabel=label(data.names[0], data.units[0]), ylabel=label(data.names[1], data.units[1]))
    ax.set_title(title or "Where the policy is certified")
    if handles:
        legend_below(ax, 2, handles=handles)
    return ax


def _edges(values: np.ndarray) -> list[float]:
    """Return the borders of cells around grid points."""
    if len(values) == 1:
        return [float(values[0]) - 0.5, float(values[0]) + 0.5]
    middle = 0.5 * (values[1:] + values[:-1])
    return [float(v) for v in (2 * values[0] - middle[0], *middle, 2 * values[-1] - middle[-1])]


def _hatch(ax: Axes, data: RobustnessMap, chosen: np.ndarray, hatch: str) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    x, y = _edges(data.x), _edges(data.y)
    cells = [
        Rectangle((x[j], y[i]), x[j + 1] - x[j], y[i + 1] - y[i])
        for i, j in zip(*np.nonzero(chosen), strict=True)
    ]
    ax.add_collection(
        PatchCollection(cells, facecolor="none", edgecolor="#999999", hatch=hatch, linewidth=0.0)
    )
