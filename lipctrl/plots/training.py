"""Training curves of one or several runs, with the proved bound under them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import GREY, categories, check_axes, new_axes, styled

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TrainingMetrics:
    """Columns of a run's metrics over environment steps; NaN where a column was not logged in a row."""

    columns: Mapping[str, np.ndarray]
    name: str

    def column(self, name: str) -> np.ndarray:
        """Return a column, or say which there are."""
        if name not in self.columns:
            raise ValueError(f"{self.name} logged no {name!r}; it has {', '.join(sorted(self.columns))}")
        return self.columns[name]


def training_metrics(run: str | os.PathLike[str]) -> TrainingMetrics:
    """Read `metrics.csv` of a run folder (or the file itself).

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing or holds no rows.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "metrics.csv").write_text("steps,mean_return\\n100,-9\\n200,-4\\n")
    ...     training_metrics(folder).column("mean_return").tolist()
    [-9.0, -4.0]
    """
    path = Path(run)
    file = path / "metrics.csv" if path.is_dir() else path
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise ValueError(f"{file} holds no rows yet; train for at least one iteration")
    columns = {}
    for name in rows[0]:
        try:
            columns[name] = np.array([float(row[name]) if row[name] else np.nan for row in rows])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: column {name!r} holds something that is not a number ({error})"
            ) from error
    return TrainingMetrics(columns, file.parent.name)


@styled
def training_curve(
    *runs: TrainingMetrics,
    y: str = "validation_return",
    bound: str | None = "certified_gain",
    x: str = "steps",
    baseline: float | None = None,
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """Draw return against environment steps for each run, and the proved gain under it; returns the array of axes.

    Parameters
    ----------
    runs : from `training_metrics`.
    y, bound, x : column names; `bound=None` leaves the lower panel out.
    baseline : a return to compare with, such as that of LQR.

    Examples
    --------
    >>> columns = {"steps": np.array([100, 200]), "mean_return": np.array([-9.0, -4.0])}
    >>> (ax,) = training_curve(TrainingMetrics(columns, "run"), y="mean_return", bound=None)
    >>> ax.get_ylabel()
    'mean return'
    """
    if not runs:
        raise ValueError("no runs were given; expected at least one, such as training_metrics('runs/…')")
    panels = 1 if bound is None else 2
    axes: list[Axes]
    if ax is None:
        _, grid = new_axes(panels, 1, (6.4, 2.6 + 1.6 * panels), sharex=True)
        axes = list(grid.ravel())
        if panels == 2:
            axes[0].set_box_aspect(None)
            grid[0, 0].get_gridspec().set_height_ratios([2.2, 1.0])
    else:
        axes = check_axes(ax, panels)
    for run, style in zip(runs, categories([r.name for r in runs]).values(), strict=True):
        look = {"color": style["color"], "linestyle": style["linestyle"]}
        for panel, name in zip(axes, (y, bound), strict=False):
            steps, values = run.column(x), run.column(str(name))
            seen = np.isfinite(values)
            panel.plot(steps[seen], values[seen], label=run.name, marker="o", markersize=3.5, **look)
    if baseline is not None:
        axes[0].axhline(baseline, color=GREY, ls=":", label=f"baseline {baseline:.4g}")
    axes[0].set_ylabel(y.replace("_", " "))
    axes[0].set_title(title or "Training")
    if bound is not None:
        axes[1].set_ylabel("proved radius" if "radius" in bound else "proved gain")
        axes[1].set_ylim(0.0, 1.15 * axes[1].get_ylim()[1])
    axes[-1].set_xlabel("environment steps" if x == "steps" else x)
    if len(runs) > 1 or baseline is not None:
        axes[0].legend(loc="best")
    return np.array(axes, dtype=object)
