"""The table of a sweep: one row a run, as text, as a file, as points of a plot, and its Pareto front."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lipctrl.pareto import undominated
from lipctrl.runs.files import as_path, write_bytes, write_json

Row = dict[str, Any]

# The axes of a sweep, in the order of the table.
AXES = (
    "env_id",
    "algorithm",
    "parametrization",
    "lipschitz",
    "seed",
    "steps",
    "width",
    "depth",
    "activation",
    "trade_off",
)
RESULTS = (
    "status",
    "mean_return",
    "standard_error",
    "episodes",
    "evaluation_seed",
    "certified_gain",
    "certified_radius",
    "verdict",
    "margin_lower",
    "margin",
    "seconds",
    "attempts",
    "folder",
    "error",
)


class Point(NamedTuple):
    """One run in a plot: its mean return, its certified margin (NaN without one), its group and name."""

    performance: float
    margin: float
    group: str
    name: str


@dataclass(frozen=True)
class SweepResult:
    """The table of a sweep: one row (dict) a run, with `AXES`, then `RESULTS`.

    `mean_return` and `standard_error` are those of `episodes` unseen episodes, derived from `evaluation_seed` and
    thereby the same for all runs of one environment.
    `margin` is the upper end of the incremental gain margin of the linearised loop, `margin_lower` its lower end;
    None where nothing was certified (the `verdict` says why) or there is no plant to analyse. `status` is "done"
    or "failed".
    """

    rows: tuple[Row, ...]

    @property
    def failures(self) -> tuple[Row, ...]:
        """Return the rows of runs that failed; their `error` says why."""
        return tuple(row for row in self.rows if row["status"] == "failed")

    @property
    def environments(self) -> tuple[str, ...]:
        """Return the environments of the sweep; returns compare within one of them only."""
        return tuple(dict.fromkeys(row["env_id"] for row in self.rows))

    def pareto(self) -> tuple[Row, ...]:
        """Return the certified runs that no other run of their environment beats in both mean return and margin.

        By environment, then by rising margin. Margins that agree to a millionth count as equal: certificates of one
        bound differ by rounding.
        """
        return tuple(row for name in self.environments for row in self._front(name))

    def _front(self, env_id: str) -> list[Row]:
        known = [
            row
            for row in self.rows
            if row["env_id"] == env_id and row["status"] == "done" and row["margin"] is not None
        ]
        return undominated(known, lambda row: (row["margin"], row["mean_return"]))

    def points(self, group: str = "parametrization", env_id: str | None = None) -> list[Point]:
        """Return the finished runs as `lipctrl.plots.pareto.pareto_plot` draws them, grouped by an axis.

        Raises
        ------
        ValueError
            When the sweep has several environments and none is named: their returns do not compare.
        """
        if env_id is None:
            if len(self.environments) > 1:
                raise ValueError(f"env_id is None; expected one of {', '.join(self.environments)}")
            env_id = next(iter(self.environments), None)
        return [
            Point(
                row["mean_return"],
                math.nan if row["margin"] is None else row["margin"],
                str(row[group]),
                f"L={row['lipschitz']}" if row["trade_off"] is None else f"price {row['trade_off']:g}",
            )
            for row in self.rows
            if row["status"] == "done" and row["env_id"] == env_id
        ]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as .csv or .json, atomically."""
        path = as_path(path, "path")
        if path.suffix == ".json":
            write_json(path, list(self.rows))
        elif path.suffix == ".csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, [*AXES, *RESULTS], lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in self.rows)
            write_bytes(path, text.getvalue().encode())
        else:
            raise ValueError(f"{path} ends in {path.suffix!r}; expected .csv or .json")
        return path

    def __str__(self) -> str:
        varied = [a for a in AXES if len({json.dumps(row[a]) for row in self.rows}) > 1] or ["seed"]
        best = {id(row) for row in self.pareto()}
        lines = [[*varied, "mean return", "gain", "verdict", "margin", "attempts", ""]]
        for row in self.rows:
            if row["status"] == "failed":
                tail = ["-", "-", "failed", "-", str(row["attempts"]), row["error"].splitlines()[0]]
            else:
                margin = "-" if row["margin"] is None else f"{row['margin']:.4g}"
                spread = "" if row["standard_error"] is None else f" ± {row['standard_error']:.3g}"
                tail = [
                    f"{row['mean_return']:.4g}{spread}",
                    f"{row['certified_gain']:.4g}",
                    row["verdict"] or "no plant",
                    margin,
                    str(row["attempts"]),
                    "Pareto" if id(row) in best else "",
                ]
            lines.append([*(str(row[a]) for a in varied), *tail])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(c.ljust(w) for c, w in zip(l, widths, strict=True)).rstrip() for l in lines]
        done = next((row for row in self.rows if row["status"] == "done"), None)
        if done is not None:
            text.append(
                f"returns over {done['episodes']} unseen episodes (seed {done['evaluation_seed']}), the same for all "
                "runs of one environment"
            )
        return "\n".join(text)
