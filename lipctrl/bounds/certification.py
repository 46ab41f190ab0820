"""`certify`: a rigorous certificate for a network that lipctrl did not build."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lipctrl.bounds.contraction import as_metric
from lipctrl.bounds.files import read_layers, read_safetensors
from lipctrl.bounds.graph import Network
from lipctrl.bounds.methods import certify_network
from lipctrl.bounds.onnx_network import read_onnx
from lipctrl.bounds.ours import is_ours
from lipctrl.certificate import METRIC_CLAIMS, Certificate
from lipctrl.checker import check
from lipctrl.positivity import NotProvedError

METHODS = ("auto", "product", "lipsdp", "descent", "eclipse", "eclipse-fast", "local")
PROPERTIES = ("lipschitz", "one-sided", "inverse", "contraction", "contraction-rate")


def certify(
    module_or_layers: Any,
    method: str = "auto",
    region: Any = None,
    property: str = "lipschitz",
    *,
    activation: Any = None,
    norm: str = "l2",
    metric: Any = None,
    input_shape: Any = None,
) -> Certificate:
    """Return a certificate that `lipctrl.check` proves, for a network given as a module, arrays or a file.

    The claim concerns the real-arithmetic map of the given weights (float32 cast to float64 without change); it is
    incremental, in the norm `norm`. Whatever a solver returns only steers: the stored multipliers are proved.

    Parameters
    ----------
    module_or_layers : torch module whose trace holds Linear, element-wise activations, additions (skips),
        concatenations, slices, reshapes that keep the batch, scalings by constants, Flatten, Dropout, batch
        normalisation in evaluation mode, and
        with `input_shape` convolutions and average pools; a lipctrl network or policy (its own
        certificate, when no region, method or other property is asked); list of (W, b), W of shape (out, in);
        path of an .onnx file, or of a .safetensors file of sequential layers. Features come last.
    method : "product" (norms composed by rules; exact for linear networks), "eclipse-fast" and "eclipse"
        (layer-wise, linear in depth), "lipsdp" (all multipliers at once, tightest), "descent" (the same LMI by
        L-BFGS: for residual stacks of up to 2000 neurons), "local" (as "lipsdp", with slopes proved on `region`), or
        "auto" (the best of what the size allows).
    region : None, (lower, upper) of a box of inputs (scalars are broadcast), or {"center": c, "radius": r} of an
        l2 ball, for which the enclosing box is used.
    property : "lipschitz", "one-sided" (⟨Δy, Δx⟩ ≤ c‖Δx‖², c may be negative: a contraction rate of ẋ = f(x)), or
        "inverse" (‖Δy‖ ≥ c‖Δx‖: bi-Lipschitz together with "lipschitz"), "contraction" (‖Δy‖_P ≤ c‖Δx‖_P of
        x⁺ = f(x): c < 1 contracts) or "contraction-rate" (⟨Δy, PΔx⟩ ≤ c‖Δx‖_P² of ẋ = f(x): c < 0 contracts), both in
        a metric ‖v‖_P² = vᵀPv that is proved definite and kept as `certificate.metric`. All but the first need a
        square map. On a region, both points lie in it; that f maps it into itself is not claimed.
    activation : of a list of layers or a safetensors file, e.g. "relu" or {"name": "leaky_relu", "slope": 0.1}.
    metric : of the contraction properties: P (n, n), symmetric positive definite, or None to search for one.
    input_shape : of a torch network with convolutions: the shape of one input, channels first, without the batch. The
        certificate then describes the map of flattened inputs (each convolution as its matrix: for small ones).
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
    Fazlyab 2020 (incremental quadratic constraints), Huang et al. 2021 (local bounds), Lohmiller & Slotine 1998
    (contraction in a metric).

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
    given = read_network(module_or_layers, activation, input_shape)
    box = as_box(region, given.in_features)
    if method == "local" and box is None:
        raise ValueError('method "local" needs region=(lower, upper) or {"center": c, "radius": r}')
    if property != "lipschitz" and given.in_features != given.out_features:
        raise ValueError(
            f"property {property!r} needs a square map, got {given.in_features} → {given.out_features}"
        )
    if metric is not None and property not in METRIC_CLAIMS:
        raise ValueError(f"metric belongs to the properties {METRIC_CLAIMS}, not to {property!r}")
    if property in METRIC_CLAIMS and method not in ("auto", "lipsdp", "local"):
        raise ValueError(
            f'property {property!r} is bounded by the method "lipsdp" or "local", not {method!r}'
        )
    try:
        # Overflow is no surprise here: every proof requires finite numbers where it decides.
        with np.errstate(over="ignore", invalid="ignore"):
            cert = certify_network(given, method, box, property, norm, as_metric(metric, given.in_features))
    except OverflowError as error:
        raise NotProvedError(
            f"the bound is beyond the range of float64 ({error}); rescale the network"
        ) from error
    if cert.parts or norm == "linf":
        # A node without parts was proved by its rule when it was made; a tree is proved node by node.
        report = check(cert)
        if not report.ok:
            raise NotProvedError(f"the certificate does not check: {'; '.join(report.failures)}")
    return cert


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")


def _own_certificate(value: Any) -> Certificate | None:
    """Return what a lipctrl network proves of itself; what anybody else hands in as proved is checked."""
    maker = getattr(value, "certificate", None)
    found = value if isinstance(value, Certificate) else None
    if callable(maker) and not isinstance(value, type):
        found = maker()
    if not isinstance(found, Certificate):
        return None
    if not is_ours(maker):
        report = check(found)
        if not report.ok:
            raise NotProvedError(f"the certificate does not check: {'; '.join(report.failures)}")
    return found


def read_network(source: Any, activation: Any = None, input_shape: Any = None) -> Network:
    """Return the neutral form of a module, list of layers or file.

    Raises
    ------
    UnsupportedOperationError, ValueError, TypeError
        When the source cannot be read; the message names the operation or the type.

    Examples
    --------
    >>> read_network([[[3.0, 4.0]], [[2.0]]], activation="relu").in_features
    2
    """
    if input_shape is not None and not (hasattr(source, "state_dict") and hasattr(source, "modules")):
        raise ValueError("input_shape belongs to torch modules; other sources carry their sizes")
    if isinstance(source, Network):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(os.fsdecode(source))
        if path.suffix in (".onnx", ".safetensors") and not path.is_file():
            raise FileNotFoundError(f"{path} is no file; expected an .onnx or .safetensors file that exists")
        if path.suffix == ".onnx":
            return read_onnx(path)
        if path.suffix == ".safetensors":
            return read_safetensors(path, activation)
        raise ValueError(f"{path} is neither an .onnx nor a .safetensors file")
    if isinstance(source, list | tuple):
        return read_layers(source, activation)
    if hasattr(source, "state_dict") and hasattr(source, "modules"):
        from lipctrl.bounds.torch_network import read_torch

        return read_torch(source, input_shape)
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
