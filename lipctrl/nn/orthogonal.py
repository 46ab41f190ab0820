"""Semi-orthogonal matrices from free ones by the Cayley map, batched, with the rounding paid for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipctrl.nn.explicit import Affine, Explicit, reserved
from lipctrl.nn.module import CertifiedModule, Tracked, composed, positive, positive_gain
from lipctrl.nn.small import SMALL, cayley_backward, cayley_forward


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
    """Return a bound of ‖Z‖₂, shape (..., 1, 1): the Frobenius norm."""
    return torch.linalg.vector_norm(z, dim=(-2, -1), keepdim=True)


def _rounding(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bound of the relative departure from orthogonality, by the bound of ‖Z‖₂."""
    return torch.finfo(dtype).eps * (8.0 + 2.0 * size)


# Above this bound of ‖Z‖₂ only an elimination with pivoting is trusted.
TAME = 50.0
# Below this order one call of LAPACK a matrix beats a further split into blocks.
LEAF = 24
# Fewer matrices than this are inverted one after the other.
BATCH = 8
# Up to this order a factor of another shape is padded into the batch: that costs less than a batch of its own.
PADDED = 32


def _inverse(a: Tensor) -> Tensor:
    """Return A⁻¹ for A with a symmetric part of at least I, by 2×2 blocks where that is faster.

    The leading block and its Schur complement have that property too, so no pivoting between blocks is needed. LAPACK
    inverts a batch one small matrix after the other; products of blocks are batched, and far cheaper.
    """
    n = a.shape[-1]
    if n <= LEAF or a.shape[0] < BATCH:
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
        unit = torch.cat(weights)
        m, n = unit.shape[-2:]
        norm, peak = _normalise(unit)
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
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
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
        out.addcmul_(unit, torch.where(norm > 1e-6, along, 0.0), value=-1.0)
        out.mul_(alpha / norm.clamp_min(1e-6))
        if peak is not None:
            out.div_(peak)
        return *out.split(counts), *g_alpha.split(counts)


class _Small(torch.autograd.Function):
    """The matrices, (…, rows, columns), of small factors on a CPU from their X_i and α_i, in numpy."""

    @staticmethod
    def forward(ctx: Any, wide: tuple[bool, ...], *parameters: Tensor) -> tuple[Tensor, ...]:
        half = len(parameters) // 2
        arrays = [p.detach().numpy() for p in parameters]
        arrays = [a.reshape(-1, *a.shape[-2:]) for a in arrays]
        ctx.save_for_backward(*parameters)
        ctx.wide, ctx.saved = wide, None
        found = cayley_forward(arrays[:half], arrays[half:], _limit(parameters[0].dtype))
        if found is None:
            return tuple(_oriented(wide, parameters))
        tall, ctx.saved = found
        return tuple(
            torch.from_numpy(
                (q.transpose(0, 2, 1) if w else q).reshape(p.shape if not w else _flipped(p.shape))
            )
            for q, w, p in zip(tall, wide, parameters, strict=False)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parameters, wide = ctx.saved_tensors, ctx.wide
        if torch.is_grad_enabled() or ctx.saved is None:
            with torch.enable_grad():
                leaves = parameters
                found = torch.autograd.grad(
                    _oriented(wide, leaves), leaves, gradients, create_graph=True, allow_unused=True
                )
            return None, *found
        arrays = [g.numpy() for g in gradients]
        arrays = [
            (a.swapaxes(-1, -2) if w else a).reshape(-1, *p.shape[-2:])
            for a, w, p in zip(arrays, wide, parameters, strict=False)
        ]
        weights, alphas = cayley_backward(ctx.saved, arrays)
        return None, *(
            torch.from_numpy(a.reshape(p.shape)) for a, p in zip((*weights, *alphas), parameters, strict=True)
        )


def _flipped(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2])


def _oriented(wide: Sequence[bool], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the matrices of factors by operations that autograd knows."""
    half = len(wide)
    tall = [cayley(_free(*pair)) for pair in zip(parameters[:half], parameters[half:], strict=True)]
    return [q.mT if w else q for q, w in zip(tall, wide, strict=True)]


def _normalise(unit: Tensor) -> tuple[Tensor, Tensor | None]:
    """Divide each matrix by its Frobenius norm in place; return (norm, peak), the norm after division by the peak."""
    norm = torch.linalg.vector_norm(unit, dim=(-2, -1), keepdim=True)
    if unit.device.type == "cpu":
        low, high = (float(v) for v in torch.aminmax(norm))
        # NaN compares false, and takes the long way.
        if low > 1e-6 and high < 1e12:
            unit.div_(norm)
            return norm, None
    # Divided by the largest entry first, so that huge and tiny weights neither over- nor underflow.
    peak = unit.abs().amax((-2, -1), keepdim=True)
    peak = torch.where(peak > 0.0, peak, torch.ones_like(peak))
    unit.div_(peak)
    norm = torch.linalg.vector_norm(unit, dim=(-2, -1), keepdim=True)
    unit.div_(norm.clamp_min(1e-6))
    return norm, peak


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


class Semiorthogonal(Tracked):
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
    """Return the matrices of several factors; those of equal shape, and small ones, share one batch of inverses."""
    wide = [f.rows <= f.columns for f in factors]
    if composed():
        return _oriented(wide, [*(f.weight for f in factors), *(f.alpha for f in factors)])
    found: list[Any] = [None] * len(factors)
    for group in _batches(factors):
        weights, alphas = [factors[i].weight for i in group], [factors[i].alpha for i in group]
        if weights[0].device.type == "cpu" and sum(w.numel() for w in weights) <= SMALL:
            whole: Any = _Small.apply(tuple(wide[i] for i in group), *weights, *alphas)
        else:
            flat = [p.reshape(-1, *p.shape[-2:]) for p in (*weights, *alphas)]
            tall: Any = _Contractions.apply(*flat)
            whole = [q.reshape(w.shape) for q, w in zip(tall, weights, strict=True)]
            whole = [q.mT if wide[i] else q for q, i in zip(whole, group, strict=True)]
        for i, q in zip(group, whole, strict=True):
            found[i] = q
    return found


def _batches(factors: Sequence[Semiorthogonal]) -> list[list[int]]:
    """Return the indices of factors in groups: those of one shape, and with the largest what fits into it cheaply."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, f in enumerate(factors):
        m, n = f.weight.shape[-2:]
        groups.setdefault((m, n), []).append(i)
    m, n = max(groups, key=lambda s: s[0] * s[1])
    if len(groups) == 1 or n > PADDED or factors[0].weight.device.type != "cpu":
        return list(groups.values())
    home, alone = groups.pop((m, n)), []
    total = sum(factors[i].weight.numel() for i in home)
    for (rows, k), members in groups.items():
        padded = sum(factors[i].weight.numel() for i in members) // (rows * k) * (m * n)
        if k <= n and rows - k <= m - n and total + padded <= SMALL:
            home.extend(members)
            total += padded
        else:
            alone.append(members)
    return [home, *alone]


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
