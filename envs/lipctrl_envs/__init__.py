"""Control plants as Gymnasium environments: one torch dynamics each, stepped, differentiated and bounded.

Importing the package registers every environment (and imports neither torch nor python-control):

    gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0")                          one environment, numpy
    gymnasium.make_vec("lipctrl_envs:lipctrl/Pendulum-v0", num_envs=1024)       a batch, torch
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lipctrl_envs.registry import PLANTS, environment_id, plant_class, plant_names, register_all

if TYPE_CHECKING:
    from lipctrl_envs.cartpole import CartPole
    from lipctrl_envs.double_pendulum import DoublePendulumCart
    from lipctrl_envs.gym_pendulum import GymPendulum
    from lipctrl_envs.lure import LureForm
    from lipctrl_envs.mass_spring import MassSpringChain
    from lipctrl_envs.mechanical import MechanicalPlant
    from lipctrl_envs.pendulum import Pendulum, PendulumSwingUp
    from lipctrl_envs.plant import Plant
    from lipctrl_envs.quadrotor import PlanarQuadrotor
    from lipctrl_envs.sampled import SampledModel, sample_model
    from lipctrl_envs.satellite import SpinningSatellite
    from lipctrl_envs.signals import Signal
    from lipctrl_envs.single import PlantEnv
    from lipctrl_envs.third_party import linearize_gymnasium
    from lipctrl_envs.two_mass import TwoMassDrive
    from lipctrl_envs.vector import TorchVectorEnv
    from lipctrl_envs.vehicle import LateralVehicle

_MODULES = {
    "Plant": "plant",
    "Signal": "signals",
    "MechanicalPlant": "mechanical",
    "LureForm": "lure",
    "PlantEnv": "single",
    "TorchVectorEnv": "vector",
    "linearize_gymnasium": "third_party",
    "SampledModel": "sampled",
    "sample_model": "sampled",
    **{name: module for name, (module, _) in PLANTS.items()},
}

__all__ = [
    "Plant",
    "PlantEnv",
    "TorchVectorEnv",
    "LureForm",
    "MechanicalPlant",
    "Signal",
    "environment_id",
    "plant_class",
    "plant_names",
    "linearize_gymnasium",
    "SampledModel",
    "sample_model",
    "Pendulum",
    "PendulumSwingUp",
    "GymPendulum",
    "CartPole",
    "DoublePendulumCart",
    "MassSpringChain",
    "TwoMassDrive",
    "LateralVehicle",
    "PlanarQuadrotor",
    "SpinningSatellite",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"lipctrl_envs.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


register_all()
