"""Eliminates what is linear from a graph of neurons, inside the arithmetic of the proof.

A layer of slopes [s, s] (an affine layer, or a ReLU whose sign is known on a region) is an equation Δz = s Δv,
not an inequality: it needs no multiplier and no row of the LMI. Substituting it is a product of
matrices, which rounds; doing it here, with `Enclosure` or `Dyadic`, lets a certificate store the weights as they were
given and still prove its claim about exactly those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.positivity import Blocks
from lipctrl.rules.base import Kind
from lipctrl.rules.neurons import Graph

Slopes = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Reduced:
    """Increments of pre-activations and output as linear maps of x and of the neurons that stay nonlinear.

    `free[l-1]` indexes the nonlinear neurons of layer l; block 0 is the input and block l those
    neurons. `maps[l-1][k]` gives their pre-activations from block k < l, `output[k]` the output.
    """

    sizes: list[int]
    free: list[np.ndarray]
    slopes: list[tuple[np.ndarray, np.ndarray]]
    maps: list[dict[int, Any]]
    output: dict[int, Any]


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
    sizes, free, kept, maps = [graph.sizes[0]], [], [], []
    for l, (low, high) in enumerate(slopes, start=1):
        drive = _combine(graph.sources[l - 1], states, kind)
        low, high = _quiet(drive, low, high, graph.groups[l - 1])
        loose = np.flatnonzero(low != high)
        tight = np.flatnonzero(low == high)
        free.append(loose)
        kept.append((low[loose], high[loose]))
        sizes.append(len(loose))
        maps.append({k: m.take(loose, np.arange(m.shape[1])) for k, m in drive.items()} if len(loose) else {})
        if not len(tight):
            states.append({l: None})
            continue
        states.append(_substituted(drive, low, tight, kind))
        if len(loose):
            states[-1][l] = kind.exact(np.eye(len(low))[:, loose])
    return Reduced(sizes, free, kept, maps, _combine(graph.sources[-1], states, kind))


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


def _substituted(drive: dict[int, Any], slope: np.ndarray, tight: np.ndarray, kind: Kind) -> dict[int, Any]:
    """Return the maps of a layer whose neurons `tight` obey z = slope·v, with zero rows for the others."""
    if len(tight) == len(slope) and (slope == 1.0).all():
        return dict(drive)
    factor = np.zeros(len(slope))
    factor[tight] = slope[tight]
    if not factor.any():
        return {}
    column = kind.exact(factor).column()
    return {k: column.times(m) for k, m in drive.items()}


def assemble_reduced(
    reduced: Reduced, multipliers: Sequence[np.ndarray], form: tuple[float, float, float], kind: Kind
) -> Blocks:
    """Assemble the upper block triangle of N for a‖Δx‖² + 2b⟨Δx, Δy⟩ + c‖Δy‖² ≥ 0.

    Adds Σ λ_i [(e_i - m_i v_i)(e_i - s_i v_i)ᵀ + transpose] over the neurons that stay nonlinear.
    """
    blocks: Blocks = {}

    def add(i: int, j: int, value: Any) -> None:
        if i > j:
            i, j, value = j, i, value.T
        blocks[i, j] = blocks[i, j] + value if (i, j) in blocks else value

    a, b, c = form
    n = reduced.sizes[0]
    add(0, 0, kind.exact(a * np.eye(n)))
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
    for j, map_j in reduced.output.items():
        if b != 0.0:
            scaled = kind.exact(np.full((n, 1), b)).times(map_j)
            add(0, j, scaled + scaled.T if j == 0 else scaled)
        for k, map_k in reduced.output.items():
            if c != 0.0 and j <= k:
                product = map_j.T @ map_k
                add(j, k, -product if c < 0.0 else product)
    return blocks
