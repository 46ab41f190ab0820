"""Every number in the tables of docs/robustness.md is that of docs/robustness/measured.csv."""

from __future__ import annotations

import csv
import functools
import re
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lipctrl.plots import degradations

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "robustness.md").read_text(encoding="utf-8")
MEASURED = DOCS / "robustness" / "measured.csv"
ENVIRONMENTS = runpy.run_path(str(DOCS / "robustness" / "draw.py"))["ENVIRONMENTS"]
ROW = re.compile(r"(noise|attack|delay|gain)[ σε×]+([\d.]+)$")


def tables():
    """Return (environment of each column, policy of each column, rows) of the tables of measured returns."""
    by_picture = {picture: name for name, picture in ENVIRONMENTS.items()}
    found = []
    for match in re.finditer(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in match[0].splitlines()]
        pictures = re.findall(r"\(robustness/([\w-]+)\.png\)", PAGE[: match.start()])
        if rows[0][0] or not pictures:
            continue
        titles = [title.rpartition(": ")[2] for title in rows[0][1:]]
        # Two pictures before one table: its columns are those of the first, then those of the second.
        count = titles.count("perceptron")
        shown = pictures[-count:]
        columns = [by_picture[shown[i * count // len(titles)]] for i in range(len(titles))]
        policies = [
            title.replace("perceptron", "MLP") if title.startswith("perceptron") else f"certified {title}"
            for title in titles
        ]
        found.append((columns, policies, rows[2:]))
    return found


TABLES = [table for table in tables() if table[2][0][0] == "gain"]


@functools.cache
def curves(environment, condition):
    return {curve.name: curve for curve in degradations(MEASURED, environment, condition)}


def lost(environment, policy, condition, level):
    curve = curves(environment, condition)[policy]
    return curve.lost[:, list(curve.levels).index(level)]


def mark_of(values, reference):
    """Return "**" where every seed loses less than the reference, else how many do, else nothing."""
    wins = int((values < reference).sum())
    return "**" if wins == len(values) else f"({wins} of {len(values)})" if wins else ""


def test_all_tables_are_found():
    assert len(TABLES) == 12
    assert {name for columns, _, _ in TABLES for name in columns} == set(ENVIRONMENTS)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table[0][0])
def test_the_tables_are_what_was_measured(table):
    columns, policies, rows = table
    for name, *cells in rows:
        row = ROW.match(name)
        if name in ("gain", "return"):
            continue
        assert row is not None, name
        condition, level = row[1], float(row[2])
        for environment, policy, cell in zip(columns, policies, cells, strict=True):
            values = lost(environment, policy, condition, level)
            shown = float(re.sub(r"\(.*\)|\*", "", cell))
            assert shown == pytest.approx(values.mean(), abs=0.51 if abs(shown) >= 10.0 else 0.051), (
                name,
                cell,
            )
            reference = lost(environment, "MLP", condition, level)
            shown_mark = "**" if "**" in cell else "".join(re.findall(r"\(.*\)", cell))
            assert policy == "MLP" or shown_mark == mark_of(values, reference), (
                environment,
                policy,
                name,
                cell,
            )


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table[0][0])
def test_undisturbed_returns_are_what_was_measured(table):
    columns, policies, rows = table
    (cells,) = [row[1:] for row in rows if row[0] == "return"]
    for environment, policy, cell in zip(columns, policies, cells, strict=True):
        curve = curves(environment, "noise")[policy]
        nominal = curve.returns[:, list(curve.levels).index(0.0)]
        expected = (np.mean(nominal), np.min(nominal), np.max(nominal))
        assert cell == "{:.0f} ({:.0f} … {:.0f})".format(*expected)


def test_the_count_of_attacks_is_that_of_the_file():
    with MEASURED.open(newline="", encoding="utf-8") as stream:
        worst = Counter(row["adversary"] for row in csv.DictReader(stream) if row["condition"] == "attack")
    found = re.search(
        r"of (\d+) attacks .* shown once in (\d+), the ascent in (\d+), the held one in (\d+), a wave\s+in (\d+)",
        PAGE,
    )
    assert found is not None
    expected = [worst.total(), *(worst[name] for name in ("one-step cost", "action", "cost", "wave"))]
    assert [int(number) for number in found.groups()] == expected
