"""Composition rules: the gain of a whole from the gains of its parts, in exact arithmetic.

The builders round the composed gain up; the rules compare it with the exact rational value.
"""

from __future__ import annotations

from fractions import Fraction

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
    same_region,
    shared_region,
    sqrt_up,
)

MOST_REPEATS = 10_000


def _gains(parts: tuple[Certificate, ...]) -> list[Fraction]:
    require(parts, "a composition takes at least one part")
    return [exact(part.gain) for part in parts]


def _product(gains: list[Fraction]) -> Fraction:
    total = Fraction(1)
    for gain in gains:
        total *= gain
    return total


@register
class Series(Rule):
    """f_n ∘ … ∘ f_1 has gain γ_n … γ_1."""

    name = "series"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_parts(node)
        require_names(node, set(), set(), set())
        first, last = node.parts[0], node.parts[-1]
        for a, b in zip(node.parts, node.parts[1:], strict=False):
            require(a.out_features == b.in_features, "series: consecutive dimensions differ")
            require(b.region is None, "series: a later part holds only on a region")
        require(same_region(node, first), "series: the first part holds on another region")
        require(
            (node.in_features, node.out_features) == (first.in_features, last.out_features),
            "series: outer dimensions differ",
        )
        require(exact(node.gain) >= _product(_gains(node.parts)), "series: the product of gains is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        for part in node.parts:
            x = evaluate(part, x)
        return x


def series(*parts: Certificate) -> Certificate:
    """Certify the composition that applies `parts` in the order given: gain = product.

    Examples
    --------
    >>> from lipctrl.rules import scaling, series
    >>> series(scaling([2.0]), scaling([3.0])).gain
    6.0
    """
    gain = round_up(_product(_gains(parts)))
    return Certificate(
        "series",
        gain,
        parts[0].in_features,
        parts[-1].out_features,
        parts=parts,
        norm=parts[0].norm,
        region=parts[0].region,
    )


class _SameInput(Rule):
    """Parts that read the same input."""

    def _check(self, node: Certificate, same_output: bool) -> None:
        require_parts(node)
        require_same_input_region(node)
        for part in node.parts:
            require(part.in_features == node.in_features, f"{node.rule}: input dimensions differ")
            if same_output:
                require(part.out_features == node.out_features, f"{node.rule}: output dimensions differ")


@register
class Sum(_SameInput):
    """Σ c_i f_i has gain Σ |c_i| γ_i."""

    name = "sum"

    def prove(self, node: Certificate, kind: Kind) -> None:
        self._check(node, same_output=True)
        require_names(node, {"coefficients"}, set(), set())
        c = node.weights["coefficients"]
        require(c.shape == (len(node.parts),), "sum: one coefficient a part")
        total = sum(abs(exact(float(k))) * g for k, g in zip(c, _gains(node.parts), strict=True))
        require(exact(node.gain) >= total, "sum: the weighted sum of gains is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        c = node.weights["coefficients"]
        y = np.zeros(node.out_features)
        for k, part in zip(c, node.parts, strict=True):
            y = y + k * evaluate(part, x)
        return y


def total(*parts: Certificate, coefficients: list[float] | None = None) -> Certificate:
    """Certify Σ c_i f_i(x) (c_i = 1 unless given): gain Σ |c_i| γ_i; a convex mix and a skip are cases.

    Examples
    --------
    >>> from lipctrl.rules import scaling
    >>> total(scaling([2.0]), scaling([3.0]), coefficients=[1.0, -2.0]).gain
    8.0
    """
    c = [1.0] * len(parts) if coefficients is None else [float(k) for k in coefficients]
    require(len(c) == len(parts), "sum: one coefficient a part")
    gain = round_up(sum((abs(exact(k)) * g for k, g in zip(c, _gains(parts), strict=True)), Fraction(0)))
    return Certificate(
        "sum",
        gain,
        parts[0].in_features,
        parts[0].out_features,
        parts=parts,
        weights={"coefficients": np.array(c)},
        norm=parts[0].norm,
        region=shared_region(parts),
    )


@register
class Concat(_SameInput):
    """x ↦ (f_1(x), …, f_n(x)) has gain √Σγ_i² (l2) or max γ_i (linf)."""

    name = "concat"

    def prove(self, node: Certificate, kind: Kind) -> None:
        self._check(node, same_output=False)
        require_names(node, set(), set(), set())
        require(sum(p.out_features for p in node.parts) == node.out_features, "concat: outputs do not add up")
        gains, gain = _gains(node.parts), exact(node.gain)
        if node.norm == "l2":
            require(gain >= 0 and gain**2 >= sum(g**2 for g in gains), "concat: √Σγ² is larger")
        else:
            require(gain >= max(gains), "concat: the largest gain is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return np.concatenate([evaluate(part, x) for part in node.parts], axis=-1)


def concat(*parts: Certificate) -> Certificate:
    """Certify x ↦ (f_1(x), …, f_n(x)): gain √Σγ_i² in l2, max γ_i in linf.

    Examples
    --------
    >>> from lipctrl.rules import scaling
    >>> concat(scaling([3.0]), scaling([4.0])).gain
    5.0
    """
    gains = _gains(parts)
    gain = sqrt_up(sum((g**2 for g in gains), Fraction(0))) if parts[0].norm == "l2" else round_up(max(gains))
    return Certificate(
        "concat",
        gain,
        parts[0].in_features,
        sum(p.out_features for p in parts),
        parts=parts,
        norm=parts[0].norm,
        region=shared_region(parts),
    )


@register
class Parallel(Rule):
    """(x_1, …, x_n) ↦ (f_1(x_1), …, f_n(x_n)) has gain max γ_i."""

    name = "parallel"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_parts(node)
        require_names(node, set(), set(), set())
        require(node.region is None and all(p.region is None for p in node.parts), "parallel: no regions")
        require(sum(p.in_features for p in node.parts) == node.in_features, "parallel: inputs do not add up")
        require(
            sum(p.out_features for p in node.parts) == node.out_features, "parallel: outputs do not add up"
        )
        require(exact(node.gain) >= max(_gains(node.parts)), "parallel: the largest gain is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        cuts = np.cumsum([p.in_features for p in node.parts])[:-1]
        pieces = np.split(x, cuts, axis=-1)
        return np.concatenate([evaluate(p, v) for p, v in zip(node.parts, pieces, strict=True)], axis=-1)


def parallel(*parts: Certificate) -> Certificate:
    """Certify the block-diagonal map (x_i) ↦ (f_i(x_i)): gain max γ_i.

    Examples
    --------
    >>> from lipctrl.rules import scaling
    >>> parallel(scaling([3.0]), scaling([4.0])).gain
    4.0
    """
    return Certificate(
        "parallel",
        round_up(max(_gains(parts))),
        sum(p.in_features for p in parts),
        sum(p.out_features for p in parts),
        parts=parts,
        norm=parts[0].norm,
    )


@register
class Repeat(Rule):
    """f applied k times (weight-shared recursion) has gain γᵏ."""

    name = "repeat"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_parts(node, 1)
        require_names(node, set(), set(), {"times"})
        times, part = node.params["times"], node.parts[0]
        # The exact power has 53·times bits: a bound keeps a stranger's file from stopping the checker.
        require(
            type(times) is int and 1 <= times <= MOST_REPEATS, f"repeat: times is not in 1..{MOST_REPEATS}"
        )
        require(node.region is None and part.region is None, "repeat: no regions")
        require(
            part.in_features == part.out_features == node.in_features == node.out_features,
            "repeat: the part must keep the dimension",
        )
        require(exact(node.gain) >= exact(part.gain) ** times, "repeat: γᵏ is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        for _ in range(node.params["times"]):
            x = evaluate(node.parts[0], x)
        return x


def repeat(part: Certificate, times: int) -> Certificate:
    """Certify f ∘ … ∘ f, `times` applications of one certified map: gain γᵏ.

    Examples
    --------
    >>> from lipctrl.rules import scaling
    >>> repeat(scaling([2.0]), 3).gain
    8.0
    """
    require(
        type(times) is int and 1 <= times <= MOST_REPEATS, f"times is {times!r}; expected 1 … {MOST_REPEATS}"
    )
    gain = round_up(exact(part.gain) ** times)
    return Certificate(
        "repeat",
        gain,
        part.in_features,
        part.out_features,
        parts=(part,),
        params={"times": times},
        norm=part.norm,
    )


@register
class Feedback(Rule):
    """The solution w of w = g(w) + h(x) has gain γ_h / (1 - γ_g) when γ_g < 1 (Banach)."""

    name = "feedback"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require_parts(node, 2)
        require_names(node, set(), set(), set())
        g, h = node.parts
        require(node.region is None and g.region is None and h.region is None, "feedback: no regions")
        require(
            g.in_features == g.out_features == h.out_features == node.out_features
            and h.in_features == node.in_features,
            "feedback: dimensions differ",
        )
        require(exact(g.gain) < 1, "feedback: the loop gain is not below 1")
        require(exact(node.gain) * (1 - exact(g.gain)) >= exact(h.gain), "feedback: γ_h/(1-γ_g) is larger")

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        g, h = node.parts
        drive = evaluate(h, x)
        w, change = np.zeros_like(drive), np.inf
        for _ in range(MOST_REPEATS):
            following = evaluate(g, w) + drive
            change = np.abs(following - w).max(initial=0.0)
            w = following
            if change <= 1e-15 * (1.0 + np.abs(w).max(initial=0.0)):
                return w
        # Rounding may keep the last digits moving.
        if change <= 1e-10 * (1.0 + np.abs(w).max(initial=0.0)):
            return w
        raise ArithmeticError(f"the feedback did not converge in {MOST_REPEATS} iterations")


def feedback(g: Certificate, h: Certificate) -> Certificate:
    """Certify x ↦ w with w = g(w) + h(x): gain γ_h/(1-γ_g), well posed because γ_g < 1.

    Examples
    --------
    >>> from lipctrl.rules import scaling
    >>> feedback(scaling([0.5]), scaling([3.0])).gain
    6.0
    """
    require(exact(g.gain) < 1, f"feedback needs a loop gain below 1, got {g.gain}")
    gain = round_up(exact(h.gain) / (1 - exact(g.gain)))
    return Certificate("feedback", gain, h.in_features, h.out_features, parts=(g, h), norm=h.norm)
