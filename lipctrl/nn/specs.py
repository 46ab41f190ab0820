"""What a network is besides its weights, as JSON values, and the way back: run folders hold no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lipctrl.activations import Activation
from lipctrl.nn.compose import (
    Concat,
    Feedback,
    Metric,
    Mix,
    Parallel,
    Repeat,
    Residual,
    Scale,
    Sequential,
    Sum,
)
from lipctrl.nn.gershgorin import GershgorinBlock
from lipctrl.nn.implicit import ImplicitBlock
from lipctrl.nn.ldlt import LDLTBlock
from lipctrl.nn.lossless import LosslessBlock
from lipctrl.nn.module import CertifiedModule
from lipctrl.nn.orthogonal import OrthogonalLinear
from lipctrl.nn.recursive import Recursive
from lipctrl.nn.resnet import LipschitzResNet
from lipctrl.nn.sandwich import SandwichLayer
from lipctrl.nn.sll import AOLLayer, SLLBlock
from lipctrl.nn.squashed import Squashed
from lipctrl.nn.unrolled import UnrolledISTA

_SIZES = ("in_features", "out_features", "lipschitz")
# Blocks and combinators -> the arguments that their constructors take beside parts.
_ARGUMENTS: dict[type[CertifiedModule], tuple[str, ...]] = {
    LosslessBlock: (*_SIZES, "width", "inner_depth", "activation", "depth"),
    LDLTBlock: (*_SIZES, "width", "inner_depth", "activation", "depth"),
    GershgorinBlock: (*_SIZES, "width", "inner_depth", "activation", "depth", "scaled"),
    SandwichLayer: (*_SIZES, "activation", "depth"),
    SLLBlock: (*_SIZES, "width", "activation", "depth", "norm"),
    AOLLayer: (*_SIZES, "activation"),
    OrthogonalLinear: (*_SIZES, "bias"),
    ImplicitBlock: (*_SIZES, "width", "norm", "activation"),
    UnrolledISTA: (*_SIZES, "width", "residuals", "iterations", "activation"),
    Sequential: (),
    Sum: ("coefficients",),
    Mix: (),
    Residual: (),
    Concat: (),
    Parallel: (),
    Scale: ("factor",),
    Metric: ("output_metric",),
    Repeat: ("times",),
    Feedback: (),
    Recursive: _SIZES,
}
_BY_NAME = {kind.__name__: kind for kind in _ARGUMENTS}


def network_spec(network: CertifiedModule) -> dict[str, Any]:
    """Return what `network_from_spec` needs, as JSON values; the weights travel as `state_dict()`.

    Raises
    ------
    TypeError
        For a subclass, whose constructor nobody knows, or a block that stands in two places: loaded, it would be two.

    Examples
    --------
    >>> from lipctrl.nn import Recursive
    >>> network = Recursive(LosslessBlock(3, 3, width=4), 2, 1, lipschitz=0.5)
    >>> network_spec(network)["parts"][0]["network"]
    'LosslessBlock'
    """
    parts = [part for part in network.modules() if isinstance(part, CertifiedModule)]
    places = sum(
        isinstance(part, CertifiedModule) for _, part in network.named_modules(remove_duplicate=False)
    )
    if places != len(parts):
        raise TypeError(
            "a block stands in more than one place of the network, and a run folder cannot say so; expected a block of "
            "its own for every place"
        )
    kind = type(network)
    if isinstance(network, LipschitzResNet) and kind is LipschitzResNet:
        return network.spec()
    if isinstance(network, Squashed) and kind is Squashed:
        lower, upper = network.limits()
        return {
            "network": "Squashed",
            "inner": network_spec(network.network),
            "lower": lower,
            "upper": upper,
        }
    if kind not in _ARGUMENTS:
        raise TypeError(
            f"a {kind.__name__} has no spec; expected a network of lipctrl.nn as it is ("
            f"LipschitzResNet, Squashed, {', '.join(_BY_NAME)}), not a subclass"
        )
    spec: dict[str, Any] = {"network": kind.__name__}
    spec.update((name, _argument(network, name)) for name in _ARGUMENTS[kind])
    blocks: Any = getattr(network, "blocks", None)
    return spec if blocks is None else {**spec, "parts": [network_spec(block) for block in blocks]}


def _argument(network: Any, name: str) -> Any:
    """Return the value that the constructor's argument has now."""
    if isinstance(network, SLLBlock) and name == "norm":
        return network.scaling
    if isinstance(network, OrthogonalLinear) and name == "bias":
        return network.bias is not None
    if isinstance(network, UnrolledISTA) and name == "residuals":
        return len(network.dictionary)
    if isinstance(network, Metric):
        return network.after.tolist()  # for its shape: both metrics are buffers
    value = getattr(network, name)
    if isinstance(value, Activation):
        return value.to_dict()
    return value.tolist() if hasattr(value, "tolist") else value


def network_from_spec(spec: Mapping[str, Any]) -> CertifiedModule:
    """Build a network, with new weights, from what `network_spec` returned; then `load_state_dict`.

    Raises
    ------
    ValueError
        For an unknown kind of network, or other fields than that kind has.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear, Sequential
    >>> network = Sequential(OrthogonalLinear(2, 3), OrthogonalLinear(3, 1))
    >>> network_from_spec(network_spec(network)).out_features
    1
    """
    fields = dict(spec)
    name = fields.get("network")
    if name == "LipschitzResNet":
        return LipschitzResNet.from_spec(fields)
    if name == "Squashed" and set(fields) == {"network", "inner", "lower", "upper"}:
        return Squashed(network_from_spec(fields["inner"]), fields["lower"], fields["upper"])
    kind = _BY_NAME.get(name) if isinstance(name, str) else None
    joined = (kind is not None and "in_features" not in _ARGUMENTS[kind]) or kind is Recursive
    expected = {"network", *(_ARGUMENTS[kind] if kind else ()), *(("parts",) if joined else ())}
    if kind is None or set(fields) != expected:
        raise ValueError(
            f"network is {name!r} with the fields {sorted(fields)}; expected what network_spec() returns"
        )
    parts = [network_from_spec(part) for part in fields.pop("parts", ())]
    del fields["network"]
    build: Any = kind
    return build(*parts, **fields)
