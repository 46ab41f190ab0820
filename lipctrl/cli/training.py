"""What `lipctrl train` does with its flags."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def run_training(
    env: str,
    *,
    algorithm: str,
    design: Mapping[str, Any],
    steps: int | None,
    seed: int,
    device: str,
    out: Path | None,
    resume: bool,
    target: float | None,
    settings: dict[str, Any],
    config: Path | None,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Design the policy, train it, and say what came out and where it is."""
    from lipctrl.runs.design import design_policy
    from lipctrl.runs.files import read_json
    from lipctrl.runs.folder import load_run
    from lipctrl.runs.loop import ALGORITHMS, Schedule, default_path, train
    from lipctrl.training.environments import find_task

    if resume and out is not None:
        recorded = load_run(out).config
        algorithm, seed = recorded["algorithm"], recorded["seed"]
        options = options or dict(recorded["env_options"])
    task = find_task(env, options)
    made = design_policy(task, seed=seed, **design)
    if algorithm == "auto":
        algorithm = "apg" if made.guarantee is not None else "ppo"
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm is {algorithm!r}; expected auto, {', '.join(ALGORITHMS)}")
    if config is not None:
        settings = {**read_json(config, "settings of an algorithm"), **settings}
    chosen = _settings(ALGORITHMS[algorithm].Config, settings, algorithm)
    path = out or default_path(task, algorithm, seed)
    say(f"{task.env_id}: {algorithm}, seed {seed}" + (f", trained on {task.twin}" if task.twin else ""))
    for reason in () if resume else made.reasons:
        say(f"  {reason}")
    try:
        run = train(
            env,
            None if resume else made.policy,
            algorithm,
            steps,
            seed,
            device,
            path,
            resume,
            config=chosen,
            schedule=None if resume else Schedule(target_return=target),
            env_options=options,
            guarantee=None if resume else made.guarantee,
        )
    except KeyboardInterrupt:
        say(f"stopped; everything up to here is saved in {path}. Continue with --resume --out {path}")
        raise
    say(str(run))
    say(f"next: lipctrl analyze {run.path}")


def _settings(kind: Any, settings: Mapping[str, Any], algorithm: str) -> Any:
    """Build the algorithm's config, refusing names and types that it does not have."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for name, value in settings.items():
        if name not in fields:
            raise ValueError(f"{algorithm} has no setting {name!r}; it has {', '.join(fields)}")
        wanted = type(fields[name].default)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or (wanted is int and value != int(value))
        ):
            raise ValueError(f"setting {name} is {json.dumps(value)}; expected a {wanted.__name__}")
        values[name] = wanted(value)
    return kind(**values)
