"""Which wrappers of an environment keep the units: any other would hide a factor from a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from lipctrl.wrappers import first_other, unit_keeping_wrappers

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

# What can be asked of environments in other processes, whose wrappers cannot be looked at.
_SCALING: tuple[type, ...] = (
    gymnasium.wrappers.NormalizeObservation,
    gymnasium.wrappers.RescaleAction,
    gymnasium.wrappers.RescaleObservation,
    gymnasium.wrappers.TransformAction,
    gymnasium.wrappers.TransformObservation,
)


def refuse_hidden_factors(model: BaseAlgorithm, trusted: tuple[type, ...]) -> None:
    """Raise unless every wrapper between an SB3 model and its environment is known to keep the units, or trusted."""
    outer = _below_vector_wrappers(model.get_env(), trusted)
    if outer is None:
        return
    if not hasattr(outer, "envs"):
        for kind in _SCALING:
            if not issubclass(kind, trusted) and any(outer.env_is_wrapped(kind)):
                raise _hidden(kind)
    from stable_baselines3.common.monitor import Monitor

    for env in getattr(outer, "envs", []):
        # As of VecFrameStack, the certificate is about the stack.
        stacked = gymnasium.wrappers.FrameStackObservation
        kind = first_other(env, (Monitor, stacked, *unit_keeping_wrappers(), *trusted))
        if kind is not None:
            raise _hidden(kind)


def _below_vector_wrappers(outer: Any, trusted: tuple[type, ...]) -> Any:
    from stable_baselines3.common.vec_env import (
        VecCheckNan,
        VecEnvWrapper,
        VecFrameStack,
        VecMonitor,
        VecNormalize,
        VecVideoRecorder,
    )

    # A stack of frames is not scaled: the certificate then has as many inputs as the stack, and is about that.
    harmless = (VecCheckNan, VecFrameStack, VecMonitor, VecVideoRecorder)
    while isinstance(outer, VecEnvWrapper):
        if isinstance(outer, VecNormalize):
            if outer.norm_obs:
                raise ValueError(
                    "the model sees observations scaled by VecNormalize, a factor that the policy does not know; use "
                    "VecNormalize(norm_obs=False) and give the policy observation_scale=… instead"
                )
        elif not isinstance(outer, (*harmless, *trusted)):
            raise _hidden(type(outer))
        outer = outer.venv
    return outer


def _hidden(kind: type) -> ValueError:
    return ValueError(
        f"the environment is wrapped in {kind.__name__}, which may change the units of observations or actions outside "
        "of the certificate; train without it and use observation_scale=…, or, if it changes neither, pass "
        f"trusted=({kind.__name__},)"
    )
