"""Control plants as Gymnasium environments: one torch dynamics each, stepped, differentiated and bounded.

Importing the package registers every environment (and imports neither torch nor python-control):

    gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0")                          one environment, numpy
    gymnasium.make_vec("lipctrl_envs:lipctrl/Pendulum-v0", num_envs=1024)       a batch, torch
"""

from __future__ import annotations

import importlib
from typing import Any

from lipctrl_envs.registry import PLANTS, environment_id, plant_class, plant_names, register_all

_MODULES = {
    "Plant": "plant",
    "Signal": "plant",
    "MechanicalPlant": "mechanical",
    "LureForm": "lure",
    "PlantEnv": "single",
    "TorchVectorEnv": "vector",
    "linearize_gymnasium": "third_party",
    **{name: module for name, (module, _) in PLANTS.items()},
}

__all__ = ["environment_id", "plant_class", "plant_names"]
__all__ += list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"lipctrl_envs.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


register_all()
