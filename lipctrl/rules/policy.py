"""Rules of control policies: the centre of an incremental ball, and the projection onto actuator limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipctrl.certificate import Certificate
from lipctrl.rules.base import (
    Kind,
    Rule,
    evaluate,
    exact,
    register,
    require,
    require_names,
    require_parts,
    require_same_input_region,
    round_up,
)
from lipctrl.rules.linear import linear


@register
class Centered(Rule):
    """π(y) = K₀ y + φ(y) has gain σ(K₀) + γ_φ and lies in the incremental ball (K₀, γ_φ)."""

    name = "centered"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_parts(node, 2)
        require_names(node, set(), set(), set())
        require_same_input_region(node)
        center, rest = node.parts
        require(center.rule == "linear", "centered: the first part must be linear")
        for part in node.parts:
            require(
                (part.in_features, part.out_features) == (node.in_features, node.out_features),
                "centered: dimensions differ",
            )
        require(exact(node.gain) >= exact(center.gain) + exact(rest.gain), "centered: σ(K₀) + γ is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        center, rest = node.parts
        return evaluate(center, x) + evaluate(rest, x)


def centered(center: Any, part: Certificate) -> Certificate:
    """Certify π(y) = K₀ y + φ(y), u = π(y): `.center` is K₀ (= -K of u = -K y + φ(y)), `.radius` is γ_φ.

    Examples
    --------
    >>> from lipctrl.rules import elementwise
    >>> policy = centered([[-2.0]], elementwise("tanh", 1))
    >>> policy.center.tolist(), policy.radius
    ([[-2.0]], 1.0)
    """
    first = linear(center)
    gain = round_up(exact(first.gain) + exact(part.gain))
    return Certificate(
        "centered", gain, part.in_features, part.out_features, parts=(first, part), region=part.region
    )


@register
class Projection(Rule):
    """clip(f(x), lower, upper) has the gain of f: projections onto convex sets do not expand."""

    name = "projection"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_parts(node, 1)
        require_names(node, {"lower", "upper"}, set(), set())
        require_same_input_region(node)
        (part,) = node.parts
        lower, upper = node.weights["lower"], node.weights["upper"]
        require(lower.shape == upper.shape == (node.out_features,), "projection: limits have the wrong shape")
        require(bool((lower <= upper).all()), "projection: a lower limit is above its upper limit, or NaN")
        between = (lower < np.inf).all() and (upper > -np.inf).all()
        require(between, "projection: no number lies between the limits")
        require(
            (part.in_features, part.out_features) == (node.in_features, node.out_features),
            "projection: dimensions differ",
        )
        require(exact(node.gain) >= exact(part.gain), "projection: the gain of the part is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return np.clip(evaluate(node.parts[0], x), node.weights["lower"], node.weights["upper"])


def projection(part: Certificate, lower: Any, upper: Any) -> Certificate:
    """Certify clip(f(x), lower, upper): the gain of f.

    Examples
    --------
    >>> from lipctrl.rules import scaling
    >>> projection(scaling([3.0]), -1.0, 1.0).evaluate([2.0]).tolist()
    [1.0]
    """
    return Certificate(
        "projection",
        part.gain,
        part.in_features,
        part.out_features,
        parts=(part,),
        weights={"lower": np.atleast_1d(lower), "upper": np.atleast_1d(upper)},
        norm=part.norm,
        region=part.region,
    )
