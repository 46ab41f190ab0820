"""Leaf rules whose gain is a property of one array: linear maps, scalings, clips, activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.activations import Activation, activation
from lipctrl.certificate import Certificate
from lipctrl.positivity import NotProvedError, prove_positive_semidefinite
from lipctrl.rules.base import Kind, Rule, exact, register, require, require_names, round_up

# Relative enlargements of a bound that a builder tries, smallest first; the one that proves is reported.
SLACKS = (0.0, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)


def require_affine(node: Certificate, name: str = "weight", bias: str = "bias") -> np.ndarray:
    """Check shape and finiteness of a weight and its bias, and return the weight."""
    weight = node.weights[name]
    require(
        weight.shape == (node.out_features, node.in_features),
        f"{name} has shape {weight.shape}; expected {(node.out_features, node.in_features)}",
    )
    require(node.weights[bias].shape == (node.out_features,), f"{bias} has the wrong shape")
    require(np.isfinite(weight).all(), f"{name} has NaN or inf entries")
    require(np.isfinite(node.weights[bias]).all(), f"{bias} has NaN or inf entries")
    return weight


def prove_spectral_norm(weight: np.ndarray, gain: float, kind: Kind) -> None:
    """Prove σ_max(weight) ≤ gain, or raise NotProvedError."""
    exact(gain)
    if not weight.any():
        require(gain >= 0.0, "the gain is negative")
        return
    require(gain > 0.0, "the gain is not positive")
    # A power of two near 1/gain moves the problem to unit scale exactly: squares neither over- nor underflow.
    power = -round(math.log2(gain))
    tall = kind.exact(weight if weight.shape[0] >= weight.shape[1] else weight.T)
    rows, columns = np.zeros(tall.shape[0], dtype=int), np.full(tall.shape[1], power)
    tall = tall.shift(rows, columns)
    unit = math.ldexp(gain, power)
    square = kind.exact(np.full(tall.shape[1], unit))
    prove_positive_semidefinite(
        {(0, 0): square.times(square).diagonal_matrix() - tall.T @ tall}, [tall.shape[1]]
    )


def spectral_norm_bound(weight: np.ndarray) -> float:
    """Return a proved upper bound of the largest singular value, usually within 1e-12 of it.

    Raises
    ------
    NotProvedError
        When the entries are not finite or beyond what float64 can square.

    Examples
    --------
    >>> 0.0 <= spectral_norm_bound(np.array([[3.0, 4.0]])) - 5.0 < 1e-11
    True
    """
    weight = np.asarray(weight, dtype=np.float64)
    require(np.isfinite(weight).all(), "a weight has NaN or inf entries")
    if not weight.any():
        return 0.0
    scale = math.ldexp(1.0, round(math.log2(np.abs(weight).max())))
    estimate = float(np.linalg.norm(weight / scale, 2)) * scale
    from lipctrl.arithmetic import Enclosure

    for slack in SLACKS[1:]:
        # Beside subnormal numbers a relative slack rounds to nothing.
        gain = estimate * (1.0 + slack) + slack * 2.0**-1000
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                prove_spectral_norm(weight, gain, Enclosure)
        except NotProvedError:
            continue
        return gain
    raise NotProvedError("the largest singular value could not be bounded in float64")


@register
class Linear(Rule):
    """y = W x + b has gain σ_max(W) (l2) or the largest absolute row sum (linf)."""

    name = "linear"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_names(node, {"weight", "bias"}, set(), set())
        require(not node.parts, "linear is a leaf")
        require(node.claim == "lipschitz", "linear proves Lipschitz bounds")
        weight = require_affine(node)
        if node.norm == "l2":
            prove_spectral_norm(weight, node.gain, kind)
        else:
            rows = [sum(Fraction(abs(float(w))) for w in row) for row in weight]
            require(exact(node.gain) >= max(rows), "an absolute row sum exceeds the gain")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return x @ node.weights["weight"].T + node.weights["bias"]


def linear(weight: Any, bias: Any = None, *, norm: str = "l2") -> Certificate:
    """Certify y = W x + b by a proved bound of its largest singular value (of its ∞-norm for "linf").

    Examples
    --------
    >>> linear([[3.0, 4.0]]).gain - 5.0 < 1e-11
    True
    """
    weight = np.atleast_2d(np.asarray(weight, dtype=np.float64))
    require(weight.ndim == 2 and weight.size, f"a weight has the shape {weight.shape}; expected (out, in)")
    bias = np.zeros(weight.shape[0]) if bias is None else bias
    if norm == "l2":
        gain = spectral_norm_bound(weight)
    else:
        gain = round_up(max(sum((exact(abs(float(w))) for w in row), Fraction(0)) for row in weight))
    return Certificate(
        "linear", gain, weight.shape[1], weight.shape[0], weights={"weight": weight, "bias": bias}, norm=norm
    )


@register
class Scaling(Rule):
    """y = s ∘ x, element-wise, has gain max|s| in both norms."""

    name = "scaling"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_names(node, {"scale"}, set(), set())
        require(not node.parts and node.claim == "lipschitz", "scaling is a Lipschitz leaf")
        scale = node.weights["scale"]
        require(scale.shape == (node.in_features,) == (node.out_features,), "scale has the wrong shape")
        require(np.isfinite(scale).all(), "scale has NaN or inf entries")
        require(math.isfinite(node.gain) and node.gain >= np.abs(scale).max(), "an |entry| exceeds the gain")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return x * node.weights["scale"]


def scaling(scale: Any, *, norm: str = "l2") -> Certificate:
    """Certify y = s ∘ x, the element-wise scaling of an observation.

    Examples
    --------
    >>> scaling([2.0, -3.0]).gain
    3.0
    """
    scale = np.atleast_1d(np.asarray(scale, dtype=np.float64))
    require(scale.ndim == 1 and scale.size, f"scale has the shape {scale.shape}; expected (features,)")
    require(np.isfinite(scale).all(), "scale has NaN or inf entries")
    return Certificate(
        "scaling", np.abs(scale).max(), len(scale), len(scale), weights={"scale": scale}, norm=norm
    )


@register
class Identity(Rule):
    """y = x has gain 1."""

    name = "identity"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_names(node, set(), set(), set())
        require(not node.parts and node.claim == "lipschitz", "identity is a Lipschitz leaf")
        require(node.in_features == node.out_features, "identity keeps the dimension")
        require(exact(node.gain) >= 1, "the gain of the identity is 1")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return x


def identity(features: int, *, norm: str = "l2") -> Certificate:
    """Certify y = x.

    Examples
    --------
    >>> identity(2).evaluate([1.0, 2.0]).tolist()
    [1.0, 2.0]
    """
    return Certificate("identity", 1.0, features, features, norm=norm)


@register
class Elementwise(Rule):
    """y = σ(x) has the Lipschitz constant of σ (l2; for uncoupled σ also linf)."""

    name = "activation"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_names(node, set(), set(), {"activation"})
        require(not node.parts and node.claim == "lipschitz", "activation is a Lipschitz leaf")
        sigma = activation(node.params["activation"])
        require(node.in_features == node.out_features, "an activation keeps the dimension")
        require(
            node.in_features % sigma.group == 0, f"{sigma.name} needs a multiple of {sigma.group} features"
        )
        require(exact(node.gain) >= exact(sigma.gain), f"the gain of {sigma.name} is {sigma.gain}")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return activation(node.params["activation"]).value(x)


def elementwise(
    spec: str | Mapping[str, Any] | Activation, features: int, *, norm: str = "l2"
) -> Certificate:
    """Certify y = σ(x). Sorting (GroupSort) is 1-Lipschitz in both norms.

    Examples
    --------
    >>> elementwise("sigmoid", 3).gain
    0.25
    """
    sigma = activation(spec)
    require(features % sigma.group == 0, f"{sigma.name} needs a multiple of {sigma.group} features")
    return Certificate(
        "activation", sigma.gain, features, features, params={"activation": sigma.to_dict()}, norm=norm
    )
