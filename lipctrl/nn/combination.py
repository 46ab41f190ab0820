"""Explicit maps joined by one rule of the recursive algebra: what runs, what is stored and what is certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipctrl import rules
from lipctrl.certificate import Certificate
from lipctrl.nn.explicit import Affine, Explicit, chain, numbers


class _PlainCombination(nn.Module):
    """A combination of exported maps: `combine` is the function that ran before the export."""

    def __init__(self, combination: Combination) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part.export() for part in combination.parts)
        self.kind = combination.kind
        constants = combination.constants
        for i, constant in enumerate(constants):
            self.register_buffer(f"constant{i}", constant.detach().clone())
        self.count = len(constants)

    def forward(self, x: Tensor) -> Tensor:
        constants = [getattr(self, f"constant{i}") for i in range(self.count)]
        return COMBINE[self.kind](list(self.parts), constants, x)


def _sum(parts: Sequence[Any], constants: Sequence[Tensor], x: Tensor) -> Tensor:
    (coefficients,) = constants
    total = coefficients[0] * parts[0](x)
    for i, part in enumerate(parts[1:], start=1):
        total = total + coefficients[i] * part(x)
    return total


def _concat(parts: Sequence[Any], constants: Sequence[Tensor], x: Tensor) -> Tensor:
    return torch.cat([part(x) for part in parts], -1)


def _parallel(parts: Sequence[Any], constants: Sequence[Tensor], x: Tensor) -> Tensor:
    (sizes,) = constants
    ends = [int(n) for n in sizes.cumsum(0)]
    pieces = [x[..., start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return torch.cat([part(piece) for part, piece in zip(parts, pieces, strict=True)], -1)


def _repeat(parts: Sequence[Any], constants: Sequence[Tensor], x: Tensor) -> Tensor:
    (times,) = constants
    for _ in range(int(times)):
        x = parts[0](x)
    return x


def _feedback(parts: Sequence[Any], constants: Sequence[Tensor], x: Tensor) -> Tensor:
    g, h = parts
    drive = h(x)
    with torch.no_grad():
        w = torch.zeros_like(drive)
        tolerance = 16.0 * torch.finfo(drive.dtype).eps
        for _ in range(10_000):
            following = g(w) + drive
            change = (following - w).abs().amax() if w.numel() else w.sum()
            w = following
            if bool(change <= tolerance * (1.0 + w.abs().amax())):
                break
        else:
            raise ArithmeticError("the feedback did not converge: is its input finite?")
    # A contraction: what a few differentiable steps leave out of the derivative is γ_gⁿ of it.
    (steps,) = constants
    for _ in range(int(steps) if torch.is_grad_enabled() else 1):
        w = g(w) + drive
    return w


COMBINE = {"sum": _sum, "concat": _concat, "parallel": _parallel, "repeat": _repeat, "feedback": _feedback}


@dataclass(frozen=True)
class Combination(Explicit):
    """Explicit maps joined by one rule; `kind` names it, `constants` are its numbers."""

    kind: str
    parts: tuple[Explicit, ...]
    constants: tuple[Tensor, ...] = ()

    def run(self, x: Tensor) -> Tensor:
        return COMBINE[self.kind]([part.run for part in self.parts], self.constants, x)

    def certificate(self) -> Certificate:
        parts = [part.certificate() for part in self.parts]
        if self.kind == "sum":
            return rules.total(*parts, coefficients=numbers(self.constants[0]).tolist())
        if self.kind == "concat":
            return rules.concat(*parts)
        if self.kind == "parallel":
            return rules.parallel(*parts)
        if self.kind == "repeat":
            return rules.repeat(parts[0], int(self.constants[0]))
        return rules.feedback(*parts)

    def export(self) -> nn.Module:
        return _PlainCombination(self)

    def shifted(self, offset: Tensor) -> Explicit:
        eye = torch.eye(len(offset), dtype=offset.dtype, device=offset.device)
        return chain(self, Affine(eye, offset))
