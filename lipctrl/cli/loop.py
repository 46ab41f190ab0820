"""The closed loop of a run: its plant and the certificate of its policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipctrl.certificate import Certificate


def environment_of(path: Path) -> Any:
    """Make the environment that a run was trained on, with its options.

    Raises
    ------
    ValueError
        When its dynamics are a black box, so that there is nothing to linearise.
    """
    import gymnasium

    from lipctrl.runs import load_run

    config = load_run(path).config
    options = config["env_options"] if config["trained_on"] == config["env_id"] else {}
    env = gymnasium.make(config["trained_on"], **options)
    if not hasattr(env.unwrapped, "plant"):
        env.close()
        raise ValueError(
            f"{config['env_id']} is a black box: there is no plant to analyse. Linearise it yourself, for MuJoCo with "
            "lipctrl_envs.linearize_gymnasium, and call lipctrl.analyze(plant, certificate)"
        )
    return env


def loop_of(path: Path) -> tuple[Any, Certificate]:
    """Return (environment, certificate) of a run folder."""
    from lipctrl.runs import load_run

    return environment_of(path), load_run(path).certificate
