"""The one list of plants: every environment id, every conformance test and every table is drawn from it."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipctrl_envs.plant import Plant

# name -> (module, version of the environment id); modules are imported when a plant is asked for.
PLANTS: dict[str, tuple[str, int]] = {
    "Pendulum": ("pendulum", 0),
    "PendulumSwingUp": ("pendulum", 0),
    "GymPendulum": ("gym_pendulum", 1),
    "CartPole": ("cartpole", 0),
    "DoublePendulumCart": ("double_pendulum", 0),
    "MassSpringChain": ("mass_spring", 0),
    "TwoMassDrive": ("two_mass", 0),
    "LateralVehicle": ("vehicle", 0),
    "PlanarQuadrotor": ("quadrotor", 0),
    "SpinningSatellite": ("satellite", 0),
}


def plant_names() -> list[str]:
    """Return the names of all plants.

    Examples
    --------
    >>> "CartPole" in plant_names()
    True
    """
    return list(PLANTS)


def environment_id(name: str) -> str:
    """Return the Gymnasium id of a plant.

    >>> environment_id("CartPole")
    'lipctrl/CartPole-v0'
    """
    return f"lipctrl/{name}-v{PLANTS[name][1]}"


def plant_class(name: str) -> type[Plant]:
    """Return the class of a plant by its name; ValueError lists the known ones.

    Examples
    --------
    >>> plant_class("CartPole")().action_names
    ('force',)
    """
    if name not in PLANTS:
        raise ValueError(f"there is no plant {name!r}; known are {', '.join(PLANTS)}")
    return getattr(importlib.import_module(f"lipctrl_envs.{PLANTS[name][0]}"), name)


def make_plant(plant: Plant | str, parameters: Mapping[str, Any]) -> Plant:
    """Return a plant by name with keyword parameters, or the given plant with some of them replaced.

    Raises TypeError for a keyword that the plant does not have, naming the nearest it has.
    """
    cls = plant_class(plant) if isinstance(plant, str) else type(plant)
    known = [f.name for f in dataclasses.fields(cls)]
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(
                f"{cls.__name__} has no parameter {name!r}.{hint} Its parameters are {', '.join(known)}."
            )
    return cls(**parameters) if isinstance(plant, str) else dataclasses.replace(plant, **parameters)


def register_all() -> None:
    """Register every plant with Gymnasium, as a single and as a vector environment."""
    import gymnasium

    for name in PLANTS:
        identifier = environment_id(name)
        if identifier not in gymnasium.registry:
            gymnasium.register(
                id=identifier,
                entry_point="lipctrl_envs.single:PlantEnv",
                vector_entry_point="lipctrl_envs.vector:TorchVectorEnv",
                kwargs={"plant": name},
            )
