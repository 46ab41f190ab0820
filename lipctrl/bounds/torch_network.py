"""Front end for torch: traces a module and rebuilds it from the operations that have a rule."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from lipctrl.bounds.graph import Builder, Expression, Network, UnsupportedOperationError, finite, same_network
from lipctrl.bounds.torch_composed import (
    CLAMPS,
    COMPOSED_CALLS,
    Batch,
    clamped,
    composed,
    reshaped,
    sample_shape,
)
from lipctrl.bounds.torch_input import graph_input_size
from lipctrl.bounds.torch_modules import (
    BATCH_NORMS,
    NEUTRAL,
    SHAPED,
    call_activation,
    current,
    evaluation_mode,
    folded_batch_norm,
    kind_of,
    lowered,
    module_activation,
    numbers,
    refuse_what_runs_otherwise,
)
from lipctrl.bounds.torch_trace import Whole, attribute, exported_parts, refusal, traced

_NEUTRAL_CALLS = {"contiguous", "clone", "detach", "float", "double"}
_ADD = {operator.add, operator.iadd, torch.add, "add", "add_", "__add__"}
_SUB = {operator.sub, operator.isub, torch.sub, "sub", "sub_"}
_MUL = {operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"}
_DIV = {operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_"}
_NEG = {operator.neg, torch.neg, "neg"}
_CAT = {torch.cat, torch.concat, torch.concatenate}
_VIEWS = {"view", "reshape", torch.reshape}
_FLATTEN = {torch.flatten, "flatten"}
_PARTS = {torch.split, torch.chunk, torch.tensor_split, "split", "chunk"}
_PART_SIZES = ("split_size", "split_size_or_sections", "chunks", "indices_or_sections")


def read_torch(module: nn.Module, input_shape: Sequence[int] | None = None) -> Network:
    """Return the network that a torch module computes in evaluation mode, weights cast exactly to float64.

    Inputs are batches of feature vectors, features last; with `input_shape` (channels first, without the batch) they
    are tensors of that shape, and the network reads and writes them flattened, last index fastest. torch's
    Softplus is read as the smooth function (its linear branch above 20 differs from it by 2e-9), its GELU as the
    exact one. Batch normalisations are folded with factors rounded to float64.

    Raises
    ------
    UnsupportedOperationError
        For anything without a rule (attention, layer normalisation, products of values, ...), by name; for a
        network that is another one at the next call (random numbers, counters).
    """
    refuse_what_runs_otherwise(module)
    whole = Whole(module, exported_parts(module))
    with evaluation_mode(whole), torch.no_grad():
        first, second = (_Reader(whole, traced(whole), input_shape).read() for _ in range(2))
    if not same_network(first, second):
        raise UnsupportedOperationError(
            f"{type(module).__name__} computes another map at every call: its forward draws random numbers or "
            "counts its calls"
        )
    return first


class _Reader:
    """Walks a traced graph once, value by value."""

    def __init__(self, whole: Whole, graph: fx.Graph, input_shape: Sequence[int] | None) -> None:
        self.whole = whole
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        # Shapes of values that are not vectors of features: channels first.
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.input_shape = None if input_shape is None else sample_shape(input_shape)
        size = graph_input_size(whole, graph) if self.input_shape is None else int(np.prod(self.input_shape))
        self.builder = Builder(size)

    def read(self) -> Network:
        inputs = [n for n in self.graph.nodes if n.op == "placeholder"]
        if len(inputs) != 1:
            raise UnsupportedOperationError(f"the network has {len(inputs)} inputs; expected one")
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.builder.input()
                if self.input_shape is not None and len(self.input_shape) > 1:
                    self.shapes[node] = self.input_shape
            elif node.op == "get_attr":
                self.values[node] = attribute(self.whole, node.target)
            elif node.op == "output":
                result = self._value(node.args[0])
                if not isinstance(result, Expression):
                    raise refusal(node, "the output is not one tensor of features")
                return self.builder.finish(result)
            else:
                self.values[node] = self._step(node)
        raise UnsupportedOperationError("the network has no output")

    def _step(self, node: fx.Node) -> Any:
        """Return what an operation computes; arguments that no rule reads are refused like operations without one."""
        try:
            return self._module(node) if node.op == "call_module" else self._call(node)
        except (LookupError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise refusal(node, f"its arguments are not understood ({error})") from error

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, list | tuple):
            return [self._value(a) for a in argument]
        return argument

    def _module(self, node: fx.Node) -> Expression:
        part = self.whole.get_submodule(str(node.target))
        kind = kind_of(part)
        source = node.args[0] if node.args else None
        x = self._value(source)
        if not isinstance(x, Expression) or len(node.args) != 1 or node.kwargs:
            raise refusal(node, f"{kind.__name__} is not called on one tensor of features")
        shape = self.shapes.get(source) if isinstance(source, fx.Node) else None
        if (
            kind is nn.Flatten
            and part.end_dim == -1
            and part.start_dim in ((1, -1) if shape is None else (1,))
        ):
            return x
        if kind in SHAPED:
            return self._shaped(node, part, x, shape)
        if kind is nn.Linear:
            if shape is not None:
                raise refusal(node, f"a Linear on a value of shape {shape}; flatten it first")
            return self.builder.linear(x, numbers(current(part)), _optional(current(part, "bias")))
        if shape is not None:
            self.shapes[node] = shape
        if kind in (*NEUTRAL, *BATCH_NORMS) and part.training:
            raise refusal(node, f"the {kind.__name__} stays in training mode when the network is evaluated")
        if kind in NEUTRAL:
            return x
        if kind in BATCH_NORMS:
            factor, shift = folded_batch_norm(part)
            repeats = 1 if shape is None else int(np.prod(shape[1:]))
            scaled = self.builder.scale(x, np.repeat(factor, repeats))
            return self.builder.shift(scaled, np.repeat(shift, repeats))
        if kind is nn.PReLU:
            return self._prelu(x, numbers(current(part)), shape)
        found = composed(self.builder, x, part)
        if found is not None:
            return found
        spec = module_activation(part)
        if spec is None:
            raise refusal(node, f"a {kind.__name__} module")
        return self.builder.activate(x, spec)

    def _shaped(
        self, node: fx.Node, part: nn.Module, x: Expression, shape: tuple[int, ...] | None
    ) -> Expression:
        """Lower a convolution or average pool to its matrix."""
        kind = type(part).__name__
        if shape is None:
            raise refusal(node, f"{kind} needs input_shape=(channels, ...), the shape of one input")
        matrix, bias, out = lowered(part, shape)
        self.shapes[node] = out
        return self.builder.linear(x, matrix, bias)

    def _prelu(self, x: Expression, slopes: np.ndarray, shape: tuple[int, ...] | None) -> Expression:
        """PReLU, one slope for each channel."""
        repeats = 1 if shape is None else int(np.prod(shape[1:]))
        a = np.broadcast_to(slopes, (x.size // repeats,)).repeat(repeats)
        return self.builder.kinked(x, a)

    def _call(self, node: fx.Node) -> Any:
        target, args = node.target, [self._value(a) for a in node.args]
        kwargs = {k: self._value(v) for k, v in node.kwargs.items()}
        if not _holds_expression([*args, *kwargs.values()]):
            return _constant(node, target, args, kwargs)
        if target in _CAT:
            return self._concat(node, args, kwargs)
        if target == "size" or target is getattr:
            return self._sizes(node, args, kwargs)
        if target in _VIEWS:
            return self._view(node, args, kwargs)
        if target in _FLATTEN:
            return self._flatten(node, args, kwargs)
        self._keep_shape(node, target)
        x = args[0] if args else kwargs.pop("input", None)
        if target in _ADD | _SUB | _MUL | _DIV | _NEG:
            return self._arithmetic(node, args, kwargs)
        if target is operator.getitem and isinstance(x, list):
            return x[args[1]]
        if not isinstance(x, Expression):
            raise refusal(node)
        if target in _NEUTRAL_CALLS or _is_off(target, args, kwargs):
            return x
        if target is F.prelu:
            return self._prelu(x, numbers(_argument(args, kwargs, 1, "weight")), self.shapes.get(node))
        found = self._activation(target, x, args[1:], kwargs)
        if found is not None:
            return found
        if target is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return self.builder.linear(x, numbers(weight), _optional(bias))
        if target in (operator.matmul, torch.matmul, "matmul") and isinstance(args[1], torch.Tensor):
            return self.builder.linear(x, numbers(args[1].T))
        if target is operator.getitem:
            return self._item(node, x, args[1])
        if target in _PARTS:
            return self._parts(node, x, args[1:], kwargs)
        raise refusal(node)

    def _activation(
        self, target: Any, x: Expression, rest: list[Any], kwargs: dict[str, Any]
    ) -> Expression | None:
        options = {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}
        if target in COMPOSED_CALLS:
            found = composed(self.builder, x, COMPOSED_CALLS[target](*rest, **options))
            if found is not None:
                return found
        spec = call_activation(target, rest, kwargs)
        if spec is not None:
            return self.builder.activate(x, spec)
        return clamped(self.builder, x, target, rest, options) if target in CLAMPS else None

    def _sizes(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Return the shape of a value, whose first entry is the unknown batch, or one entry of it."""
        x = args[0]
        if not isinstance(x, Expression) or (node.target is getattr and args[1] != "shape"):
            raise refusal(node)
        source = node.all_input_nodes[0]
        sizes = [Batch(), *self.shapes.get(source, (x.size,))]
        picked = args[1] if len(args) > 1 else kwargs.get("dim")
        return sizes if node.target is getattr or not isinstance(picked, int) else sizes[picked]

    def _view(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Expression:
        """Return a value whose samples take another shape: the numbers stay where they are."""
        x, dims = args[0], args[1:] or [kwargs.get("shape", ())]
        if len(dims) == 1 and isinstance(dims[0], list | tuple):
            dims = list(dims[0])
        shape = reshaped(x.size, dims) if isinstance(x, Expression) else None
        if shape is None:
            raise refusal(node, "only reshapes such as (x.size(0), -1), which keep the batch, are known")
        if len(shape) > 1:
            self.shapes[node] = shape
        return x

    def _flatten(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Expression:
        """Return a value flattened to a vector of features; flattening one axis alone changes nothing."""
        x = _argument(args, kwargs, 0, "input")
        if not isinstance(x, Expression):
            raise refusal(node)
        shape = self.shapes.get(node.all_input_nodes[0], (x.size,))
        first, last = _argument(args, kwargs, 1, "start_dim", 0), _argument(args, kwargs, 2, "end_dim", -1)
        first, last = first % (len(shape) + 1), last % (len(shape) + 1)
        if first == last and len(shape) > 1:
            self.shapes[node] = shape
        elif (first, last) != (1, len(shape)):
            raise refusal(
                node, f"axes {first} to {last} of a value of shape {shape}; expected all but the batch"
            )
        return x

    def _keep_shape(self, node: fx.Node, target: Any) -> None:
        """Carry the shape of tensors through element-wise calls; refuse calls that would mix it up."""
        given = [v for v in node.all_input_nodes if isinstance(self.values.get(v), Expression)]
        shapes = {self.shapes.get(v) for v in given}
        if shapes <= {None}:
            return
        keeps = target in _ADD | _SUB | _MUL | _DIV | _NEG | _NEUTRAL_CALLS | {F.prelu, F.dropout}
        rest = [v for v in node.args[1:] if not isinstance(v, fx.Node)]
        keeps = keeps or target in CLAMPS or target in COMPOSED_CALLS
        if not keeps and call_activation(target, rest, dict(node.kwargs)) is None:
            raise refusal(node, "on a value that is not a vector of features")
        if len(shapes) > 1:
            raise refusal(node, f"values of the shapes {shapes}")
        if any(v.numel() > 1 for v in map(self._value, node.all_input_nodes) if isinstance(v, torch.Tensor)):
            raise refusal(node, "a constant tensor on a value that is not a vector of features")
        (shape,) = shapes
        if shape is not None:
            self.shapes[node] = shape

    def _concat(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Expression:
        parts = args[0] if args else kwargs["tensors"]
        axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
        if axis not in (-1, 1):
            raise refusal(node, f"a concatenation along axis {axis}, not along features (-1)")
        if not all(isinstance(p, Expression) for p in parts):
            raise refusal(node, "a concatenation with a constant")
        sources: Any = node.args[0] if node.args else node.kwargs["tensors"]
        # The parts of a split are vectors of features.
        shapes = [] if isinstance(sources, fx.Node) else [self.shapes.get(v) for v in sources]
        known = [s for s in shapes if s]
        if known:
            # Flattened, channels lie one after the other: only along them is a concatenation one of the vectors.
            if axis != 1 or len({s and s[1:] for s in shapes}) > 1:
                raise refusal(node, f"a concatenation of values of the shapes {shapes} along axis {axis}")
            self.shapes[node] = (sum(s[0] for s in known), *known[0][1:])
        return self.builder.concat(parts)

    def _arithmetic(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Expression:
        target, build = node.target, self.builder
        if any(isinstance(a, Batch) for a in args):
            raise refusal(node, "the size of the batch is not known")
        if target in _NEG:
            return build.scale(args[0], -1.0)
        if set(kwargs) - {"alpha"} or len(args) != 2:
            raise refusal(node, f"arguments {sorted(kwargs)}")
        a, b = args
        alpha = kwargs.get("alpha", 1)
        if target in _ADD | _SUB:
            sign = alpha if target in _ADD else -alpha
            b = build.scale(b, sign) if isinstance(b, Expression) else sign * _vector(node, b)
            if isinstance(a, Expression):
                return build.add(a, b) if isinstance(b, Expression) else build.shift(a, b)
            return build.shift(b, _vector(node, a))
        if isinstance(a, Expression) and isinstance(b, Expression):
            found = build.gated(a, b) if target in _MUL else None
            if found is not None:
                return found
            raise refusal(node, "a product or quotient of two values is not Lipschitz")
        if target in _MUL:
            x, factor = (a, b) if isinstance(a, Expression) else (b, a)
            return build.scale(x, _vector(node, factor))
        if not isinstance(a, Expression):
            raise refusal(node, "a constant divided by a value is not Lipschitz")
        divisor = _vector(node, b)
        if (divisor == 0.0).any():
            raise refusal(node, "a division by zero")
        return build.scale(a, 1.0 / divisor)

    def _item(self, node: fx.Node, x: Any, index: Any) -> Expression:
        if isinstance(index, tuple | list) and len(index) == 2 and index[0] in (Ellipsis, slice(None)):
            picked = index[1]
            if isinstance(picked, slice):
                return self.builder.select(x, picked)
        raise refusal(node, f"an index {index!r}; only [..., a:b] picks features")

    def _parts(
        self, node: fx.Node, x: Expression, rest: list[Any], kwargs: dict[str, Any]
    ) -> list[Expression]:
        function = node.target if callable(node.target) else getattr(torch, str(node.target))
        if _argument(rest, kwargs, 1, "dim", 0) not in (-1, 1):
            raise refusal(node, "a split that is not along features (-1)")
        sizes = rest[0] if rest else next((kwargs[name] for name in _PART_SIZES if name in kwargs), None)
        positions = function(torch.arange(x.size), sizes)
        return [self.builder.select(x, p.numpy()) for p in positions]


def _argument(args: list[Any], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    """Return an argument that is given by its place or by its name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def _is_off(target: Any, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether a call is a dropout that is off."""
    return target is F.dropout and _argument(args, kwargs, 2, "training", True) is False


def _holds_expression(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return any(_holds_expression(v) for v in values)
    return isinstance(values, Expression | Batch)


def _constant(node: fx.Node, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Evaluate a call that reads no value of the network, as the module itself would."""
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(target))(*args[1:], **kwargs)
        return target(*args, **kwargs)


def _optional(tensor: Any) -> Any:
    return None if tensor is None else numbers(tensor)


def _vector(node: fx.Node, constant: Any) -> Any:
    if isinstance(constant, torch.Tensor):
        # Broadcasting along the batch: every axis but the last has length one.
        if constant.ndim > 1 and constant.numel() != constant.shape[-1]:
            raise refusal(node, f"a constant of shape {tuple(constant.shape)}, not one number a feature")
        flat = constant.reshape(-1)
        return numbers(flat) if flat.dtype.is_floating_point else finite("a constant", flat.cpu().numpy() + 0)
    if isinstance(constant, int | float):
        return np.array([float(constant)])
    raise refusal(node, f"a constant of type {type(constant).__name__}")
