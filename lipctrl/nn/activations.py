"""Torch twins of `lipctrl.activations`: the same names, parameters, values and slope intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipctrl.activations import Activation, activation

Spec = str | Mapping[str, Any] | Activation


class GroupSort(nn.Module):
    """Sorts each group of `size` neighbouring features: 1-Lipschitz and gradient-norm preserving.

    Source: Anil, Lucas & Grosse 2019, "Sorting out Lipschitz function approximation", section 4.
    """

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size
        self.spec: dict[str, Any] = {"name": "groupsort", "size": size}

    def forward(self, v: Tensor) -> Tensor:
        grouped = v.unflatten(-1, (-1, self.size))
        if self.size == 2:
            # Far faster than a sort, and the same values.
            return torch.stack((grouped.amin(-1), grouped.amax(-1)), -1).flatten(-2)
        return grouped.sort(-1).values.flatten(-2)


class Elementwise(nn.Module):
    """An element-wise function that torch has no module for; `spec` names it."""

    def __init__(self, spec: Mapping[str, Any], function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.function = function

    def forward(self, v: Tensor) -> Tensor:
        return self.function(v)

    def extra_repr(self) -> str:
        return self.spec["name"]


class Averaged(nn.Module):
    """(σ(v) - m v) / (s - m) for a σ with slopes [m, s]: the same nonlinearity moved to the slopes [0, 1]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        sigma = activation(spec)
        self.spec: dict[str, Any] = {"name": "averaged", "activation": sigma.to_dict()}
        self.inner = activation_module(sigma)
        self.lower, self.width = sigma.lower, sigma.upper - sigma.lower

    def forward(self, v: Tensor) -> Tensor:
        return (self.inner(v) - self.lower * v) / self.width


def _smooth_soft_threshold(v: Tensor, threshold: float, smoothing: float) -> Tensor:
    e = torch.full_like(v, smoothing)
    return v + 0.5 * (torch.hypot(v - threshold, e) - torch.hypot(v + threshold, e))


_MODULES: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "identity": lambda spec: nn.Identity(),
    "relu": lambda spec: nn.ReLU(),
    "leaky_relu": lambda spec: nn.LeakyReLU(spec["slope"]),
    "tanh": lambda spec: nn.Tanh(),
    # A threshold of 20 makes torch's softplus linear beyond it: an error of 2e-9 that a proof would not cover.
    "softplus": lambda spec: Elementwise(spec, lambda v: torch.logaddexp(v, torch.zeros_like(v))),
    "sigmoid": lambda spec: nn.Sigmoid(),
    "elu": lambda spec: nn.ELU(spec.get("alpha", 1.0)),
    "abs": lambda spec: Elementwise(spec, torch.abs),
    "softsign": lambda spec: nn.Softsign(),
    "hardtanh": lambda spec: nn.Hardtanh(),
    "arctan": lambda spec: Elementwise(spec, torch.arctan),
    "sin": lambda spec: Elementwise(spec, torch.sin),
    "silu": lambda spec: nn.SiLU(),
    "gelu": lambda spec: nn.GELU(),
    "clip": lambda spec: Elementwise(spec, lambda v: torch.clamp(v, spec["lower"], spec["upper"])),
    "soft_threshold": lambda spec: Elementwise(spec, lambda v: F.softshrink(v, spec["threshold"])),
    "smooth_soft_threshold": lambda spec: Elementwise(
        spec, partial(_smooth_soft_threshold, threshold=spec["threshold"], smoothing=spec["smoothing"])
    ),
    "groupsort": lambda spec: GroupSort(spec["size"]),
    "averaged": lambda spec: Averaged(spec["activation"]),
}


def activation_module(spec: Spec) -> nn.Module:
    """Return the torch module of an activation, without parameters.

    Modules that are not torch's own carry `spec`, the table of `lipctrl.activations` that describes them.

    Raises
    ------
    ValueError
        For a name or parameter that `lipctrl.activations` does not know.

    Examples
    --------
    >>> activation_module({"name": "leaky_relu", "slope": 0.1})
    LeakyReLU(negative_slope=0.1)
    """
    table = activation(spec).to_dict()
    return _MODULES[table["name"]](table)


def unit_slopes(spec: Spec) -> Activation:
    """Return the activation moved to slopes [0, 1] (itself where it has them already).

    The averaged forms of leaky ReLU and |·| are both exactly ReLU, and are returned as such.
    """
    sigma = activation(spec)
    if sigma.lower == 0.0 and sigma.upper == 1.0:
        return sigma
    if sigma.name in ("leaky_relu", "abs"):
        return activation("relu")
    if sigma.lower == sigma.upper:
        return sigma
    return activation({"name": "averaged", "activation": sigma.to_dict()})


def grouped(spec: Spec, width: int) -> Activation:
    """Return the activation of a layer of `width` neurons, which must hold whole groups.

    Raises
    ------
    ValueError
        When the width is not a multiple of the group.
    """
    sigma = activation(spec)
    if width % sigma.group:
        raise ValueError(f"{width} neurons; {sigma.name} needs a multiple of {sigma.group}")
    return sigma


def short(sigma: Activation) -> str | dict[str, Any]:
    """Return the name of an activation without parameters, the table of one with."""
    return sigma.to_dict() if sigma.params else sigma.name
