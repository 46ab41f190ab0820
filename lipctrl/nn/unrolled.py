"""Unrolled proximal iterations: a weight-shared recursive policy that solves a small optimisation problem."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipctrl import rules
from lipctrl.activations import activation
from lipctrl.certificate import Certificate
from lipctrl.nn.activations import Spec, activation_module
from lipctrl.nn.explicit import Explicit, frozen_linear, layer_slack, numbers
from lipctrl.nn.module import CertifiedModule, positive, positive_gain


@dataclass(frozen=True)
class UnrolledMap(Explicit):
    """w_0 = 0, w_{k+1} = σ(W w_k + U x + b) for `iterations` steps, y = C w + c."""

    state: Tensor
    input: Tensor
    bias: Tensor
    output: Tensor
    output_bias: Tensor
    activation: Spec
    iterations: int

    def run(self, x: Tensor) -> Tensor:
        sigma = activation_module(self.activation)
        drive = F.linear(x, self.input, self.bias)
        w = sigma(drive)
        for _ in range(self.iterations - 1):
            w = sigma(F.linear(w, self.state) + drive)
        return F.linear(w, self.output, self.output_bias)

    def certificate(self) -> Certificate:
        drive = rules.linear(numbers(self.input), numbers(self.bias))
        state = rules.linear(numbers(self.state))
        sigma = rules.elementwise(self.activation, len(self.bias))
        w = rules.series(drive, sigma)
        for _ in range(self.iterations - 1):
            w = rules.series(rules.total(rules.series(w, state), drive), sigma)
        return rules.series(w, rules.linear(numbers(self.output), numbers(self.output_bias)))

    def export(self) -> nn.Module:
        return PlainUnrolled(self)

    def shifted(self, offset: Tensor) -> UnrolledMap:
        return replace(self, output_bias=self.output_bias + offset)


class PlainUnrolled(nn.Module):
    """The same iterations with frozen nn.Linear layers."""

    def __init__(self, graph: UnrolledMap) -> None:
        super().__init__()
        self.iterations = graph.iterations
        self.drive = frozen_linear(graph.input, graph.bias)
        self.state = frozen_linear(graph.state, None)
        self.output = frozen_linear(graph.output, graph.output_bias)
        self.activation = activation_module(graph.activation)

    def forward(self, x: Tensor) -> Tensor:
        drive = self.drive(x)
        w = self.activation(drive)
        for _ in range(self.iterations - 1):
            w = self.activation(self.state(w) + drive)
        return self.output(w)


class UnrolledISTA(CertifiedModule):
    """y = C w_K + c after K proximal gradient steps on ½‖A w - B x - a‖² + r(w): gain at most L.

    A step is w⁺ = σ(w - τAᵀ(A w - B x - a)) with τ = 1/‖A‖², so ‖I - τAᵀA‖ ≤ 1 for every A, and σ the proximal
    map of r: soft-thresholding for a sparse regression, `hardtanh` for the box constraint of a
    model-predictive control step. The same weights serve every iteration; C is scaled by what K iterations can amplify,
    Σ_k ‖W‖ᵏ τ‖AᵀB‖.

    Parameters
    ----------
    in_features, out_features : dimensions of x and y.
    width : dimension of w.
    residuals : rows of A; with residuals < width the map w ↦ W w has gain exactly 1, and the bound grows with K.
    iterations : the number K of steps.
    lipschitz : the gain L in l2.
    activation : an element-wise activation with slopes in [0, 1].

    Source: Gregor & LeCun 2010, "Learning fast approximations of sparse coding", with shared weights.

    Examples
    --------
    >>> layer = UnrolledISTA(3, 2, width=8, iterations=5, lipschitz=2.0).double()
    >>> layer.certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int = 32,
        residuals: int | None = None,
        iterations: int = 8,
        lipschitz: float = 1.0,
        activation: Spec = "smooth_soft_threshold",
    ) -> None:
        super().__init__(in_features, out_features)
        self.lipschitz, self.width = positive_gain(lipschitz), positive("width", width)
        self.iterations = positive("iterations", iterations)
        rows = positive("residuals", width if residuals is None else residuals)
        self.activation = _proximal(activation)
        self.dictionary = nn.Parameter(torch.randn(rows, width) / math.sqrt(rows) + torch.eye(rows, width))
        self.input = nn.Parameter(torch.randn(rows, in_features) / math.sqrt(in_features))
        self.target = nn.Parameter(torch.zeros(rows))
        self.output = nn.Parameter(torch.randn(out_features, width) / math.sqrt(width))
        self.output_bias = nn.Parameter(torch.zeros(out_features))

    def fold(self) -> UnrolledMap:
        tiny, eps = torch.finfo(self.output.dtype).tiny ** 0.5, torch.finfo(self.output.dtype).eps
        peak = self.dictionary.detach().abs().amax().clamp_min(tiny)
        a = self.dictionary / peak
        a = a / (torch.linalg.matrix_norm(a, 2) + tiny)  # now τ = 1
        eye = torch.eye(self.width, dtype=a.dtype, device=a.device)
        state = eye - a.mT @ a
        reach = self.input.detach().abs().amax().clamp_min(1.0)
        read = a.mT @ (self.input / reach)
        contraction = torch.linalg.matrix_norm(state, 2).clamp(max=1.0)
        amplified = sum(contraction**k for k in range(self.iterations)) * torch.linalg.matrix_norm(read, 2)
        height = self.output.detach().abs().amax().clamp_min(1.0)
        write = self.output / height
        bound = (amplified * torch.linalg.matrix_norm(write, 2)).clamp_min(tiny)
        # Room for the rounding of K products of norms, and for the proofs of three of them.
        room = 1.0 - self.iterations * (16.0 * self.width * eps + layer_slack(a.dtype))
        sigma = self.activation.to_dict() if self.activation.params else self.activation.name
        return UnrolledMap(
            state,
            read,
            a.mT @ self.target,
            write * (self.lipschitz * room / bound).clamp(max=self.lipschitz / eps),
            self.output_bias,
            sigma,
            self.iterations,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} → {self.out_features}, width={self.width}, iterations={self.iterations}, "
            f"lipschitz={self.lipschitz:g}, activation={self.activation.name}"
        )


def _proximal(spec: Spec):
    sigma = activation(spec)
    if sigma.group > 1 or sigma.lower < 0.0 or sigma.upper > 1.0:
        raise ValueError(
            f"activation {sigma.name!r} has slopes [{sigma.lower}, {sigma.upper}] or couples neurons; a "
            "proximal map of one variable has slopes in [0, 1]: soft_threshold, hardtanh or relu, say"
        )
    return sigma
