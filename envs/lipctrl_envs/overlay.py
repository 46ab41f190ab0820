"""A plant as it looks with other parameters, one value for each environment of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipctrl_envs.plant import Plant
    from lipctrl_envs.signals import Parameters


class Overlay:
    """A plant's attributes with some parameters replaced by tensors, one value for each environment."""

    def __init__(self, plant: Plant, parameters: Parameters) -> None:
        self._plant = plant
        self.__dict__.update(parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plant, name)
