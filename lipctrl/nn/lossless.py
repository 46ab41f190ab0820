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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipctrl.activations import Activation
from lipctrl.nn.activations import Spec, grouped, short, unit_slopes
from lipctrl.nn.explicit import Explicit, NeuronLayer, Neurons, chain, numbers, reserved
from lipctrl.nn.module import CertifiedModule, composed, in_series, positive, positive_gain
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
        self.width, self.depth = positive("width", width), in_series(depth, in_features, out_features)
        self.inner_depth = positive("inner_depth", inner_depth)
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

    def factors(self) -> tuple[Semiorthogonal, ...]:
        """Return the semi-orthogonal factors whose matrices `assemble` takes."""
        found = (self.first, self.mix)
        return found if self.following is None else (*found, self.following)

    def assemble(self, pair: Tensor, mix: Tensor, following: Tensor | None = None) -> Explicit:
        """Return the explicit map from the matrices of `factors()`."""
        gain = self.lipschitz ** (1.0 / self.depth) * reserved(self.bias.dtype, self.inner_depth)
        return chain(*_fold_lossless(self, pair, mix, following, gain))

    def fold(self) -> Explicit:
        return self.assemble(*matrices(*self.factors()))

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} → {self.out_features}, lipschitz={self.lipschitz:g}, width={self.width}, "
            f"inner_depth={self.inner_depth}, depth={self.depth}, activation={self.activation.name}"
        )


def _signed(pair: Tensor, p: int) -> Tensor:
    """Return [-Q S] of [Q S]."""
    sign = pair.new_ones(pair.shape[-1])
    sign[:p] = -1.0
    return pair * sign


def _single(pair: Tensor, mix: Tensor, gain: float, p: int) -> tuple[Tensor, Tensor]:
    """Return √(2L) Q and [L M_1, √(2L) (M_2 Sᵀ - M_1 Qᵀ)] of a block with one inner layer."""
    root = math.sqrt(2.0 * gain)
    out = mix @ _signed(pair, p).mT
    return root * pair[..., :p], torch.cat((gain * mix[..., :p], root * out), -1)


class _Single(torch.autograd.Function):
    """`_single` with few passes over memory, which at small batches cost more than the arithmetic."""

    @staticmethod
    def forward(ctx: Any, pair: Tensor, mix: Tensor, gain: float, p: int) -> tuple[Tensor, Tensor]:
        root = math.sqrt(2.0 * gain)
        signed = _signed(pair, p)
        packed = mix.new_empty(*mix.shape[:-1], p + pair.shape[-2])
        torch.mul(mix[..., :p], gain, out=packed[..., :p])
        torch.bmm(mix, signed.mT, out=packed[..., p:]).mul_(root)
        ctx.save_for_backward(pair, mix, signed)
        ctx.gain, ctx.p = gain, p
        return root * pair[..., :p], packed

    @staticmethod
    def backward(ctx: Any, g_read: Tensor, g_packed: Tensor) -> tuple[Tensor | None, ...]:
        pair, mix, signed = ctx.saved_tensors
        gain, p = ctx.gain, ctx.p
        if torch.is_grad_enabled():
            whole = _single(pair, mix, gain, p)
            return *torch.autograd.grad(whole, (pair, mix), (g_read, g_packed), create_graph=True), None, None
        root = math.sqrt(2.0 * gain)
        g_out = g_packed[..., p:] * root
        g_mix, g_pair = torch.bmm(g_out, signed), torch.bmm(g_out.mT, mix)
        g_mix[..., :p].add_(g_packed[..., :p], alpha=gain)
        g_pair[..., :p].neg_().add_(g_read, alpha=root)
        return g_pair, g_mix, None, None


def _several(
    block: LosslessBlock, pair: Tensor, mix: Tensor, following: Tensor, gain: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the first layer reads, what layer l+1 reads of ω_l, and all read-outs, of n ≥ 2 inner layers."""
    p, h, n = block.in_features, block.width, block.inner_depth
    root = math.sqrt(2.0 * gain)
    q1, s1 = pair.split((p, h), -1)
    q, s = following.split((h, h), -1)
    carried = 2.0 * (q @ torch.cat((s1[:, None], s[:, :-1]), 1).mT)
    rest = mix[..., p:].unflatten(-1, (n, h)).movedim(-2, 1)  # (D, n, out, h)
    skip = torch.cat(((mix[..., :p] @ q1.mT)[:, None], rest[:, :-1] @ q.mT), 1)  # M_l Qᵀ
    out = root * (rest @ torch.cat((s1[:, None], s), 1).mT - skip)
    return root * q1, carried, torch.cat((gain * mix[..., :p], out.movedim(1, -2).flatten(-2)), -1)


def _fold_lossless(
    block: LosslessBlock, pair: Tensor, mix: Tensor, following: Tensor | None, gain: float
) -> list[Neurons]:
    """Return one graph a block; all linear algebra is batched over blocks and inner layers."""
    p, h, n = block.in_features, block.width, block.inner_depth
    carried = None
    if following is not None:
        read, carried, packed = _several(block, pair, mix, following, gain)
    elif composed():
        read, packed = _single(pair, mix, gain, p)
    else:
        read, packed = _Single.apply(pair, mix, gain, p)
    scale = None if block.log_scale is None else bounded_exp(block.log_scale)
    if scale is not None:
        packed = torch.cat((packed[..., :p], packed[..., p:] * scale.flatten(-2)[:, None, :]), -1)
        read = read / scale[:, 0, :, None]
        if carried is not None:
            carried = carried * scale[:, :-1, None, :] / scale[:, 1:, :, None]
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
