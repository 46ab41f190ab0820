"""An attack in float64: ascent on the norm of the Jacobian from many starts, at many scales of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def attack(module: nn.Module, features: int, *, seed: int = 0, steps: int = 20, starts: int = 16) -> float:
    """Return the largest ratio ‖f(x)-f(x')‖/‖x-x'‖ that gradient ascent on pairs finds."""
    generator = torch.Generator().manual_seed(seed)
    best = 0.0
    # Evaluation rounds at 1e-16 of its largest term: pairs lie far enough apart for a ratio good to 1e-9.
    shortest = 1e-5 * max(
        (p.detach().abs().max().item() for p in module.parameters() if p.numel()), default=0.0
    )
    for scale in (0.1, 1.0, 30.0):
        x = scale * torch.randn(starts, features, generator=generator, dtype=torch.float64)
        direction = torch.randn(starts, features, generator=generator, dtype=torch.float64)
        step = 0.1 * scale
        for _ in range(steps):
            x = x.requires_grad_(True)
            direction = direction.requires_grad_(True)
            ratio = _ratio(module, x, direction, max(1e-3 * scale, shortest))
            best = max(best, ratio.max().item())
            gx, gd = torch.autograd.grad(ratio.sum(), (x, direction))
            with torch.no_grad():
                x = x + step * gx / gx.norm(dim=-1, keepdim=True).clamp_min(1e-300)
                unit = direction / direction.norm(dim=-1, keepdim=True)
                direction = unit + 0.5 * gd / gd.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    return best


def _ratio(module: nn.Module, x: Tensor, direction: Tensor, length: float) -> Tensor:
    other = x + length * direction / direction.norm(dim=-1, keepdim=True)
    return (module(other) - module(x)).norm(dim=-1) / (other - x).norm(dim=-1)
