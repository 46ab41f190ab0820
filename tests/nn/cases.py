"""The table that drives the tests: every parametrisation, built alone, with degenerate parameters on demand."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lipctrl import nn
from lipctrl.nn.module import CertifiedModule

Build = Callable[..., CertifiedModule]


def _plain(cls: type, **fixed: object) -> Build:
    def build(size: int, width: int, inner_depth: int, activation: str, lipschitz: float) -> CertifiedModule:
        return cls(
            size,
            size,
            width=width,
            inner_depth=inner_depth,
            activation=activation,
            lipschitz=lipschitz,
            **fixed,
        )

    return build


def _shallow(cls: type, **fixed: object) -> Build:
    def build(size: int, width: int, inner_depth: int, activation: str, lipschitz: float) -> CertifiedModule:
        return cls(size, size, width=width, activation=activation, lipschitz=lipschitz, **fixed)

    return build


def _layer(cls: type) -> Build:
    def build(size: int, width: int, inner_depth: int, activation: str, lipschitz: float) -> CertifiedModule:
        return cls(size, width, activation=activation, lipschitz=lipschitz)

    return build


BLOCKS: dict[str, Build] = {
    "lossless": _plain(nn.LosslessBlock),
    "lossless in series": _plain(nn.LosslessBlock, depth=3),
    "gershgorin": _plain(nn.GershgorinBlock, scaled=False),
    "gershgorin-scaled": _plain(nn.GershgorinBlock, scaled=True),
    "ldlt": _plain(nn.LDLTBlock),
    "sandwich": _layer(nn.SandwichLayer),
    "sll": _shallow(nn.SLLBlock),
    "cpl": _shallow(nn.SLLBlock, norm="cpl"),
    "aol": _layer(nn.AOLLayer),
}

ACTIVATIONS = (
    "relu",
    "leaky_relu",
    "tanh",
    "softplus",
    "sigmoid",
    "elu",
    "abs",
    "softsign",
    "hardtanh",
    "arctan",
    "sin",
    "silu",
    "gelu",
    "soft_threshold",
    "groupsort",
    "identity",
)

DEGENERATE = ("random", "zero", "huge", "tiny", "repeated", "rank one", "mixed scales")


def deform(module: CertifiedModule, kind: str, seed: int = 0) -> CertifiedModule:
    """Overwrite all parameters by a degenerate pattern, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
            if kind == "random":
                p.add_(noise)
            elif kind == "zero":
                p.zero_()
            elif kind == "huge":
                p.copy_(1e6 * noise)
            elif kind == "tiny":
                p.copy_(1e-12 * noise)
            elif kind == "repeated":
                p.fill_(1.0)
            elif kind == "rank one":
                p.copy_(noise[..., :1].expand(p.shape) if p.ndim else noise)
            elif kind == "mixed scales":
                p.copy_(noise * torch.exp(8.0 * torch.randn(p.shape, generator=generator)).to(p.dtype))
            else:
                raise AssertionError(kind)
    return module
