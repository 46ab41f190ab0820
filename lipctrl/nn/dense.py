"""One buffer for all neurons: the form of a folded network that a training loop runs fastest.

Between nonlinearities a chain of blocks is linear, so every layer can read the input and all neurons before it
directly. Narrow inputs and outputs then cost next to nothing, and no signal is copied from block to block. The
map is the same up to rounding; what is exported and certified stays the folded chain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lipctrl.nn.explicit import Affine, Chain, Explicit, Neurons
from lipctrl.nn.module import composed

_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_}
# The derivative from the value of the activation alone: the buffer holds nothing else.
_BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda g, w: torch.ops.aten.threshold_backward(g, w, 0.0),
    "tanh": lambda g, w: torch.ops.aten.tanh_backward(g, w),
}
State = tuple[Tensor | None, Tensor | None]
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
RUNNABLE = frozenset(_PLAIN)


@dataclass(frozen=True)
class Dense:
    """w_l = σ_l(W_l [x; w_1; …; w_{l-1}] + b_l), y = W [x; w_1; …; w_n] + b.

    Attributes
    ----------
    weights, biases : of the n layers and, last, of the output.
    activations : names of the n activations.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activations: tuple[str, ...]

    def run(self, x: Tensor) -> Tensor:
        """Apply the map to (..., in_features)."""
        if composed() or x.dim() != 2:
            return _plain(x, self.activations, self.weights, self.biases)
        return _Run.apply(x, self.activations, *self.weights, *self.biases)

    def products(self) -> int:
        """Return the multiplications that one input takes."""
        return sum(w.numel() for w in self.weights)


def _plain(
    x: Tensor, activations: Sequence[str], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    for sigma, weight, bias in zip(activations, weights, biases, strict=False):
        x = torch.cat((x, _PLAIN[sigma](F.linear(x, weight, bias))), -1)
    return F.linear(x, weights[-1], biases[-1])


class _Run(torch.autograd.Function):
    """`_plain` without a copy: layers write into one buffer, and their gradients into another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activations: tuple[str, ...], *parameters: Tensor) -> Tensor:
        weights, biases = parameters[: len(activations) + 1], parameters[len(activations) + 1 :]
        buffer = x.new_empty(len(x), weights[-1].shape[-1])
        at = x.shape[-1]
        buffer[:, :at] = x
        for sigma, weight, bias in zip(activations, weights, biases, strict=False):
            layer = buffer[:, at : at + len(weight)]
            torch.addmm(bias, buffer[:, :at], weight.mT, out=layer)
            _IN_PLACE[sigma](layer)
            at += len(weight)
        ctx.save_for_backward(x, buffer, *parameters)
        ctx.activations = activations
        return torch.addmm(biases[-1], buffer, weights[-1].mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, buffer, *parameters = ctx.saved_tensors
        count = len(ctx.activations) + 1
        weights = parameters[:count]
        if torch.is_grad_enabled():
            inputs = (x, *parameters)
            y = _plain(x, ctx.activations, weights, parameters[count:])
            found = torch.autograd.grad(y, inputs, gradient, create_graph=True, allow_unused=True)
            return found[0], None, *found[1:]
        by_weight, by_bias = [gradient.mT @ buffer], [gradient.sum(0)]
        # Without a gradient of the input its columns are left out.
        start = 0 if ctx.needs_input_grad[0] else x.shape[-1]
        inner = gradient @ weights[-1][:, start:]
        at = buffer.shape[-1]
        for sigma, weight in zip(ctx.activations[::-1], weights[-2::-1], strict=True):
            end, at = at, at - len(weight)
            g = _BACKWARD[sigma](inner[:, at - start : end - start], buffer[:, at:end])
            by_weight.append(g.mT @ buffer[:, :at])
            by_bias.append(g.sum(0))
            if at > start:
                inner[:, : at - start].addmm_(g, weight[:, start:])
        by_input = inner[:, : x.shape[-1]] if start == 0 else None
        return by_input, None, *by_weight[::-1], *by_bias[::-1]


def condense(explicit: Explicit) -> Explicit | Dense:
    """Return the dense form of a chain of affine maps and neurons where it takes fewer products, else the map itself.

    Differentiable in the folded weights. Activations other than ReLU and tanh, and maps of other kinds, stay as
    they are.

    Examples
    --------
    >>> import torch; from lipctrl.nn import LipschitzResNet
    >>> net, x = LipschitzResNet(3, 1, width=16, depth=2), torch.ones(1, 3)
    >>> torch.allclose(condense(net.explicit()).run(x), net(x))
    True
    """
    parts = explicit.parts if isinstance(explicit, Chain) else (explicit,)
    if not _fits(parts):
        return explicit
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    names: list[Any] = []
    state: State = (None, None)  # the signal between parts is S [x; w_1; …] + c; None is I, and 0
    for part in parts:
        if isinstance(part, Affine):
            state = _after(part.weight, part.bias, state)
            continue
        assert isinstance(part, Neurons)
        widths = [len(layer.bias) for layer in part.layers]
        for i, layer in enumerate(part.layers):
            weight, bias = _joined(layer.sources, layer.bias, state, widths[:i], part.in_features)
            weights.append(weight)
            biases.append(bias)
            names.append(layer.activation)
        state = _joined(part.output, part.bias, state, widths, part.in_features)
    matrix, constant = state
    assert matrix is not None
    constant = matrix.new_zeros(len(matrix)) if constant is None else constant
    dense = Dense((*weights, matrix), (*biases, constant), tuple(names))
    return dense if dense.products() <= _products(parts) else explicit


def _fits(parts: Sequence[Explicit]) -> bool:
    """Tell whether there are neurons, all with activations of `_PLAIN`, and nothing but affine maps besides."""
    neurons = [p for p in parts if isinstance(p, Neurons)]
    return (
        bool(neurons)
        and all(isinstance(p, (Affine, Neurons)) for p in parts)
        and all(isinstance(l.activation, str) and l.activation in RUNNABLE for p in neurons for l in p.layers)
    )


def _products(parts: Sequence[Explicit]) -> int:
    total = 0
    for part in parts:
        if isinstance(part, Affine):
            total += part.weight.numel()
        elif isinstance(part, Neurons):
            total += sum(w.numel() for layer in part.layers for w in layer.sources.values())
            total += sum(w.numel() for w in part.output.values())
    return total


def _after(weight: Tensor, bias: Tensor | None, state: State) -> tuple[Tensor, Tensor | None]:
    matrix, constant = state
    if constant is not None:
        bias = weight @ constant if bias is None else torch.addmv(bias, weight, constant)
    return (weight if matrix is None else weight @ matrix), bias


def _joined(
    sources: Mapping[int, Tensor], bias: Tensor, state: State, widths: Sequence[int], features: int
) -> tuple[Tensor, Tensor]:
    """Return (weight, bias) over [x; all neurons before] of a layer that reads the part's input and its neurons.

    `widths` are those of the part's neurons before it.
    """
    matrix, whole = state[0], bias
    if 0 in sources:
        first, found = _after(sources[0], bias, state)
        whole = bias if found is None else found
    else:
        first = bias.new_zeros(len(bias), features if matrix is None else matrix.shape[-1])
    blocks = [first]
    for j, width in enumerate(widths, 1):
        blocks.append(sources[j] if j in sources else bias.new_zeros(len(bias), width))
    return (first if len(blocks) == 1 else torch.cat(blocks, -1)), whole
