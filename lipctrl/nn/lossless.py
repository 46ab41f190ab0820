"""Lossless blocks: energy splits into a skip and a through signal, exactly, and no gradient is lost.

With [Q S] row-orthonormal, z = Q v and ω = √2 Ψ σ(√2 Ψ⁻¹ z + b) for a σ of slopes [0, 1],

    e = v - Qᵀω,   t = Sᵀω    ⇒    ‖Δe‖² + ‖Δt‖² = ‖Δv‖² - (‖Δz‖² - ‖Δν‖²) ≤ ‖Δv‖²,   ν = ω - z,

because ‖Δz‖² - ‖Δν‖² = 2 Σ ψ² Δw (Δu - Δw) ≥ 0. A block nests this n times, v_{l+1} = t_l, and mixes all
signals once at the end with a row-orthonormal M:  y = M [e_1; …; e_n; t_n]. It contains the Sandwich layer
(M reads t_n only; Wang & Manchester 2023, eq. (8)) and the CPL/SLL residual layer (M reads e_1 only; Meunier et al.
2022, Araujo et al. 2023). With ReLU the Jacobian of v ↦ (e, t) has orthonormal columns almost everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lipctrl.activations import Activation
from lipctrl.nn.activations import Spec, grouped, short, unit_slopes
from lipctrl.nn.explicit import Explicit, NeuronLayer, Neurons, chain, numbers, reserved
from lipctrl.nn.module import CertifiedModule, positive, positive_gain
from lipctrl.nn.orthogonal import Semiorthogonal, matrices
from lipctrl.rules import Layer, Output

# σ(cu)/c = σ(u) for c > 0: there Ψ would only rescale the bias.
HOMOGENEOUS = ("relu", "identity")


def is_homogeneous(sigma: Activation) -> bool:
    """Tell whether σ(cu) = cσ(u) for c > 0, or neurons are coupled, so that Ψ would be idle or wrong."""
    return sigma.name in HOMOGENEOUS or sigma.group > 1


def bounded_exp(free: Tensor) -> Tensor:
    """Return a positive scale in (e⁻⁸, e⁸): any parameter value leaves the LMI well scaled."""
    return torch.exp(8.0 * torch.tanh(free / 8.0))


class LosslessBlock(CertifiedModule):
    """y = M [e_1; …; e_n; t_n]: an l2 gain of at most L for all parameters, tight for almost all.

    Parameters
    ----------
    in_features, out_features : dimensions.
    lipschitz : the gain L.
    width : neurons of each inner layer.
    inner_depth : the number n of inner layers.
    activation : any name or table of `lipctrl.activations`; it enters in its form with slopes [0, 1].
    depth : so many equal blocks in series, folded in one batch; needs in_features == out_features.
    spread : initial share of what leaves the skip path, see `Semiorthogonal`. Near 0 the block starts as an
        orthogonal residual layer y ≈ A(v - 2Qᵀσ(Qv)) that loses nothing at any depth.

    Examples
    --------
    >>> block = LosslessBlock(3, 2, lipschitz=2.0, width=8, inner_depth=2)
    >>> block.certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        width: int = 64,
        inner_depth: int = 1,
        activation: Spec = "relu",
        depth: int = 1,
        spread: float = 1.0,
    ) -> None:
        super().__init__(in_features, out_features)
        self.lipschitz = positive_gain(lipschitz)
        self.width, self.depth = positive("width", width), positive("depth", depth)
        self.inner_depth = positive("inner_depth", inner_depth)
        if depth > 1 and in_features != out_features:
            raise ValueError(f"blocks in series keep the dimension; got {in_features} → {out_features}")
        self.activation = grouped(unit_slopes(activation), width)
        n = self.inner_depth
        self.first = Semiorthogonal(width, in_features + width, batch=(depth,), spread=spread)
        self.following = Semiorthogonal(width, 2 * width, batch=(depth, n - 1)) if n > 1 else None
        self.mix = Semiorthogonal(out_features, in_features + n * width, batch=(depth,), spread=spread)
        bound = 1.0 / math.sqrt(width)
        self.bias = nn.Parameter(torch.empty(depth, n, width).uniform_(-bound, bound))
        self.output_bias = nn.Parameter(torch.zeros(depth, out_features))
        self.log_scale = (
            None if is_homogeneous(self.activation) else nn.Parameter(torch.zeros(depth, n, width))
        )

    def fold(self) -> Explicit:
        gain = self.lipschitz ** (1.0 / self.depth) * reserved(self.bias.dtype, self.inner_depth)
        parts = _fold_lossless(self, gain)
        return chain(*parts)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} → {self.out_features}, lipschitz={self.lipschitz:g}, width={self.width}, "
            f"inner_depth={self.inner_depth}, depth={self.depth}, activation={self.activation.name}"
        )


def _fold_lossless(block: LosslessBlock, gain: float) -> list[Neurons]:
    """Return one graph a block; all linear algebra is batched over blocks and inner layers."""
    p, h, n = block.in_features, block.width, block.inner_depth
    head = math.sqrt(gain)  # the gain is split evenly between the input and the output
    pair, mix = matrices(block.first, block.mix)
    q1, s1 = pair.split((p, h), -1)
    first = mix[..., :p]
    if block.following is None:
        carried = None
        # M_2 Sᵀ - M_1 Qᵀ in one product
        out = (mix @ torch.cat((-q1, s1), -1).mT)[:, None]
    else:
        q, s = block.following.matrix().split((h, h), -1)
        # (D, n-1, h, h): what layer l+1 reads of ω_l
        carried = 2.0 * (q @ torch.cat((s1[:, None], s[:, :-1]), 1).mT)
        writes = torch.cat((s1[:, None], s), 1)
        rest = mix[..., p:].unflatten(-1, (n, h)).movedim(-2, 1)  # (D, n, out, h)
        skip = torch.cat(((first @ q1.mT)[:, None], rest[:, :-1] @ q.mT), 1)  # M_l Qᵀ
        out = rest @ writes.mT - skip
    out = math.sqrt(2.0) * head * out
    read = math.sqrt(2.0) * head * q1
    scale = None if block.log_scale is None else bounded_exp(block.log_scale)
    if scale is not None:
        out = out * scale[:, :, None, :]
        read = read / scale[:, 0, :, None]
        if carried is not None:
            carried = carried * scale[:, :-1, None, :] / scale[:, 1:, :, None]
    packed = torch.cat((gain * first, out.movedim(1, -2).flatten(-2)), -1)  # [A Y_1 … Y_n]
    # Unbound once each: slicing a batch block by block costs a kernel a slice in the backward pass.
    sigma = short(block.activation)
    through = [c.unbind(0) for c in carried.unbind(0)] if carried is not None else [()] * block.depth
    columns = zip(
        read.unbind(0),
        through,
        block.bias.unbind(0),
        packed.unbind(0),
        block.output_bias.unbind(0),
        [None] * block.depth if scale is None else scale.unbind(0),
        strict=True,
    )
    return [
        Neurons(
            tuple(
                NeuronLayer({l: w}, b, sigma)
                for l, (w, b) in enumerate(zip((c1, *cs), bias.unbind(0), strict=True))
            ),
            dict(enumerate(read_out.split((p, *[h] * n), -1))),
            d,
            gain,
            ScaleWitness(gain, psi),
            p,
            read_out,
        )
        for c1, cs, bias, read_out, d, psi in columns
    ]


class ScaleWitness:
    """The multipliers λ_l = L ψ_l² of exact blocks, ψ = 1 where Ψ is absent; `scale` is (n, h) or None."""

    def __init__(self, gain: float, scale: Tensor | None) -> None:
        self.gain, self.scale = gain, scale

    def __call__(self, layers: Sequence[Layer], output: Output) -> Sequence[np.ndarray]:
        if self.scale is None:
            return [np.full(len(layer.bias), self.gain) for layer in layers]
        return list(self.gain * numbers(self.scale) ** 2)
