"""What `lipctrl train` does with its flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

# What `lipctrl train` designs where no flag says otherwise.
DESIGN: Mapping[str, Any] = {
    "lipschitz": "auto",
    "kind": "auto",
    "parametrization": "lossless",
    "width": 32,
    "depth": 2,
}


def run_training(
    env: str,
    *,
    algorithm: str,
    design: Mapping[str, Any],
    steps: int | None,
    seed: int | None,
    device: str,
    out: Path | None,
    resume: bool,
    target: float | None,
    trade_off: float | None,
    settings: dict[str, Any],
    config: Path | None,
    options: dict[str, Any],
    start: Path | None,
    say: Callable[[str], None],
) -> None:
    """Design the policy, train it, and say what came out and where it is."""
    from lipctrl.runs.loop import ALGORITHMS, choose_algorithm, default_path, train
    from lipctrl.training.environments import find_task

    if resume and out is not None:
        algorithm, seed, options = _recorded(out, algorithm, seed, options)
    seed = 0 if seed is None else seed
    task = find_task(env, options)
    # A run that goes on has its policy; one that is described again must be the same.
    described = any(value != DESIGN[name] for name, value in design.items()) or trade_off is not None
    if start is not None and (described or resume):
        raise ValueError(
            "--start takes the policy of another run as it is; leave out --resume and what describes a policy "
            "(--lipschitz, --policy, --parametrization, --width, --depth, --trade-off)"
        )
    made = None
    if start is not None or described or not (resume and out is not None):
        made = _designed(task, start, seed=seed, trainable_lipschitz=trade_off is not None, **design)
    algorithm = choose_algorithm(algorithm, task, made is not None and made.guarantee is not None)
    flags = {"gain_price": trade_off, "target_return": target}
    settings = {**_stored(config), **settings, **{k: v for k, v in flags.items() if v is not None}}
    path = out or default_path(task, algorithm, seed)
    chosen, schedule = _settings(ALGORITHMS[algorithm].Config, settings, algorithm, path if resume else None)
    say(f"{task.env_id}: {algorithm}, seed {seed}" + (f", trained on {task.twin}" if task.twin else ""))
    for reason in () if resume or made is None else made.reasons:
        say(f"  {reason}")
    with _saying_what_is_saved(path, say):
        run = train(
            env,
            None if made is None or (resume and not described) else made.policy,
            algorithm,
            steps,
            seed,
            device,
            path,
            resume,
            config=chosen,
            schedule=schedule,
            env_options=options,
            guarantee=None if resume or made is None else made.guarantee,
        )
    say(str(run))
    say(_what_next(run.path, has_plant=task.plant is not None))


def _what_next(path: Path, has_plant: bool) -> str:
    """Return the command that says most about a run: the analysis of its loop, where there is a model to analyse."""
    from lipctrl.cli.loop import environment_of

    folder = quote(str(path))
    if not has_plant:
        try:
            environment_of(path)
        except ValueError:
            return (
                f"next: lipctrl verify {folder}, lipctrl evaluate {folder} --noise 0.05, "
                f"lipctrl plot {folder} training\n"
                f"no linear model of this environment is known here (lipctrl analyze {folder} says why); with one of "
                f"your own: lipctrl.analyze(model, lipctrl.load_run({str(path)!r}).certificate)"
            )
    return f"next: lipctrl analyze {folder}"


def _recorded(
    out: Path, algorithm: str, seed: int | None, options: dict[str, Any]
) -> tuple[str, int, dict[str, Any]]:
    """Return what a run to be resumed was begun with, where no flag says otherwise; training compares the flags."""
    from lipctrl.runs.folder import load_run

    config = load_run(out).config
    return (
        config["algorithm"] if algorithm == "auto" else algorithm,
        config["seed"] if seed is None else seed,
        options or dict(config["env_options"]),
    )


def _designed(task: Any, start: Path | None, **design: Any) -> Any:
    """Return a new policy for a task, or that of the run at `start`, with the guarantee that goes with it."""
    from lipctrl.runs.design import design_policy, take_over
    from lipctrl.runs.folder import load_run

    return design_policy(task, **design) if start is None else take_over(task, load_run(start))


@contextmanager
def _saying_what_is_saved(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        what = str(stop) or "nothing new was saved"
        after = f". Continue with --resume --out {quote(str(path))}" if path.exists() else ""
        say(f"stopped; {what}{after}")
        raise


def _stored(config: Path | None) -> dict[str, Any]:
    """Return the settings of a JSON file, none without one."""
    from lipctrl.runs.files import read_json

    if config is None:
        return {}
    if not config.is_file():
        raise ValueError(f"{config} is no file; expected one with settings, {{NAME: VALUE}}")
    read = read_json(config, "file of settings")
    if not isinstance(read, dict):
        raise ValueError(f"{config} holds a {type(read).__name__}; expected settings, {{NAME: VALUE}}")
    return read


def _settings(
    kind: Any, settings: Mapping[str, Any], algorithm: str, resumed: Path | None
) -> tuple[Any, Any]:
    """Build the algorithm's config and the schedule; a run that goes on keeps its settings, not its schedule."""
    from lipctrl.runs.folder import load_run
    from lipctrl.runs.session import Schedule
    from lipctrl.runs.settings import sorted_settings

    mine, plan = sorted_settings(kind, settings, algorithm)
    if resumed is None:
        return kind(**mine), Schedule(**plan)
    recorded = load_run(resumed).config
    before = {f.name: recorded["settings"].get(f.name, f.default) for f in dataclasses.fields(kind)}
    for name, value in mine.items():
        if value != before[name]:
            raise ValueError(
                f"{resumed} was trained with {name}={before[name]}, and {value} was given; a run goes on with the "
                "settings that it began with: leave them out, or start another run with --out"
            )
    return kind(**before), Schedule(**{**recorded["schedule"], **plan})
