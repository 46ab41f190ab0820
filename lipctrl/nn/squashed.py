"""Smooth action limits: tanh in the place of a clip, inside the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipctrl.nn.explicit import Explicit, NeuronLayer, Neurons, chain, reserved
from lipctrl.nn.module import CertifiedModule
from lipctrl.rules import Layer, Output


class Squashed(CertifiedModule):
    """u = c + h·tanh(f(y)/h): the box [c-h, c+h] is never left, and the l2 gain is at most that of f.

    Dividing by the half-widths h before tanh and multiplying after it cancels in every channel, so that unequal
    limits cost nothing: tanh has slopes in [0, 1], and the LMI of Fazlyab et al. 2019 (Theorem 2) holds with the
    multipliers h².

    Parameters
    ----------
    network : a certified network f with (m,) outputs in the units of the action.
    lower, upper : (m,) finite limits, lower < upper.

    Examples
    --------
    >>> from lipctrl.nn import LipschitzResNet
    >>> net = Squashed(LipschitzResNet(3, 2, lipschitz=5.0, width=8), lower=[-1.0, 0.0], upper=[1.0, 100.0])
    >>> net.certificate().gain <= 5.0 * (1.0 + 1e-3)
    True
    """

    middle: Tensor
    reach: Tensor

    def __init__(self, network: CertifiedModule, lower: Any, upper: Any) -> None:
        super().__init__(network.in_features, network.out_features)
        low, high = (np.asarray(b, dtype=np.float64) for b in (lower, upper))
        shape = (network.out_features,)
        if (
            low.shape != shape
            or high.shape != shape
            or not (np.isfinite([low, high]).all() and (low < high).all())
        ):
            raise ValueError(
                f"limits are {lower!r} and {upper!r}; expected finite lower < upper of shape {shape}"
            )
        if network.norm != "l2":
            raise ValueError(f"the network is bounded in {network.norm}; squashing keeps an l2 bound")
        self.network = network
        dtype = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
        self.register_buffer("middle", torch.as_tensor(0.5 * (low + high), dtype=dtype))
        self.register_buffer("reach", torch.as_tensor(0.5 * (high - low), dtype=dtype))

    @property
    def lipschitz(self) -> float:
        return float(self.network.lipschitz)

    def fold(self) -> Explicit:
        return chain(self.network.explicit(), self.saturation())

    def limits(self) -> tuple[list[float], list[float]]:
        """Return (lower, upper), (m,) each, from the stored middle and half-widths."""
        middle, reach = self.middle.double(), self.reach.double()
        return (middle - reach).tolist(), (middle + reach).tolist()

    def saturation(self) -> Neurons:
        """Return v ↦ c + h·tanh(v/h) as one layer of neurons."""
        # Rounding of 1/h and of h must not push the product of the two beyond 1.
        reserve = reserved(self.reach.dtype, 1)
        layer = NeuronLayer({0: torch.diag(reserve / self.reach)}, torch.zeros_like(self.reach), "tanh")
        return Neurons(
            (layer,),
            {1: torch.diag(self.reach)},
            self.middle,
            1.0,
            _multipliers,
            in_features=self.out_features,
        )


def _multipliers(layers: Sequence[Layer], output: Output) -> list[np.ndarray]:
    return [np.diag(np.asarray(output.sources[1])) ** 2]
