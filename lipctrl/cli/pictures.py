"""What `lipctrl plot` does with its arguments."""

from __future__ import annotations

from pathlib import Path


def draw(run: Path, kind: str, out: Path | None) -> Path:
    """Draw one figure of a run into a file and return where it is."""
    import matplotlib

    # No window: a picture is a file, also where there is no screen.
    matplotlib.use("Agg")
    from lipctrl.plots import run_figure
    from lipctrl.runs import load_run

    path = out or run / f"{kind}.png"
    figure = run_figure(load_run(run), kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    return path
