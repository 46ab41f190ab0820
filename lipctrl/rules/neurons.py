"""The LMI rule: one inequality for every feed-forward graph of neurons with skips.

The graph reads x = z_0, and for l = 1..K

    v_l = Σ_{j<l} W_{l,j} z_j + b_l,      z_l = σ_l(v_l),      y = Σ_j Y_j z_j + c.

With e_l the rows of z_l in the stacked increments Δz = (Δx, Δz_1, …, Δz_K), every neuron of slopes
[m, s] satisfies (Δz - mΔv)(Δz - sΔv) ≤ 0, so for multipliers Λ_l ≥ 0 the matrix

    N = ρ E_0ᵀE_0 - YᵀY + Σ_l [(E_l - M_l V_l)ᵀ Λ_l (E_l - S_l V_l) + transpose]  ⪰ 0

proves ‖Δy‖² ≤ ρ ‖Δx‖² (LipSDP, Fazlyab et al. 2019, Theorem 2; the residual block of Juston et al. 2025,
eq. (5), is the graph in which only the first layer and the output read x). Other claims replace
ρ E_0ᵀE_0 - YᵀY by another quadratic form of (Δx, Δy). A layer's nonlinearity may be another certified
map: it then has slopes [-γ, γ] in norm and a single multiplier.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.activations import Activation, activation
from lipctrl.certificate import METRIC_CLAIMS, SIGNED_CLAIMS, Certificate
from lipctrl.positivity import Blocks, NotProvedError, prove_positive_semidefinite
from lipctrl.rules.base import Kind, Rule, evaluate, exact, register, require
from lipctrl.rules.linear import SLACKS

# The largest side of a block: a file of few numbers must not ask for more memory than a computer has.
LARGEST_BLOCK = 2**13
_NAME = re.compile(r"(?:layer([1-9][0-9]{0,8})|output)\.(?:bias|from(0|[1-9][0-9]{0,8}))")
# A read-out of more layers than this is bordered instead of squared, which keeps the proof linear in depth.
MANY_SOURCES = 2


@dataclass(frozen=True)
class Layer:
    """One layer of neurons: `sources` maps the index of an earlier layer (0 = input) to its weight (h, h_j).

    `activation` is a name, a table, an `Activation`, or the Certificate of a nested map of R^h into itself.
    """

    sources: Mapping[int, Any]
    activation: str | Mapping[str, Any] | Activation | Certificate
    bias: Any = None


@dataclass(frozen=True)
class Output:
    """The affine read-out y = Σ_j sources[j] z_j + bias; index 0 is the input (a skip)."""

    sources: Mapping[int, Any]
    bias: Any = None


@dataclass(frozen=True)
class Graph:
    """The neurons of a node in a form that proof and evaluation share."""

    sizes: list[int]
    sources: list[dict[int, np.ndarray]]
    biases: list[np.ndarray]
    slopes: list[tuple[np.ndarray, np.ndarray]]
    groups: list[int]
    nonlinear: list[Activation | Certificate] = field(default_factory=list)


def _key(layer: int, source: int, layers: int) -> str:
    return f"{'output' if layer > layers else f'layer{layer}'}.from{source}"


def read_graph(node: Certificate) -> Graph:
    """Read and validate the graph of a node: names, shapes, finiteness, activations.

    Raises
    ------
    NotProvedError
        When an array is missing, superfluous, misshapen or not finite.
    """
    specs = node.params.get("activations")
    if not isinstance(specs, list) or set(node.params) != {"activations"}:
        raise NotProvedError("neurons: activations are missing")
    count = len(specs)
    sizes, graph = [node.in_features], Graph([], [], [], [], [])
    readers = _read_names(node, count)
    for l in range(1, count + 2):
        prefix = "output" if l > count else f"layer{l}"
        bias = node.weights.get(f"{prefix}.bias")
        if bias is None or bias.ndim != 1 or bias.size == 0:
            raise NotProvedError(f"{prefix}.bias is missing")
        sources = {}
        for j in sorted(readers.get(l, ())):
            require(j < l, f"{_key(l, j, count)} reads a layer that is not an earlier one")
            weight = node.weights[_key(l, j, count)]
            require(weight.shape == (bias.size, sizes[j]), f"{_key(l, j, count)} has the wrong shape")
            sources[j] = weight
        arrays = [bias, *sources.values()]
        require(all(np.isfinite(a).all() for a in arrays), f"{prefix} has NaN or inf entries")
        graph.sources.append(sources)
        graph.biases.append(bias)
        sizes.append(bias.size)
        if l <= count:
            _read_activation(node, specs[l - 1], bias.size, graph)
    used = {spec["part"] for spec in specs if isinstance(spec, dict) and "part" in spec}
    require(used == set(range(len(node.parts))), "neurons: a part that no layer applies")
    require(sizes[-1] == node.out_features, "neurons: the output has the wrong dimension")
    graph.sizes.extend(sizes)
    return graph


def _read_names(node: Certificate, count: int) -> dict[int, list[int]]:
    """Return the layers that every layer (the output is the last) reads, from the names of the weights."""
    readers: dict[int, list[int]] = {}
    for name in node.weights:
        found = _NAME.fullmatch(name)
        if found is None:
            raise NotProvedError(f"neurons: unknown weights {name!r}")
        layer, source = found.groups()
        l = count + 1 if layer is None else int(layer)
        require(layer is None or l <= count, f"neurons: unknown weights {name!r}")
        if source is not None:
            readers.setdefault(l, []).append(int(source))
    return readers


def require_moderate(sizes: Sequence[int]) -> None:
    """Refuse blocks whose dense matrices no proof could hold in memory."""
    require(
        max(sizes) <= LARGEST_BLOCK, f"{max(sizes)} rows of a block: more than the {LARGEST_BLOCK} of a proof"
    )


def _read_activation(node: Certificate, spec: Any, size: int, graph: Graph) -> None:
    if isinstance(spec, dict) and set(spec) == {"part"}:
        require(type(spec["part"]) is int and 0 <= spec["part"] < len(node.parts), "neurons: no such part")
        part = node.parts[spec["part"]]
        require(
            part.norm == "l2" and part.claim == "lipschitz" and part.region is None,
            "neurons: a nested map needs a global l2 Lipschitz bound",
        )
        require(
            part.in_features == part.out_features == size, "neurons: a nested map has the wrong dimension"
        )
        exact(part.gain)
        bound = np.full(size, part.gain)
        graph.slopes.append((-bound, bound))
        graph.groups.append(size)
        graph.nonlinear.append(part)
        return
    sigma = activation(spec)
    require(size % sigma.group == 0, f"{sigma.name} needs a multiple of {sigma.group} neurons")
    graph.slopes.append((np.full(size, sigma.lower), np.full(size, sigma.upper)))
    graph.groups.append(sigma.group)
    graph.nonlinear.append(sigma)


def performance(node: Certificate) -> tuple[float, float, float]:
    """Return (a, b, c) of the claim a‖Δx‖² + 2b⟨Δx, Δy⟩ + c‖Δy‖² ≥ 0, squares rounded to the safe side.

    For a claim of contraction the norms and the product are those of its metric.
    """
    gain = node.gain
    exact(gain)
    require(gain >= 0.0 or node.claim in SIGNED_CLAIMS, "the gain is negative")
    if node.claim == "lipschitz":
        return math.nextafter(gain * gain, 0.0), 0.0, -1.0
    require(node.in_features == node.out_features, f"{node.claim} needs a square map")
    if node.claim == "contraction":
        return math.nextafter(gain * gain, 0.0), 0.0, -1.0
    if node.claim in SIGNED_CLAIMS:
        return gain, -0.5, 0.0
    require(node.claim == "inverse", f"no rule for the claim {node.claim!r}")
    return -math.nextafter(gain * gain, math.inf), 0.0, 1.0


def assemble(
    graph: Graph, multipliers: Sequence[np.ndarray], form: tuple[float, float, float], kind: Kind
) -> tuple[Blocks, list[int]]:
    """Assemble the upper block triangle of N in the given arithmetic."""
    blocks: Blocks = {}

    def add(i: int, j: int, value: Any) -> None:
        if i > j:
            i, j, value = j, i, value.T
        blocks[i, j] = blocks[i, j] + value if (i, j) in blocks else value

    a, b, c = form
    n = graph.sizes[0]
    require_moderate(graph.sizes)
    add(0, 0, kind.exact(a * np.eye(n)))
    for l, lam in enumerate(multipliers, start=1):
        low, high = (kind.exact(s) for s in graph.slopes[l - 1])
        weight = kind.exact(lam)
        add(l, l, (weight + weight).diagonal_matrix())
        cross = -(low + high).times(weight).column()
        square = low.times(high).times(weight + weight).column()
        curved = bool(((graph.slopes[l - 1][0] != 0.0) & (graph.slopes[l - 1][1] != 0.0)).any())
        maps = {j: kind.exact(w) for j, w in graph.sources[l - 1].items()}
        for j, map_j in maps.items():
            add(l, j, cross.times(map_j))
            for k, map_k in maps.items():
                if curved and j <= k:
                    add(j, k, map_j.T @ square.times(map_k))
    output = {j: kind.exact(w) for j, w in graph.sources[-1].items()}
    if len(output) > MANY_SOURCES and (b, c) == (0.0, -1.0):
        # N = K - YᵀY ⪰ 0 ⇔ [[K, Yᵀ], [Y, I]] ⪰ 0: a read-out of many layers would fill N, its border does not.
        last = len(graph.sizes) - 1
        add(last, last, kind.exact(np.eye(graph.sizes[-1])))
        for j, map_j in output.items():
            add(j, last, map_j.T)
        return blocks, graph.sizes
    for j, map_j in output.items():
        if b != 0.0:
            # 2b⟨Δx, Δy⟩ puts b Y_j into block (0, j); on the diagonal block it appears with its transpose.
            scaled = kind.exact(np.full((n, 1), b)).times(map_j)
            add(0, j, scaled + scaled.T if j == 0 else scaled)
        for k, map_k in output.items():
            if c != 0.0 and j <= k:
                product = map_j.T @ map_k
                add(j, k, -product if c < 0.0 else product)
    return blocks, graph.sizes[:-1]


def require_multipliers(graph: Graph, multipliers: Sequence[np.ndarray]) -> None:
    """Check that multipliers are finite, non-negative and constant over coupled neurons."""
    for l, lam in enumerate(multipliers, start=1):
        require(lam.shape == (graph.sizes[l],), f"multiplier{l} has the wrong shape")
        require(np.isfinite(lam).all() and (lam >= 0.0).all(), f"multiplier{l} is negative, NaN or inf")
        groups = lam.reshape(-1, graph.groups[l - 1])
        require((groups == groups[:, :1]).all(), f"multiplier{l} differs between coupled neurons")


def prove_graph(node: Certificate, graph: Graph, kind: Kind) -> None:
    """Prove the claim of a node from its graph, its multipliers and the graph's slopes."""
    count = len(graph.sizes) - 2
    names = [f"multiplier{l}" for l in range(1, count + 1)]
    require(all(n in node.witness for n in names), "neurons: multipliers are missing")
    multipliers = [node.witness[n] for n in names]
    require_multipliers(graph, multipliers)
    blocks, sizes = assemble(graph, multipliers, performance(node), kind)
    prove_positive_semidefinite(blocks, sizes)


def apply_graph(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Run the graph on x of shape (..., in_features)."""
    z = [x]
    for sources, bias, sigma in zip(graph.sources[:-1], graph.biases[:-1], graph.nonlinear, strict=True):
        v = bias + sum((z[j] @ w.T for j, w in sources.items()), np.zeros(1))
        v = np.broadcast_to(v, (*x.shape[:-1], bias.size))
        z.append(evaluate(sigma, v) if isinstance(sigma, Certificate) else sigma.value(v))
    y = graph.biases[-1] + sum((z[j] @ w.T for j, w in graph.sources[-1].items()), np.zeros(1))
    return np.broadcast_to(y, (*x.shape[:-1], graph.sizes[-1]))


@register
class Neurons(Rule):
    """A graph of neurons has the claimed property because N ⪰ 0 for the stored multipliers."""

    name = "neurons"

    def prove(self, node: Certificate, kind: Kind) -> None:
        require(node.norm == "l2", "neurons: the LMI proves l2 claims")
        require(node.claim not in METRIC_CLAIMS, "neurons: the rule network proves contraction in a metric")
        graph = read_graph(node)
        expected = {f"multiplier{l}" for l in range(1, len(graph.sizes) - 1)}
        require(set(node.witness) == expected, "neurons: unknown or missing witness arrays")
        prove_graph(node, graph, kind)

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return apply_graph(read_graph(node), x)


def neurons(
    layers: Sequence[Layer],
    output: Output,
    multipliers: Sequence[Any],
    gain: float,
    *,
    in_features: int,
    claim: str = "lipschitz",
    note: Mapping[str, Any] | None = None,
) -> Certificate:
    """State the claim of a graph of neurons with its multipliers; `prove_neurons` also proves it.

    Shapes: Layer.sources[j] is (h_l, h_j); multipliers[l-1] is (h_l,), constant over coupled neurons.

    Examples
    --------
    >>> hidden = Layer({0: [[2.0]]}, "relu")
    >>> claim = neurons([hidden], Output({1: [[3.0]]}), [[9.0]], 6.1, in_features=1)
    >>> from lipctrl import check
    >>> check(claim).ok
    True
    """
    weights: dict[str, Any] = {}
    specs: list[Any] = []
    parts: list[Certificate] = []
    out_features = 0
    for l, layer in enumerate([*layers, output], start=1):
        prefix = "output" if l > len(layers) else f"layer{l}"
        for j, weight in layer.sources.items():
            weights[_key(l, j, len(layers))] = weight
        if layer.bias is not None:
            bias = np.asarray(layer.bias)
        elif layer.sources:
            bias = np.zeros(np.asarray(next(iter(layer.sources.values()))).shape[0])
        else:
            raise ValueError(f"{prefix} has neither a source nor a bias")
        weights[f"{prefix}.bias"] = bias
        out_features = bias.shape[0]
        if isinstance(layer, Layer):
            if isinstance(layer.activation, Certificate):
                specs.append({"part": len(parts)})
                parts.append(layer.activation)
            else:
                specs.append(activation(layer.activation).to_dict())
    return Certificate(
        "neurons",
        gain,
        in_features,
        out_features,
        parts=tuple(parts),
        weights=weights,
        witness={f"multiplier{l}": lam for l, lam in enumerate(multipliers, start=1)},
        params={"activations": specs},
        claim=claim,
        note=note or {},
    )


def prove_neurons(
    layers: Sequence[Layer],
    output: Output,
    multipliers: Sequence[Any],
    gain: float,
    *,
    in_features: int,
    limit: float = 1e-3,
    slacks: Iterable[float] = SLACKS,
) -> Certificate:
    """Return the certificate with the smallest tried gain L(1+ε) that the stored numbers prove.

    Witnesses that hold by construction make N singular. Every layer therefore gets its own slack,
    Λ_l(1+δ)^(K+1-l) and ρ = L²(1+δ)^(K+1): directions of the hidden neurons need it, a larger L alone does
    not help them. ε is reported in the note as "slack".

    Raises
    ------
    NotProvedError
        When no ε ≤ `limit` proves the claim; the message carries the last reason.

    Examples
    --------
    >>> hidden = Layer({0: [[2.0]]}, "relu")
    >>> prove_neurons([hidden], Output({1: [[3.0]]}), [[9.0]], 6.0, in_features=1).gain <= 6.0 * (1.0 + 1e-3)
    True
    """
    from lipctrl.arithmetic import Enclosure

    count, reason = len(layers), "no slack was tried"
    base = [np.asarray(lam, dtype=np.float64) for lam in multipliers]
    rule = Neurons()
    for delta in slacks:
        claimed = gain * math.sqrt((1.0 + delta) ** (count + 1))
        if claimed > gain * (1.0 + limit):
            break
        relaxed = [lam * (1.0 + delta) ** (count + 1 - l) for l, lam in enumerate(base, start=1)]
        node = neurons(
            layers,
            output,
            relaxed,
            claimed,
            in_features=in_features,
            note={"slack": claimed / gain - 1.0 if gain > 0 else 0.0},
        )
        try:
            rule.prove(node, Enclosure)
        except NotProvedError as error:
            reason = str(error)
            continue
        return node
    raise NotProvedError(f"no gain up to {gain:.9g}·(1+{limit:g}) is proved: {reason}")
