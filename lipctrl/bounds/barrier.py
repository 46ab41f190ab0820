"""A barrier-Newton method for the network LMI, whose rank-two structure makes a step as cheap as a factorisation.

With Z = N⁻¹, P = A Z Aᵀ, Q = A Z Bᵀ, R = B Z Bᵀ (rows of A and B: a_i and b_i) the barrier -log det N has the
gradient -2 diag Q in λ and the Hessian 2 (P ∘ R + Q ∘ Qᵀ): O(size³) a step, where a general-purpose
interior-point method needs O(size⁴) or more. Minimises t τ - log det N - Σ log λ along growing t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from lipctrl.bounds.problem import Program
from lipctrl.positivity import NotProvedError


class SolverError(NotProvedError):
    """The numerical solver found no usable point; nothing is claimed."""


@dataclass(frozen=True)
class Solution:
    """A strictly feasible point (τ, λ), with the estimated distance of τ to the optimum."""

    tau: float
    multipliers: np.ndarray
    gap: float
    steps: int


def _factor(matrix: np.ndarray) -> np.ndarray | None:
    try:
        return scipy.linalg.cholesky(matrix, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None


@dataclass
class _Barrier:
    """The scaled program: N̂ = S N S with S = diag(scale), multipliers relative to a start."""

    program: Program

    def value(self, tau: float, lam: np.ndarray, weight: float) -> float:
        if not (lam > 0.0).all():
            return np.inf
        root = _factor(self.program.matrix(tau, lam))
        if root is None:
            return np.inf
        return weight * tau - 2.0 * float(np.log(np.diag(root)).sum()) - float(np.log(lam).sum())

    def derivatives(self, tau: float, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and Hessian of -log det N - Σ log λ in (τ, λ)."""
        p = self.program
        root = _factor(p.matrix(tau, lam))
        if root is None:
            raise SolverError("the iterate left the feasible set")
        size = len(root)
        inverse_root = scipy.linalg.solve_triangular(root, np.eye(size), lower=True, check_finite=False)
        left, right = p.left @ inverse_root.T, p.right @ inverse_root.T
        cross = left @ right.T
        hessian = 2.0 * ((left @ left.T) * (right @ right.T) + cross * cross.T)
        gradient = -2.0 * np.diag(cross)
        # τ enters through the diagonal matrix D, nonzero on the input block only.
        inputs = np.flatnonzero(np.diag(p.slope))
        sign = np.sqrt(np.diag(p.slope)[inputs])
        columns = inverse_root[:, inputs] * sign
        tau_gradient = -float((columns**2).sum())
        gram = columns.T @ columns
        mixed = 2.0 * ((left @ columns) * (right @ columns)).sum(axis=1)
        if p.members is not None:
            count = p.variables
            collect = np.zeros((count, len(p.members)))
            collect[p.members, np.arange(len(p.members))] = 1.0
            hessian, gradient, mixed = collect @ hessian @ collect.T, collect @ gradient, collect @ mixed
        gradient = gradient - 1.0 / lam
        hessian[np.diag_indices_from(hessian)] += 1.0 / lam**2
        full = np.empty((len(lam) + 1, len(lam) + 1))
        full[0, 0] = float((gram**2).sum())
        full[0, 1:] = full[1:, 0] = mixed
        full[1:, 1:] = hessian
        return np.concatenate([[tau_gradient], gradient]), full


def _scaled(program: Program, tau: float, lam: np.ndarray) -> tuple[Program, np.ndarray]:
    """Return the program whose matrix at (τ, λ) has a unit diagonal and whose multipliers there are 1."""
    diagonal = np.diag(program.matrix(tau, lam))
    scale = 1.0 / np.sqrt(np.maximum(diagonal, np.finfo(float).tiny))
    weights = np.sqrt(lam if program.members is None else lam[program.members])[:, None]
    return (
        Program(
            program.constant * scale * scale[:, None],
            program.slope * scale * scale[:, None],
            program.left * scale * weights,
            program.right * scale * weights,
            program.members,
        ),
        scale,
    )


def solve(
    program: Program, tau: float, multipliers: np.ndarray, *, tolerance: float = 1e-7, limit: int = 400
) -> Solution:
    """Minimise τ from a strictly feasible start until the duality gap is `tolerance`·|τ|.

    Raises
    ------
    SolverError
        When the start is not strictly feasible or no progress is possible far from the optimum.
    """
    scaled, _ = _scaled(program, tau, multipliers)
    unit = abs(tau) if tau != 0.0 else 1.0
    scaled.slope = scaled.slope * unit
    barrier = _Barrier(scaled)
    t, lam = tau / unit, np.ones(len(multipliers))
    size = len(scaled.constant) + len(lam)
    weight = float(size)
    if not np.isfinite(barrier.value(t, lam, weight)):
        raise SolverError("the start is not strictly feasible")
    floor = 1e-3 * tolerance
    steps = 0
    while steps < limit:
        weight, t, lam, used, stuck = _centre(barrier, weight, t, lam, limit - steps)
        steps += used
        gap = size / weight
        if gap <= tolerance * max(abs(t), floor) or stuck:
            break
        weight *= 12.0
    gap = size / weight
    if gap > 0.1 * max(abs(t), 1e-6):
        raise SolverError(
            f"Newton's method stopped after {steps} steps, {gap / max(abs(t), 1e-300):.2g} from optimal"
        )
    return Solution(float(t * unit), lam * multipliers, float(gap * unit), steps)


def _centre(
    barrier: _Barrier, weight: float, t: float, lam: np.ndarray, limit: int
) -> tuple[float, float, np.ndarray, int, bool]:
    """Run Newton's method at one barrier weight; `stuck` tells that rounding stops it."""
    used = 0
    current = barrier.value(t, lam, weight)
    while used < limit:
        gradient, hessian = barrier.derivatives(t, lam)
        gradient[0] += weight
        scale = 1.0 / np.sqrt(np.maximum(np.diag(hessian), np.finfo(float).tiny))
        root = _factor(hessian * scale * scale[:, None])
        used += 1
        if root is None:
            return weight, t, lam, used, True
        step = -scale * scipy.linalg.cho_solve((root, True), scale * gradient, check_finite=False)
        decrement = -float(gradient @ step)
        if decrement < 0.05:
            return weight, t, lam, used, False
        length = 1.0
        shrinking = step[1:] < 0.0
        if shrinking.any():
            length = min(1.0, 0.99 * float(np.min(-lam[shrinking] / step[1:][shrinking])))
        while length > 1e-10:
            trial = t + length * step[0], lam + length * step[1:]
            value = barrier.value(*trial, weight)
            if value <= current - 0.1 * length * decrement:
                break
            length *= 0.5
        else:
            return weight, t, lam, used, True
        (t, lam), current = trial, value
    return weight, t, lam, used, False
