"""The table of a sweep: its front, its points, its files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lipctrl.runs.table import AXES, RESULTS, SweepResult


def row(name: str, performance: float, margin: float | None, status: str = "done") -> dict[str, Any]:
    table = dict.fromkeys([*AXES, *RESULTS])
    return table | {
        "key": name,
        "lipschitz": name,
        "mean_return": performance,
        "certified_gain": 1.0,
        "margin": margin,
        "status": status,
        "attempts": 1,
        "error": None if status == "done" else "ValueError: no",
    }


# -- the table ---------------------------------------------------------------------------------------


def test_pareto_front_is_what_nothing_beats() -> None:
    rows = [
        row("a", -1.0, 1.2),
        row("dominated", -2.0, 1.1),
        row("b", -3.0, 2.0),
        row("same margin, worse", -4.0, 2.0),
        row("same margin but for rounding, worse", -3.5, 2.0 * (1.0 + 1e-9)),
        row("uncertified", 0.0, None),
        row("broken", 5.0, 9.0, status="failed"),
    ]
    result = SweepResult(tuple(rows))
    assert [r["key"] for r in result.pareto()] == ["a", "b"]
    assert [r["key"] for r in result.failures] == ["broken"]


def test_front_agrees_with_the_one_that_is_drawn() -> None:
    from lipctrl.plots.pareto import pareto_front, pareto_plot

    rows = [row(str(i), float((7 * i) % 10), float((3 * i) % 10)) for i in range(10)]
    # Worse by a half, at a margin that is larger by rounding only: no part of the front.
    rows += [row(f"twin {i}", (7 * i) % 10 - 0.5, ((3 * i) % 10) * (1.0 + 1e-9)) for i in range(10)]
    result = SweepResult((*rows, row("uncertified", 99.0, None)))
    drawn = pareto_front(result.points())
    assert [(p.margin, p.performance) for p in drawn] == [
        (r["margin"], r["mean_return"]) for r in result.pareto()
    ]
    assert len(drawn) > 1
    assert not any("twin" in p.name for p in drawn)
    axes = pareto_plot(result.points())
    axes.figure.clear()


def test_environments_have_fronts_of_their_own() -> None:
    rows = [row("good", -1.0, 2.0), row("bad", -9.0, 1.0), row("elsewhere", -500.0, 1.5)]
    for line, name in zip(rows, ("here", "here", "there"), strict=True):
        line["env_id"] = name
    result = SweepResult(tuple(rows))
    assert [r["key"] for r in result.pareto()] == ["good", "elsewhere"]
    assert [p.performance for p in result.points(env_id="there")] == [-500.0]
    with pytest.raises(ValueError, match="expected one of here, there"):
        result.points()


def test_table_round_trip(tmp_path: Path) -> None:
    result = SweepResult((row("a", -1.0, 1.2), row("b", -2.0, None)))
    with result.save(tmp_path / "table.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["margin"] for line in lines] == ["1.2", ""]
    assert list(lines[0]) == [*AXES, *RESULTS]
    assert json.loads(result.save(tmp_path / "table.json").read_text()) == list(result.rows)
    with pytest.raises(ValueError, match=r"\.csv or \.json"):
        result.save(tmp_path / "table.xls")
