"""Semi-orthogonal matrices from free ones by the Cayley map, batched, with the rounding paid for."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipctrl.nn.explicit import Affine, Explicit, reserved
from lipctrl.nn.module import CertifiedModule, positive


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
    return q / (1.0 + _rounding(z.detach()))


def _rounding(z: Tensor) -> Tensor:
    """Return a bound of the relative departure from orthogonality, shape (..., 1, 1)."""
    size = z.abs()
    # ‖Z‖₂² ≤ ‖Z‖₁ ‖Z‖_∞
    norm = (size.sum(-1).amax(-1) * size.sum(-2).amax(-1)).sqrt()
    unit = torch.finfo(z.dtype).eps
    return (unit * (8.0 + 2.0 * norm))[..., None, None]


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

    def free(self) -> Tensor:
        """Return αX/‖X‖_F with α bounded smoothly at the square root of what the precision can invert."""
        # Divided by the largest entry first, so that huge and tiny weights neither over- nor underflow.
        peak = self.weight.detach().abs().amax(dim=(-2, -1), keepdim=True)
        unit = self.weight / torch.where(peak > 0.0, peak, torch.ones_like(peak))
        norm = torch.linalg.vector_norm(unit, dim=(-2, -1), keepdim=True).clamp_min(1e-6)
        limit = math.sqrt(0.1 / torch.finfo(self.weight.dtype).eps)
        alpha = self.alpha / torch.sqrt(1.0 + (self.alpha / limit) ** 2)
        return alpha * (unit / norm)

    def matrix(self) -> Tensor:
        q = cayley(self.free())
        return q.mT if self.rows <= self.columns else q

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape[:-2])} of {self.rows}×{self.columns}"


def matrices(*factors: Semiorthogonal) -> list[Tensor]:
    """Return the matrices of several factors with one leading batch dimension; equal shapes share one solve."""
    free = [f.free() for f in factors]
    if len({m.shape for m in free}) > 1:
        return [f.matrix() for f in factors]
    whole = cayley(torch.cat(free)).split([len(m) for m in free])
    return [q.mT if f.rows <= f.columns else q for f, q in zip(factors, whole, strict=True)]


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
        from lipctrl.nn.module import positive_gain

        super().__init__(in_features, out_features)
        self.lipschitz = positive_gain(lipschitz)
        self.direction = Semiorthogonal(out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def fold(self) -> Explicit:
        weight = self.direction.matrix()
        return Affine(self.lipschitz * reserved(weight.dtype, 1) * weight, self.bias)
