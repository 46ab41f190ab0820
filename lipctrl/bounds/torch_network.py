"""Front end for torch: traces a module and rebuilds it from the operations that have a rule."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from lipctrl.bounds.graph import Builder, Expression, Network, UnsupportedOperationError
from lipctrl.bounds.torch_map import input_size

Spec = str | dict[str, Any]

# Modules that do nothing to a vector of features in evaluation mode.
_NEUTRAL = (nn.Identity, nn.Dropout, nn.AlphaDropout)
_NEUTRAL_CALLS = {"contiguous", "clone", "detach", "float", "double"}
_PLAIN_MODULES: dict[type, str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.Softsign: "softsign",
}
_PLAIN_CALLS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    "relu": "relu",
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
_ADD = {operator.add, operator.iadd, torch.add, "add", "add_", "__add__"}
_SUB = {operator.sub, operator.isub, torch.sub, "sub"}
_MUL = {operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"}
_DIV = {operator.truediv, torch.div, torch.divide, "div"}
_NEG = {operator.neg, torch.neg, "neg"}
_CAT = {torch.cat, torch.concat, torch.concatenate}
_PARTS = {torch.split, torch.chunk, torch.tensor_split, "split", "chunk"}


def _refuse(node: fx.Node, reason: str = "") -> UnsupportedOperationError:
    target = (
        node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    )
    return UnsupportedOperationError(
        f"{node.op} {target!r} (node {node.name!r}) has no rule{': ' + reason if reason else ''}; known are Linear, "
        "element-wise activations, additions, concatenations, slices, scalings by constants, Flatten, Dropout"
    )


def module_activation(module: nn.Module) -> Spec | None:
    """Return the activation that a module computes, as a name or table, or None when it is not one.

    Raises
    ------
    UnsupportedOperationError
        For an activation with parameters that have no rule.
    """
    spec = getattr(module, "spec", None)
    if isinstance(spec, dict) and "name" in spec:
        return spec
    kind = type(module)
    if kind in _PLAIN_MODULES:
        return _PLAIN_MODULES[kind]
    if isinstance(module, nn.LeakyReLU):
        return {"name": "leaky_relu", "slope": float(module.negative_slope)}
    if isinstance(module, nn.Softshrink):
        return {"name": "soft_threshold", "threshold": float(module.lambd)}
    standard: Callable[[], bool] | None = {
        nn.ELU: lambda: module.alpha == 1.0,
        nn.GELU: lambda: module.approximate == "none",
        nn.Softplus: lambda: module.beta == 1.0,
        nn.Hardtanh: lambda: (module.min_val, module.max_val) == (-1.0, 1.0),
    }.get(kind)
    if standard is None:
        return None
    if not standard():
        raise UnsupportedOperationError(f"{module} has no rule; only its default parameters have one")
    return {nn.ELU: "elu", nn.GELU: "gelu", nn.Softplus: "softplus", nn.Hardtanh: "hardtanh"}[kind]


class _Tracer(fx.Tracer):
    """Keeps modules that declare their activation whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(getattr(m, "spec", None), dict) or super().is_leaf_module(m, module_qualified_name)


def read_torch(module: nn.Module) -> Network:
    """Return the network that a torch module computes in evaluation mode, weights cast exactly to float64.

    Inputs are batches of feature vectors, features last. torch's Softplus is read as the smooth function
    (its linear branch above 20 differs from it by 2e-9), its GELU as the exact one.

    Raises
    ------
    UnsupportedOperationError
        For anything without a rule (convolutions, normalisations, products of values, ...), by name.
    """
    if module.training:
        module = copy.deepcopy(module).eval()
    try:
        graph = _Tracer().trace(module)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UnsupportedOperationError(
            f"{type(module).__name__} cannot be traced ({error}); its forward must not depend on values"
        ) from error
    return _Reader(module, graph).read()


class _Reader:
    """Walks a traced graph once, value by value."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.module = module
        self.graph = graph
        self.builder = Builder(_graph_input_size(module, graph))
        self.values: dict[fx.Node, Any] = {}

    def read(self) -> Network:
        inputs = [n for n in self.graph.nodes if n.op == "placeholder"]
        if len(inputs) != 1:
            raise UnsupportedOperationError(f"the network has {len(inputs)} inputs; expected one")
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.builder.input()
            elif node.op == "get_attr":
                self.values[node] = _attribute(self.module, node.target)
            elif node.op == "call_module":
                self.values[node] = self._module(node)
            elif node.op == "output":
                result = self._value(node.args[0])
                if not isinstance(result, Expression):
                    raise _refuse(node, "the output is not one tensor of features")
                return self.builder.finish(result)
            else:
                self.values[node] = self._call(node)
        raise UnsupportedOperationError("the network has no output")

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, list | tuple):
            return [self._value(a) for a in argument]
        return argument

    def _module(self, node: fx.Node) -> Expression:
        part = self.module.get_submodule(str(node.target))
        x = self._value(node.args[0])
        if not isinstance(x, Expression) or len(node.args) != 1 or node.kwargs:
            raise _refuse(node, f"{type(part).__name__} is not called on one tensor of features")
        if isinstance(part, nn.Linear):
            return self.builder.linear(x, _numbers(part.weight), _optional(part.bias))
        if isinstance(part, _NEUTRAL) or (isinstance(part, nn.Flatten) and part.start_dim in (1, -1)):
            return x
        spec = module_activation(part)
        if spec is None:
            raise _refuse(node, f"a {type(part).__name__} module")
        return self.builder.activate(x, spec)

    def _call(self, node: fx.Node) -> Any:
        target, args = node.target, [self._value(a) for a in node.args]
        kwargs = {k: self._value(v) for k, v in node.kwargs.items()}
        if not _holds_expression([*args, *kwargs.values()]):
            return _constant(node, target, args, kwargs)
        if target in _CAT:
            return self._concat(node, args, kwargs)
        x = args[0] if args else kwargs.pop("input", None)
        if target in _ADD | _SUB | _MUL | _DIV | _NEG:
            return self._arithmetic(node, args, kwargs)
        if target is operator.getitem and isinstance(x, list):
            return x[args[1]]
        if not isinstance(x, Expression):
            raise _refuse(node)
        if target in _NEUTRAL_CALLS or _is_neutral(target, args, kwargs):
            return x
        if target in _PLAIN_CALLS and not set(kwargs) - {"inplace"}:
            return self.builder.activate(x, _PLAIN_CALLS[target])
        if target is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return self.builder.linear(x, _numbers(weight), _optional(bias))
        if target in (operator.matmul, torch.matmul, "matmul") and isinstance(args[1], torch.Tensor):
            return self.builder.linear(x, _numbers(args[1].T))
        if target is operator.getitem:
            return self._item(node, x, args[1])
        if target in _PARTS:
            return self._parts(node, x, args[1:], kwargs)
        return self._parametric(node, x, args[1:], kwargs)

    def _parametric(
        self, node: fx.Node, x: Expression, rest: list[Any], kwargs: dict[str, Any]
    ) -> Expression:
        """Functional activations whose arguments decide whether there is a rule."""
        modules: dict[Any, type[nn.Module]] = {
            F.leaky_relu: nn.LeakyReLU,
            F.elu: nn.ELU,
            F.gelu: nn.GELU,
            F.softplus: nn.Softplus,
            F.hardtanh: nn.Hardtanh,
            F.softshrink: nn.Softshrink,
        }
        if node.target not in modules:
            raise _refuse(node)
        kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}
        spec = module_activation(modules[node.target](*rest, **kwargs))
        if spec is None:
            raise _refuse(node)
        return self.builder.activate(x, spec)

    def _concat(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Expression:
        parts = args[0] if args else kwargs["tensors"]
        axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
        if axis not in (-1, 1):
            raise _refuse(node, f"a concatenation along axis {axis}, not along features (-1)")
        if not all(isinstance(p, Expression) for p in parts):
            raise _refuse(node, "a concatenation with a constant")
        return self.builder.concat(parts)

    def _arithmetic(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Expression:
        target, build = node.target, self.builder
        if target in _NEG:
            return build.scale(args[0], -1.0)
        if set(kwargs) - {"alpha"} or len(args) != 2:
            raise _refuse(node, f"arguments {sorted(kwargs)}")
        a, b = args
        alpha = kwargs.get("alpha", 1)
        if target in _ADD | _SUB:
            sign = alpha if target in _ADD else -alpha
            b = build.scale(b, sign) if isinstance(b, Expression) else sign * _vector(node, b)
            if isinstance(a, Expression):
                return build.add(a, b) if isinstance(b, Expression) else build.shift(a, b)
            return build.shift(b, _vector(node, a))
        if isinstance(a, Expression) and isinstance(b, Expression):
            raise _refuse(node, "a product or quotient of two values is not Lipschitz")
        if target in _MUL:
            x, factor = (a, b) if isinstance(a, Expression) else (b, a)
            return build.scale(x, _vector(node, factor))
        if not isinstance(a, Expression):
            raise _refuse(node, "a constant divided by a value is not Lipschitz")
        divisor = _vector(node, b)
        if divisor.dtype.kind == "f" and (divisor == 0.0).any():
            raise _refuse(node, "a division by zero")
        return build.scale(a, 1.0 / divisor)

    def _item(self, node: fx.Node, x: Any, index: Any) -> Expression:
        if isinstance(index, tuple | list) and len(index) == 2 and index[0] in (Ellipsis, slice(None)):
            picked = index[1]
            if isinstance(picked, slice):
                return self.builder.select(x, picked)
        raise _refuse(node, f"an index {index!r}; only [..., a:b] picks features")

    def _parts(
        self, node: fx.Node, x: Expression, rest: list[Any], kwargs: dict[str, Any]
    ) -> list[Expression]:
        function = node.target if callable(node.target) else getattr(torch, str(node.target))
        if (rest[1] if len(rest) > 1 else kwargs.get("dim", 0)) not in (-1, 1):
            raise _refuse(node, "a split that is not along features (-1)")
        positions = function(torch.arange(x.size), rest[0] if rest else next(iter(kwargs.values())))
        return [self.builder.select(x, p.numpy()) for p in positions]


def _is_neutral(target: Any, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether a call is a dropout that is off, or a flattening that keeps the batch."""
    if target is F.dropout:
        return (args[2] if len(args) > 2 else kwargs.get("training", True)) is False
    if target in ("flatten", torch.flatten):
        return (args[1] if len(args) > 1 else kwargs.get("start_dim", 0)) in (1, -1)
    return False


def _holds_expression(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return any(_holds_expression(v) for v in values)
    return isinstance(values, Expression)


def _constant(node: fx.Node, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Evaluate a call that reads no value of the network, as the module itself would."""
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(target))(*args[1:], **kwargs)
        return target(*args, **kwargs)


def _attribute(module: nn.Module, path: Any) -> Any:
    value: Any = module
    for name in str(path).split("."):
        value = getattr(value, name)
    return value


def _numbers(tensor: Any) -> Any:
    """Return a tensor as float64 numpy, without change of value."""
    if not isinstance(tensor, torch.Tensor):
        raise UnsupportedOperationError(f"a weight is a {type(tensor).__name__}, not a constant tensor")
    if not tensor.dtype.is_floating_point:
        raise ValueError(f"a weight has dtype {tensor.dtype}; expected real floating point")
    return tensor.detach().to("cpu", torch.float64).numpy()


def _optional(tensor: Any) -> Any:
    return None if tensor is None else _numbers(tensor)


def _vector(node: fx.Node, constant: Any) -> Any:
    if isinstance(constant, torch.Tensor):
        return _numbers(constant.reshape(-1) if constant.ndim <= 1 or constant.numel() == 1 else constant)
    if isinstance(constant, int | float):
        return np.array([float(constant)])
    raise _refuse(node, f"a constant of type {type(constant).__name__}")


def _graph_input_size(module: nn.Module, graph: fx.Graph) -> int:
    """Return the size of the input: of the first Linear that reads it through size-preserving steps."""
    if isinstance(getattr(module, "in_features", None), int):
        return input_size(module)
    frontier = [n for n in graph.nodes if n.op == "placeholder"]
    seen = set(frontier)
    while frontier:
        for user in frontier.pop(0).users:
            if user.op == "call_module":
                part = module.get_submodule(str(user.target))
                if isinstance(part, nn.Linear):
                    return part.in_features
                if not isinstance(part, (*_NEUTRAL, nn.Flatten)) and module_activation(part) is None:
                    raise _refuse(user, f"a {type(part).__name__} module")
            elif user.target is F.linear:
                weight = user.args[1] if len(user.args) > 1 else user.kwargs["weight"]
                if isinstance(weight, fx.Node) and weight.op == "get_attr":
                    return int(_attribute(module, weight.target).shape[1])
            if user not in seen:
                seen.add(user)
                frontier.append(user)
    return input_size(module)
