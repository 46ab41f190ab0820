"""`lipctrl.train`: drives an algorithm, proves the bound at every checkpoint, loses nothing it reported as saved."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lipctrl.policies import LipschitzPolicy, ResidualPolicy
from lipctrl.runs.files import RunError, as_path, held
from lipctrl.runs.folder import FORMAT, VERSION, Run, load_run
from lipctrl.runs.guarantee import StabilityGuarantee
from lipctrl.runs.session import Callback, Schedule, Session
from lipctrl.training import APG, PPO, Algorithm, Imitation, Task, find_task
from lipctrl.training.arguments import choose_device, whole_number
from lipctrl.training.experts import Expert
from lipctrl.training.rollout import make_simulator
from lipctrl.training.seeds import split_seed

ALGORITHMS: dict[str, Any] = {"apg": APG, "ppo": PPO, "imitation": Imitation}
DEFAULT_STEPS = {"apg": 600_000, "ppo": 1_000_000, "imitation": 64_000}


def train(
    env_id: str,
    policy: Any = None,
    algorithm: str = "apg",
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    *,
    config: Any = None,
    schedule: Schedule | None = None,
    env_options: Mapping[str, Any] | None = None,
    guarantee: StabilityGuarantee | None = None,
    expert: Expert | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Run:
    """Train a certified policy in place and write a run folder; return the run.

    On a CPU the result is a function of the arguments alone: killed at any moment and resumed, a run ends with the
    same weights, bit by bit. Ctrl-C ends the iteration under way, saves and stops.

    Parameters
    ----------
    env_id : a Gymnasium name with box spaces ("Pendulum-v1", "lipctrl/CartPole-v0", "InvertedPendulum-v5").
    policy : a `ResidualPolicy` or `LipschitzPolicy`; may be omitted when resuming.
    algorithm : "apg" (differentiable plants), "ppo" (anything), "imitation" (plants with an expert), or "auto": apg for
        residual policies on such plants, ppo otherwise; a run that is resumed keeps its own.
    steps : environment transitions in total; a default for each algorithm.
    seed : split into recorded streams for simulation, exploration, minibatches and evaluation.
    device : "auto", "cpu", "cuda" or "cuda:1".
    out : the run folder; "runs/<environment>-<algorithm>-<seed>" by default.
    resume : continue the run in `out` from its last checkpoint.
    config : `APGConfig`, `PPOConfig` or `ImitationConfig`.
    schedule : when to evaluate, save and stop early.
    guarantee : proves at every checkpoint that the policy stabilises the linearised plant.
    expert : states (count, n) -> actions (count, m), for imitation; LQR or energy shaping by default.
    callbacks : called with a `Checkpoint` at every checkpoint; an exception stops the training after saving.
    progress : show a progress bar; by default where the output is a terminal.

    Raises
    ------
    ValueError
        For arguments that do not fit, saying which and what was expected.
    TrainingDivergedError
        When a number became NaN or infinite; the folder keeps the last checkpoint.
    RunError
        When the folder cannot be written or continued.

    Examples
    --------
    >>> from lipctrl import check
    >>> from lipctrl.runs import Schedule, build_policy
    >>> from lipctrl.training import APGConfig
    >>> policy = build_policy("lipctrl/Pendulum-v0", width=4)
    >>> settings = {
    ...     "config": APGConfig(environments=2, horizon=4),
    ...     "schedule": Schedule(validation_episodes=1, evaluation_episodes=1),
    ... }
    >>> run = train("lipctrl/Pendulum-v0", policy, steps=8, out="run", **settings)
    >>> check(run.certificate).ok
    True
    """
    task = find_task(env_id, env_options)
    if resume and algorithm == "auto" and out is not None:
        algorithm = load_run(out).config["algorithm"]
    algorithm = choose_algorithm(algorithm, task, isinstance(policy, ResidualPolicy))
    streams = split_seed(seed)
    path = default_path(task, algorithm, seed) if out is None else as_path(out, "out")
    chosen = choose_device(device)
    if config is None:
        config = ALGORITHMS[algorithm].Config()
    elif not isinstance(config, ALGORITHMS[algorithm].Config):
        wanted = ALGORITHMS[algorithm].Config.__name__
        raise ValueError(f"config is a {type(config).__name__}; {algorithm} takes a {wanted}")
    steps = None if steps is None else whole_number(steps, "steps", 1)
    _check_kinds(schedule, guarantee, expert, callbacks)
    if resume:
        policy, recorded = _continued(path, task, algorithm, seed, policy)
        config, before = _recorded_settings(path, algorithm, recorded)
        schedule = before if schedule is None else schedule
        steps = recorded["steps"] if steps is None else steps
        if guarantee is None and recorded["guarantee"] is not None:
            guarantee = StabilityGuarantee.from_dict(recorded["guarantee"])
    schedule = schedule or Schedule()
    steps = DEFAULT_STEPS[algorithm] if steps is None else steps
    _check_policy(policy, task)
    policy.to(chosen)
    with _threads(schedule.threads):
        learner = _make(algorithm, policy, task, config, streams, chosen, expert)
        session = Session(path, task, learner, schedule, streams, steps, guarantee, callbacks)
        with held(path, "training"):
            if resume:
                session.restore()
            else:
                session.writer.create(
                    _describe(task, algorithm, policy, config, schedule, steps, seed, streams, guarantee)
                )
            return session.run(progress)


def choose_algorithm(name: str, task: Task, residual: bool) -> str:
    """Return the algorithm of a name; "auto" is apg for a residual policy on a differentiable plant, ppo otherwise.

    Raises
    ------
    ValueError
        When the name is none, or the algorithm needs a differentiable plant and the task is a black box.

    Examples
    --------
    >>> choose_algorithm("auto", find_task("MountainCarContinuous-v0"), residual=False)
    'ppo'
    """
    if not isinstance(name, str) or name not in ("auto", *ALGORITHMS):
        raise ValueError(f"algorithm is {name!r}; expected auto or one of {', '.join(ALGORITHMS)}")
    if name == "auto":
        return "apg" if residual and task.plant is not None else "ppo"
    if name != "ppo" and task.plant is None:
        raise ValueError(
            f"{name} needs a differentiable plant, and {task.env_id} is a black box; use ppo, or auto, which takes it"
        )
    return name


def default_path(task: Task, algorithm: str, seed: int) -> Path:
    """Return the folder that a run takes when none is given."""
    name = task.env_id.rpartition("/")[2].rpartition(":")[2]
    return Path("runs") / f"{name}-{algorithm}-{seed}"


def _check_kinds(schedule: Any, guarantee: Any, expert: Any, callbacks: Any) -> None:
    """Raise ValueError for an argument of `train` that is of another kind than it must be."""
    listed = isinstance(callbacks, Sequence) and all(map(callable, callbacks))
    for name, value, fine, wanted in (
        ("schedule", schedule, schedule is None or isinstance(schedule, Schedule), "a Schedule"),
        (
            "guarantee",
            guarantee,
            guarantee is None or isinstance(guarantee, StabilityGuarantee),
            "what StabilityGuarantee.of(plant, gain) returns",
        ),
        ("expert", expert, expert is None or callable(expert), "a function of states (count, n)"),
        ("callbacks", callbacks, listed, "a list of functions of a Checkpoint"),
    ):
        if not fine:
            raise ValueError(f"{name} is {value!r}; expected {wanted}")


def _check_policy(policy: Any, task: Task) -> None:
    if policy is None:
        raise ValueError(
            "policy is None; expected a ResidualPolicy or LipschitzPolicy (None only with resume=True)"
        )
    if not isinstance(policy, (LipschitzPolicy, ResidualPolicy)):
        raise ValueError(
            f"policy is a {type(policy).__name__}; expected a ResidualPolicy or LipschitzPolicy, whose bound is proved"
        )
    for name, got, wanted in (
        ("in_features", policy.in_features, task.observation_size),
        ("out_features", policy.out_features, task.action_size),
    ):
        if got != wanted:
            raise ValueError(f"the policy has {name}={got}; {task.env_id} needs {wanted}")


def _make(
    algorithm: str,
    policy: Any,
    task: Task,
    config: Any,
    streams: dict[str, int],
    device: torch.device,
    expert: Expert | None,
) -> Algorithm:
    dtype = next(policy.parameters()).dtype
    simulator = make_simulator(task, config.environments, streams["simulator"], device=device, dtype=dtype)
    if algorithm == "ppo":
        return PPO(policy, simulator, config, streams, torch.as_tensor(task.action_limit.copy()))
    if algorithm == "imitation":
        return Imitation(policy, simulator, config, streams, expert)
    return APG(policy, simulator, config, streams)


def _describe(
    task: Task,
    algorithm: str,
    policy: Any,
    config: Any,
    schedule: Schedule,
    steps: int,
    seed: int,
    streams: dict[str, int],
    guarantee: StabilityGuarantee | None,
) -> dict[str, Any]:
    packages = ("lipctrl", "torch", "numpy", "gymnasium", "control")
    return {
        "format": FORMAT,
        "version": VERSION,
        "env_id": task.env_id,
        "env_options": dict(task.options),
        "trained_on": task.twin or task.env_id,
        "algorithm": algorithm,
        "settings": dataclasses.asdict(config),
        "schedule": dataclasses.asdict(schedule),
        "steps": steps,
        "seed": seed,
        "streams": streams,
        "policy": policy.spec(),
        "guarantee": None if guarantee is None else guarantee.to_dict(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def _continued(path: Path, task: Task, algorithm: str, seed: int, policy: Any) -> tuple[Any, dict[str, Any]]:
    run = load_run(path)
    recorded = dict(run.config)
    given = {"env_id": task.env_id, "algorithm": algorithm, "seed": seed, "env_options": dict(task.options)}
    for name, value in given.items():
        if recorded[name] != value:
            raise RunError(
                f"{path} was trained with {name}={recorded[name]!r}, and {value!r} was given; "
                "resume with the same, or choose another folder"
            )
    if policy is None:
        # In the precision of the stored weights, which a construction does not tell.
        policy = run.new_policy().to(next(run.policy.parameters()).dtype)
    elif policy.spec() != recorded["policy"]:
        raise RunError(
            f"{path} holds another policy than the one given; a run goes on with its own: leave out what describes one "
            "(--lipschitz, --policy, --parametrization, --width, --depth, --trade-off; in Python policy=None)"
        )
    return policy, recorded


def _recorded_settings(path: Path, algorithm: str, recorded: Mapping[str, Any]) -> tuple[Any, Schedule]:
    try:
        return ALGORITHMS[algorithm].Config(**recorded["settings"]), Schedule(**recorded["schedule"])
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{path / 'config.json'} holds settings that this version does not take ({error})"
        ) from error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
