"""Front end for ONNX: rebuilds a graph from the operators that have a rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lipctrl.bounds.graph import Builder, Expression, Network, UnsupportedOperationError, finite

_ONNX_PLAIN = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Abs": "abs",
    "Sin": "sin",
    "Atan": "arctan",
}
_PLAIN_CONSTANTS = ("value_float", "value_floats", "value_int", "value_ints")
# Element types that a cast may name: the claim concerns the real-arithmetic map (TensorProto.FLOAT and DOUBLE).
_REAL_TYPES = (1, 11)
# Before it, normalisations and dropouts trained by default and broadcasting followed attributes.
_OLDEST_OPSET = 7


def read_onnx(path: Path) -> Network:
    """Return the network of an ONNX file of Gemm, MatMul, Add, Sub, Mul, Div, Neg, Concat, folded norms, activations.

    Raises
    ------
    UnsupportedOperationError
        For an operator without a rule, by name.
    ValueError
        For a file that is not an ONNX model.
    ImportError
        When `onnx` is not installed (extra "onnx").
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        model = onnx.load(str(path))
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path} is not an ONNX model: {error}") from error
    if any(function.domain in ("", "ai.onnx") for function in model.functions):
        raise UnsupportedOperationError(f"{path} gives an operator of ONNX another meaning")
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if min(versions, default=_OLDEST_OPSET) < _OLDEST_OPSET:
        raise UnsupportedOperationError(
            f"{path} has the operator set {min(versions)}; export it with 7 or later"
        )
    graph = model.graph
    values: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    name, rank, features = _the_input(graph, values)
    builder = Builder(features)
    values[name] = builder.input()
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        attributes["rank"] = rank
        results = _onnx_node(builder, node, _operands(node, values), attributes)
        for name, result in zip(node.output, results, strict=False):
            if name in values:
                raise ValueError(f"{path} is not an ONNX model: {name!r} is computed twice")
            values[name] = result
    output = values.get(graph.output[0].name)
    if not isinstance(output, Expression):
        raise UnsupportedOperationError("the ONNX output is not a tensor of features")
    return builder.finish(output)


def _the_input(graph: Any, values: dict[str, Any]) -> tuple[str, int, int]:
    """Return the name, the number of dimensions and the number of features of the one input."""
    inputs = [i for i in graph.input if i.name not in values]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UnsupportedOperationError(
            f"the ONNX graph has {len(inputs)} inputs and {len(graph.output)} outputs; expected one of each"
        )
    dims = inputs[0].type.tensor_type.shape.dim
    features = dims[-1].dim_value if len(dims) else 0
    if features < 1:
        raise ValueError("the ONNX input has no fixed number of features in its last dimension")
    return inputs[0].name, len(dims), int(features)


def _operands(node: Any, values: dict[str, Any]) -> list[Any]:
    """Return what a node reads, None where an optional input is left out."""
    unknown = [n for n in node.input if n and n not in values]
    if unknown or node.domain not in ("", "ai.onnx"):
        raise UnsupportedOperationError(
            f"ONNX operator {node.op_type!r} (node {node.name!r}) has no rule: "
            + (f"it reads {unknown[0]!r}, of no known value" if unknown else f"domain {node.domain!r}")
        )
    return [values[n] if n else None for n in node.input]


def _onnx_node(builder: Builder, node: Any, args: list[Any], attributes: dict[str, Any]) -> list[Any]:
    kind = node.op_type
    refusal = UnsupportedOperationError(f"ONNX operator {kind!r} (node {node.name!r}) has no rule")
    if kind == "Constant":
        from onnx import numpy_helper

        if "value" in attributes:
            return [numpy_helper.to_array(attributes["value"])]
        plain = [attributes[name] for name in _PLAIN_CONSTANTS if name in attributes]
        if not plain:
            raise refusal
        return [np.array(plain[0])]
    if not any(isinstance(a, Expression) for a in args):
        return [_onnx_constant(kind, args, attributes, refusal)]
    handler = _ONNX.get(kind)
    if kind in _ONNX_PLAIN:
        return [builder.activate(args[0], _ONNX_PLAIN[kind])]
    if handler is None or len(args) < _LEAST_INPUTS.get(kind, 1):
        raise refusal
    found = handler(builder, args, attributes, refusal)
    return found if isinstance(found, list) else [found]


def _onnx_constant(kind: str, args: list[Any], attributes: dict[str, Any], refusal: Exception) -> Any:
    if kind == "Transpose":
        return np.transpose(args[0], attributes.get("perm"))
    if kind == "Identity":
        return args[0]
    raise refusal


def _gemm(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    x, weight = args[0], args[1]
    if not isinstance(x, Expression) or not isinstance(weight, np.ndarray) or weight.ndim != 2:
        raise refusal
    if at["rank"] != 2 or at.get("transA", 0):
        raise refusal
    y = b.linear(x, weight if at.get("transB", 0) else weight.T)
    y = b.scale(y, at.get("alpha", 1.0))
    if len(args) > 2 and args[2] is not None:
        constant = _flat(args[2])
        factor = float(at.get("beta", 1.0))
        y = b.shift(y, constant if factor == 1.0 else factor * constant)
    return y


def _matmul(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    x, weight = args
    if not isinstance(x, Expression) or not isinstance(weight, np.ndarray) or weight.ndim != 2:
        raise refusal
    return b.linear(x, weight.T)


def _flat(constant: Any) -> np.ndarray:
    """Return a constant that is one number or one for each feature; any other would turn a vector into a matrix."""
    array = finite("a constant", constant)
    if array.size == 0 or array.size != (array.shape or (1,))[-1]:
        raise UnsupportedOperationError(
            f"a constant has shape {array.shape}; expected one number or one for each feature, features last"
        )
    return array.reshape(-1)


def _identity(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    return args[0]


def _dropout(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    training = args[2] if len(args) > 2 else None
    if training is not None and (isinstance(training, Expression) or np.any(training)):
        raise refusal
    return args[0]


def _flatten(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    if at["rank"] != 2 or at.get("axis", 1) not in (-1, 1):
        raise refusal
    return args[0]


def _add(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    first, second = args
    if isinstance(first, Expression) and isinstance(second, Expression):
        return b.add(first, second)
    return b.shift(first, _flat(second)) if isinstance(first, Expression) else b.shift(second, _flat(first))


def _sub(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    first, second = args
    negative = b.scale(second, -1.0) if isinstance(second, Expression) else -_flat(second)
    return _add(b, [first, negative], at, refusal)


def _mul(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    first, second = args
    if isinstance(first, Expression) and isinstance(second, Expression):
        found = b.gated(first, second)
        if found is None:
            raise refusal
        return found
    return b.scale(first, _flat(second)) if isinstance(first, Expression) else b.scale(second, _flat(first))


def _div(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    first, second = args
    if not isinstance(first, Expression) or isinstance(second, Expression) or not _flat(second).all():
        raise refusal
    return b.scale(first, 1.0 / _flat(second))


def _concatenation(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    if at.get("axis") not in (-1, at["rank"] - 1) or not all(isinstance(a, Expression) for a in args):
        raise refusal
    return b.concat(args)


def _leaky(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    return b.activate(args[0], {"name": "leaky_relu", "slope": float(at.get("alpha", np.float32(0.01)))})


def _elu(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    alpha = float(at.get("alpha", 1.0))
    return b.activate(args[0], "elu" if alpha == 1.0 else {"name": "elu", "alpha": alpha})


def _clip(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    if any(isinstance(a, Expression) for a in args[1:]):
        raise refusal
    if any(np.size(a) != 1 for a in args[1:] if a is not None):
        raise refusal
    ends = [None if a is None else float(_flat(a)[0]) for a in [*args[1:], None, None]]
    low, high = at.get("min", ends[0]), at.get("max", ends[1])
    if low == 0.0 and high is None:
        return b.activate(args[0], "relu")
    if low is not None and high is None:
        return _at_least(b, args[0], low)
    if high is not None and low is None:
        return _at_most(b, args[0], high)
    if low is None or high is None or not low <= high:
        raise refusal
    return b.clip(args[0], low, high)


def _at_least(b: Builder, x: Expression, low: Any) -> Expression:
    """Return max(x, a) = a + relu(x - a)."""
    return b.shift(b.activate(b.shift(x, -low), "relu"), low)


def _at_most(b: Builder, x: Expression, high: Any) -> Expression:
    """Return min(x, b) = b - relu(b - x)."""
    below = b.activate(b.shift(b.scale(x, -1.0), high), "relu")
    return b.shift(b.scale(below, -1.0), high)


def _extreme(limited: Callable[[Builder, Expression, Any], Expression]) -> Any:
    """Return the rule of Max or Min of a value and a constant."""

    def rule(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
        constants = [a for a in args if not isinstance(a, Expression)]
        if len(args) != 2 or len(constants) != 1:
            raise refusal
        (x,) = (a for a in args if isinstance(a, Expression))
        return limited(b, x, _flat(constants[0]))

    return rule


def _prelu(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    if not isinstance(args[1], np.ndarray):
        raise refusal
    a = np.broadcast_to(_flat(args[1]), (args[0].size,))
    return b.kinked(args[0], a)


def _batch_norm(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    # Channels stand behind the batch: they are features for vectors only.
    if at["rank"] != 2 or at.get("training_mode", 0) or not all(isinstance(a, np.ndarray) for a in args[1:5]):
        raise refusal
    weight, bias, mean, variance = (_flat(a) for a in args[1:5])
    factor = weight / np.sqrt(variance + float(at.get("epsilon", np.float32(1e-5))))
    return b.shift(b.scale(args[0], factor), bias - mean * factor)


def _sum(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    total: Any = next(a for a in args if isinstance(a, Expression))
    rest = list(args)
    rest.pop(next(i for i, a in enumerate(args) if a is total))
    for a in rest:
        total = _add(b, [total, a], at, refusal)
    return total


def _cast(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    if at.get("to") not in _REAL_TYPES:
        raise refusal
    return args[0]


def _slice(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    """Pick features; up to operator set 9 the ends are attributes."""
    names = ("starts", "ends", "axes", "steps")
    ends = [
        at.get(name) if a is None else a for name, a in zip(names, [*args[1:], *[None] * 4], strict=False)
    ]
    if any(isinstance(e, Expression) for e in ends) or ends[0] is None or ends[1] is None:
        raise refusal
    starts, stops, axes, steps = ([] if e is None else np.asarray(e).ravel().tolist() for e in ends)
    if (len(starts), len(stops)) != (1, 1) or axes not in ([-1], [at["rank"] - 1]):
        raise refusal
    return b.select(args[0], slice(starts[0], stops[0], *steps))


def _split(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> list[Expression]:
    sizes = args[1] if len(args) > 1 and args[1] is not None else at.get("split")
    if at.get("axis", 0) not in (-1, at["rank"] - 1) or sizes is None or isinstance(sizes, Expression):
        raise refusal
    borders = np.cumsum([0, *np.asarray(sizes).ravel().tolist()])
    if borders[-1] != args[0].size or (np.diff(borders) < 0).any():
        raise refusal
    return [b.select(args[0], slice(i, j)) for i, j in itertools.pairwise(borders)]


def _gelu(b: Builder, args: list[Any], at: dict[str, Any], refusal: Exception) -> Expression:
    if at.get("approximate", b"none") not in (b"none", "none"):
        raise refusal
    return b.activate(args[0], "gelu")


_LEAST_INPUTS = {
    **dict.fromkeys(("Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "PRelu"), 2),
    "BatchNormalization": 5,
}
_ONNX: dict[str, Callable[[Builder, list[Any], dict[str, Any], Exception], Any]] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Neg": lambda b, args, at, refusal: b.scale(args[0], -1.0),
    "Concat": _concatenation,
    "Sum": _sum,
    "Cast": _cast,
    "Slice": _slice,
    "Split": _split,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Clip": _clip,
    "Max": _extreme(_at_least),
    "Min": _extreme(_at_most),
    "PRelu": _prelu,
    "BatchNormalization": _batch_norm,
    "Gelu": _gelu,
}
