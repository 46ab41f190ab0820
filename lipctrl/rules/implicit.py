"""Implicit layers: w = σ(W w + U x + b), y = C w + c, well posed and bounded, in l2 or in l∞.

Both rules assume element-wise σ with slopes inside [0, 1] and prove that the equation has exactly one
solution for every x before they speak of its gain.

* l2 (Revay, Wang & Manchester 2020, "Lipschitz bounded equilibrium networks", Theorem 1 and eq. (13)): a diagonal
  Λ ≻ 0 with 2Λ - ΛW - WᵀΛ ≻ 0 gives well-posedness, and N ⪰ 0 of `rules.neurons`, with the layer reading
  itself, gives the gain.
* l∞ (Jafarpour et al. 2021, "Robust implicit networks via non-Euclidean contractions", Theorem 1 and
  Corollary 2): weights η > 0 with W_ii η_i + Σ_{j≠i} |W_ij| η_j ≤ c η_i, c < 1, give well-posedness and
  the gain ‖C[η]‖_∞ ‖[η]⁻¹U‖_∞ / (1 - max(c, 0)).
"""

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
from lipctrl.rules.linear import SLACKS
from lipctrl.rules.neurons import Graph, assemble, performance, require_multipliers

WEIGHTS = {"state", "input", "bias", "output", "output.bias"}
# Strictness of the well-posedness inequality, relative to Λ.
STRICT = 2.0**-40


def _read(node: Certificate) -> Activation:
    require(node.claim == "lipschitz", "implicit proves Lipschitz bounds")
    require(not node.parts, "implicit is a leaf")
    w = node.weights
    width = w["bias"].size
    for name, shape in {
        "state": (width, width),
        "input": (width, node.in_features),
        "bias": (width,),
        "output": (node.out_features, width),
        "output.bias": (node.out_features,),
    }.items():
        require(w[name].shape == shape, f"implicit: {name} has shape {w[name].shape}; expected {shape}")
        require(np.isfinite(w[name]).all(), f"implicit: {name} has NaN or inf entries")
    sigma = activation(node.params["activation"])
    require(
        sigma.group == 1 and sigma.lower >= 0.0 and sigma.upper <= 1.0,
        f"implicit needs an element-wise activation with slopes in [0, 1], not {sigma.name}",
    )
    return sigma


def _fractions(matrix: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in row] for row in matrix]


def _weighted_bound(node: Certificate) -> Fraction:
    """Return the exact l∞ gain bound, or raise when the equation is not proved well posed."""
    eta = [Fraction(float(v)) for v in node.witness["scale"]]
    require(len(eta) == node.weights["bias"].size and min(eta) > 0, "implicit: scale must be positive")
    worst = max(
        (row[i] * eta[i] + sum(abs(v) * eta[j] for j, v in enumerate(row) if j != i)) / eta[i]
        for i, row in enumerate(_fractions(node.weights["state"]))
    )
    require(worst < 1, "implicit: the weighted ∞-measure of W is not below 1")
    drive = max(sum(abs(v) for v in row) / eta[i] for i, row in enumerate(_fractions(node.weights["input"])))
    read = max(sum(abs(v) * eta[j] for j, v in enumerate(row)) for row in _fractions(node.weights["output"]))
    return read * drive / (1 - max(worst, Fraction(0)))


@register
class Implicit(Rule):
    """The solution of w = σ(W w + U x + b) is unique and y = C w + c has the claimed gain."""

    name = "implicit"

    def prove(self, node: Certificate, kind: Kind) -> None:
        if node.norm == "linf":
            require_names(node, WEIGHTS, {"scale"}, {"activation"})
            _read(node)
            require(exact(node.gain) >= _weighted_bound(node), "implicit: the l∞ bound is larger")
            return
        require_names(node, WEIGHTS, {"multiplier"}, {"activation"})
        sigma = _read(node)
        w, lam = node.weights, node.witness["multiplier"]
        width = w["bias"].size
        graph = Graph(
            sizes=[node.in_features, width, node.out_features],
            sources=[{0: w["input"]}, {1: w["output"]}],
            biases=[w["bias"], w["output.bias"]],
            slopes=[(np.zeros(width), np.ones(width))],
            groups=[1],
            nonlinear=[sigma],
        )
        require_multipliers(graph, [lam])
        require((lam > 0.0).all(), "implicit: a multiplier is not positive")
        weight, strict = kind.exact(lam), kind.exact(np.full(width, 2.0 - STRICT))
        coupled = weight.column().times(kind.exact(w["state"]))
        monotone = weight.times(strict).diagonal_matrix() - coupled - coupled.T
        try:
            prove_positive_semidefinite({(0, 0): monotone}, [width])
        except NotProvedError as error:
            raise NotProvedError(f"implicit: the equation is not proved well posed ({error})") from error
        # The feed-forward LMI, and in its neuron block what the layer reads of itself.
        blocks, sizes = assemble(graph, [lam], performance(node), kind)
        blocks[1, 1] = blocks[1, 1] - coupled - coupled.T
        prove_positive_semidefinite(blocks, sizes)

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        sigma = _read(node)
        w = solve(node, sigma, x @ node.weights["input"].T + node.weights["bias"])
        return w @ node.weights["output"].T + node.weights["output.bias"]


def solve(node: Certificate, sigma: Activation, drive: np.ndarray, tolerance: float = 2e-14) -> np.ndarray:
    """Solve w = σ(W w + drive) by Peaceman-Rachford splitting (l2) or an averaged iteration (l∞).

    Raises
    ------
    ArithmeticError
        When the iteration has not converged; no approximate value is returned.
    """
    state = node.weights["state"]
    eye, size = np.eye(len(state)), np.abs(state)
    if node.norm == "linf":
        step = 1.0 / (1.0 - min(float(np.diag(state).min(initial=0.0)), 0.0))
    resolvent = None if node.norm == "linf" else np.linalg.inv(2.0 * eye - state).T
    w, u = np.zeros_like(drive), np.zeros_like(drive)
    for _ in range(100_000):
        if resolvent is None:
            following = (1.0 - step) * w + step * sigma.value(w @ state.T + drive)
        else:
            reflected = 2.0 * w - u
            half = (reflected + drive) @ resolvent
            u = 2.0 * half - reflected
            following = sigma.value(u)
        w = following
        residual = np.abs(w - sigma.value(w @ state.T + drive))
        # Relative to the terms that cancel in W w + drive.
        terms = (np.abs(w) @ size.T + np.abs(drive)).max(axis=-1, keepdims=True)
        if (residual <= tolerance * terms).all():
            return w
    raise ArithmeticError("the implicit layer did not converge in 100,000 iterations")


def implicit(
    state: Any,
    input: Any,
    bias: Any,
    output: Any,
    output_bias: Any,
    *,
    activation: str | Mapping[str, Any],
    witness: Any,
    gain: float,
    norm: str = "l2",
    limit: float = 1e-3,
) -> Certificate:
    """Certify y = C w + c with w = σ(W w + U x + b): unique w, gain at most `gain` up to a reported slack.

    Parameters
    ----------
    state, input, bias, output, output_bias : W (h, h), U (h, n), b (h,), C (m, h), c (m,).
    witness : multipliers Λ (h,) for norm "l2", scales η (h,) for "linf".
    gain : the claim for "l2" (enlarged by at most the relative `limit`); for "linf" the exact bound is stated.

    Raises
    ------
    NotProvedError
        When the equation is not proved well posed, or the gain not within the limit.

    Examples
    --------
    >>> tight = implicit([[0.5]], [[1.0]], [0.0], [[1.0]], [0.0], activation="relu", witness=[2.0], gain=2.0)
    >>> tight.gain <= 2.0 * (1.0 + 1e-3), tight.evaluate([1.0]).round(6).tolist()
    (True, [2.0])
    """
    from lipctrl.activations import activation as lookup
    from lipctrl.arithmetic import Enclosure

    names = {"state": state, "input": input, "bias": bias, "output": output, "output.bias": output_bias}
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in names.items()}

    def node(claimed: float, slack: float) -> Certificate:
        return Certificate(
            "implicit",
            claimed,
            arrays["input"].shape[1],
            arrays["output"].shape[0],
            weights=arrays,
            witness={("multiplier" if norm == "l2" else "scale"): witness},
            params={"activation": lookup(activation).to_dict()},
            norm=norm,
            note={"slack": slack},
        )

    if norm == "linf":
        draft = node(math.inf, 0.0)
        _read(draft)
        return node(round_up(_weighted_bound(draft)), 0.0)
    reason = "no slack was tried"
    for slack in SLACKS:
        if slack > limit:
            break
        attempt = node(gain * (1.0 + slack), slack)
        try:
            Implicit().prove(attempt, Enclosure)
        except NotProvedError as error:
            reason = str(error)
            continue
        return attempt
    raise NotProvedError(f"no gain up to {gain:.9g}·(1+{limit:g}) is proved: {reason}")
