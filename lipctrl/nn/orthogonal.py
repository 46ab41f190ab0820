"""Semi-orthogonal matrices from free ones by the Cayley map, batched, with the rounding paid for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lipctrl.nn.explicit import Affine, Explicit, reserved
from lipctrl.nn.module import CertifiedModule, composed, positive, positive_gain


def cayley(free: Tensor) -> Tensor:
    """Return a tall matrix Q with QᵀQ ⪯ I, and QᵀQ = I up to rounding, for any free (..., m, n), m ≥ n.

    With free = [X; Y], X square and Z = X - Xᵀ + YᵀY:  Q = [(I+Z)⁻¹(I-Z); -2Y(I+Z)⁻¹]. The symmetric part of
    I + Z is at least I, so the inverse always exists. Rounding makes Q slightly expansive, by up to about
    u·‖I+Z‖; Q is divided by one plus a bound of that, so that it is a contraction in exact arithmetic.

    Source: Trockman & Kolter 2021, "Orthogonalizing convolutional layers with the Cayley transform", section 3;
    the tall form is Wang & Manchester 2023, "Direct parameterization of Lipschitz-bounded deep networks", eq. (18).
    """
    n = free.shape[-1]
    x, y = free[..., :n, :], free[..., n:, :]
    z = x - x.mT + y.mT @ y
    eye = torch.eye(n, dtype=free.dtype, device=free.device)
    inverse = torch.linalg.inv(eye + z)
    q = torch.cat((2.0 * inverse - eye, -2.0 * (y @ inverse)), -2)
    return q / (1.0 + _rounding(_size(z.detach()), z.dtype))


def _size(z: Tensor) -> Tensor:
    """Return a bound of ‖Z‖₂, shape (..., 1, 1): ‖Z‖₂² ≤ ‖Z‖₁ ‖Z‖_∞."""
    entries = z.abs()
    return (entries.sum(-1).amax(-1) * entries.sum(-2).amax(-1)).sqrt()[..., None, None]


def _rounding(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bound of the relative departure from orthogonality, by the bound of ‖Z‖₂."""
    return torch.finfo(dtype).eps * (8.0 + 2.0 * size)


# Above this bound of ‖Z‖₂ only an elimination with pivoting is trusted.
TAME = 50.0
# Below this order one call of LAPACK a matrix beats a further split into blocks.
LEAF = 24


def _inverse(a: Tensor) -> Tensor:
    """Return A⁻¹ for A with a symmetric part of at least I, by 2×2 blocks where that is faster.

    The leading block and its Schur complement have that property too, so no pivoting between blocks is needed. LAPACK
    inverts a batch one small matrix after the other; products of blocks are batched, and far cheaper.
    """
    n = a.shape[-1]
    if n <= LEAF or a.shape[0] < 4:
        return torch.linalg.inv(a)
    k = n // 2
    first = _inverse(a[:, :k, :k])
    right = torch.bmm(first, a[:, :k, k:])
    second = _inverse(torch.baddbmm(a[:, k:, k:], a[:, k:, :k], right, alpha=-1.0))
    below = torch.bmm(second, torch.bmm(a[:, k:, :k], first))
    whole = torch.empty_like(a)
    torch.baddbmm(first, right, below, out=whole[:, :k, :k])
    torch.bmm(right, second, out=whole[:, :k, k:]).neg_()
    torch.neg(below, out=whole[:, k:, :k])
    whole[:, k:, k:] = second
    return whole


class _Contractions(torch.autograd.Function):
    """The matrices of several factors of one shape, (B_i, m, n) each, from their X_i and α_i.

    The same function as `Semiorthogonal.free` followed by `cayley`. Its derivative reuses the inverse that the
    forward pass computed: with N = (I+Z)⁻¹, F = [X; Y], Q = r [2N - I; -2YN] and the gradient G = [G_t; G_b] of Q/r,

        G_Z = -2 Nᵀ (G_t - Yᵀ G_b) Nᵀ,   G_X = G_Z - G_Zᵀ,   G_Y = -2 G_b Nᵀ + Y (G_Z + G_Zᵀ).
    """

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        half = len(parameters) // 2
        weights, alphas = parameters[:half], parameters[half:]
        counts = [len(w) for w in weights]
        m, n = weights[0].shape[-2:]
        unit = weights[0].new_empty(sum(counts), m, n)
        torch.cat(weights, out=unit)
        peak = unit.abs().amax((-2, -1), keepdim=True)
        peak = torch.where(peak > 0.0, peak, torch.ones_like(peak))
        unit.div_(peak)
        norm = torch.linalg.vector_norm(unit, dim=(-2, -1), keepdim=True)
        floored = norm.clamp_min(1e-6)
        unit.div_(floored)
        raw = torch.cat(alphas)
        alpha = _bounded(raw)
        x, y = unit[:, :n], unit[:, n:]
        z = torch.sub(x, x.mT).mul_(alpha)
        if m > n:
            z.add_(torch.bmm(y.mT, y).mul_(alpha * alpha))
        size = _size(z)
        z.diagonal(dim1=-2, dim2=-1).add_(1.0)
        tame = z.device.type == "cpu" and bool((size <= TAME).all())
        inverse = _inverse(z) if tame else torch.linalg.inv(z)
        shrink = (1.0 + _rounding(size, z.dtype)).reciprocal_()
        q = torch.empty_like(unit)
        torch.mul(inverse, 2.0 * shrink, out=q[:, :n])
        q[:, :n].diagonal(dim1=-2, dim2=-1).sub_(shrink[..., 0])
        if m > n:
            torch.bmm(y, inverse * (-2.0 * alpha * shrink), out=q[:, n:])
        ctx.save_for_backward(unit, inverse, alpha, shrink, norm, peak, *parameters)
        ctx.counts = counts
        return q.split(counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        unit, inverse, alpha, shrink, norm, peak, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _composed_gradient(parameters, gradients)
        n, transposed = unit.shape[-1], inverse.mT
        g = torch.cat(gradients)
        g.mul_(2.0 * shrink)
        y = unit[:, n:] * alpha
        inner = torch.baddbmm(g[:, :n], y.mT, g[:, n:], alpha=-1.0)
        gz = torch.bmm(transposed, torch.bmm(inner, transposed)).neg_()
        out = torch.empty_like(unit)
        torch.sub(gz, gz.mT, out=out[:, :n])
        torch.bmm(y, gz + gz.mT, out=out[:, n:])
        torch.baddbmm(out[:, n:], g[:, n:], transposed, alpha=-1.0, out=out[:, n:])
        # F = a V with V = W/‖W‖: the part of the gradient along V turns α, the rest turns V.
        along = (out * unit).sum((-2, -1), keepdim=True)
        counts = ctx.counts
        raw = torch.cat(parameters[len(counts) :])
        g_alpha = along * (1.0 + (raw / _limit(raw.dtype)) ** 2) ** -1.5
        out.addcmul_(unit, torch.where(norm > 1e-6, along, torch.zeros_like(along)), value=-1.0)
        out.mul_(alpha / norm.clamp_min(1e-6)).div_(peak)
        return *out.split(counts), *g_alpha.split(counts)


def _composed_gradient(parameters: list[Tensor], gradients: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradient as a differentiable function, for derivatives of higher order."""
    half = len(parameters) // 2
    matrices = [cayley(_free(*pair)) for pair in zip(parameters[:half], parameters[half:], strict=True)]
    return torch.autograd.grad(matrices, parameters, gradients, create_graph=True, allow_unused=True)


def _limit(dtype: torch.dtype) -> float:
    """Return the largest |α|: the square root of what the precision can invert."""
    return math.sqrt(0.1 / torch.finfo(dtype).eps)


def _bounded(alpha: Tensor) -> Tensor:
    return alpha / torch.sqrt(1.0 + (alpha / _limit(alpha.dtype)) ** 2)


def _free(weight: Tensor, alpha: Tensor) -> Tensor:
    """Return αX/‖X‖_F with α bounded smoothly."""
    # Divided by the largest entry first, so that huge and tiny weights neither over- nor underflow.
    peak = weight.detach().abs().amax(dim=(-2, -1), keepdim=True)
    unit = weight / torch.where(peak > 0.0, peak, torch.ones_like(peak))
    norm = torch.linalg.vector_norm(unit, dim=(-2, -1), keepdim=True).clamp_min(1e-6)
    return _bounded(alpha) * (unit / norm)


class Semiorthogonal(nn.Module):
    """A batch of semi-orthogonal matrices: the Cayley map of αX/‖X‖_F with trainable X and α.

    `matrix()` has shape (*batch, rows, columns); its rows are orthonormal when rows ≤ columns, its columns
    otherwise. Every parameter value, zero and huge ones included, gives a contraction.

    Parameters
    ----------
    scale : initial α relative to ‖X‖_F of a Xavier-normal X. Small values start near [I 0].
    spread : initial size of the part of X below its square, relative to Xavier's. Small values start with a
        random orthogonal square and little beyond it.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        batch: tuple[int, ...] = (),
        scale: float = 1.0,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.rows, self.columns = positive("rows", rows), positive("columns", columns)
        tall, short = max(rows, columns), min(rows, columns)
        weight = torch.randn(*batch, tall, short) * math.sqrt(2.0 / (tall + short))
        weight[..., short:, :] *= spread
        self.weight = nn.Parameter(weight)
        self.alpha = nn.Parameter(
            scale * torch.linalg.vector_norm(self.weight.detach(), dim=(-2, -1), keepdim=True)
        )

    def matrix(self) -> Tensor:
        (q,) = matrices(self)
        return q

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape[:-2])} of {self.rows}×{self.columns}"


def matrices(*factors: Semiorthogonal) -> list[Tensor]:
    """Return the matrices of several factors; those of equal shape share one batch of inverses."""
    if composed():
        tall = [cayley(_free(f.weight, f.alpha)) for f in factors]
    elif len({f.weight.shape[-2:] for f in factors}) > 1:
        return [f.matrix() for f in factors]
    else:
        flat = [p.reshape(-1, *p.shape[-2:]) for f in factors for p in (f.weight, f.alpha)]
        whole = _Contractions.apply(*flat[::2], *flat[1::2])
        tall = [q.reshape(f.weight.shape) for f, q in zip(factors, whole, strict=True)]  # type: ignore[arg-type]
    return [q.mT if f.rows <= f.columns else q for f, q in zip(factors, tall, strict=True)]


class OrthogonalLinear(CertifiedModule):
    """y = L W x + b with W semi-orthogonal: gain exactly L up to rounding, never more.

    Examples
    --------
    >>> layer = OrthogonalLinear(3, 2, lipschitz=5.0)
    >>> layer.certificate().gain <= 5.0
    True
    """

    def __init__(
        self, in_features: int, out_features: int, *, lipschitz: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__(in_features, out_features)
        self.lipschitz = positive_gain(lipschitz)
        self.direction = Semiorthogonal(out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def fold(self) -> Explicit:
        weight = self.direction.matrix()
        return Affine(self.lipschitz * reserved(weight.dtype, 1) * weight, self.bias)
