"""What a perturbation takes from the return, by its size: one curve a policy, one point a size."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lipctrl.plots.style import BLACK, GREY, axes_or_new, categories, legend_below, styled

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

# What changes nothing: the level at which a perturbation is none.
NEUTRAL = {"gain": 1.0}
AXIS_LABELS = {
    "noise": "observation noise σ [size of the observation]",
    "attack": "worst attack found, ε [size of the observation]",
    "delay": "delay [samples]",
    "gain": "factor on the policy's output [ratio]",
}


@dataclass(frozen=True)
class Degradation:
    """Mean returns of one policy, trained with several seeds, under a perturbation of rising size.

    Attributes
    ----------
    name : of the policy.
    condition : "noise", "attack", "delay", "gain", or a name of your own (it labels the axis).
    levels : (k,) rising sizes, the undisturbed one included.
    returns : (seeds, k) mean return of each training seed.
    """

    name: str
    condition: str
    levels: np.ndarray
    returns: np.ndarray

    def __post_init__(self) -> None:
        if self.returns.ndim != 2 or self.returns.shape[1] != len(self.levels) or len(self.returns) == 0:
            raise ValueError(
                f"{self.name}: returns have shape {self.returns.shape}; expected (seeds, {len(self.levels)})"
            )
        if self.neutral not in self.levels:
            raise ValueError(f"{self.name}: levels are {self.levels}; expected {self.neutral:g} among them")

    @property
    def neutral(self) -> float:
        """Return the level that changes nothing."""
        return NEUTRAL.get(self.condition, 0.0)

    @property
    def lost(self) -> np.ndarray:
        """Return what each seed loses against itself undisturbed, (seeds, k); negative where it gains."""
        undisturbed = self.returns[:, list(self.levels).index(self.neutral)]
        return undisturbed[:, None] - self.returns


def degradations(path: str | os.PathLike[str], environment: str, condition: str) -> list[Degradation]:
    """Read the curves of one environment and condition from a table, one for each policy.

    The table is CSV with the columns environment, policy, seed, condition, level, return; the undisturbed return has
    the condition "nominal". A level that some seed lacks is left out for that policy.

    Raises
    ------
    ValueError
        When the table holds nothing of that environment and condition, saying what it holds.

    Examples
    --------
    >>> import tempfile
    >>> rows = ["environment,policy,seed,condition,level,return", "Car,A,0,nominal,0,-1", "Car,A,0,noise,0.1,-3"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "measured.csv"
    ...     _ = table.write_text("\\n".join(rows))
    ...     (curve,) = degradations(table, "Car", "noise")
    >>> curve.levels.tolist(), curve.lost.tolist()
    ([0.0, 0.1], [[0.0, 2.0]])
    """
    with Path(path).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    mine = [r for r in rows if r["environment"] == environment and r["condition"] in (condition, "nominal")]
    if not any(r["condition"] == condition for r in mine):
        held = sorted({(r["environment"], r["condition"]) for r in rows})
        raise ValueError(f"{path} holds no {condition!r} of {environment!r}; it holds {held}")
    out = []
    for policy in dict.fromkeys(r["policy"] for r in mine):
        found: dict[float, dict[str, float]] = {}
        for r in mine:
            if r["policy"] == policy:
                nominal = r["condition"] == "nominal"
                level = NEUTRAL.get(condition, 0.0) if nominal else float(r["level"])
                found.setdefault(level, {})[r["seed"]] = float(r["return"])
        seeds = sorted(set().union(*found.values()))
        levels = [v for v in sorted(found) if len(found[v]) == len(seeds)]
        values = np.array([[found[v][s] for v in levels] for s in seeds])
        out.append(Degradation(policy, condition, np.array(levels), values))
    return out


@styled
def degradation_plot(
    curves: Sequence[Degradation],
    *,
    reference: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    legend: bool = True,
) -> Axes:
    """Draw the return lost by each policy against the size of the perturbation: lower is better.

    Lines are means over training seeds, bands reach from the best seed to the worst.

    Parameters
    ----------
    curves : `Degradation`s of one condition, from `degradations` or your own measurements.
    reference : name of the curve that the others are compared with; it is drawn in black.
    legend : False where the axes beside it has one already.

    Raises
    ------
    ValueError
        For no curves, curves of several conditions, or a reference that is none of them.

    Examples
    --------
    >>> curve = Degradation("certified", "delay", np.array([0.0, 1.0]), np.array([[-10.0, -12.0]]))
    >>> degradation_plot([curve]).get_xlabel()
    'delay [samples]'
    """
    if not curves:
        raise ValueError("curves is empty; expected at least one Degradation")
    if len({c.condition for c in curves}) > 1:
        raise ValueError(
            f"curves mix {sorted({c.condition for c in curves})}; draw one condition in one axes"
        )
    names = [c.name for c in curves]
    if reference is not None and reference not in names:
        raise ValueError(f"reference is {reference!r}; expected one of {names}")
    looks = categories([name for name in names if name != reference])
    if reference is not None:
        looks[reference] = {"color": BLACK, "linestyle": "-", "marker": "x"}
    ax = axes_or_new(ax)
    condition = curves[0].condition
    for curve in curves:
        look = looks[curve.name]
        ax.plot(curve.levels, curve.lost.mean(0), label=curve.name, markersize=6, **look)
        if len(curve.returns) > 1:
            ax.fill_between(
                curve.levels, curve.lost.min(0), curve.lost.max(0), color=look["color"], alpha=0.13, lw=0
            )
    ax.axhline(0.0, color=GREY, lw=0.8)
    if condition == "gain":
        ax.set_xscale("log", base=2)
        levels = curves[0].levels
        ax.set_xticks(levels, [f"{v:g}" for v in levels])
    if condition == "delay":
        ax.set_xticks(curves[0].levels)
    ax.set(xlabel=AXIS_LABELS.get(condition, condition), ylabel="return lost", title=title or "")
    if legend:
        legend_below(ax, 2)
    return ax
