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
    random: int | None,
    algorithm: str,
    steps: int | None,
    out: Path,
    workers: int,
    address: str | None,
    retries: int,
    settings: dict[str, Any],
    options: dict[str, Any],
    say: Callable[[str], None],
) -> bool:
    """Run the sweep, print its table, draw its Pareto plot; return whether every run succeeded."""
    from lipctrl.runs.sweeps import sweep

    def tell(row: dict[str, Any]) -> None:
        say(f"{row['folder'] and Path(row['folder']).name}: {row['status']}, {row['seconds']:.0f} s")

    try:
        result = sweep(
            env,
            grid=_axes(grid) or None,
            random=random,
            algorithm=algorithm,
            steps=steps,
            out=out,
            workers=workers,
            address=address,
            max_retries=retries,
            settings=settings,
            env_options=options,
            on_result=tell,
        )
    except KeyboardInterrupt:
        say(
            f"stopped; finished runs, and checkpoints of the others, are in {out}. The same command goes on from there"
        )
        raise
    say(str(result))
    picture = _draw(result, out)
    say(f"written to {out / 'sweep.csv'}, {out / 'sweep.json'}" + (f", {picture}" if picture else ""))
    if result.failures:
        say(f"{len(result.failures)} runs failed; the same command tries them again")
    return not result.failures


def _axes(items: list[str]) -> dict[str, Any]:
    """Read NAME=V1,V2 as a list of values, NAME=LOW:HIGH as a logarithmic range."""
    from lipctrl.runs.sweeps import Range

    out: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not (name and equals and text):
            raise ValueError(f"--grid {item!r}; expected NAME=V1,V2,… or NAME=LOW:HIGH")
        low, colon, high = text.partition(":")
        if colon and "," not in text and name != "env_id":
            try:
                out[name] = Range(float(low), float(high))
            except ValueError as error:
                raise ValueError(f"--grid {item!r}: {error}") from error
        else:
            out[name] = [_word(v) for v in text.split(",")]
    return out


def _word(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _draw(result: Any, out: Path) -> Path | None:
    """Draw performance against certified margin, where anything was certified."""
    if not result.pareto():
        return None
    import matplotlib

    matplotlib.use("Agg")
    from lipctrl.plots import pareto_plot

    path = out / "pareto.png"
    pareto_plot(result.points()).get_figure().savefig(path, dpi=150)
    return path
