"""Eliminates what is linear, or nearly so, from a graph of neurons, inside the arithmetic of the proof.

A layer of slopes [s, s] (an affine layer, or a ReLU whose sign is known on a region) is an equation Δz = s Δv,
not an inequality: it needs no multiplier and no row of the LMI. Substituting it is a product of
matrices, which rounds; doing it here, with `Enclosure` or `Dyadic`, lets a certificate store the weights as they were
given and still prove its claim about exactly those.

A neuron of a narrow slope interval [m, s] (a smooth activation on a small box) is read as Δz = c Δv + r Δq with
c ≈ (m + s)/2 and a neuron q of slopes [-1, 1]. In Δz itself its inequality would be a difference of terms that grow
as 1/r; in Δq the LMI stays well conditioned down to a point, where the bound is the norm of the Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.positivity import Blocks
from lipctrl.rules.base import Kind
from lipctrl.rules.neurons import Graph, require_moderate

Slopes = Sequence[tuple[np.ndarray, np.ndarray]]
# Slope intervals narrower than this part of the larger slope are split into a line and a remainder.
NARROW = 2.0**-2


@dataclass(frozen=True)
class Reduced:
    """Increments of pre-activations and output as linear maps of x and of the neurons that stay nonlinear.

    `free[l-1]` indexes the nonlinear neurons of layer l; block 0 is the input and block l those
    neurons, of slopes `slopes[l-1]`. `maps[l-1][k]` gives their pre-activations from block k < l, `output[k]` the
    output. `reach[l-1]` is r of a narrow neuron Δz = c Δv + r Δq and 1 where the neuron is Δz itself.
    """

    sizes: list[int]
    free: list[np.ndarray]
    slopes: list[tuple[np.ndarray, np.ndarray]]
    maps: list[dict[int, Any]]
    output: dict[int, Any]
    reach: list[np.ndarray]


def _combine(
    sources: Mapping[int, np.ndarray], states: Sequence[dict[int, Any]], kind: Kind
) -> dict[int, Any]:
    """Return Σ_j W_j z_j as maps of the blocks; a state None is the block itself."""
    out: dict[int, Any] = {}
    for j, weight in sources.items():
        matrix = kind.exact(weight)
        for k, state in states[j].items():
            term = matrix if state is None else matrix @ state
            out[k] = out[k] + term if k in out else term
    return out


def reduce_graph(graph: Graph, slopes: Slopes, kind: Kind) -> Reduced:
    """Substitute every neuron whose slope interval is a point; the others keep a block of their own."""
    states: list[dict[int, Any]] = [{0: None}]
    reduced = Reduced([graph.sizes[0]], [], [], [], {}, [])
    for l, (low, high) in enumerate(slopes, start=1):
        drive = _combine(graph.sources[l - 1], states, kind)
        low, high = _quiet(drive, low, high, graph.groups[l - 1])
        center, reach, narrow = _split(low, high, graph.groups[l - 1])
        loose = np.flatnonzero(low != high)
        whole = len(loose) == len(low)
        reduced.free.append(loose)
        narrow = narrow[loose]
        reduced.slopes.append((np.where(narrow, -1.0, low[loose]), np.where(narrow, 1.0, high[loose])))
        reduced.reach.append(reach[loose])
        reduced.sizes.append(len(loose))
        taken = {k: m if whole else m.take(loose, np.arange(m.shape[1])) for k, m in drive.items()}
        reduced.maps.append(taken if len(loose) else {})
        if whole and not narrow.any():
            states.append({l: None})
            continue
        states.append(_substituted(drive, center, kind))
        if len(loose):
            states[-1][l] = kind.exact(np.diag(reach)[:, loose])
    reduced.output.update(_combine(graph.sources[-1], states, kind))
    return reduced


def _split(low: np.ndarray, high: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return c (the known part of the slope), r (the rest) and which neurons are narrow: [m, s] inside c + r[-1, 1].

    Neurons that are neither fixed nor narrow keep c = 0, r = 1 and their slopes [m, s].
    """
    fixed = low == high
    width = high - low
    narrow = ~fixed & (width <= NARROW * np.maximum(np.abs(low), np.abs(high))) & (group == 1)
    center = np.where(fixed, low, np.where(narrow, low + 0.5 * width, 0.0))
    reach = np.maximum(high - center, center - low)
    # Two roundings separate the computed reach from the true one; a subnormal slope has no relative error.
    reach = np.where(narrow, reach * (1.0 + 2.0**-50) + 2.0**-1000, 1.0)
    return center, reach, narrow


def _quiet(
    drive: dict[int, Any], low: np.ndarray, high: np.ndarray, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give the slope 0 to neurons whose pre-activation is constant: exact zero rows move nothing."""
    if group > 1:
        return low, high
    moving = np.zeros(len(low), dtype=bool)
    for matrix in drive.values():
        moving |= ~matrix.zero_rows()
    return np.where(moving, low, 0.0), np.where(moving, high, 0.0)


def _substituted(drive: dict[int, Any], slope: np.ndarray, kind: Kind) -> dict[int, Any]:
    """Return the maps of the known parts z = slope·v of a layer; zero slopes give zero rows."""
    if (slope == 1.0).all():
        return dict(drive)
    if not slope.any():
        return {}
    column = kind.exact(slope).column()
    return {k: column.times(m) for k, m in drive.items()}


def assemble_reduced(
    reduced: Reduced,
    multipliers: Sequence[np.ndarray],
    form: tuple[float, float, float],
    kind: Kind,
    metric: np.ndarray | None = None,
) -> Blocks:
    """Assemble the upper block triangle of N for a‖Δx‖² + 2b⟨Δx, Δy⟩ + c‖Δy‖² ≥ 0, in a metric if given.

    Adds Σ λ_i [(e_i - m_i v_i)(e_i - s_i v_i)ᵀ + transpose] over the neurons that stay nonlinear.
    """
    blocks: Blocks = {}

    def add(i: int, j: int, value: Any) -> None:
        if i > j:
            i, j, value = j, i, value.T
        blocks[i, j] = blocks[i, j] + value if (i, j) in blocks else value

    a = form[0]
    n = reduced.sizes[0]
    require_moderate(reduced.sizes)
    size = None if metric is None else kind.exact(metric)
    add(0, 0, kind.exact(a * np.eye(n)) if size is None else kind.exact(np.full((n, 1), a)).times(size))
    for l, maps in enumerate(reduced.maps, start=1):
        if not len(reduced.free[l - 1]):
            continue
        low, high = (kind.exact(s) for s in reduced.slopes[l - 1])
        weight = kind.exact(multipliers[l - 1])
        add(l, l, (weight + weight).diagonal_matrix())
        cross = -(low + high).times(weight).column()
        square = low.times(high).times(weight + weight).column()
        curved = bool(((reduced.slopes[l - 1][0] != 0.0) & (reduced.slopes[l - 1][1] != 0.0)).any())
        for j, map_j in maps.items():
            add(l, j, cross.times(map_j))
            for k, map_k in maps.items():
                if curved and j <= k:
                    add(j, k, map_j.T @ square.times(map_k))
    _add_output(reduced.output, add, form, kind, size)
    return blocks


def _add_output(
    output: Mapping[int, Any],
    add: Callable[[int, int, Any], None],
    form: tuple[float, float, float],
    kind: Kind,
    size: Any,
) -> None:
    """Add 2b⟨Δx, Δy⟩ + c‖Δy‖², c one of -1, 0, 1; `size` is the metric P or None."""
    _, b, c = form
    for j, map_j in output.items():
        seen = map_j if size is None else size @ map_j
        if b != 0.0:
            scaled = kind.exact(np.full((seen.shape[0], 1), b)).times(seen)
            add(0, j, scaled + scaled.T if j == 0 else scaled)
        for k, map_k in output.items():
            if c != 0.0 and j <= k:
                product = seen.T @ map_k
                add(j, k, -product if c < 0.0 else product)
