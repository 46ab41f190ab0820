"""Run the benchmarks and print their tables: `python -m tests.benchmarks [--fast] [NAME …]`.

Every module bench_*.py offers functions listed in its `TABLES`: name -> function(fast: bool) returning
rows (list of dicts with the same keys). With `--markdown FILE` the tables are also written as Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import platform
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tests.benchmarks as package


def discover() -> dict[str, tuple[str, object]]:
    """Return every table by name, with the first line of its function's docstring."""
    tables = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("bench_"):
            loaded = importlib.import_module(f"tests.benchmarks.{module.name}")
            for name, function in loaded.TABLES.items():
                tables[name] = ((function.__doc__ or name).strip().splitlines()[0], function)
    return tables


def show(value: object) -> str:
    """Print numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(title: str, rows: list[dict[str, object]]) -> str:
    """Return rows as a Markdown table under a heading."""
    keys = list(rows[0])
    lines = [f"### {title}", "", "| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    lines += ["| " + " | ".join(show(row[k]) for k in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the arguments, run the chosen tables, print and optionally write them."""
    parser = argparse.ArgumentParser(description="lipctrl benchmarks")
    parser.add_argument("names", nargs="*", help="tables to run (all by default)")
    parser.add_argument("--fast", action="store_true", help="small sizes, one seed: a smoke run")
    parser.add_argument("--list", action="store_true", help="list the tables")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file too")
    options = parser.parse_args()
    tables = discover()
    unknown = set(options.names) - set(tables)
    if unknown:
        parser.error(f"unknown tables {sorted(unknown)}; known are {sorted(tables)}")
    console = Console(width=160)
    written = [f"Measured on {platform.machine()}, Python {platform.python_version()}.\n"]
    for name in options.names or tables:
        title, function = tables[name]
        if options.list:
            console.print(f"{name}: {title}")
            continue
        start = time.perf_counter()
        rows = function(options.fast)
        table = Table(title=f"{title} [{time.perf_counter() - start:.0f} s]", title_justify="left")
        for key in rows[0]:
            table.add_column(key)
        for row in rows:
            table.add_row(*(show(v) for v in row.values()))
        console.print(table)
        written.append(markdown(title, rows))
        if options.markdown:
            options.markdown.write_text("\n".join(written), encoding="utf-8")


if __name__ == "__main__":
    main()
