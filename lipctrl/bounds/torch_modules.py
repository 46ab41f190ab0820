"""Torch modules and functions that have a rule: activations, folded normalisations, convolutions as matrices.

Everything here reads a module as it runs in evaluation mode; whatever would make it run otherwise (hooks, a
replaced `forward`, batch statistics) is refused by name.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lipctrl.bounds.graph import UnsupportedOperationError

Spec = str | dict[str, Any]

# Modules that do nothing to a vector of features in evaluation mode.
NEUTRAL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# Layers that a matrix describes once the shape of their input is known.
SHAPED = (nn.Conv1d, nn.Conv2d, nn.AvgPool1d, nn.AvgPool2d)
# A larger matrix of a convolution would not be certified in reasonable time or memory.
_LARGEST_MATRIX = 2**24

_PLAIN_MODULES: dict[type, str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.Softsign: "softsign",
}
_PLAIN_CALLS: dict[Any, str] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    "relu": "relu",
    "relu_": "relu",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    "tanh": "tanh",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    "sigmoid": "sigmoid",
    F.silu: "silu",
    F.softsign: "softsign",
    torch.abs: "abs",
    "abs": "abs",
    operator.abs: "abs",
    torch.sin: "sin",
    "sin": "sin",
    torch.arctan: "arctan",
    torch.atan: "arctan",
    "arctan": "arctan",
    "atan": "arctan",
}
_PARAMETRIC_CALLS: dict[Any, type[nn.Module]] = {
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.gelu: nn.GELU,
    F.softplus: nn.Softplus,
    F.hardtanh: nn.Hardtanh,
    F.relu6: nn.ReLU6,
    F.softshrink: nn.Softshrink,
}


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Run a module and its parts in evaluation mode, and put every part back afterwards."""
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, was in training:
            part.training = was


def refuse_what_runs_otherwise(module: nn.Module) -> None:
    """Refuse parts whose call is not what their class says: hooks, replaced forwards, batch statistics.

    Raises
    ------
    UnsupportedOperationError
        With the name and the class of the part.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise UnsupportedOperationError("a forward hook on all modules may change what the network computes")
    for name, part in module.named_modules():
        kind = type(part).__name__
        known = (WeightNorm, SpectralNorm, BasePruningMethod)
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if any(not isinstance(hook, known) for hook in hooks):
            raise UnsupportedOperationError(
                f"{kind} {name!r} has a forward hook, which may change what it computes"
            )
        if "forward" in vars(part):
            raise UnsupportedOperationError(f"the forward of {kind} {name!r} was replaced on the instance")
        if isinstance(part, BATCH_NORMS) and (part.training or part.running_mean is None):
            raise UnsupportedOperationError(
                f"{kind} {name!r} normalises by statistics of the batch, which couples its samples; "
                "call .eval() on the network (with track_running_stats=True) to fold the running statistics"
            )


def module_activation(module: nn.Module) -> Spec | None:
    """Return the activation that a module computes, as a name or table, or None when it is not one.

    Raises
    ------
    UnsupportedOperationError
        For an activation with parameters that have no rule.
    """
    declared = declared_activation(module)
    if declared is not None:
        return declared
    kind = kind_of(module)
    if kind in _PLAIN_MODULES:
        return _PLAIN_MODULES[kind]
    if kind is nn.LeakyReLU:
        return {"name": "leaky_relu", "slope": setting(module, "negative_slope")}
    if kind is nn.Softshrink:
        return {"name": "soft_threshold", "threshold": setting(module, "lambd")}
    if kind is nn.ELU:
        alpha = setting(module, "alpha")
        return "elu" if alpha == 1.0 else {"name": "elu", "alpha": alpha}
    if kind in (nn.Hardtanh, nn.ReLU6):
        low, high = setting(module, "min_val"), setting(module, "max_val")
        return "hardtanh" if (low, high) == (-1.0, 1.0) else {"name": "clip", "lower": low, "upper": high}
    standard: dict[type, tuple[str, Callable[[], bool]]] = {
        nn.GELU: ("gelu", lambda: module.approximate == "none"),
        nn.Softplus: (
            "softplus",
            lambda: setting(module, "beta") == 1.0 and setting(module, "threshold") >= 20.0,
        ),
    }
    if kind not in standard:
        return None
    name, is_standard = standard[kind]
    if not is_standard():
        raise UnsupportedOperationError(f"{module} has no rule; only its default parameters have one")
    return name


def kind_of(module: nn.Module) -> type:
    """Return the class of a module, seen through torch's parametrisations of its weights."""
    return type_before_parametrizations(module)


def declared_activation(module: nn.Module) -> dict[str, Any] | None:
    """Return what an activation of lipctrl declares that it computes, None for any other module."""
    spec = getattr(module, "spec", None)
    return spec if type(module).__module__.startswith("lipctrl.") and isinstance(spec, dict) else None


def setting(module: nn.Module, name: str) -> float:
    """Return a number among the attributes of a module, which torch does not declare for every class."""
    return float(getattr(module, name))


def call_activation(target: Any, rest: list[Any], kwargs: dict[str, Any]) -> Spec | None:
    """Return the activation of a function or method called with arguments beside its input, or None."""
    kwargs = {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}
    if target in _PLAIN_CALLS:
        return None if rest or kwargs else _PLAIN_CALLS[target]
    if target in (torch.clamp, torch.clip, "clamp", "clip"):
        ends = [*rest, None, None][:2]
        low, high = kwargs.get("min", ends[0]), kwargs.get("max", ends[1])
        if not isinstance(low, int | float):
            return None
        if isinstance(high, int | float) and low <= high:
            return {"name": "clip", "lower": float(low), "upper": float(high)}
        return "relu" if low == 0 and high is None else None
    if target not in _PARAMETRIC_CALLS:
        return None
    return module_activation(_PARAMETRIC_CALLS[target](*rest, **kwargs))


def current(part: nn.Module, name: str = "weight") -> torch.Tensor | None:
    """Return the weight or bias that the next call in evaluation mode would use, None where there is none.

    torch's older weight_norm and spectral_norm, and its pruning, keep a copy that is stale until then;
    parametrisations do not.
    """
    found = getattr(part, name)
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == name:
            found = hook.compute_weight(part)
        elif isinstance(hook, SpectralNorm) and hook.name == name:
            found = hook.compute_weight(part, do_power_iteration=False)
        elif isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            found = hook.apply_mask(part)
    if found is not None and not isinstance(found, torch.Tensor):
        raise UnsupportedOperationError(f"the {name} of {type(part).__name__} is not a tensor")
    return found


def numbers(tensor: Any) -> np.ndarray:
    """Return a tensor as float64 numpy, without change of value."""
    if not isinstance(tensor, torch.Tensor):
        raise UnsupportedOperationError(f"a weight is a {type(tensor).__name__}, not a constant tensor")
    if not tensor.dtype.is_floating_point:
        raise ValueError(f"a weight has dtype {tensor.dtype}; expected real floating point")
    return tensor.detach().to("cpu", torch.float64).numpy()


def folded_batch_norm(part: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return (factor, shift) of a batch normalisation in evaluation mode, factors rounded to float64."""
    mean, variance = numbers(part.running_mean), numbers(part.running_var)
    factor = 1.0 / np.sqrt(variance + setting(part, "eps"))
    shift = -mean * factor
    weight, bias = current(part), current(part, "bias")
    if weight is not None:
        factor, shift = factor * numbers(weight), shift * numbers(weight)
    if bias is not None:
        shift = shift + numbers(bias)
    return factor, shift


def lowered(part: nn.Module, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return (matrix, bias, output shape) of a convolution or average pool on inputs of a shape (channels first).

    Each column is the response to a unit input, in float64: a weight times one plus zeros, which is exact for
    convolutions (for pools, one division is rounded).

    Raises
    ------
    UnsupportedOperationError
        When the matrix would be too large, or the shape does not fit.
    """
    size = int(np.prod(shape))
    weight, bias = (current(part), current(part, "bias")) if isinstance(part, _ConvNd) else (None, None)

    def respond(x: torch.Tensor) -> torch.Tensor:
        if weight is not None and isinstance(part, _ConvNd):
            return part._conv_forward(x, weight.detach().to("cpu", torch.float64), None)
        return part(x)

    with torch.no_grad():
        try:
            out = tuple(respond(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        except RuntimeError as error:
            raise UnsupportedOperationError(
                f"{type(part).__name__} on inputs of shape {shape}: {error}"
            ) from error
        if size * max(size, int(np.prod(out))) > _LARGEST_MATRIX:
            raise UnsupportedOperationError(
                f"{type(part).__name__} on {shape} is a matrix of {int(np.prod(out))} × {size}: too large to certify"
            )
        if getattr(part, "padding_mode", "zeros") != "zeros":
            raise UnsupportedOperationError(f"{type(part).__name__} with padding_mode {part.padding_mode!r}")
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        matrix = respond(basis).reshape(size, -1).T.contiguous().numpy()
    channels = np.zeros(out[0]) if bias is None else numbers(bias)
    return matrix, np.repeat(channels, int(np.prod(out[1:]))), out
