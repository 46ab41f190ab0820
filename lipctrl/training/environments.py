"""Finds what an environment name means: a differentiable plant, a faithful twin of one, or a black box."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.training.arguments import named_values
from lipctrl.wrappers import first_other, harmless_wrappers

if TYPE_CHECKING:
    import gymnasium

# Gymnasium environments with a step-by-step torch copy: training runs on the copy, evaluation on the original.
TWINS = {"Pendulum-v1": "lipctrl_envs:lipctrl/GymPendulum-v1"}


class EnvironmentFailedError(RuntimeError):
    """An environment that is not ours raised an exception, or gave what its spaces do not promise."""


@contextmanager
def blamed(env_id: str, doing: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn an exception out of somebody else's environment, `but` for those, into one that says whose it is."""
    try:
        yield
    except (EnvironmentFailedError, *but):
        raise
    except Exception as error:  # whatever it is, it is raised again, with the environment's name
        raise EnvironmentFailedError(
            f"the environment {env_id} failed in {doing}: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def making(env_id: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Say in a ValueError why an environment cannot be made: its name, an option, or a package that is not here."""
    import gymnasium

    # An environment says with a ValueError that an option is out of range.
    known = (gymnasium.error.Error, ModuleNotFoundError, TypeError, ValueError)
    try:
        with blamed(env_id, "its constructor", but=known):
            yield
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(
            f"no environment {env_id!r}: {str(error).rstrip('.')}. Expected a Gymnasium name such as 'Pendulum-v1' or "
            "'lipctrl/CartPole-v0' (MuJoCo environments need the extra lipctrl[mujoco])"
        ) from error
    except TypeError as error:
        # Gymnasium appends where the error comes from, with keywords that nobody passed.
        reason = str(error).partition(" was raised from the environment creator")[0]
        raise ValueError(f"{env_id} does not take the options {dict(options)}: {reason}") from error


@dataclass(frozen=True)
class Task:
    """An environment that a controller can be trained for.

    Attributes
    ----------
    env_id : the name that Gymnasium takes, with its module prefix.
    options : keywords of the environment.
    plant : the differentiable dynamics; None for a black box, and where a wrapper stands before the plant.
    twin : the name of the torch copy that stands for a foreign environment in training, or None.
    observation_size, action_size : dimensions.
    action_limit : (m,) half the width of the action box, inf where it has an open side.
    action_center : (m,) its middle, zero where it has an open side; zero everywhere for a symmetric box.
    """

    env_id: str
    options: Mapping[str, Any]
    plant: Any
    twin: str | None
    observation_size: int
    action_size: int
    action_limit: np.ndarray
    action_center: Any = 0.0

    @property
    def action_box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and the upper limits of the actions, (m,) each; infinite on open sides."""
        return self.action_center - self.action_limit, self.action_center + self.action_limit


def qualified(env_id: str) -> str:
    """Add the module that registers `lipctrl/...` environments, which Gymnasium needs to find them.

    >>> qualified("lipctrl/CartPole-v0") == qualified("lipctrl_envs/CartPole-v0")
    True
    """
    if not isinstance(env_id, str):
        raise ValueError(
            f"env_id is a {type(env_id).__name__}; expected the name of an environment (gymnasium.register gives yours "
            "one)"
        )
    env_id = env_id.replace("lipctrl_envs/", "lipctrl/", 1) if env_id.startswith("lipctrl_envs/") else env_id
    return f"lipctrl_envs:{env_id}" if env_id.startswith("lipctrl/") else env_id


def find_task(env_id: str, options: Mapping[str, Any] | None = None) -> Task:
    """Make the environment once and say what it is.

    Raises
    ------
    ValueError
        When Gymnasium does not know the name, refuses an option, or the spaces are not boxes of vectors.
    EnvironmentFailedError
        When the constructor of the environment raises anything else.

    Examples
    --------
    >>> find_task("Pendulum-v1").action_limit
    array([2.])
    """
    env_id = qualified(env_id)
    options = {name: _plain(name, value) for name, value in named_values(options, "the options").items()}
    if "render_mode" in options:
        raise ValueError(
            f"{env_id} was given render_mode={options['render_mode']!r}; nothing is drawn in training and evaluation, "
            "leave it out"
        )
    env = _made(env_id, options)
    if env.spec is not None:
        # "lipctrl/CartPole" without a version means the newest; what is recorded says which.
        module = env_id.rpartition(":")[0]
        env_id = f"{module}:{env.spec.id}" if module else qualified(env.spec.id)
    try:
        observations = vector_box(env_id, "observation", env.observation_space)
        actions = action_box(env_id, env.action_space)
        limit, center = _half_width(actions)
        plant, twin = _plant_of(env, env_id, options)
        return Task(
            env_id=env_id,
            options=options,
            plant=plant,
            twin=twin,
            observation_size=observations.shape[0],
            action_size=actions.shape[0],
            action_limit=limit,
            action_center=center,
        )
    finally:
        env.close()


def _made(env_id: str, options: dict[str, Any]) -> gymnasium.Env:
    """Make the environment, or say why Gymnasium could not."""
    import gymnasium

    with making(env_id, options):
        return gymnasium.make(env_id, **options)


def _plant_of(env: gymnasium.Env, env_id: str, options: dict[str, Any]) -> tuple[Any, str | None]:
    """Return the differentiable plant of an environment, its own or that of its twin, and the twin's name."""
    import gymnasium

    plant = getattr(env.unwrapped, "plant", None)
    if plant is not None and "max_episode_steps" in options:
        # Gymnasium keeps this keyword to itself, so that the plant, which training steps, would not know of it.
        raise ValueError(
            f"{env_id} was given max_episode_steps; the length of its episodes is its own parameter: give "
            f"horizon={options['max_episode_steps']}"
        )
    if plant is not None and first_other(env, harmless_wrappers()) is not None:
        # What stands between changes what is seen, done or earned, and training would step the plant without it.
        plant = None
    if plant is not None or options or importlib.util.find_spec("lipctrl_envs") is None:
        return plant, None
    twin = TWINS.get(env_id)
    if twin is None:
        return None, None
    copy = gymnasium.make(twin)
    plant = getattr(copy.unwrapped, "plant", None)
    copy.close()
    return plant, twin


def _plain(name: str, value: Any) -> Any:
    """Return an option as numbers, words, lists and dictionaries, which a run folder can hold and compare."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(name, entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(name, entry) for key, entry in value.items()}
    raise ValueError(
        f"the option {name} is a {type(value).__name__}, which a run folder cannot hold; register an environment that "
        "makes it (gymnasium.register) and train that"
    )


_HINTS = {
    "observation": "gymnasium.wrappers.FlattenObservation makes one of a dictionary or of a matrix",
    "action": "For balancing with a continuous force there is 'lipctrl/CartPole-v0'",
}


def vector_box(env_id: str, name: str, space: gymnasium.Space) -> gymnasium.spaces.Box:
    """Return the space as a box of a vector; ValueError for any other."""
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1 or space.shape[0] == 0:
        raise ValueError(
            f"{env_id} has the {name} space {space}; a Lipschitz controller needs a Box of shape (n,), n ≥ 1. "
            f"{_HINTS[name]}"
        )
    return space


def action_box(env_id: str, space: gymnasium.Space) -> gymnasium.spaces.Box:
    """Return the action space as a box that a gain can speak about; ValueError for whole numbers and fixed entries."""
    actions = vector_box(env_id, "action", space)
    if not np.issubdtype(actions.dtype, np.floating):
        raise ValueError(
            f"{env_id} takes actions of type {actions.dtype}; rounding to whole numbers has no Lipschitz bound. "
            "Expected an action space of floats"
        )
    if not (actions.low < actions.high).all():
        raise ValueError(f"{env_id} has the action space {actions}; expected low < high in every entry")
    return actions


def _half_width(space: gymnasium.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Return (half the width, the middle) of a box, entry by entry; (inf, 0) where a side is open."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    closed = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(closed, low, -np.inf), np.where(closed, high, np.inf)
    middle = 0.5 * np.add(low, high, where=closed, out=np.zeros_like(low))
    return 0.5 * (high - low), middle
