"""The LMI of a reduced network as a semidefinite program in one scalar and one multiplier a neuron.

    minimise τ  subject to  F + τ D + Σ_i λ_i (a_i b_iᵀ + b_i a_iᵀ) ⪰ 0,  λ ≥ 0,

a_i = e_i - m_i v_i, b_i = e_i - s_i v_i for a neuron of slopes [m_i, s_i] and pre-activation v_i (LipSDP,
Fazlyab et al. 2019, Theorem 2). τ is ρ = L² for a Lipschitz bound, the constant itself for a one-sided one, -μ² for
an inverse one. The numbers here only steer a solver; what it finds is proved by `lipctrl.check`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lipctrl.arithmetic import Enclosure
from lipctrl.bounds.graph import Network
from lipctrl.bounds.relaxation import ChosenSlopes
from lipctrl.rules.network import graph_of, slopes_of
from lipctrl.rules.neurons import Graph
from lipctrl.rules.reduction import Reduced, reduce_graph

Box = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Reduction:
    """A network with its affine parts substituted: what solvers see, in float64."""

    graph: Graph
    reduced: Reduced
    maps: list[dict[int, np.ndarray]]
    output: dict[int, np.ndarray]
    # Slopes of lines beside the activations that sharpened the ranges on a region, layer by layer.
    relaxation: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """Return block sizes: the input, then the nonlinear neurons of each layer."""
        return self.reduced.sizes

    def multipliers(self, values: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return witness arrays over all neurons of each layer from those of its nonlinear ones."""
        out = {}
        for l, free in enumerate(self.reduced.free, start=1):
            if len(free):
                full = np.zeros(self.graph.sizes[l])
                full[free] = values[l]
                out[l] = full
        return out

    def groups(self, l: int) -> np.ndarray:
        """Return the group number of each nonlinear neuron of layer l: a group shares its multiplier."""
        size = self.graph.groups[l - 1]
        return np.arange(self.sizes[l]) // size


def reduce_network(network: Network, region: Box | None = None) -> Reduction:
    """Reduce a network on a box (or globally), with the same code that the proof runs."""
    graph = graph_of(network.layers, network.output, network.in_features)
    lines = ChosenSlopes()
    with np.errstate(over="ignore", invalid="ignore"):
        reduced = reduce_graph(graph, slopes_of(graph, region, lines), Enclosure)
    maps = [{k: m.middle() for k, m in layer.items()} for layer in reduced.maps]
    output = {k: m.middle() for k, m in reduced.output.items()}
    if not all(np.isfinite(m).all() for layer in [*maps, output] for m in layer.values()):
        raise ValueError("products of consecutive weights overflow float64; rescale the network")
    return Reduction(graph, reduced, maps, output, lines.arrays)


@dataclass
class Program:
    """The dense program: F, D and the rank-two constraints by rows of `left` (a_i) and `right` (b_i).

    `members` maps multipliers to neurons (None: one each).
    """

    constant: np.ndarray
    slope: np.ndarray
    left: np.ndarray
    right: np.ndarray
    members: np.ndarray | None = None

    def matrix(self, tau: float, lam: np.ndarray) -> np.ndarray:
        """Return N(τ, λ)."""
        weights = lam if self.members is None else lam[self.members]
        half = self.left.T @ (weights[:, None] * self.right)
        return self.constant + tau * self.slope + half + half.T

    @property
    def variables(self) -> int:
        """Return the number of multipliers."""
        return len(self.left) if self.members is None else int(self.members.max(initial=-1)) + 1


def dense_program(reduction: Reduction, claim: str) -> Program:
    """Assemble the program of a claim: "lipschitz", "one-sided" or "inverse"."""
    sizes = reduction.sizes
    starts = np.concatenate([[0], np.cumsum(sizes)])
    total, n = int(starts[-1]), sizes[0]
    drive = np.zeros((total - n, total))
    least, most, members = [], [], []
    count = 0
    for l, maps in enumerate(reduction.maps, start=1):
        rows = slice(starts[l] - n, starts[l + 1] - n)
        for k, matrix in maps.items():
            drive[rows, starts[k] : starts[k + 1]] = matrix
        least.append(reduction.reduced.slopes[l - 1][0])
        most.append(reduction.reduced.slopes[l - 1][1])
        if sizes[l]:
            groups = reduction.groups(l)
            members.append(count + groups)
            count += int(groups[-1]) + 1
    low, high = (np.concatenate([np.zeros(0), *s])[:, None] for s in (least, most))
    eye = np.eye(total)[n:]
    output = np.zeros((reduction.graph.sizes[-1], total))
    for k, matrix in reduction.output.items():
        output[:, starts[k] : starts[k + 1]] = matrix
    slope = np.zeros((total, total))
    slope[np.arange(n), np.arange(n)] = 1.0
    if claim == "one-sided":
        constant = np.zeros((total, total))
        constant[:n] -= 0.5 * output
        constant[:, :n] -= 0.5 * output.T
    else:
        constant = output.T @ output * (-1.0 if claim == "lipschitz" else 1.0)
    together = np.concatenate(members).astype(int) if members else np.zeros(0, dtype=int)
    shared = None if count == total - n else together
    return Program(constant, slope, eye - low * drive, eye - high * drive, shared)


def gain_of(tau: float, claim: str) -> float:
    """Return the claimed constant of a program's value τ."""
    if claim == "one-sided":
        return tau
    return math.sqrt(max(0.0, tau if claim == "lipschitz" else -tau))
