"""The neutral form of a given network: layers of neurons, affine layers and skips, in numpy.

Front ends (torch, ONNX, lists of arrays) drive a `Builder`. Values are affine expressions Σ_j M_j z_j + c of layers; an
operation that float64 would round is never carried out, it becomes an affine layer of its own, so
that the network which is certified is the network that was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.activations import Activation, activation
from lipctrl.rules import Layer, Output


class UnsupportedOperationError(ValueError):
    """A network holds an operation for which there is no rule; the message names it."""


def activation_of(layer: Layer) -> Activation:
    """Return the activation of a layer that a `Builder` made, which never nests another map."""
    if not isinstance(layer.activation, Activation):
        raise TypeError(
            f"the activation is {layer.activation!r}; expected an Activation, as a Builder makes them"
        )
    return layer.activation


@dataclass(frozen=True)
class Network:
    """Layers l = 1..K that read earlier layers (0 is the input), and the read-out."""

    in_features: int
    layers: tuple[Layer, ...]
    output: Output

    @property
    def out_features(self) -> int:
        """Return the dimension of the output."""
        return len(np.asarray(self.output.bias))

    @property
    def neurons(self) -> int:
        """Return the number of neurons of layers that are not affine."""
        return sum(len(np.asarray(l.bias)) for l in self.layers if activation_of(l).name != "identity")

    def __call__(self, x: Any) -> np.ndarray:
        """Run the network in float64: (..., in_features) to (..., out_features)."""
        z = [np.asarray(x, dtype=np.float64)]
        for layer in self.layers:
            v = layer.bias + sum(z[j] @ w.T for j, w in layer.sources.items())
            z.append(activation_of(layer).value(v))
        return self.output.bias + sum(z[j] @ w.T for j, w in self.output.sources.items())


def same_network(a: Network, b: Network) -> bool:
    """Tell whether two networks are the same, number by number."""
    if len(a.layers) != len(b.layers):
        return False
    alike = (
        activation_of(p).to_dict() == activation_of(q).to_dict()
        for p, q in zip(a.layers, b.layers, strict=True)
    )
    rows = zip((*a.layers, a.output), (*b.layers, b.output), strict=True)
    return all(alike) and all(
        p.sources.keys() == q.sources.keys()
        and all(np.array_equal(w, q.sources[j]) for j, w in p.sources.items())
        and np.array_equal(p.bias, q.bias)
        for p, q in rows
    )


@dataclass(frozen=True)
class Expression:
    """An affine function Σ_j maps[j] z_j + offset of the layers so far."""

    maps: dict[int, np.ndarray]
    offset: np.ndarray

    @property
    def size(self) -> int:
        return len(self.offset)


def _exact_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Return a + b when float64 holds it exactly (two-sum, Knuth), else None."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return None if error.any() else total


def _is_power_of_two(values: np.ndarray) -> bool:
    mantissas = np.abs(np.frexp(values)[0])
    return bool(((mantissas == 0.5) | (mantissas == 0.0)).all())


def _moved(weight: np.ndarray, matrix: np.ndarray) -> np.ndarray | None:
    """Return weight @ matrix where that only moves columns and shifts exponents, without rounding; else None."""
    if not (np.count_nonzero(matrix, axis=0) <= 1).all() or not _is_power_of_two(matrix):
        return None
    rows = np.argmax(np.abs(matrix), axis=0)
    return _shifted(weight[:, rows], matrix[rows, np.arange(matrix.shape[1])])


def _shifted(values: np.ndarray, powers: np.ndarray) -> np.ndarray | None:
    """Return values times powers of two (or zeros) where float64 holds the products exactly, else None."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        products = values * powers
        back = products / np.where(powers == 0.0, 1.0, powers)
    return products if np.array_equal(back, np.where(powers == 0.0, 0.0, values)) else None


def finite(name: str, values: Any) -> np.ndarray:
    """Return float64 numbers without change, or say what is wrong with them."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise ValueError(f"{name} has dtype {array.dtype}; expected real numbers of at most 64 bits")
    given, array = array, array.astype(np.float64)
    if given.dtype.kind in "iu" and any(
        int(a) != int(b) for a, b in zip(given.ravel(), array.ravel(), strict=True)
    ):
        raise ValueError(f"{name} holds integers beyond 2**53, which float64 would round")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or inf entries; a bound needs finite weights")
    return array


@dataclass
class Builder:
    """Collects layers while a front end walks through a network."""

    in_features: int
    layers: list[Layer] = field(default_factory=list)

    def input(self) -> Expression:
        """Return the input x."""
        if self.in_features < 1:
            raise ValueError(f"in_features is {self.in_features}; expected at least 1")
        return Expression({0: np.eye(self.in_features)}, np.zeros(self.in_features))

    def _layer(self, x: Expression, sigma: Activation) -> Expression:
        self.layers.append(Layer(dict(x.maps), sigma, x.offset))
        return Expression({len(self.layers): np.eye(x.size)}, np.zeros(x.size))

    def _pure(self, x: Expression) -> Expression:
        """Return the same value as a layer of its own, unless it is one."""
        if len(x.maps) == 1 and not x.offset.any():
            (matrix,) = x.maps.values()
            if matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))):
                return x
        return self._layer(x, activation("identity"))

    def linear(self, x: Expression, weight: Any, bias: Any = None) -> Expression:
        """Return weight · x + bias; weight has shape (out, in)."""
        weight = finite("a weight", weight)
        if weight.ndim != 2 or weight.shape[1] != x.size:
            raise ValueError(f"a weight has shape {weight.shape}; expected (out, {x.size})")
        offset = np.zeros(weight.shape[0]) if bias is None else finite("a bias", bias)
        if offset.shape != (weight.shape[0],):
            raise ValueError(f"a bias has shape {offset.shape}; expected ({weight.shape[0]},)")
        maps = {j: moved for j, m in x.maps.items() if (moved := _moved(weight, m)) is not None}
        if not x.offset.any() and len(maps) == len(x.maps):
            return Expression(maps, offset)
        (source,) = self._pure(x).maps
        return Expression({source: weight}, offset)

    def activate(self, x: Expression, sigma: str | Mapping[str, Any] | Activation) -> Expression:
        """Return σ(x), one neuron an entry."""
        sigma = activation(sigma)
        if x.size % sigma.group:
            raise ValueError(f"{sigma.name} needs a multiple of {sigma.group} features, got {x.size}")
        return x if sigma.name == "identity" else self._layer(x, sigma)

    def kinked(self, x: Expression, slopes: np.ndarray) -> Expression:
        """Return x where it is positive and slopes · x elsewhere, one slope an entry: a x + relu(x) - a relu(x)."""
        positive = self.activate(x, "relu")
        return self.add(self.scale(x, slopes), self.add(positive, self.scale(positive, -slopes)))

    def gated(self, a: Expression, b: Expression) -> Expression | None:
        """Return a · b where one factor is the sigmoid of the other, as SiLU; None for a product without a bound."""
        for x, gate in ((a, b), (b, a)):
            if len(gate.maps) != 1 or gate.offset.any():
                continue
            ((l, matrix),) = gate.maps.items()
            if l == 0 or self.layers[l - 1].activation != activation("sigmoid"):
                continue
            layer = self.layers[l - 1]
            if layer.sources.keys() != x.maps.keys():
                continue
            whole = matrix.shape == (x.size, x.size) and np.array_equal(matrix, np.eye(x.size))
            same = all(np.array_equal(layer.sources[j], m) for j, m in x.maps.items())
            if whole and same and np.array_equal(layer.bias, x.offset):
                return self.activate(x, "silu")
        return None

    def add(self, a: Expression, b: Expression) -> Expression:
        """Return a + b."""
        if a.size != b.size:
            raise ValueError(f"an addition of {a.size} and {b.size} features: broadcasting is not supported")
        offset = _exact_sum(a.offset, b.offset)
        if offset is None:
            return self.add(self._pure(a), b)
        maps = dict(a.maps)
        for j, matrix in b.maps.items():
            merged = _exact_sum(maps[j], matrix) if j in maps else matrix
            if merged is None:
                # A layer of its own meets no other map; `_pure` might hand back the value that it was given.
                return self.add(a, self._layer(b, activation("identity")))
            maps[j] = merged
        return Expression(maps, offset)

    def shift(self, x: Expression, constant: Any) -> Expression:
        """Return x + constant, entry by entry."""
        constant = np.broadcast_to(finite("an added constant", constant), (x.size,))
        return self.add(x, Expression({}, constant.astype(np.float64)))

    def scale(self, x: Expression, factor: Any) -> Expression:
        """Return factor · x, entry by entry."""
        factor = np.broadcast_to(finite("a factor", factor), (x.size,)).astype(np.float64)
        offset = _shifted(x.offset, factor) if _is_power_of_two(factor) else None
        maps = {j: moved for j, m in x.maps.items() if (moved := _shifted(m, factor[:, None])) is not None}
        if offset is None or len(maps) < len(x.maps):
            (source,) = self._pure(x).maps
            return Expression({source: np.diag(factor)}, np.zeros(x.size))
        return Expression(maps, offset)

    def clip(self, x: Expression, lower: Any, upper: Any) -> Expression:
        """Return x clipped between numbers, or vectors of one number a feature; equal limits share a layer."""
        low, high = (np.broadcast_to(finite("a limit", v), (x.size,)) for v in (lower, upper))
        if (low > high).any():
            raise ValueError("a clip has a lower limit above its upper one")
        ends, which = np.unique(np.stack([low, high], axis=1), axis=0, return_inverse=True)
        names = [{"name": "clip", "lower": float(a), "upper": float(b)} for a, b in ends]
        if len(names) == 1:
            return self.activate(x, names[0])
        rows = [np.flatnonzero(which.reshape(-1) == k) for k in range(len(names))]
        clipped = [self.activate(self.select(x, r), name) for r, name in zip(rows, names, strict=True)]
        return self.select(self.concat(clipped), np.argsort(np.concatenate(rows)))

    def concat(self, parts: list[Expression]) -> Expression:
        """Return the parts under one another."""
        sources = sorted({j for part in parts for j in part.maps})
        offset = np.concatenate([part.offset for part in parts])
        maps = {}
        for j in sources:
            columns = next(p.maps[j].shape[1] for p in parts if j in p.maps)
            maps[j] = np.vstack([p.maps.get(j, np.zeros((p.size, columns))) for p in parts])
        return Expression(maps, offset)

    def select(self, x: Expression, index: Any) -> Expression:
        """Return the entries of x that a slice or an index array picks."""
        if not x.offset[index].size:
            raise UnsupportedOperationError(f"a selection {index} of {x.size} features is empty")
        return Expression({j: m[index] for j, m in x.maps.items()}, x.offset[index])

    def finish(self, y: Expression) -> Network:
        """Return the network whose output is y, without layers that the output never reads."""
        maps = {j: m for j, m in y.maps.items() if m.any()} or dict(list(y.maps.items())[:1])
        used, frontier = set(), set(maps) - {0}
        while frontier:
            l = frontier.pop()
            used.add(l)
            frontier |= set(self.layers[l - 1].sources) - used - {0}
        order = [0, *sorted(used)]
        place = {old: new for new, old in enumerate(order)}
        layers = []
        for old in order[1:]:
            layer = self.layers[old - 1]
            sources = {place[j]: np.asarray(m) for j, m in layer.sources.items()}
            layers.append(Layer(sources, layer.activation, layer.bias))
        return Network(
            self.in_features,
            tuple(layers),
            Output({place[j]: m for j, m in maps.items()}, y.offset),
        )
