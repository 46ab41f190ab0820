"""Hierarchy: a certified block as the nonlinearity of a lossless block, to any depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lipctrl.certificate import Certificate
from lipctrl.nn.compose import Combinator, certified, self_map
from lipctrl.nn.explicit import Explicit, NeuronLayer, Neurons, reserved
from lipctrl.nn.module import CertifiedModule, positive_gain
from lipctrl.nn.orthogonal import Semiorthogonal
from lipctrl.rules import Layer, Output


class Recursive(Combinator):
    """y = M [v - Qᵀ(z + ν(z)); Sᵀ(z + ν(z))], z = Q v, with a whole certified block as ν: gain at most L.

    [Q S] and M are row-orthonormal and ν = f/γ for the given block f of gain γ, so that

        ‖Δe‖² + ‖Δt‖² = ‖Δv‖² - (‖Δz‖² - ‖Δν‖²) ≤ ‖Δv‖²

    exactly: nesting loses nothing. The block may itself be `Recursive`; its certificate becomes a part of this
    one's, and one LMI with a single multiplier joins them.

    Parameters
    ----------
    block : any certified map of R^h into itself with an l2 bound.
    in_features, out_features : dimensions of v and y.
    lipschitz : the gain L.

    Examples
    --------
    >>> from lipctrl.nn import LosslessBlock
    >>> inner = Recursive(LosslessBlock(4, 4, width=8), 6, 6)
    >>> outer = Recursive(inner, 3, 2, lipschitz=5.0).double()
    >>> outer.certificate().gain <= 5.0
    True
    """

    def __init__(
        self, block: CertifiedModule, in_features: int, out_features: int, *, lipschitz: float = 1.0
    ) -> None:
        super().__init__(in_features, out_features)
        self.blocks, width = certified([block], "Recursive"), self_map(block, "Recursive")
        if block.norm != "l2":
            raise ValueError("Recursive nests blocks with an l2 bound; an linf bound does not fit its energy")
        positive_gain(block.lipschitz, "the gain of the nested block")
        self.lipschitz, self.width = positive_gain(lipschitz), width
        self.split = Semiorthogonal(self.width, in_features + self.width)
        self.mix = Semiorthogonal(out_features, in_features + self.width)
        self.bias = nn.Parameter(torch.zeros(self.width))
        self.output_bias = nn.Parameter(torch.zeros(out_features))

    def fold(self) -> Explicit:
        n, (inner,), (nested,) = self.in_features, self.gains(), self.folds()
        gain = self.lipschitz * reserved(self.bias.dtype, 2)
        head = math.sqrt(gain)
        q, s = self.split.matrix().split((n, self.width), -1)
        keep, carry = self.mix.matrix().split((n, self.width), -1)
        write = carry @ s.mT - keep @ q.mT
        # ν = f/γ: the division stands in what is written, the block sees z itself.
        skip = keep + write @ q
        layer = NeuronLayer({0: head * q}, self.bias, nested)
        return Neurons(
            (layer,),
            {0: gain * skip, 1: head * write / inner},
            self.output_bias,
            gain,
            _Witness(gain, inner),
            n,
        )


class _Witness:
    """The single multiplier of the nested map of gain γ: λ = L / 2γ²; a map below γ, zero included, needs no other."""

    def __init__(self, gain: float, inner: float) -> None:
        self.gain, self.inner = gain, inner

    def __call__(self, layers: Sequence[Layer], output: Output) -> Sequence[Any]:
        (layer,) = layers
        part = layer.activation
        assert isinstance(part, Certificate)
        return [np.full(len(layer.bias), 0.5 * self.gain / max(part.gain, self.inner) ** 2)]
