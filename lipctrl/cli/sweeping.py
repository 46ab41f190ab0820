"""What `lipctrl sweep` does with its flags."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_sweep(
    env: str,
    *,
    grid: list[str],
    random: list[str],
    samples: int,
    algorithm: str,
    steps: int,
    out: Path,
    workers: int,
    address: str | None,
    retries: int,
    say: Callable[[str], None],
) -> None:
    """Run the sweep, print its table and write table and Pareto plot."""
    from lipctrl.runs.sweep import sweep

    result = sweep(
        env,
        grid=_choices(grid, "--grid") or None,
        random={"samples": samples, **_choices(random, "--random")} if random else None,
        algorithm=algorithm,
        steps=steps,
        out=str(out),
        workers=workers,
        address=address,
        max_retries=retries,
    )
    say(str(result))
    for suffix in (".csv", ".json"):
        result.save(out / f"sweep{suffix}")
    say(f"written to {out / 'sweep.csv'} and {out / 'sweep.json'}")


def _choices(items: list[str], flag: str) -> dict[str, list[Any]]:
    """Read NAME=V1,V2 as a list of JSON values or words."""
    out: dict[str, list[Any]] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not (name and equals and text):
            raise ValueError(f"{flag} {item!r}; expected NAME=V1,V2,…")
        out[name] = [_word(v) for v in text.split(",")]
    return out


def _word(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
