"""`certify`: a rigorous certificate for a network that lipctrl did not build."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.bounds.barrier import Solution, SolverError, solve
from lipctrl.bounds.eclipse import LayerWise, layer_wise
from lipctrl.bounds.files import read_layers, read_onnx, read_safetensors
from lipctrl.bounds.graph import Network
from lipctrl.bounds.problem import Reduction, dense_program, gain_of, reduce_network
from lipctrl.bounds.product import linear_certificate, product_certificate
from lipctrl.bounds.proof import smallest_proved
from lipctrl.certificate import Certificate
from lipctrl.checker import check
from lipctrl.positivity import NotProvedError
from lipctrl.rules.network import comparison_bound, is_affine, network

METHODS = ("auto", "product", "lipsdp", "eclipse", "eclipse-fast", "local")
PROPERTIES = ("lipschitz", "one-sided", "inverse")
# Above this size of the LMI "auto" takes the layer-wise methods, whose time is linear in depth.
LARGEST_DENSE = 420
LARGEST_LAYERWISE = 4000


def certify(
    module_or_layers: Any,
    method: str = "auto",
    region: Any = None,
    property: str = "lipschitz",
    *,
    activation: Any = None,
    norm: str = "l2",
) -> Certificate:
    """Return a certificate that `lipctrl.check` proves, for a network given as a module, arrays or a file.

    The claim concerns the real-arithmetic map of the given weights (float32 cast without change to float64), incremental
    and in the norm `norm`. Whatever a solver returns only steers: the stored multipliers are proved.

    Parameters
    ----------
    module_or_layers : torch module whose trace holds Linear, element-wise activations, additions (skips), concatenations, slices,
        scalings by constants, Flatten, Dropout; a lipctrl network or policy (its own certificate, when no
        region or other property is asked); list of (W, b), W of shape (out, in); path of an .onnx file or of a .safetensors file of
        sequential layers. Features come last.
    method : "product" (norms composed by rules; exact for linear networks), "eclipse-fast" and "eclipse" (layer-wise, linear
        in depth), "lipsdp" (all multipliers at once, tightest), "local" (as "lipsdp", with slopes
        proved on `region`), or "auto" (the best of what the size allows).
    region : None, (lower, upper) of a box of inputs (scalars are broadcast), or {"center": c, "radius": r} of an l2 ball, for
        which the enclosing box is used.
    property : "lipschitz", "one-sided" (⟨Δy, Δx⟩ ≤ c‖Δx‖², c may be negative: a contraction rate of ẋ = f(x)), or
        "inverse" (‖Δy‖ ≥ c‖Δx‖: bi-Lipschitz together with "lipschitz"); the latter two need a square map.
    activation : of a list of layers or a safetensors file, e.g. "relu" or {"name": "leaky_relu", "slope": 0.1}.
    norm : "l2", or "linf" (property "lipschitz"; by comparison of absolute values, sharper than the product).

    Raises
    ------
    lipctrl.bounds.UnsupportedOperationError
        For an operation without a rule, by name (a ValueError).
    ValueError
        For NaN or inf weights, wrong shapes, unknown methods.
    lipctrl.NotProvedError
        When no bound of the asked kind is proved, for example an inverse bound of a map that has none.

    Sources: Fazlyab et al. 2019 (LipSDP, Theorem 2), Xu & Sivaranjani 2024 (ECLipsE), Hashemi, Ruths &
    Fazlyab 2020 (incremental quadratic constraints), Huang et al. 2021 (local bounds).

    Examples
    --------
    >>> import numpy as np, lipctrl
    >>> layers = [(np.eye(2), np.zeros(2)), (np.array([[3.0, 4.0]]), np.zeros(1))]
    >>> cert = lipctrl.certify(layers, activation="relu")
    >>> round(cert.gain, 6), lipctrl.check(cert).ok
    (5.0, True)
    """
    _require_choice("method", method, METHODS)
    _require_choice("property", property, PROPERTIES)
    _require_choice("norm", norm, ("l2", "linf"))
    if norm == "linf" and property != "lipschitz":
        raise ValueError(f'norm "linf" bounds the property "lipschitz", not {property!r}')
    own = _own_certificate(module_or_layers)
    if (
        own is not None
        and method == "auto"
        and region is None
        and property == "lipschitz"
        and own.norm == norm
    ):
        return own
    given = read_network(module_or_layers, activation)
    box = as_box(region, given.in_features)
    if method == "local" and box is None:
        raise ValueError('method "local" needs region=(lower, upper) or {"center": c, "radius": r}')
    if property != "lipschitz" and given.in_features != given.out_features:
        raise ValueError(
            f"property {property!r} needs a square map, got {given.in_features} → {given.out_features}"
        )
    cert = _certified(given, method, box, property, norm)
    report = check(cert)
    if not report.ok:
        raise NotProvedError(f"the certificate does not check: {'; '.join(report.failures)}")
    return cert


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")


def _own_certificate(value: Any) -> Certificate | None:
    if isinstance(value, Certificate):
        return value
    maker = getattr(value, "certificate", None)
    if callable(maker) and not isinstance(value, type):
        found = maker()
        if isinstance(found, Certificate):
            return found
    return None


def read_network(source: Any, activation: Any = None) -> Network:
    """Return the neutral form of a module, list of layers or file.

    Raises
    ------
    UnsupportedOperationError, ValueError, TypeError
        When the source cannot be read; the message names the operation or the type.
    """
    if isinstance(source, Network):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.suffix == ".onnx":
            return read_onnx(path)
        if path.suffix == ".safetensors":
            return read_safetensors(path, activation)
        raise ValueError(f"{path} is neither an .onnx nor a .safetensors file")
    if isinstance(source, list | tuple):
        return read_layers(source, activation)
    if hasattr(source, "state_dict") and hasattr(source, "modules"):
        from lipctrl.bounds.torch_network import read_torch

        exported = getattr(source, "export", None)
        return read_torch(exported() if callable(exported) else source)
    raise TypeError(
        f"certify takes a torch module, a list of (W, b), an .onnx or .safetensors path, got {type(source).__name__}"
    )


def as_box(region: Any, features: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (lower, upper); the ball is replaced by its enclosing box, rounded outwards."""
    if region is None:
        return None
    if isinstance(region, dict):
        if set(region) != {"center", "radius"}:
            raise ValueError(f"region has the keys {sorted(region)}; expected center and radius")
        center = np.broadcast_to(np.asarray(region["center"], dtype=np.float64), (features,))
        radius = float(region["radius"])
        if not radius >= 0.0:
            raise ValueError(f"the radius is {radius}; expected a number of at least 0")
        lower, upper = np.nextafter(center - radius, -np.inf), np.nextafter(center + radius, np.inf)
    else:
        try:
            lower, upper = (
                np.array(np.broadcast_to(np.asarray(r, dtype=np.float64), (features,))) for r in region
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"region is {region!r}; expected (lower, upper) of {features} features"
            ) from error
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
        raise ValueError(f"region is {region!r}; expected finite ends with lower ≤ upper")
    return lower, upper


def _certified(
    given: Network, method: str, box: tuple[np.ndarray, np.ndarray] | None, claim: str, norm: str
) -> Certificate:
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


def _linf(given: Network, box: tuple[np.ndarray, np.ndarray] | None) -> Certificate:
    from lipctrl.arithmetic import Enclosure
    from lipctrl.rules.base import round_up

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
        note={"method": "comparison"},
    )


def _best(
    given: Network, reduction: Reduction, box: tuple[np.ndarray, np.ndarray] | None, claim: str
) -> Certificate:
    """Take the tightest of the methods that the size allows; failures of one are noted, not hidden."""
    size = sum(reduction.sizes)
    if claim != "lipschitz" or size <= LARGEST_DENSE:
        names = ["lipsdp"] if claim != "lipschitz" else ["lipsdp", "eclipse-fast"]
    else:
        names = ["eclipse", "eclipse-fast"] if size <= LARGEST_LAYERWISE else ["eclipse-fast"]
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

    def build(
        given: Network, reduction: Reduction, box: tuple[np.ndarray, np.ndarray] | None, claim: str
    ) -> Certificate:
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
        )

    return build


def _relative(found: LayerWise, gain: float) -> dict[int, np.ndarray]:
    """Scale normalised multipliers to the claimed gain: N = ρ N_1 - YᵀY gains definiteness in every direction."""
    return {l: gain * gain * lam for l, lam in found.multipliers.items()}


def _stated(
    given: Network,
    reduction: Reduction,
    box: tuple[np.ndarray, np.ndarray] | None,
    claim: str,
    gain: float,
    multipliers: dict[int, np.ndarray],
    note: dict[str, Any],
) -> Certificate:
    return network(
        given.layers,
        given.output,
        reduction.multipliers(multipliers),
        gain,
        in_features=given.in_features,
        claim=claim,
        region=box,
        note=note,
    )


def _semidefinite(
    given: Network, reduction: Reduction, box: tuple[np.ndarray, np.ndarray] | None, claim: str
) -> Certificate:
    """Solve the whole LMI by the barrier method and prove its multipliers."""
    start = layer_wise(reduction, fast=True)
    note: dict[str, Any] = {"method": "lipsdp" if box is None else "local"}
    if start.rho == 0.0 or not start.multipliers:
        gain_unit = 0.0
        solution = _without_solver(reduction, claim, start)
    else:
        solution = _solve(reduction, claim, start)
        gain_unit = math.sqrt(start.rho) if claim == "one-sided" else 0.0
        note |= {"relative gap": solution.gap / max(abs(solution.tau), 1e-300), "steps": solution.steps}
    estimate = gain_of(solution.tau, claim)
    if claim == "inverse" and not solution.tau < 0.0:
        raise NotProvedError("the multipliers prove no positive inverse bound; the map may not be injective")
    multipliers = _by_layer(reduction, solution.multipliers)
    return smallest_proved(
        lambda gain: _stated(given, reduction, box, claim, gain, multipliers, note),
        estimate,
        claim=claim,
        unit=gain_unit,
    )


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


def _without_solver(reduction: Reduction, claim: str, start: LayerWise) -> Solution:
    """Networks whose neurons all drop out: N is a matrix of the input alone."""
    program = dense_program(reduction, claim)
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
    "eclipse": _layerwise(fast=False),
    "eclipse-fast": _layerwise(fast=True),
}
