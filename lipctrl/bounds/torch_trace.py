"""A torch module as a graph of its operations, those in place as what they are."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from lipctrl.bounds.graph import UnsupportedOperationError
from lipctrl.bounds.torch_aliases import refuse_stale_reads
from lipctrl.bounds.torch_modules import declared_activation


class _RecordingProxy(fx.Proxy):
    """A value under trace that records `+=` and its kin as what they are; fx itself takes them for `+`."""

    def _augmented(self, function: Any, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._augmented(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._augmented(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._augmented(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._augmented(operator.itruediv, other)


class _Tracer(fx.Tracer):
    """Keeps modules that declare their activation whole, and records what is done in place."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the value under trace; called by fx."""
        return _RecordingProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return declared_activation(m) is not None or super().is_leaf_module(m, module_qualified_name)


def traced(module: nn.Module) -> fx.Graph:
    """Return the graph of a module's operations, or say why it has none."""
    try:
        graph = _Tracer().trace(module)
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError) as error:
        raise UnsupportedOperationError(
            f"{type(module).__name__} cannot be traced ({error}); its forward must not depend on values"
        ) from error
    refuse_stale_reads(module, graph)
    return graph


def attribute(module: nn.Module, path: Any) -> Any:
    """Return the value that a `get_attr` node reads."""
    value: Any = module
    for name in str(path).split("."):
        value = getattr(value, name)
    return value


def refusal(node: fx.Node, reason: str = "") -> UnsupportedOperationError:
    """Return the error that names an operation without a rule."""
    target = (
        node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    )
    return UnsupportedOperationError(
        f"{node.op} {target!r} (node {node.name!r}) has no rule{': ' + reason if reason else ''}; known are Linear, "
        "element-wise activations, additions, concatenations, slices, scalings by constants, Flatten, Dropout and "
        "BatchNorm in eval mode, Conv1d, Conv2d and AvgPool with input_shape="
    )
