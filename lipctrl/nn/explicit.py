"""Explicit maps: what runs, what is exported and what is certified, free of any parametrisation.

`CertifiedModule.fold()` returns one of these. The certificate describes exactly the tensors that run, cast
to float64 without change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipctrl import rules
from lipctrl.certificate import Certificate
from lipctrl.nn.activations import Spec, activation_module
from lipctrl.rules import Layer, Output

Witness = Callable[[Sequence[Layer], Output], Sequence[Any]]

# Slack per layer that folded weights of each precision need; networks set aside as much (`reserved`).
LAYER_SLACK = {torch.float64: 1e-9, torch.float32: 3e-7}
# Multiples of it that are tried; the large ones are for weights of extreme scales.
SLACK_STEPS = (1e-2, *(2.0 ** (0.5 * k) for k in range(27)))


def layer_slack(dtype: torch.dtype) -> float:
    """Return the relative slack a layer for weights of this precision.

    Raises
    ------
    TypeError
        For precisions whose rounding leaves no useful bound; fold in float32 and cast an export instead.
    """
    if dtype not in LAYER_SLACK:
        raise TypeError(f"parameters are {dtype}; certified networks fold in float32 or float64")
    return LAYER_SLACK[dtype]


def reserved(dtype: torch.dtype, layers: int) -> float:
    """Return the factor below 1 by which a block of so many layers lowers its gain, to pay for its slack."""
    return (1.0 + layer_slack(dtype)) ** (-0.5 * (layers + 1))


def numbers(tensor: Tensor) -> np.ndarray:
    """Return a tensor as float64 numpy, unchanged in value.

    Raises
    ------
    ValueError
        When an entry is NaN or inf.
    """
    array = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        raise ValueError(
            "a folded weight is NaN or inf, so nothing can be certified: the parameters have diverged; "
            "restore an earlier checkpoint, or lower the learning rate"
        )
    return array


class Explicit(ABC):
    """A map with explicit weights."""

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """Apply the map to (..., in_features)."""

    @abstractmethod
    def certificate(self) -> Certificate:
        """Return a proved certificate of exactly these weights."""

    @abstractmethod
    def export(self) -> nn.Module:
        """Return a plain torch module of the same map."""

    def affine(self) -> Affine | None:
        """Return the map as one affine map when all of its nonlinearities are the identity, else None."""
        return None

    @abstractmethod
    def shifted(self, offset: Tensor) -> Explicit:
        """Return the map plus a constant."""


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return an nn.Linear that holds these numbers and does not train."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


@dataclass(frozen=True)
class Affine(Explicit):
    """y = W x + b; its certified gain is a proved bound of the largest singular value."""

    weight: Tensor
    bias: Tensor | None = None

    def run(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def certificate(self) -> Certificate:
        return rules.linear(numbers(self.weight), None if self.bias is None else numbers(self.bias))

    def export(self) -> nn.Module:
        return frozen_linear(self.weight, self.bias)

    def affine(self) -> Affine:
        return self

    def shifted(self, offset: Tensor) -> Affine:
        return replace(self, bias=offset if self.bias is None else self.bias + offset)

    def after(self, first: Affine) -> Affine:
        """Return the composition self ∘ first."""
        bias = self.bias
        if first.bias is not None:
            bias = F.linear(first.bias, self.weight, self.bias)
        return Affine(self.weight @ first.weight, bias)


@dataclass(frozen=True)
class NeuronLayer:
    """w_l = σ(Σ_j sources[j] w_j + bias); index 0 is the input. σ is a name, a table, or a nested map."""

    sources: Mapping[int, Tensor]
    bias: Tensor
    activation: Spec | Explicit

    def nonlinearity(self) -> Callable[[Tensor], Tensor]:
        """Return σ as a function of tensors."""
        if isinstance(self.activation, Explicit):
            return self.activation.run
        if isinstance(self.activation, str) and self.activation in _STATELESS:
            return _STATELESS[self.activation]
        return activation_module(self.activation)


# Building a module a layer and call costs as much as running it.
_STATELESS = {name: activation_module(name) for name in ("relu", "tanh", "identity")}


def _weighted_sum(z: Sequence[Tensor], sources: Mapping[int, Tensor], bias: Tensor) -> Tensor:
    if len(sources) == 1:
        ((j, weight),) = sources.items()
        return F.linear(z[j], weight, bias)
    # One product instead of one a source: the inputs are narrow, the calls are what costs.
    return F.linear(torch.cat([z[j] for j in sources], -1), torch.cat(list(sources.values()), -1), bias)


class PlainNeurons(nn.Module):
    """A graph of neurons in plain layers: one nn.Linear a layer over the concatenation of its sources."""

    def __init__(self, graph: Neurons) -> None:
        super().__init__()
        self.sources = [tuple(layer.sources) for layer in graph.layers]
        self.output_sources = tuple(graph.output)
        self.layers = nn.ModuleList(
            frozen_linear(torch.cat(list(layer.sources.values()), -1), layer.bias) for layer in graph.layers
        )
        self.activations = nn.ModuleList(
            layer.activation.export()
            if isinstance(layer.activation, Explicit)
            else activation_module(layer.activation)
            for layer in graph.layers
        )
        self.output = frozen_linear(torch.cat(list(graph.output.values()), -1), graph.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = [x]
        for sources, layer, sigma in zip(self.sources, self.layers, self.activations, strict=True):
            v = z[sources[0]] if len(sources) == 1 else torch.cat([z[j] for j in sources], -1)
            z.append(sigma(layer(v)))
        sources = self.output_sources
        return self.output(z[sources[0]] if len(sources) == 1 else torch.cat([z[j] for j in sources], -1))


@dataclass(frozen=True)
class Neurons(Explicit):
    """A feed-forward graph of neurons with skips, y = Σ_j output[j] w_j + bias, whose gain one LMI proves.

    `witness` computes the LMI's multipliers from the float64 weights; `gain` is what the construction claims.
    """

    layers: tuple[NeuronLayer, ...]
    output: Mapping[int, Tensor]
    bias: Tensor
    gain: float | Tensor
    witness: Witness
    in_features: int
    # The read-outs side by side, where a fold has them so: one product, and no copy for every gradient.
    packed: Tensor | None = None

    def run(self, x: Tensor) -> Tensor:
        z = [x]
        for layer in self.layers:
            z.append(layer.nonlinearity()(_weighted_sum(z, layer.sources, layer.bias)))
        if self.packed is not None:
            return F.linear(torch.cat([z[j] for j in self.output], -1), self.packed, self.bias)
        return _weighted_sum(z, self.output, self.bias)

    def numeric(self) -> tuple[list[Layer], Output]:
        """Return the graph in float64, in the form that the rules take."""
        layers = [
            Layer(
                {j: numbers(w) for j, w in layer.sources.items()},
                layer.activation.certificate()
                if isinstance(layer.activation, Explicit)
                else layer.activation,
                numbers(layer.bias),
            )
            for layer in self.layers
        ]
        return layers, Output({j: numbers(w) for j, w in self.output.items()}, numbers(self.bias))

    def certificate(self) -> Certificate:
        layers, output = self.numeric()
        unit = layer_slack(self.bias.dtype)
        return rules.prove_neurons(
            layers,
            output,
            self.witness(layers, output),
            float(self.gain),
            in_features=self.in_features,
            slacks=[unit * step for step in SLACK_STEPS],
        )

    def export(self) -> nn.Module:
        return PlainNeurons(self)

    def shifted(self, offset: Tensor) -> Neurons:
        return replace(self, bias=self.bias + offset)

    def affine(self) -> Affine | None:
        if not all(
            isinstance(layer.activation, str) and layer.activation == "identity" for layer in self.layers
        ):
            return None
        like = self.bias
        eye = torch.eye(self.in_features, dtype=like.dtype, device=like.device)
        weights, constants = [eye], [like.new_zeros(self.in_features)]
        for sources, bias in [*((l.sources, l.bias) for l in self.layers), (self.output, self.bias)]:
            weight, constant = torch.zeros_like(bias)[:, None] * eye[:1], bias
            for j, w in sources.items():
                weight = weight + w @ weights[j]
                constant = constant + F.linear(constants[j], w)
            weights.append(weight)
            constants.append(constant)
        return Affine(weights[-1], constants[-1])


@dataclass(frozen=True)
class Chain(Explicit):
    """Maps applied one after the other; the certificate multiplies their gains."""

    parts: tuple[Explicit, ...]

    def run(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.run(x)
        return x

    def certificate(self) -> Certificate:
        if len(self.parts) == 1:
            return self.parts[0].certificate()
        return rules.series(*(part.certificate() for part in self.parts))

    def export(self) -> nn.Module:
        return nn.Sequential(*(part.export() for part in self.parts))

    def shifted(self, offset: Tensor) -> Chain:
        return Chain((*self.parts[:-1], self.parts[-1].shifted(offset)))

    def affine(self) -> Affine | None:
        whole: Affine | None = None
        for part in self.parts:
            step = part.affine()
            if step is None:
                return None
            whole = step if whole is None else step.after(whole)
        return whole


def chain(*parts: Explicit) -> Explicit:
    """Return the composition in the order given; affine neighbours become one affine map, for exact bounds."""
    merged: list[Explicit] = []
    for part in parts:
        for piece in part.parts if isinstance(part, Chain) else (part,):
            affine = piece.affine()
            last = merged[-1] if merged else None
            if affine is not None and isinstance(last, Affine):
                merged[-1] = affine.after(last)
            else:
                merged.append(piece if affine is None else affine)
    return merged[0] if len(merged) == 1 else Chain(tuple(merged))
