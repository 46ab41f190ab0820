"""A proved basin of attraction in a phase portrait, with trajectories from anywhere that run into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.region import Ellipsoid
from lipctrl.plots.style import BLACK, CERTIFIED, GREEN, SKY, axes_or_new, label, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Portrait:
    """Two proved ellipsoids, the basin and the one in which pairs approach, and simulated paths (count, steps + 1, n).

    `entered` is the first sample of each path inside the basin, -1 where it never gets there.
    """

    basin: Ellipsoid
    inner: Ellipsoid
    paths: np.ndarray
    entered: np.ndarray


def portrait_data(
    found: Any,
    names: Sequence[str],
    units: Sequence[str],
    states: np.ndarray,
    *,
    steps: int = 400,
    turns: Sequence[str] = (),
) -> Portrait:
    """Simulate a basin's loop from `states` (count, n), without disturbance.

    Parameters
    ----------
    found : a certified `lipctrl.analysis.Basin`; names, units : of its states.
    turns : names of states that are angles: a path is shifted by whole turns so that it ends nearest to the centre.

    Raises
    ------
    ValueError
        When the basin is not certified, or `turns` names no state.

    Examples
    --------
    >>> from lipctrl import rules
    >>> from lipctrl.analysis import basin
    >>> from lipctrl_envs import Pendulum
    >>> plant = Pendulum()
    >>> found = basin(plant, rules.linear([[-25.0, -8.0]]), [0.6, 2.0], action_limit=5.0)
    >>> starts = np.array([[0.1, 0.0], [0.5, 0.0]])
    >>> portrait_data(found, plant.state_names, plant.state_units, starts, steps=50).paths.shape
    (2, 51, 2)
    """
    if found.shape is None or found.inner is None:
        raise ValueError(f"no basin was proved: {found.reason}")
    for name in turns:
        if name not in names:
            raise ValueError(f"there is no state {name!r}; the basin has {', '.join(names)}")
    paths = np.swapaxes(found.simulate(states, steps), 0, 1)
    for name in turns:
        i = list(names).index(name)
        paths[:, :, i] -= 2.0 * np.pi * np.round((paths[:, -1:, i] - found.center[i]) / (2.0 * np.pi))
    inside = found.contains(paths)
    entered = np.where(inside.any(axis=1), np.argmax(inside, axis=1), -1)
    given = tuple(names), tuple(units), found.center
    return Portrait(Ellipsoid(found.shape, *given), Ellipsoid(found.inner, *given), paths, entered)


@styled
def portrait_plot(
    portrait: Portrait,
    *,
    coordinates: tuple[str, str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the basin in two coordinates, paths on the way to it in green and, from where they are in it, in blue.

    Parameters
    ----------
    portrait : from `portrait_data`.
    coordinates : names of the two states, by default the first two.

    Raises
    ------
    ValueError
        When `coordinates` names no state.

    Examples
    --------
    >>> basin = Ellipsoid(np.diag([4.0, 1.0]), ("angle", "rate"), ("rad", "rad/s"))
    >>> inner = Ellipsoid(np.diag([16.0, 4.0]), basin.names, basin.units)
    >>> path = np.array([[[1.0, 0.0], [0.4, -0.2], [0.0, 0.0]]])
    >>> portrait_plot(Portrait(basin, inner, path, np.array([1]))).get_ylabel()
    'rate [rad/s]'
    """
    names = portrait.basin.names
    pair = coordinates or (names[0], names[1])
    chosen = portrait.basin.indices(pair)
    ax = axes_or_new(ax, (7.6, 5.2))
    for path, first in zip(portrait.paths[:, :, chosen], portrait.entered, strict=True):
        before = len(path) if first < 0 else first + 1
        ax.plot(*path[:before].T, color=GREEN, lw=0.9, alpha=0.65)
        ax.plot(*path[0], ".", color=GREEN, markersize=5)
        if first >= 0:
            ax.plot(*path[first:].T, color=CERTIFIED, lw=1.1, alpha=0.9, zorder=3)
    ax.plot([], [], ".-", color=GREEN, label="simulated, on the way")
    shadow = portrait.basin.shadow(pair)
    many = ", projection" if len(names) > 2 else ""
    ax.fill(*shadow.T, facecolor=SKY, alpha=0.35, edgecolor="none", zorder=2)
    ax.plot(*shadow.T, color=CERTIFIED, lw=2.0, zorder=4, label=f"proved: all reach the equilibrium{many}")
    ax.fill(
        *portrait.inner.shadow(pair).T,
        color=BLACK,
        alpha=0.8,
        zorder=5,
        label=f"proved: pairs approach{many}",
    )
    ax.margins(0.04)
    units = portrait.basin.units
    ax.set(
        xlabel=label(pair[0].replace("_", " "), units[chosen[0]]),
        ylabel=label(pair[1].replace("_", " "), units[chosen[1]]),
    )
    ax.set_title(title or "Basin of attraction")
    legend_below(ax, columns=2)
    return ax
