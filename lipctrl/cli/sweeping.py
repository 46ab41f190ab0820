"""What `lipctrl sweep` does with its flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipctrl.cli.flags import value_of

if TYPE_CHECKING:
    from lipctrl.runs.table import SweepResult


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

    # All runs are evaluated on the same episodes: their number and seed are the sweep's own arguments.
    common = {"evaluation_episodes": "episodes", "evaluation_seed": "evaluation_seed"}
    evaluation = {common[name]: value for name, value in settings.items() if name in common}
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
            settings={name: value for name, value in settings.items() if name not in common},
            **evaluation,
            env_options=options,
            on_result=tell,
        )
    except KeyboardInterrupt:
        say(
            f"stopped; finished runs, and checkpoints of the others, are in {out}. The same command goes on from there"
        )
        raise
    say(str(result))
    say("written to " + ", ".join(map(str, [out / "sweep.csv", out / "sweep.json", *_draw(result, out)])))
    failed = len(result.failures)
    if failed:
        say(f"{failed} {'run' if failed == 1 else 'runs'} failed; the same command tries again")
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
                # Seeds have no size, and may be zero.
                out[name] = Range(float(low), float(high), log=name != "seed")
            except ValueError as error:
                raise ValueError(f"--grid {item!r}: {error}") from error
        else:
            out[name] = [value_of(v) for v in text.split(",")]
    return out


def _draw(result: SweepResult, out: Path) -> list[Path]:
    """Draw performance against certified margin, a picture for each environment where anything was certified."""
    certified = list(dict.fromkeys(row["env_id"] for row in result.pareto()))
    if not certified:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from lipctrl.plots import pareto_plot

    kinds = ("parametrization", "algorithm", "activation", "width", "depth", "steps")
    group = next((k for k in kinds if len({row[k] for row in result.rows}) > 1), kinds[0])
    paths = []
    for name in certified:
        short = name.rpartition("/")[2].rpartition(":")[2]
        several = len(result.environments) > 1
        paths.append(out / (f"pareto-{short}.png" if several else "pareto.png"))
        axes = pareto_plot(result.points(group, name), title=short if several else None)
        axes.get_figure().savefig(paths[-1], dpi=150)
    return paths
