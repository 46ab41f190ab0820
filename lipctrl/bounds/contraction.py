"""Contraction in a metric: a search for P, in which a network contracts more than in the Euclidean norm.

For a fixed P the change of variables x' = Tx, TᵀT = P, turns the claim into a Lipschitz (or one-sided) bound of
T f(T⁻¹x'), an LMI in the multipliers (Lohmiller & Slotine 1998 for the metric; Fazlyab et al. 2019 for the
multipliers). Its optimal value has the derivative -⟨Z, ∂N⟩/⟨Z, ∂N/∂τ⟩ in P, Z the dual matrix that the barrier
method leaves behind, and L-BFGS climbs down along it. P is only a witness: the claim is proved in the arithmetic of
the checker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from lipctrl.bounds.barrier import SolverError
from lipctrl.bounds.problem import Reduction, dense_program

# The search stops where the metric leaves what a proof in float64 could use.
_WORST_CONDITION = 1e8
_EVALUATIONS = 40


@dataclass(frozen=True)
class Contraction:
    """A metric P, the square (or the rate) τ that its multipliers give, and those multipliers by layer."""

    metric: np.ndarray
    tau: float
    multipliers: np.ndarray


def as_metric(value: Any, features: int) -> np.ndarray | None:
    """Return P as a symmetric positive definite float64 matrix, or None to search for one.

    Raises
    ------
    ValueError
        When the shape, the symmetry or the definiteness is not as expected.
    """
    if value is None:
        return None
    metric = np.asarray(value, dtype=np.float64)
    if metric.shape != (features, features):
        raise ValueError(f"metric has shape {metric.shape}; expected ({features}, {features})")
    if not (np.isfinite(metric).all() and np.array_equal(metric, metric.T)):
        raise ValueError("metric is not a finite symmetric matrix; symmetrise it as (P + P.T) / 2")
    if not float(np.linalg.eigvalsh(metric)[0]) > 0.0:
        raise ValueError("metric is not positive definite: ‖v‖_P would not be a norm")
    return metric


def in_metric(reduction: Reduction, root: np.ndarray) -> Reduction:
    """Return the network T f(T⁻¹ x') for solvers, root = T."""
    inverse = np.linalg.inv(root)
    maps = [{k: m @ inverse if k == 0 else m for k, m in layer.items()} for layer in reduction.maps]
    output = {k: root @ (m @ inverse if k == 0 else m) for k, m in reduction.output.items()}
    return replace(reduction, maps=maps, output=output)


def contraction(reduction: Reduction, inner: str, metric: np.ndarray | None) -> Contraction:
    """Return multipliers, and a metric unless one is given, with a small τ; `inner` is "lipschitz" or "one-sided".

    Raises
    ------
    SolverError
        When no metric gives a solvable program.
    """
    if metric is not None:
        return _solved(reduction, inner, np.linalg.cholesky(metric).T)
    starts = []
    for root in _candidates(reduction, inner):
        try:
            starts.append((_solved(reduction, inner, root), root))
        except (SolverError, np.linalg.LinAlgError):
            continue
    if not starts:
        raise SolverError("no starting metric gives a solvable program")
    best, root = min(starts, key=lambda pair: pair[0].tau)
    return _descend(reduction, inner, best, root)


def _solved(reduction: Reduction, inner: str, root: np.ndarray) -> Contraction:
    from lipctrl.bounds.methods import solve_reduction

    solution = solve_reduction(in_metric(reduction, root), inner)
    metric = root.T @ root
    return Contraction(0.5 * (metric + metric.T), solution.tau, solution.multipliers)


def _linearised(reduction: Reduction) -> np.ndarray:
    """Return the linear map of the neurons' middle slopes."""
    states: list[np.ndarray] = [np.eye(reduction.sizes[0])]
    for maps, (low, high) in zip(reduction.maps, reduction.reduced.slopes, strict=True):
        drive = sum((m @ states[k] for k, m in maps.items()), np.zeros((len(low), reduction.sizes[0])))
        states.append(0.5 * (low + high)[:, None] * drive)
    shape = np.zeros((reduction.graph.sizes[-1], reduction.sizes[0]))
    return sum((m @ states[k] for k, m in reduction.output.items()), shape)


def _candidates(reduction: Reduction, inner: str) -> list[np.ndarray]:
    """Return roots T of starting metrics: Euclidean, and Lyapunov's of the middle linear map."""
    linear = _linearised(reduction)
    n = len(linear)
    out = [np.eye(n)]
    poles = np.linalg.eigvals(linear)
    for margin in (1.05, 1.5):
        if inner == "lipschitz":
            scale = max(margin * float(np.abs(poles).max()), 1e-6)
            gram = scipy.linalg.solve_discrete_lyapunov(linear.T / scale, np.eye(n))
        else:
            size = max(float(np.linalg.norm(linear, 2)), 1e-6)
            shifted = linear - (float(poles.real.max()) + (margin - 1.0) * size) * np.eye(n)
            gram = scipy.linalg.solve_continuous_lyapunov(shifted.T, -np.eye(n))
        values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
        if values[0] > 0.0 and values[-1] < _WORST_CONDITION * values[0]:
            out.append(np.sqrt(values)[:, None] * vectors.T / math.sqrt(values[-1]))
    return out


def _descend(reduction: Reduction, inner: str, start: Contraction, root: np.ndarray) -> Contraction:
    """Improve the metric by L-BFGS over T, keeping the best point seen."""
    n = len(root)
    best = start
    _, upper = np.linalg.qr(root)
    places = np.triu_indices(n)
    unit = abs(start.tau) if start.tau != 0.0 else 1.0

    def objective(entries: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        if not np.isfinite(entries).all():
            return 1e6, np.zeros_like(entries)
        t = np.zeros((n, n))
        t[places] = entries
        singular = np.linalg.svd(t, compute_uv=False)
        if not singular[-1] ** 2 * _WORST_CONDITION > singular[0] ** 2:
            return 1e6, np.zeros_like(entries)
        try:
            found = _solved(reduction, inner, t)
        except SolverError:
            return 1e6, np.zeros_like(entries)
        if found.tau < best.tau:
            best = found
        return found.tau / unit, (2.0 * t @ _slope(reduction, inner, found))[places] / unit

    scipy.optimize.minimize(
        objective,
        upper[places],
        jac=True,
        method="L-BFGS-B",
        options={"maxfun": _EVALUATIONS, "ftol": 1e-7},
    )
    return best


def _slope(reduction: Reduction, inner: str, found: Contraction) -> np.ndarray:
    """Return the derivative of τ in P at an optimum."""
    n, metric = reduction.sizes[0], found.metric
    program = dense_program(reduction, inner)
    starts = np.concatenate([[0], np.cumsum(reduction.sizes)])
    output = np.zeros((n, starts[-1]))
    for k, matrix in reduction.output.items():
        output[:, starts[k] : starts[k + 1]] = matrix
    weights = found.multipliers if program.members is None else found.multipliers[program.members]
    half = program.left.T @ (weights[:, None] * program.right)
    matrix = half + half.T
    matrix[:n, :n] += found.tau * metric
    if inner == "lipschitz":
        matrix -= output.T @ metric @ output
    else:
        matrix[:n] -= 0.5 * metric @ output
        matrix[:, :n] -= 0.5 * output.T @ metric
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
    dual = scale[:, None] * np.linalg.pinv(matrix * scale * scale[:, None], hermitian=True) * scale
    weight = float((dual[:n, :n] * metric).sum())
    if inner == "lipschitz":
        return -(found.tau * dual[:n, :n] - output @ dual @ output.T) / weight
    cross = dual[:n] @ output.T
    return -(found.tau * dual[:n, :n] - 0.5 * (cross + cross.T)) / weight
