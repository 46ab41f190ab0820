"""The methods behind `certify`: each turns a reduced network into a proved certificate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.arithmetic import Enclosure
from lipctrl.bounds.barrier import Solution, SolverError, solve
from lipctrl.bounds.contraction import contraction
from lipctrl.bounds.descent import descend
from lipctrl.bounds.eclipse import LayerWise, layer_wise
from lipctrl.bounds.graph import Network
from lipctrl.bounds.problem import Box, Reduction, dense_program, gain_of, reduce_network
from lipctrl.bounds.product import linear_certificate, product_certificate
from lipctrl.bounds.proof import Proof, smallest_proved
from lipctrl.certificate import METRIC_CLAIMS, Certificate
from lipctrl.positivity import NotProvedError
from lipctrl.rules.base import round_up
from lipctrl.rules.linear import SLACKS
from lipctrl.rules.network import comparison_bound, is_affine, network, prove_reduced

# Above this size of the LMI "auto" takes the layer-wise methods, whose time is linear in depth.
LARGEST_DENSE = 420
LARGEST_LAYERWISE = 4000
LARGEST_DESCENT = 2000
# The layer-wise ρ is an eigenvalue, at which N is singular: smaller slacks are not worth a try.
_LAYERWISE_SLACKS = tuple(s for s in SLACKS if s >= 1e-11)


def certify_network(
    given: Network, method: str, box: Box | None, claim: str, norm: str, metric: np.ndarray | None = None
) -> Certificate:
    """Certify a neutral network on a box (None: globally); see `certify` for the words."""
    if claim in METRIC_CLAIMS:
        return _contracting(given, reduce_network(given, box), box, claim, metric)
    if norm == "linf":
        if method == "product":
            return product_certificate(given, "linf")
        return _linf(given, box)
    if claim == "lipschitz" and box is None and all(is_affine(layer) for layer in given.layers):
        return linear_certificate(given)
    if method == "product":
        if box is not None or claim != "lipschitz":
            raise ValueError('method "product" bounds the global property "lipschitz" only')
        return product_certificate(given)
    reduction = reduce_network(given, box)
    if method == "auto":
        return _best(given, reduction, box, claim)
    return _BUILDERS[method](given, reduction, box, claim)


def _contracting(
    given: Network, reduction: Reduction, box: Box | None, claim: str, metric: np.ndarray | None
) -> Certificate:
    """Search for a metric (unless given) and multipliers, and prove the contraction."""
    inner = "lipschitz" if claim == "contraction" else "one-sided"
    found = contraction(reduction, inner, metric)
    metric = found.metric if metric is None else metric
    multipliers = _by_layer(reduction, found.multipliers)
    note = {"method": "lipsdp", "metric": "searched"}
    unit = math.sqrt(float(np.abs(found.tau))) if inner == "lipschitz" else abs(found.tau) + _size(reduction)

    def build(gain: float) -> Certificate:
        return _stated(given, reduction, box, claim, gain, multipliers, note, metric)

    return smallest_proved(build, gain_of(found.tau, inner), claim=claim, unit=unit, prove=_proof(reduction))


def _size(reduction: Reduction) -> float:
    """Return the scale of the output's increments, for slacks of constants near zero."""
    return math.sqrt(layer_wise(reduction, fast=True).rho)


def solve_reduction(reduction: Reduction, claim: str) -> Solution:
    """Return the best multipliers that the barrier method finds for a claim in the Euclidean metric."""
    start = layer_wise(reduction, fast=True)
    if start.rho == 0.0 or not start.multipliers:
        return _without_solver(reduction, claim)
    return _solve(reduction, claim, start)


def _linf(given: Network, box: Box | None) -> Certificate:
    reduction = reduce_network(given, box)
    gain = round_up(comparison_bound(reduction.graph, reduction.reduced, Enclosure))
    return network(
        given.layers,
        given.output,
        {},
        gain,
        in_features=given.in_features,
        norm="linf",
        region=box,
        relaxation=reduction.relaxation,
        note={"method": "comparison"},
    )


def _best(given: Network, reduction: Reduction, box: Box | None, claim: str) -> Certificate:
    """Take the tightest of the methods that the size allows; failures of one are noted, not hidden."""
    size = sum(reduction.sizes)
    if claim != "lipschitz" or size <= LARGEST_DENSE:
        names = ["lipsdp"] if claim != "lipschitz" else ["lipsdp", "eclipse-fast"]
    else:
        names = ["eclipse", "eclipse-fast"] if size <= LARGEST_LAYERWISE else ["eclipse-fast"]
        if size <= LARGEST_DESCENT and any(len(maps) > 1 for maps in [*reduction.maps, reduction.output]):
            # The greedy choice of a layer's multipliers knows no skips.
            names = ["descent", *names]
    tried: dict[str, str] = {}
    for name in names:
        try:
            cert = _BUILDERS[name](given, reduction, box, claim)
        except (SolverError, NotProvedError) as error:
            tried[name] = str(error)
            continue
        return _noted(cert, {"failed": tried}) if tried else cert
    if claim == "lipschitz" and box is None:
        return _noted(product_certificate(given), {"method": "product", "failed": tried})
    raise NotProvedError("; ".join(f"{name}: {why}" for name, why in tried.items()))


def _noted(cert: Certificate, extra: dict[str, Any]) -> Certificate:
    return Certificate(
        cert.rule,
        cert.gain,
        cert.in_features,
        cert.out_features,
        parts=cert.parts,
        weights=cert.weights,
        witness=cert.witness,
        params=cert.params,
        norm=cert.norm,
        claim=cert.claim,
        region=cert.region,
        note={**cert.note, **extra},
    )


def _layerwise(fast: bool) -> Callable[..., Certificate]:
    name = "eclipse-fast" if fast else "eclipse"

    def build(given: Network, reduction: Reduction, box: Box | None, claim: str) -> Certificate:
        if claim != "lipschitz":
            raise ValueError(f'method {name!r} bounds the property "lipschitz", not {claim!r}; use "lipsdp"')
        found = layer_wise(reduction, fast=fast)
        note: dict[str, Any] = {"method": name}
        if not fast:
            # The greedy objective knows no skips: on residual networks the closed form may win.
            plain = layer_wise(reduction, fast=True)
            if plain.rho < found.rho:
                found, note = plain, {"method": name, "taken from": "eclipse-fast"}
        if found.fallbacks:
            note["fell back to eclipse-fast in layers"] = list(found.fallbacks)
        return smallest_proved(
            lambda gain: _stated(given, reduction, box, claim, gain, _relative(found, gain), note),
            math.sqrt(found.rho),
            slacks=_LAYERWISE_SLACKS,
            prove=_proof(reduction),
        )

    return build


def _relative(found: LayerWise, gain: float) -> dict[int, np.ndarray]:
    """Scale normalised multipliers to the claimed gain: N = ρ N_1 - YᵀY gains definiteness in every direction."""
    return {l: gain * gain * lam for l, lam in found.multipliers.items()}


def _stated(
    given: Network,
    reduction: Reduction,
    box: Box | None,
    claim: str,
    gain: float,
    multipliers: dict[int, np.ndarray],
    note: dict[str, Any],
    metric: np.ndarray | None = None,
) -> Certificate:
    return network(
        given.layers,
        given.output,
        reduction.multipliers(multipliers),
        gain,
        in_features=given.in_features,
        claim=claim,
        region=box,
        relaxation=reduction.relaxation,
        metric=metric,
        note=note,
    )


def _semidefinite(given: Network, reduction: Reduction, box: Box | None, claim: str) -> Certificate:
    """Solve the whole LMI by the barrier method and prove its multipliers."""
    solution = solve_reduction(reduction, claim)
    note: dict[str, Any] = {"method": "lipsdp" if box is None else "local"}
    if solution.steps:
        note |= {"relative gap": solution.gap / max(abs(solution.tau), 1e-300), "steps": solution.steps}
    gain_unit = _size(reduction) if claim == "one-sided" else 0.0
    estimate = gain_of(solution.tau, claim)
    if claim == "inverse" and not solution.tau < 0.0:
        raise NotProvedError("the multipliers prove no positive inverse bound; the map may not be injective")
    multipliers = _by_layer(reduction, solution.multipliers)
    return smallest_proved(
        lambda gain: _stated(given, reduction, box, claim, gain, multipliers, note),
        estimate,
        claim=claim,
        unit=gain_unit,
        prove=_proof(reduction),
    )


def _proof(reduction: Reduction) -> Proof:
    """Return the proof of the rule "network" that reads the graph and its reduction once for all slacks."""
    return lambda node: prove_reduced(node, reduction.graph, reduction.reduced, Enclosure)


def _by_layer(reduction: Reduction, values: np.ndarray) -> dict[int, np.ndarray]:
    out, begin = {}, 0
    for l, size in enumerate(reduction.sizes[1:], start=1):
        if size:
            groups = reduction.groups(l)
            out[l] = values[begin + groups]
            begin += int(groups[-1]) + 1
    return out


def _grouped(reduction: Reduction, multipliers: dict[int, np.ndarray]) -> np.ndarray:
    parts = []
    for l, lam in multipliers.items():
        _, first = np.unique(reduction.groups(l), return_index=True)
        parts.append(lam[first])
    return np.concatenate([np.zeros(0), *parts])


def _descended(given: Network, reduction: Reduction, box: Box | None, claim: str) -> Certificate:
    """Improve the layer-wise multipliers of the whole LMI by L-BFGS, and prove them."""
    if claim != "lipschitz":
        raise ValueError(f'method "descent" bounds the property "lipschitz", not {claim!r}; use "lipsdp"')
    start = layer_wise(reduction, fast=True)
    if start.rho == 0.0 or not start.multipliers:
        return _semidefinite(given, reduction, box, claim)
    program = dense_program(reduction, claim)
    rho, values = descend(program, 1.5 * start.rho * _grouped(reduction, start.multipliers))
    multipliers = _by_layer(reduction, values)
    return smallest_proved(
        lambda gain: _stated(given, reduction, box, claim, gain, multipliers, {"method": "descent"}),
        math.sqrt(rho),
        slacks=_LAYERWISE_SLACKS,
        prove=_proof(reduction),
    )


def _without_solver(reduction: Reduction, claim: str) -> Solution:
    """Networks whose neurons all drop out: N is a matrix of the input alone."""
    program = dense_program(reduction, claim)
    if claim == "lipschitz" and not any(m.any() for m in reduction.output.values()):
        return Solution(0.0, np.zeros(program.variables), 0.0, 0)
    if len(program.left):
        raise SolverError("the output does not depend on the input; nothing is left to solve")
    largest = float(np.linalg.eigvalsh(-program.constant)[-1])
    return Solution(largest, np.zeros(0), 0.0, 0)


def _solve(reduction: Reduction, claim: str, start: LayerWise) -> Solution:
    """Start the barrier method from the layer-wise multipliers, at a strictly feasible τ."""
    program = dense_program(reduction, claim)
    unit = start.rho if claim != "one-sided" else math.sqrt(start.rho)
    scale = 1.5 * unit
    lam = scale * _grouped(reduction, start.multipliers)
    if claim == "lipschitz" and any((reach != 1.0).any() for reach in reduction.reduced.reach):
        # Multipliers of narrow neurons spread over many orders of magnitude: L-BFGS in their logarithms finds them.
        lam = 1.2 * descend(program, lam)[1]
    matrix = program.matrix(0.0, lam)
    n = reduction.sizes[0]
    try:
        hidden = scipy.linalg.cho_factor(matrix[n:, n:], check_finite=False)
    except np.linalg.LinAlgError as error:
        raise SolverError("the layer-wise start is not strictly feasible") from error
    schur = matrix[:n, :n] - matrix[:n, n:] @ scipy.linalg.cho_solve(hidden, matrix[n:, :n])
    need = -float(np.linalg.eigvalsh(schur)[0])
    tau = need + 0.1 * abs(need) + 0.1 * scale
    return solve(program, tau, lam)


_BUILDERS: dict[str, Callable[..., Certificate]] = {
    "lipsdp": _semidefinite,
    "local": _semidefinite,
    "descent": _descended,
    "eclipse": _layerwise(fast=False),
    "eclipse-fast": _layerwise(fast=True),
}
