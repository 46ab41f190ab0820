"""Implicit blocks: the output of an equation w = σ(W w + U x + b) with one solution for every parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipctrl import rules
from lipctrl.activations import activation
from lipctrl.certificate import Certificate
from lipctrl.nn.activations import Spec, activation_module, unit_slopes
from lipctrl.nn.explicit import Explicit, numbers
from lipctrl.nn.module import CertifiedModule, positive, positive_gain

# Weighted margin of the equation: keeps the solution unique and the solver fast at all parameters.
MARGIN = 0.1
# Largest Frobenius norm of a free matrix: bounds the iterations that a solution takes.
LIMIT = 3.0


@dataclass(frozen=True)
class ImplicitMap(Explicit):
    """y = C w + c with w = σ(W w + U x + b); `witness` is Λ (l2) or η (linf)."""

    state: Tensor
    input: Tensor
    bias: Tensor
    output: Tensor
    output_bias: Tensor
    activation: Spec
    witness: Tensor
    gain: float
    norm: str

    def run(self, x: Tensor) -> Tensor:
        sigma = activation_module(self.activation)
        drive = F.linear(x, self.input, self.bias)
        with torch.no_grad():
            w = _solve(self, sigma, drive)
        if not torch.is_grad_enabled():
            return F.linear(w, self.output, self.output_bias)
        # One Newton step at the solution changes nothing but carries the implicit derivative.
        with torch.enable_grad():
            v = F.linear(w, self.state, drive.detach()).detach().requires_grad_()
            (slope,) = torch.autograd.grad(sigma(v).sum(), v)
        eye = torch.eye(len(self.bias), dtype=x.dtype, device=x.device)
        jacobian = eye - slope[..., :, None] * self.state.detach()
        residual = sigma(F.linear(w, self.state, drive)) - w
        w = w + torch.linalg.solve(jacobian, residual[..., None])[..., 0]
        return F.linear(w, self.output, self.output_bias)

    def certificate(self) -> Certificate:
        return rules.implicit(
            numbers(self.state),
            numbers(self.input),
            numbers(self.bias),
            numbers(self.output),
            numbers(self.output_bias),
            activation=activation(self.activation).to_dict(),
            witness=numbers(self.witness),
            gain=self.gain,
            norm=self.norm,
        )

    def export(self) -> nn.Module:
        return PlainImplicit(self)

    def shifted(self, offset: Tensor) -> ImplicitMap:
        return replace(self, output_bias=self.output_bias + offset)


def _solve(layer: ImplicitMap, sigma: nn.Module, drive: Tensor) -> Tensor:
    """Solve w = σ(W w + drive): Peaceman-Rachford splitting (l2), averaged iteration (linf).

    Raises
    ------
    ArithmeticError
        When the iteration has not converged; no approximate value is returned.
    """
    w, u = torch.zeros_like(drive), torch.zeros_like(drive)
    state, size = layer.state, layer.state.abs()
    tolerance = 128.0 * torch.finfo(drive.dtype).eps
    if layer.norm == "linf":
        step = 1.0 / (1.0 - state.diagonal().amin().clamp(max=0.0))
    else:
        eye = torch.eye(len(state), dtype=state.dtype, device=state.device)
        resolvent = torch.linalg.inv(2.0 * eye - state)
    for k in range(20_000):
        if layer.norm == "linf":
            w = (1.0 - step) * w + step * sigma(F.linear(w, state, drive))
        else:
            reflected = 2.0 * w - u
            half = F.linear(reflected + drive, resolvent)
            u = 2.0 * half - reflected
            w = sigma(u)
        # Looking at the residual costs as much as a step, and waits for the device.
        if k % 8 == 7:
            residual = (w - sigma(F.linear(w, state, drive))).abs()
            # Relative to the terms that cancel in W w + drive.
            terms = F.linear(w.abs(), size, drive.abs()).amax(-1, keepdim=True)
            if bool((residual <= tolerance * terms).all()):
                return w
    raise ArithmeticError(
        "the implicit layer did not converge: are its inputs finite, and its precision at least float32?"
    )


class PlainImplicit(nn.Module):
    """An implicit layer with frozen weights."""

    def __init__(self, layer: ImplicitMap) -> None:
        super().__init__()
        for name in ("state", "input", "bias", "output", "output_bias", "witness"):
            self.register_buffer(name, getattr(layer, name).detach().clone())
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        tensors = {name: getattr(self, name) for name in self._buffers}
        return replace(self.layer, **tensors).run(x)


class ImplicitBlock(CertifiedModule):
    """y = C w + c with w = σ(W w + U x + b): well posed with gain at most L for all parameters.

    Parameters
    ----------
    in_features, out_features, width : dimensions of x, y and w.
    lipschitz : the gain L, in `norm`.
    norm : "l2" (a Lipschitz-bounded equilibrium network; its witness is Λ) or "linf" (non-Euclidean monotone
        operator network; its witness is η). An l∞ gain says nothing about l2 gains without a factor √n: the
        analysis of loops refuses it.
    activation : any element-wise activation; it enters in its form with slopes [0, 1].

    Sources: Revay, Wang & Manchester 2020, eq. (19)-(20) (l2); Jafarpour et al. 2021, Lemma 8 (l∞).

    Examples
    --------
    >>> block = ImplicitBlock(3, 2, width=6, lipschitz=2.0).double()
    >>> block.certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int = 64,
        lipschitz: float = 1.0,
        norm: str = "l2",
        activation: Spec = "relu",
    ) -> None:
        super().__init__(in_features, out_features)
        if norm not in ("l2", "linf"):
            raise ValueError(f"norm is {norm!r}; expected 'l2' or 'linf'")
        self.lipschitz, self.width, self.norm = positive_gain(lipschitz), positive("width", width), norm
        self.activation = unit_slopes(activation)
        if self.activation.group > 1:
            raise ValueError(
                f"activation is {self.activation.name!r}; expected an element-wise one, such as 'relu' or 'tanh'"
            )
        h = width
        scale = 1.0 / math.sqrt(h)
        self.free = nn.Parameter(scale * torch.randn(h, h))
        self.skew = nn.Parameter(scale * torch.randn(h, h)) if norm == "l2" else None
        self.input = nn.Parameter(torch.randn(h, in_features) / math.sqrt(in_features))
        self.output = nn.Parameter(scale * torch.randn(out_features, h))
        self.log_scale = nn.Parameter(torch.zeros(h))
        self.bias = nn.Parameter(torch.empty(h).uniform_(-scale, scale))
        self.output_bias = nn.Parameter(torch.zeros(out_features))

    def fold(self) -> ImplicitMap:
        # Within a factor e² either way: wider scales only slow the solver down.
        scale = torch.exp(2.0 * torch.tanh(self.log_scale / 2.0))
        state, read, write = self._equilibrium(scale) if self.norm == "l2" else self._weighted(scale)
        sigma = self.activation.to_dict() if self.activation.params else self.activation.name
        witness = self.lipschitz * scale if self.norm == "l2" else scale
        return ImplicitMap(
            state, read, self.bias, write, self.output_bias, sigma, witness, self.lipschitz, self.norm
        )

    def _equilibrium(self, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return W, U, C with M^½ W M^-½ = (1-ε) I - ½(ĈᵀĈ + ÛÛᵀ + VᵀV) - S + Sᵀ, which makes N ≻ 0.

        Λ = L M; U = √L M^-½ Û and C = √L Ĉ M^½ put one factor √L on either side of the equation.
        """
        assert self.skew is not None
        root, head = m.sqrt(), math.sqrt(self.lipschitz)
        read, write, v, skew = (_bounded(p) for p in (self.input, self.output, self.free, self.skew))
        square = write.mT @ write + read @ read.mT + v.mT @ v
        eye = torch.eye(self.width, dtype=m.dtype, device=m.device)
        state = (1.0 - MARGIN) * eye - 0.5 * square - (skew - skew.mT)
        return state * root / root[:, None], head * read / root[:, None], head * write * root

    def _weighted(self, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return W = [η](T - diag(|T|1) + γI)[η]⁻¹, and U, C with ‖C[η]‖_∞ ‖[η]⁻¹U‖_∞ = L(1-γ)."""
        t, gamma = _bounded(self.free), 1.0 - MARGIN
        eye = torch.eye(self.width, dtype=t.dtype, device=t.device)
        state = t - torch.diag(t.abs().sum(-1)) + gamma * eye
        tiny = torch.finfo(t.dtype).tiny
        read = self.input / (self.input.abs().sum(-1).amax() + tiny)
        write = self.output / (self.output.abs().sum(-1).amax() + tiny)
        # The rounding of W enters the proved bound divided by 1-γ.
        rounding = 16.0 * (self.width + self.in_features) * torch.finfo(t.dtype).eps
        budget = self.lipschitz * (1.0 - gamma) * (1.0 - rounding * (1.0 + LIMIT) / MARGIN)
        return state * eta[:, None] / eta, read * eta[:, None], budget * write / eta

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} → {self.out_features}, width={self.width}, lipschitz={self.lipschitz:g}, "
            f"norm={self.norm}, activation={self.activation.name}"
        )


def _bounded(free: Tensor) -> Tensor:
    """Return a matrix in the direction of `free` with Frobenius norm below LIMIT, smoothly."""
    peak = free.detach().abs().amax().clamp_min(1.0)
    norm = torch.linalg.vector_norm(free / peak) * (peak / LIMIT)
    return free / torch.sqrt(1.0 + norm**2)
