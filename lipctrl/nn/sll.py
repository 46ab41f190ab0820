"""SDP-based residual layers with a closed form: SLL, its spectral special case CPL, and the AOL linear layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipctrl import rules
from lipctrl.certificate import Certificate
from lipctrl.nn.activations import Spec, activation_module, grouped, short, unit_slopes
from lipctrl.nn.explicit import Affine, Explicit, NeuronLayer, Neurons, chain, reserved
from lipctrl.nn.lossless import bounded_exp
from lipctrl.nn.module import CertifiedModule, positive, positive_gain
from lipctrl.rules import Layer, Output


class SLLBlock(CertifiedModule):
    """y = L (x - 2 W T⁻¹ σ(Wᵀx + b)), T_ii = Σ_j |WᵀW|_ij q_j / q_i: an l2 gain of at most L.

    Source: Araujo et al. 2023, "A unified algebraic perspective on Lipschitz neural networks", Theorem 2 and
    eq. (14). No epsilon is added to T: a zero column of W takes no part, and the rounding of T is paid for by
    enlarging it relatively, which keeps the bound for W of any size.

    Parameters
    ----------
    in_features, out_features : equal; both are taken so that every block has the same signature.
    lipschitz, width, activation, depth : as in `LosslessBlock`.
    norm : "sll" for the T above, "cpl" for T = ‖W‖₂² I (Meunier et al. 2022, convex potential layer).

    Examples
    --------
    >>> SLLBlock(3, 3, lipschitz=2.0, width=8).certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        width: int = 64,
        activation: Spec = "relu",
        depth: int = 1,
        norm: str = "sll",
    ) -> None:
        super().__init__(in_features, out_features)
        if in_features != out_features:
            raise ValueError(f"an SLL block keeps the dimension; got {in_features} → {out_features}")
        if norm not in ("sll", "cpl"):
            raise ValueError(f"norm is {norm!r}; expected 'sll' or 'cpl'")
        self.lipschitz, self.scaling = positive_gain(lipschitz), norm
        self.width, self.depth = positive("width", width), positive("depth", depth)
        self.activation = grouped(unit_slopes(activation), width)
        self.weight = nn.Parameter(
            torch.randn(depth, in_features, width) * (2.0 / (in_features + width)) ** 0.5
        )
        bound = 1.0 / math.sqrt(width)
        self.bias = nn.Parameter(torch.empty(depth, width).uniform_(-bound, bound))
        self.log_q = nn.Parameter(torch.zeros(depth, width)) if norm == "sll" else None

    def fold(self) -> Explicit:
        gain = self.lipschitz ** (1.0 / self.depth) * reserved(self.bias.dtype, 1)
        # T⁻¹ scales as W⁻²: dividing W by its largest entry first keeps the squares representable, and σ is
        # evaluated at the original scale of Wᵀx.
        peak = self.weight.detach().abs().amax((-2, -1), keepdim=True)
        w = self.weight / torch.where(peak > 0.0, peak, torch.ones_like(peak))
        t = self._diagonal(w)
        # The skip takes the whole gain, so N_00 cancels to the slack; T pays for the rounding of that difference.
        t = torch.where(t > 0.0, t, torch.ones_like(t)) * (
            1.0 + 1e-5 + 4.0 * self.width * torch.finfo(t.dtype).eps
        )
        if self.activation.group > 1:
            grouped = t.unflatten(-1, (-1, self.activation.group))
            t = grouped.amax(-1, keepdim=True).expand_as(grouped).flatten(-2)
        write = -2.0 * gain * w / t[:, None, :]
        skip = gain * torch.eye(self.in_features, dtype=w.dtype, device=w.device)
        sigma = short(self.activation)
        size = peak.clamp(1e-4, 1e4)
        n = self.in_features
        packed = torch.cat((skip.expand(self.depth, n, n), write / size), -1)
        return chain(
            *(
                Neurons(
                    (NeuronLayer({0: read}, bias, sigma),),
                    {0: skip, 1: out[:, n:]},
                    torch.zeros_like(skip[0]),
                    gain,
                    _Witness(self.activation.group),
                    n,
                    out,
                )
                for read, bias, out in zip(
                    (w * size).mT.unbind(0),
                    self.bias.unbind(0),
                    packed.unbind(0),
                    strict=True,
                )
            )
        )

    def _diagonal(self, w: Tensor) -> Tensor:
        if self.log_q is None:
            top = torch.linalg.matrix_norm(w, 2)
            return (top**2)[:, None].expand(-1, self.width)
        q = bounded_exp(self.log_q)
        gram = (w.mT @ w).abs()
        return (gram @ q[..., None])[..., 0] / q

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, lipschitz={self.lipschitz:g}, width={self.width}, depth={self.depth}, "
            f"norm={self.scaling}"
        )


class _Witness:
    """The multipliers that cancel N_01 = -(CᵀΛ + AᵀB): λ_i = -⟨C_i, (AᵀB)_i⟩ / ‖C_i‖², shared by a group."""

    def __init__(self, group: int) -> None:
        self.group = group

    def __call__(self, layers: Sequence[Layer], output: Output) -> Sequence[np.ndarray]:
        c = np.asarray(layers[0].sources[0])
        cross = np.asarray(output.sources[0]).T @ np.asarray(output.sources[1])
        square = (c**2).sum(1)
        exact = np.divide(-(c * cross.T).sum(1), square, out=np.zeros(len(c)), where=square > 0.0)
        return [np.repeat(exact.reshape(-1, self.group).max(1), self.group)]


class AOLLayer(CertifiedModule):
    """y = σ(L W D x + b), D = diag((|WᵀW| 1)^-½): an l2 gain of at most L; no NaN for zero columns.

    Source: Prach & Lampert 2022, "Almost-orthogonal layers for efficient general-purpose Lipschitz
    networks", Theorem 1. The certificate bounds the largest singular value of the folded weight itself.

    Parameters
    ----------
    activation : None for a linear layer, else a name or table; it enters in its form with slopes [0, 1].

    Examples
    --------
    >>> AOLLayer(3, 8, lipschitz=2.0).certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        activation: Spec | None = "relu",
    ) -> None:
        super().__init__(in_features, out_features)
        self.lipschitz = positive_gain(lipschitz)
        self.activation = None if activation is None else grouped(unit_slopes(activation), out_features)
        self.weight = nn.Parameter(
            torch.randn(out_features, in_features) * (2.0 / (in_features + out_features)) ** 0.5
        )
        bound = 1.0 / math.sqrt(out_features)
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))

    def fold(self) -> Explicit:
        peak = self.weight.detach().abs().amax()
        w = self.weight / torch.where(peak > 0.0, peak, torch.ones_like(peak))
        row = (w.mT @ w).abs().sum(-1)
        # Where a column is zero its scale is irrelevant; 1 keeps value and gradient finite.
        scale = torch.where(row > 0.0, row, torch.ones_like(row)).rsqrt()
        rounding = 1.0 - 4.0 * self.in_features * torch.finfo(w.dtype).eps
        linear = Affine(self.lipschitz * reserved(w.dtype, 1) * rounding * w * scale, self.bias)
        if self.activation is None or self.activation.name == "identity":
            return linear
        return chain(linear, Pointwise(self.activation.to_dict(), self.out_features))

    def extra_repr(self) -> str:
        return f"{self.in_features} → {self.out_features}, lipschitz={self.lipschitz:g}"


class Pointwise(Explicit):
    """y = σ(x)."""

    def __init__(self, spec: Any, features: int) -> None:
        self.spec, self.features = spec, features

    def run(self, x: Tensor) -> Tensor:
        return activation_module(self.spec)(x)

    def certificate(self) -> Certificate:
        return rules.elementwise(self.spec, self.features)

    def export(self) -> nn.Module:
        return activation_module(self.spec)

    def shifted(self, offset: Tensor) -> Explicit:
        return chain(self, Affine(torch.eye(len(offset), dtype=offset.dtype, device=offset.device), offset))
