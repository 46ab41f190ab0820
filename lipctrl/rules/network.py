"""The LMI rule for networks as they were given: linear layers, skips, slopes on a box, l2 and linf.

It extends the rule of `lipctrl.rules.neurons` in three directions. Layers of slopes [s, s] are substituted in the
arithmetic of the proof (`lipctrl.rules.reduction`), so that stored weights are the given ones. A node
with a region proves slopes on the pre-activation intervals of that box (`lipctrl.rules.local`; both
inputs of a pair lie in a box, so does the segment between them, and the mean value of σ' along it lies in
[m_i, s_i]). And a node of norm "linf" is proved by comparison: |Δz_l| ≤ s_l |W_l| |Δz_{l-1}|, entry by entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.activations import Activation
from lipctrl.certificate import METRIC_CLAIMS, Certificate
from lipctrl.positivity import prove_positive_semidefinite
from lipctrl.rules.backward import SlopeRule, needs_lines, stored_slopes
from lipctrl.rules.base import Kind, Rule, exact, register, require, round_up
from lipctrl.rules.local import local_slopes
from lipctrl.rules.neurons import (
    Graph,
    Layer,
    Output,
    apply_graph,
    neurons,
    performance,
    read_graph,
    require_multipliers,
)
from lipctrl.rules.reduction import Reduced, assemble_reduced, reduce_graph

Box = tuple[np.ndarray, np.ndarray]
# Eigenvalues of a metric are at least this part of its largest entry.
METRIC_FLOOR = 2.0**-40


def slopes_of(
    graph: Graph, region: Box | None, relaxation: SlopeRule | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return slope intervals of all neurons: of the activations, or proved on a box of inputs."""
    return graph.slopes if region is None else local_slopes(graph, region, relaxation)


def _relaxation(node: Certificate, graph: Graph) -> SlopeRule | None:
    """Return the stored slopes of lines beside the activations, one array for every layer that reads them, or none."""
    found = {l: node.witness.get(f"relaxation{l}") for l in range(1, len(graph.nonlinear) + 1)}
    slopes = {l: array for l, array in found.items() if array is not None}
    if not slopes:
        return None
    require(node.region is not None, "network: a relaxation without a region")
    needed = {l for l, sigma in enumerate(graph.nonlinear, start=1) if needs_lines(sigma)}
    require(set(slopes) == needed, f"network: relaxations of layers {sorted(slopes)}, not {sorted(needed)}")
    return stored_slopes(slopes)


def _certifying(node: Certificate) -> set[str]:
    """Return the names of the witness arrays beside those of a relaxation."""
    return {name for name in node.witness if not name.startswith("relaxation")}


def _multipliers(node: Certificate, graph: Graph, reduced: Reduced) -> list[np.ndarray]:
    """Return the multipliers of the neurons that stay nonlinear; the others must carry none."""
    names = {f"multiplier{l}" for l, free in enumerate(reduced.free, start=1) if len(free)}
    if node.claim in METRIC_CLAIMS:
        names.add("metric")
    require(_certifying(node) == names, f"network: witness is {sorted(node.witness)}")
    full = [
        node.witness.get(f"multiplier{l}", np.zeros(graph.sizes[l])) for l in range(1, len(reduced.free) + 1)
    ]
    require_multipliers(graph, full)
    for lam, free in zip(full, reduced.free, strict=True):
        require(not np.delete(lam, free).any(), "network: a multiplier of a neuron that is linear")
    return [lam[free] for lam, free in zip(full, reduced.free, strict=True)]


def _metric(node: Certificate, kind: Kind) -> np.ndarray:
    """Return P of a claim of contraction, proved positive definite: otherwise ‖·‖_P would not be a norm."""
    metric = node.witness.get("metric")
    require(metric is not None, "network: a claim of contraction needs its metric")
    assert metric is not None
    require(metric.shape == (node.in_features, node.in_features), "network: the metric has the wrong shape")
    require(np.isfinite(metric).all(), "network: the metric has NaN or inf entries")
    require(np.array_equal(metric, metric.T), "network: the metric is not symmetric")
    floor = METRIC_FLOOR * float(np.abs(metric).max())
    require(floor > 0.0, "network: the metric is zero")
    definite = kind.exact(metric) - kind.exact(floor * np.eye(len(metric)))
    prove_positive_semidefinite({(0, 0): definite}, [len(metric)])
    return metric


def comparison_bound(graph: Graph, reduced: Reduced, kind: Kind) -> Fraction:
    """Return a proved bound of the linf gain: entrywise |Δz| propagated from |Δx| = 1."""
    sizes = [np.ones(reduced.sizes[0])]

    def driven(maps: Mapping[int, Any], rows: int) -> list[Fraction]:
        sums = [Fraction(0)] * rows
        for k, matrix in maps.items():
            terms = matrix.times(kind.exact(sizes[k][None, :])).row_sums()
            sums = [a + b for a, b in zip(sums, terms, strict=True)]
        return sums

    for l, (low, high) in enumerate(reduced.slopes, start=1):
        sums = driven(reduced.maps[l - 1], len(low))
        steep = np.maximum(np.abs(low), np.abs(high))
        change = np.array([round_up(exact(float(s)) * v) for s, v in zip(steep, sums, strict=True)])
        group = graph.groups[l - 1]
        if group > 1 and len(change):
            change = np.repeat(change.reshape(-1, group).max(axis=1), group)
        sizes.append(change)
    return max(driven(reduced.output, graph.sizes[-1]))


def prove_reduced(node: Certificate, graph: Graph, reduced: Reduced, kind: Kind) -> None:
    """Prove an l2 claim of a node whose graph and reduction are `graph` and `reduced`, in the same arithmetic."""
    metric = _metric(node, kind) if node.claim in METRIC_CLAIMS else None
    blocks = assemble_reduced(reduced, _multipliers(node, graph, reduced), performance(node), kind, metric)
    prove_positive_semidefinite(blocks, reduced.sizes)


@register
class Network(Rule):
    """A network of linear layers, neurons and skips has the claimed property, globally or on a box."""

    name = "network"

    def prove(self, node: Certificate, kind: Kind) -> None:
        graph = read_graph(node)
        relaxation = _relaxation(node, graph)
        layers = {f"relaxation{l}" for l in range(1, len(graph.nonlinear) + 1)}
        require(set(node.witness) - layers == _certifying(node), "network: a relaxation of no layer")
        reduced = reduce_graph(graph, slopes_of(graph, node.region, relaxation), kind)
        if node.norm == "linf":
            require(node.claim == "lipschitz", "network: linf proves Lipschitz bounds")
            require(not _certifying(node), "network: the linf proof reads no multipliers")
            require(not node.parts, "network: a nested map has no linf bound")
            require(
                exact(node.gain) >= comparison_bound(graph, reduced, kind), "the propagated bound is larger"
            )
            return
        prove_reduced(node, graph, reduced, kind)

    def apply(self, node: Certificate, x: np.ndarray) -> np.ndarray:
        return apply_graph(read_graph(node), x)


def network(
    layers: Sequence[Layer],
    output: Output,
    multipliers: Mapping[int, Any],
    gain: float,
    *,
    in_features: int,
    claim: str = "lipschitz",
    norm: str = "l2",
    region: Box | None = None,
    metric: Any = None,
    relaxation: Mapping[int, Any] | None = None,
    note: Mapping[str, Any] | None = None,
) -> Certificate:
    """State a claim about a given network; `lipctrl.check` proves it.

    `multipliers[l]` has shape (h_l,) for each layer l = 1..K with a neuron whose slope is not
    fixed (zeros for fixed neurons); none for norm "linf". `metric` is P of the claims "contraction" and
    "contraction-rate", and of no other. `relaxation[l]` (h_l, 2), of claims on a region: slopes of lines below
    and above the activation, with which pre-activation ranges are substituted backwards. Layers with
    `activation="identity"` are affine.

    Examples
    --------
    >>> from lipctrl.checker import check
    >>> affine = Layer({0: [[1.0, 1.0]]}, "identity")
    >>> cert = network([affine], Output({1: [[2.0]]}), {}, 2.9, in_features=2)
    >>> check(cert).ok
    True
    """
    base = neurons(layers, output, [], gain, in_features=in_features, claim=claim)
    return Certificate(
        "network",
        gain,
        in_features,
        base.out_features,
        parts=base.parts,
        weights=base.weights,
        witness={
            **{f"multiplier{l}": lam for l, lam in multipliers.items()},
            **({} if metric is None else {"metric": metric}),
            **{f"relaxation{l}": slopes for l, slopes in (relaxation or {}).items()},
        },
        params=base.params,
        norm=norm,
        claim=claim,
        region=region,
        note=note or {},
    )


def graph_of(layers: Sequence[Layer], output: Output, in_features: int) -> Graph:
    """Return the validated graph of layers, as the proof will read it."""
    return read_graph(neurons(layers, output, [], 0.0, in_features=in_features))


def is_affine(layer: Layer) -> bool:
    """Tell whether a layer is the affine map that rules substitute."""
    kind = layer.activation
    name = kind.name if isinstance(kind, Activation) else kind
    return name == "identity" or (isinstance(kind, Mapping) and kind.get("name") == "identity")
