"""Activations of torch that are a known one between scalings and shifts, and reshapes that keep the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lipctrl.bounds.graph import Builder, Expression, UnsupportedOperationError
from lipctrl.bounds.torch_modules import kind_of, numbers

# Inputs become columns of dense matrices.
_MOST_INPUTS = 4096
# The constants of Klambauer et al. 2017 as torch has them.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
COMPOSED_CALLS: dict[Any, type[nn.Module]] = {
    F.logsigmoid: nn.LogSigmoid,
    F.tanhshrink: nn.Tanhshrink,
    F.selu: nn.SELU,
    torch.selu: nn.SELU,
    F.celu: nn.CELU,
    torch.celu: nn.CELU,
    F.softplus: nn.Softplus,
}
COMPOSED_MODULES = (nn.LogSigmoid, nn.Tanhshrink, nn.SELU, nn.CELU, nn.Softplus)
CLAMPS = {
    torch.clamp,
    torch.clip,
    "clamp",
    "clip",
    "clamp_min",
    torch.clamp_min,
    "clamp_max",
    torch.clamp_max,
}


def composed(build: Builder, x: Expression, part: nn.Module) -> Expression | None:
    """Return what an activation module computes, or None when it is not a composed one.

    Quotients such as 1/β are rounded to float64.
    """
    kind, options = kind_of(part), vars(part)
    if kind is nn.LogSigmoid:
        return build.scale(build.activate(build.scale(x, -1.0), "softplus"), -1.0)
    if kind is nn.Tanhshrink:
        return build.add(x, build.scale(build.activate(x, "tanh"), -1.0))
    if kind is nn.SELU:
        return build.scale(build.activate(x, {"name": "elu", "alpha": _SELU_ALPHA}), _SELU_SCALE)
    if kind is nn.CELU and options["alpha"] > 0.0:
        alpha = float(options["alpha"])
        return build.scale(build.activate(build.scale(x, 1.0 / alpha), "elu"), alpha)
    if kind is nn.Softplus and 0.0 < options["beta"] != 1.0 and float(options["threshold"]) >= 20.0:
        beta = float(options["beta"])
        return build.scale(build.activate(build.scale(x, beta), "softplus"), 1.0 / beta)
    return None


def clamped(
    build: Builder, x: Expression, target: Any, rest: Sequence[Any], kwargs: dict[str, Any]
) -> Expression | None:
    """Return x between ends that are numbers or constant tensors of one number a feature, or None for other ends.

    With one end, max(x, a) is a + relu(x - a) and min(x, b) is b - relu(b - x).
    """
    name = target if isinstance(target, str) else target.__name__
    ends = [*rest, None, None][:2]
    if name == "clamp_max":
        ends = [None, ends[0]]
    given = [kwargs.get(key, end) for key, end in zip(("min", "max"), ends, strict=True)]
    if not all(v is None or isinstance(v, int | float | torch.Tensor) for v in given):
        return None
    low, high = (numbers(v) if isinstance(v, torch.Tensor) else v for v in given)
    if any(np.shape(v) not in ((), (1,), (x.size,)) for v in (low, high)):
        return None
    if low is not None and high is not None:
        return build.clip(x, low, high)
    if low is not None:
        return build.shift(build.activate(build.shift(x, -low), "relu"), low)
    if high is not None:
        below = build.shift(build.scale(x, -1.0), high)
        return build.shift(build.scale(build.activate(below, "relu"), -1.0), high)
    return None


class Batch:
    """The unknown number of samples, where a network reads it from a shape."""


def sample_shape(value: Sequence[int]) -> tuple[int, ...]:
    """Return `input_shape` as a tuple, or say what is wrong with it."""
    shape = tuple(value)
    if not shape or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise ValueError(
            f"input_shape is {value!r}; expected positive integers, channels first, without the batch"
        )
    if int(np.prod(shape)) > _MOST_INPUTS:
        raise UnsupportedOperationError(
            f"input_shape {shape} has more than {_MOST_INPUTS} entries: too large to certify"
        )
    return shape


def reshaped(size: int, dims: Sequence[Any]) -> tuple[int, ...] | None:
    """Return the shape without the batch that `view(*dims)` gives to samples of `size` numbers, or None.

    The first of `dims` is the batch, as read from a shape or as -1; at most one of the others is -1.
    """
    if len(dims) < 2 or not all(type(d) is int and (d > 0 or d == -1) for d in dims[1:]):
        return None
    rest = list(dims[1:])
    known = 1
    for d in rest:
        known *= d if d > 0 else 1
    free = rest.count(-1)
    batch = isinstance(dims[0], Batch)
    if not (batch or (dims[0] == -1 and free == 0)) or free > 1 or (size % known if free else size != known):
        return None
    return tuple(size // known if d == -1 else d for d in rest)
