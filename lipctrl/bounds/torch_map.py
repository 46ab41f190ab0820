"""A torch module as a float64 function with derivatives, for ascent; the module itself is left untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import remove_parametrizations

from lipctrl.bounds.ours import plain
from lipctrl.bounds.torch_input import input_size


def torch_map(
    module: nn.Module,
) -> tuple[Callable[[np.ndarray], np.ndarray], int, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Return (f, in_features, pullback): f in float64 on a copy in eval mode, pullback(x, u) = J(x)ᵀu.

    A certified network is taken as it is folded, and a weight with a parametrisation (weight_norm, spectral_norm) as it
    is computed, in the module's own precision: that is the map which certificates speak of.
    """
    clone = copy.deepcopy(plain(module)).to(device="cpu").eval()
    for part in list(clone.modules()):
        for name in list(getattr(part, "parametrizations", ())):
            remove_parametrizations(part, name)
    clone = clone.to(torch.float64)
    for parameter in clone.parameters():
        parameter.requires_grad_(False)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return clone(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    def pullback(x: np.ndarray, u: np.ndarray) -> np.ndarray:
        point = torch.from_numpy(np.ascontiguousarray(x)).requires_grad_(True)
        with torch.enable_grad():
            y = clone(point)
            if not y.requires_grad:
                return np.zeros_like(x)
            (out,) = torch.autograd.grad(y, point, torch.from_numpy(np.ascontiguousarray(u)))
        return out.numpy()

    return run, input_size(module), pullback
