"""The Sandwich layer: the complete parametrisation of one layer without a skip, used as the reference."""

from __future__ import annotations

import math

import torch
from torch import nn

from lipctrl.nn.activations import Spec, grouped, short, unit_slopes
from lipctrl.nn.explicit import Explicit, NeuronLayer, Neurons, chain, reserved
from lipctrl.nn.lossless import ScaleWitness, bounded_exp, is_homogeneous
from lipctrl.nn.module import CertifiedModule, in_series, positive_gain
from lipctrl.nn.orthogonal import Semiorthogonal


class SandwichLayer(CertifiedModule):
    """y = √(2L) Aᵀ Ψ σ(√(2L) Ψ⁻¹ B x + b) with A Aᵀ + B Bᵀ = I: an l2 gain of at most L.

    Source: Wang & Manchester 2023, "Direct parameterization of Lipschitz-bounded deep networks", eq. (8). The
    layer has out_features neurons. Its Jacobian loses energy in every layer, so deep stacks do not train.

    Parameters
    ----------
    in_features, out_features, lipschitz, activation, depth : as in `LosslessBlock`.

    Examples
    --------
    >>> SandwichLayer(3, 8, lipschitz=2.0).certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        activation: Spec = "relu",
        depth: int = 1,
    ) -> None:
        super().__init__(in_features, out_features)
        self.lipschitz, self.depth = positive_gain(lipschitz), in_series(depth, in_features, out_features)
        self.activation = grouped(unit_slopes(activation), out_features)
        self.pair = Semiorthogonal(out_features, out_features + in_features, batch=(depth,))
        bound = 1.0 / math.sqrt(out_features)
        self.bias = nn.Parameter(torch.empty(depth, out_features).uniform_(-bound, bound))
        self.log_scale = (
            None if is_homogeneous(self.activation) else nn.Parameter(torch.zeros(depth, out_features))
        )

    def fold(self) -> Explicit:
        gain = self.lipschitz ** (1.0 / self.depth) * reserved(self.bias.dtype, 1)
        a, b = self.pair.matrix().split((self.out_features, self.in_features), -1)
        read, write = math.sqrt(2.0 * gain) * b, math.sqrt(2.0 * gain) * a.mT
        scale = None if self.log_scale is None else bounded_exp(self.log_scale)
        if scale is not None:
            read, write = read / scale[..., None], write * scale[:, None, :]
        sigma = short(self.activation)
        zero = torch.zeros_like(self.bias[0])
        return chain(
            *(
                Neurons(
                    (NeuronLayer({0: read_l}, bias, sigma),),
                    {1: write_l},
                    zero,
                    gain,
                    ScaleWitness(gain, None if scale is None else scale[l : l + 1]),
                    self.in_features,
                )
                for l, (read_l, write_l, bias) in enumerate(
                    zip(read.unbind(0), write.unbind(0), self.bias.unbind(0), strict=True)
                )
            )
        )

    def extra_repr(self) -> str:
        return f"{self.in_features} → {self.out_features}, lipschitz={self.lipschitz:g}, depth={self.depth}"
