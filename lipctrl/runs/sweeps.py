"""Sweeps: many trainings over a grid or at random, on this machine or a cluster, into one table."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from lipctrl.runs.executor import Outcome, run_jobs
from lipctrl.runs.files import RunError, as_path, held, read_json
from lipctrl.runs.member import train_one
from lipctrl.runs.table import AXES, RESULTS, Row, SweepResult
from lipctrl.training.arguments import named_values, whole_number

# Axes of whole numbers, and the least of each.
WHOLE = {"seed": 0, "steps": 1, "width": 1, "depth": 1}


@dataclass(frozen=True)
class Range:
    """Numbers between `low` and `high` for a random sweep, uniform in the logarithm when `log`.

    On an axis of whole numbers (`WHOLE`) they are rounded.
    """

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        least = 0.0 if self.log else -math.inf
        numbers = _is_number(self.low) and _is_number(self.high)
        if not numbers or not (least < self.low < self.high < math.inf):
            raise ValueError(
                f"Range({self.low}, {self.high}, log={self.log}): expected {least} < low < high < inf"
            )

    def draw(self, random: np.random.Generator, *, whole: bool = False) -> float:
        """Return one number, rounded to four digits so that tables and folders stay readable, or to a whole one."""
        if self.log:
            value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = random.uniform(self.low, self.high)
        return round(value) if whole else float(f"{value:.4g}")


def sweep(
    env_id: str,
    *,
    grid: Mapping[str, Sequence[Any] | Range] | None = None,
    random: int | None = None,
    algorithm: str = "auto",
    steps: int | None = None,
    out: str | os.PathLike[str] = "runs/sweep",
    workers: int = 2,
    address: str | None = None,
    resume: bool = True,
    max_retries: int = 2,
    parametrization: str = "lossless",
    lipschitz: float | str = "auto",
    width: int = 32,
    depth: int = 2,
    env_options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    trade_off: float | None = None,
    episodes: int = 100,
    evaluation_seed: int = 1,
    sweep_seed: int = 0,
    on_result: Callable[[Row], None] | None = None,
) -> SweepResult:
    """Train one certified policy for each point of a grid, in parallel; return one table of all of them.

    Every run has its own folder in `out`, as `lipctrl.train` writes it. `out/sweep.json` and `out/sweep.csv` hold
    the table and are replaced, atomically, whenever a run ends. A failed run is a row with its error. A run whose
    worker was killed goes on from its last checkpoint.

    All runs of one environment are evaluated on the same unseen episodes (starts and drawn parameters), so that the
    luck of the episodes is no part of what tells them apart. `lipctrl evaluate RUN --episodes 100 --seed 1` repeats
    a row.

    Parameters
    ----------
    env_id : the environment, unless the grid has an axis "env_id".
    grid : axis -> values; the axes are `AXES`. With `random`, a value may be a `Range`. Without a grid: seeds 0 … 4.
    random : None for every combination, or the number of distinct combinations to draw.
    algorithm, steps, parametrization, lipschitz, width, depth : of every run, where the grid does not vary them.
        "auto" is, for each environment, what `lipctrl train` takes: apg for residual policies, ppo otherwise.
    workers, address, max_retries : see `lipctrl.runs.executor.run_jobs`; workers=0 runs here, without Ray.
        On a cluster, `out` must be a folder that all machines share.
    resume : finished runs of an earlier sweep in `out` are kept and not run again; failed ones are.
    env_options : keywords of the environment.
    settings : of the algorithm, by name, such as {"environments": 32}; every algorithm of the sweep must have them.
        Or of the schedule: {"patience": 5}; its evaluation of all runs is `episodes` and `evaluation_seed`.
    trade_off : None, or the price of the gain: the bound is then a cap (`gain_price` of the algorithms). An axis, too.
    episodes, evaluation_seed : number and seed of the episodes of the evaluation, common to all runs and seen by none.
        Runs of an earlier sweep that were evaluated on others are evaluated again, and not trained again.
    sweep_seed : of the random choice of combinations.
    on_result : called with each row as its run ends.

    Raises
    ------
    ValueError
        For unknown axes, environments, algorithms and parametrisations, and values out of range, before anything is
        trained.
    RunError
        When `out` holds a sweep and `resume` is False, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as out:
    ...     table = sweep("lipctrl/Pendulum-v0", grid={"seed": [0]}, steps=1, episodes=4, workers=0, width=4, out=out)
    >>> table.rows[0]["status"]
    'done'
    """
    base = {
        "env_id": env_id,
        "algorithm": algorithm,
        "parametrization": parametrization,
        "lipschitz": lipschitz,
        "seed": 0,
        "steps": steps,
        "width": width,
        "depth": depth,
        "activation": "relu",
        "trade_off": trade_off,
    }
    axes = {"seed": range(5)} if grid is None else named_values(grid, "grid")
    drawn = _points(base, axes, random, whole_number(sweep_seed, "sweep_seed"))
    points = _with_algorithms([_checked(point) for point in drawn], env_options)
    episodes = whole_number(episodes, "episodes", 1)
    evaluation_seed = whole_number(evaluation_seed, "evaluation_seed")
    of_algorithm, schedule = _settings(points, named_values(settings, "settings"), episodes, evaluation_seed)
    _check_parametrizations(points)
    if on_result is not None and not callable(on_result):
        raise ValueError(f"on_result is {on_result!r}; expected a function of a row, or None")
    folder = as_path(out, "out")
    jobs: dict[str, dict[str, Any]] = {}
    for point in points:
        job = {**point, "env_options": dict(env_options or {}), "episodes": episodes}
        # Folders of earlier sweeps, which knew no schedule, keep their names.
        job |= {"settings": of_algorithm} if of_algorithm else {}
        job |= {"schedule": schedule} if schedule else {}
        if job["trade_off"] is None:
            # Folders of earlier sweeps keep their names.
            del job["trade_off"]
        key = _key(job)
        jobs[key] = {
            "trade_off": None,
            "settings": {},
            "schedule": {},
            **job,
            "evaluation_seed": evaluation_seed,
            "folder": str((folder / key).absolute()),
        }
    with held(folder, "sweep"):
        rows = _finished(folder, resume, jobs)
        left = {key: job for key, job in jobs.items() if key not in rows}
        for outcome in run_jobs(train_one, left, workers=workers, address=address, max_retries=max_retries):
            rows[outcome.key] = _row(jobs[outcome.key], outcome)
            _save(folder, jobs, rows)
            if on_result is not None:
                on_result(rows[outcome.key])
        return _save(folder, jobs, rows)


def _points(
    base: Row, grid: Mapping[str, Sequence[Any] | Range], random: int | None, seed: int
) -> Iterator[Row]:
    """Yield the combinations of a grid, or `random` distinct ones of them."""
    unknown = set(grid) - set(AXES)
    if unknown:
        raise ValueError(f"the grid has unknown axes {sorted(unknown)}; known are {', '.join(AXES)}")
    for name, values in grid.items():
        if isinstance(values, Range):
            if random is None:
                raise ValueError(
                    f"the axis {name} is a Range; give random=… (how many runs), or a list of values"
                )
        elif (
            isinstance(values, str | bytes)
            or not isinstance(values, Sequence | np.ndarray)
            or len(values) == 0
        ):
            raise ValueError(f"the axis {name} is {values!r}; expected a list of at least one value")
    finite = [v for v in grid.values() if not isinstance(v, Range)]
    if random is None:
        for values in itertools.product(*finite):
            yield {**base, **dict(zip(grid, values, strict=True))}
        return
    random = whole_number(random, "random", 1)
    generator = np.random.default_rng(seed)
    seen: dict[str, Row] = {}
    # Without a Range, or with a short one, there are only so many combinations to draw from.
    for _ in range(1000 * random):
        drawn = {
            name: values.draw(generator, whole=name in WHOLE)
            if isinstance(values, Range)
            else values[int(generator.integers(len(values)))]
            for name, values in grid.items()
        }
        seen.setdefault(json.dumps(drawn, sort_keys=True), {**base, **drawn})
        if len(seen) == random:
            break
    yield from seen.values()


def _checked(point: Row) -> Row:
    """Return a point with whole numbers as such; ValueError for a value that no run of its axis can have."""
    point = dict(point)
    given = [(name, least) for name, least in WHOLE.items() if name != "steps" or point[name] is not None]
    for name, least in given:
        point[name] = whole_number(point[name], name, least)
    for name in ("env_id", "algorithm", "parametrization", "activation"):
        if not isinstance(point[name], str):
            raise ValueError(f"{name} is {point[name]!r}; expected a name")
    bound, price = point["lipschitz"], point["trade_off"]
    word = isinstance(bound, str) and bound in ("auto", "scaled")
    if not word and not (_is_number(bound) and 0.0 < bound < math.inf):
        raise ValueError(f"lipschitz is {bound!r}; expected a positive finite number, 'auto' or 'scaled'")
    if price is not None and not _is_number(price):
        raise ValueError(f"trade_off is {price!r}; expected a number or None")
    return point


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _settings(
    points: Sequence[Row], settings: Mapping[str, Any], episodes: int, evaluation_seed: int
) -> tuple[Row, Row]:
    """Return the settings of the algorithms, and those of the schedule beside the evaluation common to all runs."""
    from lipctrl.runs.loop import ALGORITHMS
    from lipctrl.runs.session import Schedule
    from lipctrl.runs.settings import sorted_settings

    for name, argument in (("evaluation_episodes", "episodes"), ("evaluation_seed", "evaluation_seed")):
        if name in settings:
            raise ValueError(
                f"setting {name}: a sweep evaluates all runs alike; give it {argument}=… instead"
            )
    own: Row = {}
    schedule: Row = {}
    for price, name in sorted({(p["trade_off"], p["algorithm"]) for p in points}, key=str):
        kind = ALGORITHMS[name].Config
        own, schedule = sorted_settings(kind, settings, name)
        kind(**own, **({} if price is None else {"gain_price": price}))
    Schedule(**schedule, evaluation_episodes=episodes, evaluation_seed=evaluation_seed)
    return own, schedule


def _with_algorithms(points: Sequence[Row], env_options: Mapping[str, Any] | None) -> list[Row]:
    """Return the points with "auto" as the algorithm that fits their environment; equal runs become one."""
    from lipctrl.runs.design import takes_residual
    from lipctrl.runs.loop import choose_algorithm
    from lipctrl.training.environments import find_task

    tasks = {name: find_task(name, env_options) for name in dict.fromkeys(p["env_id"] for p in points)}
    residual = {name: takes_residual(task) for name, task in tasks.items()}
    chosen = []
    for point in points:
        name = point["env_id"]
        point = {**point, "algorithm": choose_algorithm(point["algorithm"], tasks[name], residual[name])}
        if point not in chosen:
            chosen.append(point)
    return chosen


def _check_parametrizations(points: Sequence[Row]) -> None:
    from lipctrl.nn.resnet import TRUNKS

    for name in sorted({p["parametrization"] for p in points}):
        if name not in TRUNKS:
            raise ValueError(f"parametrization is {name!r}; expected one of {', '.join(sorted(TRUNKS))}")


def _key(settings: Row) -> str:
    """Return the folder's name: readable, and different whenever any setting is."""
    text = json.dumps(settings, sort_keys=True, default=str)
    short = settings["env_id"].rpartition("/")[2].rpartition(":")[2]
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return (
        f"{short}-{settings['algorithm']}-{settings['parametrization']}"
        f"-L{settings['lipschitz']}-seed{settings['seed']}-{digest}"
    )


def _finished(folder: Path, resume: bool, jobs: Mapping[str, Any]) -> dict[str, Row]:
    """Return the rows of an earlier sweep in this folder that need not be run again."""
    path = folder / "sweep.json"
    if not path.exists():
        return {}
    if not resume:
        raise RunError(
            f"{folder} already holds a sweep; continue it with resume=True, or choose another folder"
        )
    earlier = read_json(path, "table of a sweep")
    if not isinstance(earlier, list) or not all(
        isinstance(r, dict) and {"key", "status"} <= set(r) for r in earlier
    ):
        raise RunError(
            f"{path} is not the table of a sweep; remove it, finished runs are evaluated and not trained again"
        )
    kept = [
        row
        for row in earlier
        if row["key"] in jobs
        and row["status"] == "done"
        # Tables of the first versions were evaluated on episodes of each run's own.
        and row.get("evaluation_seed") == jobs[row["key"]]["evaluation_seed"]
    ]
    for row in kept:
        for axis in AXES:
            # Tables of the first versions lack the newer axes.
            row.setdefault(axis, jobs[row["key"]][axis])
    return {row["key"]: row for row in kept}


def _row(job: Row, outcome: Outcome) -> Row:
    empty = dict.fromkeys(RESULTS)
    done = outcome.value is not None
    return {
        "key": outcome.key,
        **{axis: job[axis] for axis in AXES},
        **empty,
        **(outcome.value or {}),
        "status": "done" if done else "failed",
        "seconds": outcome.seconds,
        "attempts": outcome.attempts,
        "folder": job["folder"],
        "error": outcome.error,
        "trace": outcome.trace,
    }


def _save(folder: Path, jobs: Mapping[str, Any], rows: Mapping[str, Row]) -> SweepResult:
    result = SweepResult(tuple(rows[key] for key in jobs if key in rows))
    result.save(folder / "sweep.json")
    result.save(folder / "sweep.csv")
    return result
