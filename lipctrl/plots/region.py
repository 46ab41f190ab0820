"""An ellipsoidal region of attraction in two state coordinates, with trajectories that start on its boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import (
    BLACK,
    CERTIFIED,
    FALSIFIED,
    GREEN,
    SKY,
    axes_or_new,
    label,
    legend_below,
    styled,
)
from lipctrl.plots.trajectories import Trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Ellipsoid:
    """The set {x : (x - center)ᵀ shape (x - center) ≤ 1} with names and units of its coordinates.

    Parameters
    ----------
    shape : symmetric positive definite (n, n).
    center : (n,), the equilibrium; the origin when None.

    Raises
    ------
    ValueError
        When the shape is not symmetric and positive definite, or the dimensions differ.
    """

    shape: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]
    center: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = np.asarray(self.shape, dtype=np.float64)
        n = len(self.names)
        center = np.zeros(n) if self.center is None else np.asarray(self.center, dtype=np.float64)
        if shape.shape != (n, n) or center.shape != (n,) or len(self.units) != n:
            raise ValueError(
                f"shape is {shape.shape}, center {center.shape}, {n} names, {len(self.units)} units; expected (n, n), "
                "(n,) and n of each"
            )
        if not np.isfinite(shape).all() or not np.allclose(shape, shape.T, rtol=1e-9, atol=0.0):
            raise ValueError(f"shape is {shape.tolist()}; expected a finite symmetric matrix")
        least = float(np.linalg.eigvalsh(shape)[0])
        if not least > 0.0:
            raise ValueError(
                f"shape has the eigenvalue {least:.3g}; expected a positive definite matrix, or the set is no ellipsoid"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "center", center)

    def indices(self, coordinates: tuple[str, str]) -> list[int]:
        """Return the positions of two coordinates by name."""
        for name in coordinates:
            if name not in self.names:
                raise ValueError(f"there is no state {name!r}; the region has {', '.join(self.names)}")
        return [self.names.index(name) for name in coordinates]

    def shadow(self, coordinates: tuple[str, str], points: int = 241) -> np.ndarray:
        """Return the boundary (points, 2) of the projection on two coordinates."""
        chosen = self.indices(coordinates)
        spread = np.linalg.inv(self.shape)[np.ix_(chosen, chosen)]
        return self._ring(np.linalg.cholesky(spread), chosen, points)

    def section(self, coordinates: tuple[str, str], points: int = 241) -> np.ndarray:
        """Return the boundary (points, 2) of the cut where all other coordinates are at the centre."""
        chosen = self.indices(coordinates)
        spread = np.linalg.inv(self.shape[np.ix_(chosen, chosen)])
        return self._ring(np.linalg.cholesky(spread), chosen, points)

    def _ring(self, root: np.ndarray, chosen: list[int], points: int) -> np.ndarray:
        angle = np.linspace(0.0, 2.0 * np.pi, points)
        assert self.center is not None
        return np.stack([np.cos(angle), np.sin(angle)], axis=1) @ root.T + self.center[chosen]

    def boundary(self, count: int, seed: int = 0) -> np.ndarray:
        """Return `count` random starts (count, n) on the boundary."""
        direction = np.random.default_rng(seed).normal(size=(count, len(self.names)))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        assert self.center is not None
        return self.center + direction @ np.linalg.inv(np.linalg.cholesky(self.shape))


def region_data(
    region: Any, names: tuple[str, ...], units: tuple[str, ...], *, starts: int = 24, steps: int = 400
) -> tuple[Ellipsoid, Trajectories]:
    """Return the ellipsoid of a regional analysis, and simulations of its loop from the boundary.

    Parameters
    ----------
    region : `lipctrl.analysis.region.RegionOfAttraction`; names, units : of its states.

    Raises
    ------
    ValueError
        For a global claim: there is no boundary to draw.

    Examples
    --------
    >>> from lipctrl import rules
    >>> from lipctrl.analysis import region_of_attraction
    >>> from lipctrl_envs import Pendulum
    >>> plant = Pendulum()
    >>> region = region_of_attraction(plant, rules.linear([[-25.0, -8.0]]), action_limit=5.0)
    >>> ellipsoid, runs = region_data(region, plant.state_names, plant.state_units, starts=3, steps=10)
    >>> ellipsoid.names, runs.signals.shape
    (('angle', 'angle_rate'), (3, 11, 2))
    """
    if region.is_global:
        raise ValueError(
            "the claim is global; expected a region with a boundary, which region_of_attraction finds where an "
            "action_limit or state_limits bound the claim"
        )
    ellipsoid = Ellipsoid(region.shape, tuple(names), tuple(units), region.center)
    path, _ = region.simulate(region.boundary(starts), steps)
    time = float(region.form.dt) * np.arange(steps + 1)
    return ellipsoid, Trajectories(time, np.swapaxes(path, 0, 1), tuple(names), tuple(units))


@styled
def region_plot(
    region: Ellipsoid,
    *,
    coordinates: tuple[str, str] | None = None,
    trajectories: Trajectories | None = None,
    limits: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a region of attraction in two coordinates: its projection, its section, and trajectories from its boundary.

    Parameters
    ----------
    coordinates : names of the two states, by default the first two.
    trajectories : simulated from `region.boundary(…)`; each should end at the centre.
    limits : bounds of the analysis by state name, a symmetric number or (lower, upper): nothing is claimed outside.

    Raises
    ------
    ValueError
        When `coordinates` names no state.

    Examples
    --------
    >>> region = Ellipsoid(np.diag([4.0, 1.0]), ("angle", "rate"), ("rad", "rad/s"))
    >>> region_plot(region).get_xlabel()
    'angle [rad]'
    """
    pair = coordinates or (region.names[0], region.names[1])
    chosen = region.indices(pair)
    ax = axes_or_new(ax, (5.8, 5.0))
    shadow = region.shadow(pair)
    many = len(region.names) > 2
    ax.fill(
        *shadow.T,
        facecolor=SKY,
        alpha=0.25,
        edgecolor=CERTIFIED,
        lw=2.0,
        label="proved region" + (", projection" if many else ""),
    )
    if many:
        ax.plot(*region.section(pair).T, "--", color=CERTIFIED, label="section through the equilibrium")
    if trajectories is not None:
        columns = [trajectories.names.index(name) for name in pair]
        for path in trajectories.signals[:, :, columns]:
            ax.plot(*path.T, color=GREEN, lw=0.9, alpha=0.7)
            ax.plot(*path[0], ".", color=GREEN, markersize=5)
        ax.plot([], [], ".-", color=GREEN, label=f"{len(trajectories.signals)} simulations from the boundary")
    for axis, name in zip("xy", pair, strict=True):
        if limits and name in limits:
            low, high = (-limits[name], limits[name]) if np.isscalar(limits[name]) else limits[name]
            for value in (low, high):
                (ax.axvline if axis == "x" else ax.axhline)(value, color=FALSIFIED, ls="--", lw=1.5)
    if limits and any(name in limits for name in pair):
        ax.plot([], [], "--", color=FALSIFIED, label="limits of the model")
    assert region.center is not None
    ax.plot(*region.center[chosen], "P", color=BLACK, markersize=10, label="equilibrium")
    ax.margins(0.06)
    names = [label(name.replace("_", " "), region.units[i]) for name, i in zip(pair, chosen, strict=True)]
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title(title or "Region of attraction")
    legend_below(ax)
    return ax
