"""The closed loop of a run: its plant and the certificate of its policy."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lipctrl.certificate import Certificate


def environment_of(path: Path) -> Any:
    """Return what a run was trained on, as a plant: its environment, or a sampled linear model of a black box.

    Raises
    ------
    ValueError
        When its dynamics are a black box that cannot be linearised.
    """
    import gymnasium

    from lipctrl.runs import load_run
    from lipctrl.training.environments import EnvironmentFailedError, blamed, making
    from lipctrl.wrappers import require_raw_units

    config = load_run(path).config
    options = config["env_options"] if config["trained_on"] == config["env_id"] else {}
    with making(config["trained_on"], options):
        env = gymnasium.make(config["trained_on"], **options)
    try:
        require_raw_units(env)
        if hasattr(env.unwrapped, "plant"):
            return env
        # Found by name, like every environment: controllers and environments do not import each other.
        with blamed(config["env_id"], "its linearisation", but=(ModuleNotFoundError, TypeError, ValueError)):
            return importlib.import_module("lipctrl_envs").sample_model(env)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{config['env_id']} is a black box, and lipctrl_envs, which linearises such, is not here"
        ) from error
    except (EnvironmentFailedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{config['env_id']} is a black box without a linear model here: {error}. Linearise it yourself, for "
            "MuJoCo at a state of your choice with lipctrl_envs.linearize_gymnasium(env, state, action), and call "
            f"lipctrl.analyze(model, lipctrl.load_run({str(path)!r}).certificate)"
        ) from error
    finally:
        env.close()


def loop_of(path: Path) -> tuple[Any, Certificate]:
    """Return (plant, certificate) of a run folder."""
    from lipctrl.runs import load_run

    return environment_of(path), load_run(path).certificate
