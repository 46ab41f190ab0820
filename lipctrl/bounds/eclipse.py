"""Layer-wise multipliers, linear in depth: ECLipsE-Fast and ECLipsE, extended to skips and any slopes.

Forward elimination of the normalised LMI (N_00 = I). When layers before l are eliminated, their inverse shows
itself as the Gram matrix G_l = V_l N_{<l}⁻¹ V_lᵀ of the pre-activations; for slopes [0, 1] the pivot is 2Λ - ΛG_lΛ.
ECLipsE-Fast takes Λ = I/σ_max(G_l) (Xu & Sivaranjani 2024, Theorem 5); ECLipsE solves for the Λ that
lets most pass to the next layers (equation (12) there), here as the LMI of a network with one hidden layer. Finally
ρ = λ_max(Y N⁻¹ Yᵀ). Any Λ > 0 so found is only a witness: the claim is proved afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from lipctrl.bounds.barrier import SolverError, solve
from lipctrl.bounds.problem import Program, Reduction

(_TRTRI,) = scipy.linalg.get_lapack_funcs(("trtri",), dtype=np.float64)
# How close to the edge of definiteness a multiplier may come, where only that edge limits it.
_BACKOFF = 1e-6


@dataclass
class Elimination:
    """Block Cholesky factors of the leading normalised LMI, grown layer by layer and sparse like the network."""

    blocks: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    """Column j of the LMI: blocks N_ij by row i ≤ j."""
    factor: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    """Column j of the upper factor: R_ij by row i < j, and the inverse of R_jj at i = j."""

    def add(self, i: int, j: int, value: np.ndarray) -> None:
        """Add a matrix to block (i, j), i ≤ j."""
        column = self.blocks.setdefault(j, {})
        column[i] = column[i] + value if i in column else value

    def refactor(self, first: int, last: int) -> None:
        """Recompute the factor's columns first..last from the stored blocks."""
        for j in range(first, last + 1):
            if j not in self.blocks:
                continue
            pivot = self.blocks[j][j]
            column = self.whiten({i: m.T for i, m in self.blocks[j].items() if i < j}, j - 1)
            for solved in column.values():
                pivot = pivot - solved.T @ solved
            root = scipy.linalg.cholesky(pivot, check_finite=False)
            column[j] = _inverse(root)
            self.factor[j] = column

    def whiten(self, maps: Mapping[int, np.ndarray], last: int) -> dict[int, np.ndarray]:
        """Return the blocks of R^{-T} Vᵀ: their Gram matrix is V N⁻¹ Vᵀ."""
        out: dict[int, np.ndarray] = {}
        for i in range(min(maps, default=last + 1), last + 1):
            if i not in self.factor:
                continue
            value = maps[i].T if i in maps else None
            column = self.factor[i]
            for k, upper in column.items():
                if k in out:
                    update = upper.T @ out[k]
                    value = -update if value is None else value - update
            if value is not None:
                out[i] = column[i].T @ value
        return out


def _inverse(root: np.ndarray) -> np.ndarray:
    inverse, info = _TRTRI(root)
    if info != 0:
        raise np.linalg.LinAlgError("a factor is singular")
    return inverse


@dataclass(frozen=True)
class LayerWise:
    """Normalised multipliers by layer, the bound ρ = L² that they give, and layers where ECLipsE fell back to Fast."""

    multipliers: dict[int, np.ndarray]
    rho: float
    fallbacks: tuple[int, ...] = ()


def _root(gram: np.ndarray) -> np.ndarray:
    """Return T with T Tᵀ = G for a positive semidefinite G, singular ones included."""
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _fast(gram: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the scalar multiplier whose pivot has the largest smallest eigenvalue."""
    if not (low * high).any():
        steep = (low + high)[:, None] * gram * (low + high)
        largest = float(np.linalg.eigvalsh(steep)[-1])
        return 1.0 / largest if largest > 0.0 else 1.0
    root = _root(gram)
    size = len(low)

    def weakest(lam: float) -> float:
        inner = np.eye(size) + root.T @ ((2.0 * lam * low * high)[:, None] * root)
        try:
            factor = scipy.linalg.cholesky(inner, check_finite=False)
        except np.linalg.LinAlgError:
            return -np.inf
        spread = scipy.linalg.solve_triangular(factor, root.T * (lam * (low + high)), trans=1)
        return float(np.linalg.eigvalsh(2.0 * lam * np.eye(size) - spread.T @ spread)[0])

    curved = root.T @ ((2.0 * low * high)[:, None] * root)
    edge = -float(np.linalg.eigvalsh(curved)[0])
    steepest = float(np.linalg.eigvalsh(gram)[-1]) * float(np.max(np.maximum(abs(low), abs(high)))) ** 2
    if steepest <= 0.0:
        return 1.0
    top = (1.0 - _BACKOFF) / edge if edge > 1e-9 * steepest else 1e3 / steepest
    return _golden(weakest, 1e-3 / steepest, top)


def _golden(objective: Callable[[float], float], bottom: float, top: float) -> float:
    """Return an argument that (nearly) maximises a unimodal function, searched on a logarithmic scale."""
    ratio = 0.5 * (np.sqrt(5.0) - 1.0)
    a, b = np.log(min(bottom, 0.5 * top)), np.log(top)
    best, argument = objective(top), top
    for _ in range(40):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        left, right = objective(float(np.exp(c))), objective(float(np.exp(d)))
        for value, point in ((left, c), (right, d)):
            if value > best:
                best, argument = value, float(np.exp(point))
        if left >= right:
            b = d
        else:
            a = c
    return argument


def _solved(
    gram: np.ndarray, low: np.ndarray, high: np.ndarray, readers: np.ndarray, groups: np.ndarray, start: float
) -> np.ndarray:
    """Return the multipliers of one layer that let most pass to its readers (an LMI with one hidden layer)."""
    size = len(low)
    root = _root(gram)
    scale = np.sqrt(np.linalg.norm(readers.T @ readers, 2))
    if scale == 0.0:
        raise SolverError("no layer reads this one")
    readers = readers / scale
    eye, zero = np.eye(size), np.zeros((size, size))
    drive = np.hstack([root, zero])
    hidden = np.hstack([zero, eye])
    constant = np.zeros((2 * size, 2 * size))
    constant[size:, size:] = -readers.T @ readers
    slope = np.zeros((2 * size, 2 * size))
    slope[:size, :size] = eye
    members = None if groups[-1] == size - 1 else groups
    program = Program(constant, slope, hidden - low[:, None] * drive, hidden - high[:, None] * drive, members)
    lam = np.full(program.variables, start)
    # N(τ, τλ) = τ N(1, λ) - W'W is definite once τ exceeds the largest eigenvalue of W N(1, λ)⁻¹ W'.
    plain = Program(np.zeros_like(constant), slope, program.left, program.right, members)
    matrix = plain.matrix(1.0, lam)
    factor = scipy.linalg.cholesky(matrix, check_finite=False)
    wide = np.hstack([np.zeros((len(readers), size)), readers])
    tau = 1.5 * np.linalg.norm(scipy.linalg.solve_triangular(factor, wide.T, trans=1), 2) ** 2
    solution = solve(program, float(tau), tau * lam, tolerance=1e-4)
    values = solution.multipliers / solution.tau
    return values if members is None else values[members]


def layer_wise(reduction: Reduction, *, fast: bool) -> LayerWise:
    """Choose multipliers layer by layer, from the input to the output.

    Raises
    ------
    SolverError
        When a pivot loses definiteness to rounding (weights beyond the range of float64).
    """
    elimination = Elimination()
    elimination.add(0, 0, np.eye(reduction.sizes[0]))
    multipliers: dict[int, np.ndarray] = {}
    fallbacks: list[int] = []
    try:
        elimination.refactor(0, 0)
        for l, maps in enumerate(reduction.maps, start=1):
            if not reduction.sizes[l]:
                continue
            low, high = reduction.reduced.slopes[l - 1]
            whitened = elimination.whiten(maps, l - 1)
            gram = sum((w.T @ w for w in whitened.values()), np.zeros((len(low), len(low))))
            lam = _chosen(gram, low, high, reduction.reduced.reach[l - 1], len(reduction.maps))
            if not fast:
                readers = [m[l] for m in [*reduction.maps[l:], reduction.output] if l in m]
                try:
                    lam = _solved(gram, low, high, np.vstack(readers), reduction.groups(l), float(lam[0]))
                except (SolverError, ValueError):
                    fallbacks.append(l)
            multipliers[l] = lam
            _append(elimination, l, maps, lam, low, high)
        whitened = elimination.whiten(reduction.output, len(reduction.maps))
    except np.linalg.LinAlgError as error:
        raise SolverError("the layer-wise elimination lost definiteness to rounding") from error
    stack = np.vstack([*whitened.values(), np.zeros((1, reduction.graph.sizes[-1]))])
    norm = float(np.linalg.norm(stack, 2))
    if not np.isfinite(norm * norm):
        raise SolverError("the layer-wise bound is beyond the range of float64")
    return LayerWise(multipliers, norm * norm, tuple(fallbacks))


def _chosen(
    gram: np.ndarray, low: np.ndarray, high: np.ndarray, reach: np.ndarray, layers: int
) -> np.ndarray:
    """Return the multipliers of ECLipsE-Fast; neurons of narrow slopes get small ones that cost little."""
    narrow = reach != 1.0
    if not narrow.any():
        return np.full(len(low), _fast(gram, low, high))
    lam = np.empty(len(low))
    # 2λ‖G‖ ≤ r/(2·layers) takes at most that share off the earlier pivots; the remainder q weighs r as little.
    share = 0.5 / layers
    inner = gram[np.ix_(narrow, narrow)]
    largest = float(np.linalg.eigvalsh(inner)[-1])
    lam[narrow] = 0.5 * share * np.minimum(reach[narrow], 1.0) / (largest if largest > 0.0 else 1.0)
    if not narrow.all():
        wide = np.ix_(~narrow, ~narrow)
        lam[~narrow] = _fast(gram[wide] / (1.0 - share), low[~narrow], high[~narrow])
    return lam


def _append(
    elimination: Elimination,
    l: int,
    maps: dict[int, np.ndarray],
    lam: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    """Add layer l with its multipliers to the leading LMI and its factor."""
    curved = 2.0 * low * high * lam
    if curved.any():
        for j, map_j in maps.items():
            for k, map_k in maps.items():
                if j <= k:
                    elimination.add(j, k, map_j.T @ (curved[:, None] * map_k))
        elimination.refactor(min(maps, default=l), l - 1)
    for j, matrix in maps.items():
        elimination.add(j, l, -matrix.T * ((low + high) * lam))
    elimination.add(l, l, 2.0 * np.diag(lam))
    elimination.refactor(l, l)
