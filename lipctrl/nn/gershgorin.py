"""Residual blocks whose LMI is diagonally dominant: the Gershgorin parametrisation, plain and scaled.

For y = A x + B w_n + d, w_l = σ_l(C_l w_{l-1} + b_l), the matrix N of Juston et al. 2025, "L-Lipschitz
Gershgorin ResNet network" (arXiv 2502.21279), is positive semidefinite if, for a positive vector v,
N_ii v_i ≥ Σ_{j≠i} |N_ij| v_j in every row. v = 1 is the paper's theorem; a learnable v is never worse.
The multipliers follow in one backward pass over the layers; (A, B) is then scaled so that the rows of the input hold.

The sums of absolute values waste a factor that grows with the width, so this bound is loose by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipctrl.activations import Activation
from lipctrl.nn.activations import Spec, grouped, short
from lipctrl.nn.explicit import Explicit, NeuronLayer, Neurons, chain, numbers, reserved
from lipctrl.nn.lossless import bounded_exp
from lipctrl.nn.module import CertifiedModule, in_series, positive, positive_gain
from lipctrl.rules import Layer, Output

# Row sums of |C_l| stay below 1.9 where 2 is the limit of the theorem: multipliers stay below 20 times their drive.
ROW_LIMIT = 1.9


@dataclass(frozen=True)
class Slopes:
    """Slopes [lower, upper] of the block's activation, and how many neighbours share a multiplier."""

    lower: float
    upper: float
    group: int = 1

    @property
    def total(self) -> float:
        return self.lower + self.upper

    @property
    def product(self) -> float:
        return self.lower * self.upper


def _absolute(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return |matrix| vector, batched."""
    return (matrix.abs() @ vector[..., None])[..., 0]


def _dominance_excess(k: Tensor, v: Tensor) -> Tensor:
    """Return Σ_{j≠i} |K_ij| v_j - K_ii v_i for every row i."""
    diagonal = k.diagonal(dim1=-2, dim2=-1)
    return _absolute(k, v) - (diagonal.abs() + diagonal) * v


def _shared(multiplier: Tensor, group: int) -> Tensor:
    """Raise multipliers to the largest of their group: coupled neurons share one."""
    if group == 1:
        return multiplier
    grouped = multiplier.unflatten(-1, (-1, group))
    return grouped.amax(-1, keepdim=True).expand_as(grouped).flatten(-2)


def _single_layer(a: Tensor, b: Tensor, c: Tensor, v: Sequence[Tensor], slopes: Slopes) -> Tensor:
    """Solve 2λv₁ - |(m+s)λC + BᵀA| v₀ = |BᵀB| v₁ row by row, from the feasible side.

    For one inner layer the corner and the neighbour of N coincide; the cancellation inside |·| is what
    makes SLL blocks possible. The left side is concave and piecewise linear in λ with slope at least
    2v₁ - |m+s| |C| v₀ > 0: Newton's method ends after a few kinks, and a last step with the smallest slope is feasible.
    The iteration is not recorded: the implicit function theorem gives the derivative (of first order) at its end.
    """
    drive, cross = _absolute(b.mT @ b, v[1]), b.mT @ a
    total = slopes.total

    def excess(multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much the rows fail, and the matrix inside |·|."""
        inside = torch.addcmul(cross, multiplier[..., None], c, value=total)
        return drive - 2.0 * v[1] * multiplier + _absolute(inside, v[0]), inside

    def steepness(inside: Tensor) -> Tensor:
        return 2.0 * v[1] - ((inside.sign() * c) @ (total * v[0])[..., None])[..., 0]

    with torch.no_grad():
        smallest = 2.0 * v[1] - abs(total) * _absolute(c, v[0])
        multiplier = (drive + _absolute(cross, v[0])) / smallest
        for _ in range(4):
            deficit, inside = excess(multiplier)
            multiplier = (multiplier + deficit / steepness(inside)).clamp_min_(0.0)
        deficit, _ = excess(multiplier)
        multiplier = multiplier + (deficit / smallest).clamp_min_(0.0)
    deficit, inside = excess(multiplier)
    slope = steepness(inside.detach()).detach()
    active = (multiplier > 0.0).to(slope.dtype)
    return multiplier + active * (deficit - deficit.detach()) / slope


def dominance(
    a: Tensor, b: Tensor, c: Sequence[Tensor], v: Sequence[Tensor], slopes: Slopes
) -> tuple[list[Tensor], Tensor]:
    """Return the multipliers λ_1..λ_n and the squared gain that make N diagonally dominant.

    Shapes, after any batch dimensions: a (q, p), b (q, h), c[0] (h, p), c[l] (h, h), v[0] (p,), v[l] (h,).
    """
    n, total, product = len(c), slopes.total, slopes.product

    def room(l: int) -> Tensor:
        return 2.0 * v[l] - abs(total) * _absolute(c[l - 1], v[l - 1])

    if n == 1:
        last = _single_layer(a, b, c[0], v, slopes)
    else:
        last = (_absolute(b.mT @ b, v[n]) + _absolute(b.mT @ a, v[0])) / room(n)
    multipliers = [_shared(last, slopes.group)]
    for l in range(n - 1, 0, -1):
        above, weight = multipliers[0], c[l]
        drive = abs(total) * _absolute(weight.mT, above * v[l + 1])
        if product != 0.0:
            curved = 2.0 * product * weight.mT @ (above[..., None] * weight)
            drive = (drive + _dominance_excess(curved, v[l])).clamp_min(0.0)
        multipliers.insert(0, _shared(drive / room(l), slopes.group))
    first = multipliers[0]
    corner = a.mT @ a
    if product != 0.0:
        corner = corner - 2.0 * product * c[0].mT @ (first[..., None] * c[0])
    coupling = total * (first[..., None] * c[0]).mT
    off = (
        _absolute(coupling + a.mT @ b, v[1])
        if n == 1
        else _absolute(coupling, v[1]) + _absolute(a.mT @ b, v[n])
    )
    row = (_dominance_excess(-corner, v[0]) + off) / v[0]
    return multipliers, row.amax(-1)


class GershgorinBlock(CertifiedModule):
    """y = A x + B w_n + d with an l2 gain of at most L, proved by diagonal dominance.

    Parameters
    ----------
    in_features, out_features, lipschitz, width, inner_depth, activation, depth : as in `LosslessBlock`; the
        activation enters with its own slopes [m, s].
    scaled : learn the positive vector v of the scaled theorem; False is the paper's plain theorem.

    Examples
    --------
    >>> block = GershgorinBlock(3, 2, lipschitz=2.0, width=8, inner_depth=2, activation="leaky_relu")
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
        scaled: bool = True,
    ) -> None:
        super().__init__(in_features, out_features)
        self.lipschitz = positive_gain(lipschitz)
        self.width, self.depth = positive("width", width), in_series(depth, in_features, out_features)
        self.inner_depth, self.scaled = positive("inner_depth", inner_depth), bool(scaled)
        self.activation = grouped(activation, width)
        n = self.inner_depth
        eye = torch.eye(out_features, in_features)
        self.skip = nn.Parameter(eye.expand(depth, -1, -1).clone())
        self.read = nn.Parameter(_xavier(depth, width, in_features))
        self.inner = nn.Parameter(_xavier(depth, n - 1, width, width)) if n > 1 else None
        self.write = nn.Parameter(_xavier(depth, out_features, width))
        self.angle = nn.Parameter(torch.full((depth,), torch.pi / 4 / depth))
        bound = width**-0.5
        self.bias = nn.Parameter(torch.empty(depth, n, width).uniform_(-bound, bound))
        self.output_bias = nn.Parameter(torch.zeros(depth, out_features))
        self.log_input = nn.Parameter(torch.zeros(depth, in_features)) if scaled else None
        self.log_hidden = nn.Parameter(torch.zeros(depth, n, width)) if scaled else None

    def _scales(self) -> list[Tensor]:
        if self.log_input is None or self.log_hidden is None:
            one = torch.ones_like(self.bias)
            return [torch.ones_like(self.read[:, 0]), *one.unbind(1)]
        return [bounded_exp(self.log_input), *bounded_exp(self.log_hidden).unbind(1)]

    def fold(self) -> Explicit:
        gain = self.lipschitz ** (1.0 / self.depth) * reserved(self.bias.dtype, self.inner_depth)
        sigma = self.activation
        slopes = Slopes(sigma.lower, sigma.upper, sigma.group)
        v = self._scales()
        size = abs(sigma.lower) + abs(sigma.upper)
        c = []
        inner = () if self.inner is None else self.inner.unbind(1)
        for l, weight in enumerate((self.read, *inner), start=1):
            row = _absolute(weight, v[l - 1]) / v[l]
            c.append(weight * (ROW_LIMIT / (ROW_LIMIT + size * row))[..., None])
        angle = self.angle[:, None, None]
        a, b = self.skip * torch.cos(angle), self.write * torch.sin(angle)
        # The scale of (A, B) cancels below; dividing by the largest entry keeps its squares representable.
        peak = torch.maximum(a.abs().amax((-2, -1), True), b.abs().amax((-2, -1), True)).detach()
        peak = torch.where(peak > 0.0, peak, torch.ones_like(peak))
        a, b = a / peak, b / peak
        _, square = dominance(a, b, c, v, slopes)
        factor = gain / square.clamp_min(1e-12).sqrt()[:, None, None]
        packed = factor * torch.cat((a, b), -1)
        witnesses = [_Witness(slopes, [s[i] for s in v]) for i in range(self.depth)]
        parts = [
            _graph(block, sigma, gain, witness)
            for *block, witness in zip(
                packed.unbind(0),
                zip(*(w.unbind(0) for w in c), strict=True),
                self.bias.unbind(0),
                self.output_bias.unbind(0),
                witnesses,
                strict=True,
            )
        ]
        return chain(*parts)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} → {self.out_features}, lipschitz={self.lipschitz:g}, width={self.width}, "
            f"inner_depth={self.inner_depth}, depth={self.depth}, activation={self.activation.name}, "
            f"scaled={self.scaled}"
        )


def _xavier(*shape: int) -> Tensor:
    return torch.randn(shape) * (2.0 / (shape[-1] + shape[-2])) ** 0.5


def _graph(block: Sequence[Any], sigma: Activation, gain: float, witness: _Witness) -> Neurons:
    packed, c, bias, output_bias = block
    p = c[0].shape[-1]
    a, b = packed[:, :p], packed[:, p:]
    layers = tuple(NeuronLayer({l: w}, d, short(sigma)) for l, (w, d) in enumerate(zip(c, bias, strict=True)))
    return Neurons(layers, {0: a, len(c): b}, output_bias, gain, witness, p, packed)


class _Witness:
    """The multipliers of the stored weights, from the same closed form in float64."""

    def __init__(self, slopes: Slopes, scales: Sequence[Tensor]) -> None:
        self.slopes, self.scales = slopes, scales

    def __call__(self, layers: Sequence[Layer], output: Output) -> Sequence[np.ndarray]:
        c = [torch.from_numpy(layer.sources[l]) for l, layer in enumerate(layers)]
        a, b = torch.from_numpy(output.sources[0]), torch.from_numpy(output.sources[len(c)])
        v = [torch.from_numpy(numbers(s)) for s in self.scales]
        multipliers, _ = dominance(a, b, c, v, self.slopes)
        return [m.numpy() for m in multipliers]
