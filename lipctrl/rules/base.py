"""What every inference rule must offer: prove the claim of a node from its parts, and run the node."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.arithmetic import Numbers
from lipctrl.certificate import Certificate
from lipctrl.positivity import NotProvedError

__all__ = ["RULES", "Kind", "NotProvedError", "Rule", "evaluate", "register", "require", "round_up"]

Kind = type[Numbers]
RULES: dict[str, Rule] = {}


class Rule(ABC):
    """An inference: if the parts are as they claim, the node is as it claims."""

    name: str

    @abstractmethod
    def prove(self, node: Certificate, kind: Kind) -> None:
        """Raise NotProvedError unless the node's claim follows from its numbers and its parts' claims.

        `kind` selects the arithmetic: `Enclosure` (float64 with bounds) or `Dyadic` (exact).
        """

    @abstractmethod
    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        """Run the node on x of shape (..., in_features) in float64."""


def register(rule: type[Rule]) -> type[Rule]:
    """Enter a rule into the table, under its name; a name has one meaning."""
    if rule.name in RULES:
        raise ValueError(f"two rules are called {rule.name!r}")
    RULES[rule.name] = rule()
    return rule


def evaluate(node: Certificate, x: np.ndarray) -> np.ndarray:
    """Run the map that a certificate describes.

    Examples
    --------
    >>> from lipctrl.rules import scaling
    >>> evaluate(scaling([3.0]), np.array([2.0])).tolist()
    [6.0]
    """
    if node.rule not in RULES:
        raise ValueError(f"unknown rule {node.rule!r}; known are {', '.join(sorted(RULES))}")
    return RULES[node.rule].apply(node, x)


def require(condition: Any, message: str) -> None:
    """Raise NotProvedError with the message unless the condition holds."""
    if not bool(condition):
        raise NotProvedError(message)


def require_parts(node: Certificate, count: int | None = None) -> None:
    """Check what every composition assumes: Lipschitz parts in one norm, a matching count."""
    if count is not None:
        require(len(node.parts) == count, f"{node.rule} takes {count} parts, got {len(node.parts)}")
    require(len(node.parts) > 0, f"{node.rule} takes at least one part")
    require(node.claim == "lipschitz", f"{node.rule} proves Lipschitz bounds, not {node.claim!r}")
    for part in node.parts:
        require(part.claim == "lipschitz", f"{node.rule} composes Lipschitz bounds, not {part.claim!r}")
        require(part.norm == node.norm, f"{node.rule} mixes the norms {part.norm} and {node.norm}")


def require_names(node: Certificate, weights: set[str], witness: set[str], params: set[str]) -> None:
    """Refuse numbers that the rule does not read: nothing unproved may hide in a certificate."""
    for kind, have, want in (
        ("weights", set(node.weights), weights),
        ("witness", set(node.witness), witness),
        ("params", set(node.params), params),
    ):
        require(have == want, f"{node.rule}: {kind} are {sorted(have)}; expected {sorted(want)}")


def exact(value: float) -> Fraction:
    """Return a stored double as the rational that it is."""
    require(math.isfinite(value), f"{value} is not a finite number")
    return Fraction(value)


def round_up(value: Fraction) -> float:
    """Return the smallest double that is at least `value`; NotProvedError beyond float64."""
    try:
        out = float(value)
    except OverflowError:
        raise NotProvedError("a gain is beyond the range of float64; rescale the network") from None
    if Fraction(out) < value:
        out = math.nextafter(out, math.inf)
    require(out < math.inf, "a gain is beyond the range of float64; rescale the network")
    return out


def sqrt_up(value: Fraction) -> float:
    """Return a double whose square is at least `value`, the smallest or close to it; NotProvedError beyond float64."""
    # A power of four brings the square near one: it could vanish in float64, or overflow, where its root does not.
    shift = (value.denominator.bit_length() - value.numerator.bit_length()) // 2
    near = value * 4**shift if shift >= 0 else value / 4**-shift
    try:
        out = math.ldexp(math.sqrt(float(near)), -shift)
    except OverflowError:
        raise NotProvedError("a gain is beyond the range of float64; rescale the network") from None
    while Fraction(out) ** 2 < value:
        out = math.nextafter(out, math.inf)
    return out


def same_region(a: Certificate, b: Certificate) -> bool:
    """Tell whether two claims hold on the same set of inputs."""
    if a.region is None or b.region is None:
        return a.region is None and b.region is None
    return all(np.array_equal(p, q) for p, q in zip(a.region, b.region, strict=True))


def require_same_input_region(node: Certificate) -> None:
    """A claim from parts that read the same input holds where every part's claim holds."""
    for part in node.parts:
        require(
            part.region is None or same_region(node, part), f"{node.rule}: a part holds on another region"
        )


def shared_region(parts: tuple[Certificate, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the region of parts that read the same input (the checker refuses differing ones)."""
    return next((p.region for p in parts if p.region is not None), None)
