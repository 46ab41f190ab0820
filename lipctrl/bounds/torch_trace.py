"""A torch module as a graph of its operations, those in place as what they are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from lipctrl.bounds.graph import UnsupportedOperationError
from lipctrl.bounds.ours import plain
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

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace a network of lipctrl that is a part of another one as the plain layers that it exports."""
        exported = self.root.exported.get(m) if isinstance(self.root, Whole) else None
        if exported is None:
            return super().call_module(m, forward, args, kwargs)
        return exported(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return declared_activation(m) is not None or super().is_leaf_module(m, module_qualified_name)


class Whole(nn.Module):
    """A network as a part of what is traced, so that its own call (hooks, a `__call__` of its class) counts too."""

    def __init__(self, net: nn.Module, exported: Mapping[nn.Module, nn.Module] | None = None) -> None:
        super().__init__()
        self.net, self.exported = net, dict(exported or {})
        self.exports = nn.ModuleList(self.exported.values())

    def forward(self, x: Any) -> Any:
        return self.net(x)


def exported_parts(net: nn.Module) -> dict[nn.Module, nn.Module]:
    """Return the networks of lipctrl that are parts of another one, with the plain layers that each exports."""
    out: dict[nn.Module, nn.Module] = {}
    waiting = [net]
    while waiting:
        part = waiting.pop()
        simple = plain(part)
        if simple is part:
            waiting.extend(part.children())
        else:
            out[part] = simple.eval()
    return out


def traced(whole: Whole) -> fx.Graph:
    """Return the graph of a network's operations, or say why it has none; the network keeps its attributes."""
    before = [(part, name, value) for part in whole.modules() for name, value in vars(part).items()]
    try:
        graph = _Tracer().trace(whole)
    except (
        *(ValueError, TypeError, RuntimeError, AttributeError, LookupError),
        *(NameError, AssertionError, ArithmeticError),
    ) as error:
        raise UnsupportedOperationError(
            f"{type(whole.net).__name__} cannot be traced ({error}); its forward must not depend on values"
        ) from error
    finally:
        forgotten = _forget_traced_values(whole, before)
    constants = [attribute(whole, node.target) for node in graph.nodes if node.op == "get_attr"]
    for name, value in forgotten:
        if any(value is constant for constant in constants):
            raise UnsupportedOperationError(
                f"{type(whole.net).__name__} reads {name!r} and writes to it: a call depends on the calls before it"
            )
    refuse_stale_reads(whole, graph)
    return graph


def _forget_traced_values(
    whole: nn.Module, before: list[tuple[nn.Module, str, Any]]
) -> list[tuple[str, Any]]:
    """Take values under trace out of the attributes that a forward left them in; return what stood there."""
    old = {(id(part), name): value for part, name, value in before}
    found = []
    for part in whole.modules():
        for name in [name for name, value in vars(part).items() if isinstance(value, fx.Proxy)]:
            found.append((name, old.get((id(part), name))))
            if (id(part), name) in old:
                vars(part)[name] = old[id(part), name]
            else:
                del vars(part)[name]
    return found


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
