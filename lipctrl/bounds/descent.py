"""Multipliers of a large network with skips, all at once, by L-BFGS on the bound itself.

For given multipliers Λ the least ρ of the LMI is the largest eigenvalue of a Schur complement,

    ρ(Λ) = λ_max(-N_00 + N_0h N_hh⁻¹ N_h0),

convex in Λ where N_hh(Λ) ≻ 0 and infinite towards that edge. Its gradient is -2 (a_i·w)(b_i·w) along the extended
eigenvector w = (x, -N_hh⁻¹N_h0 x), so a step costs one factorisation: where Newton's method on an LMI of
a thousand neurons takes minutes, a hundred such steps take seconds. It stops short of the optimum of LipSDP, and what
it finds is only a witness.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.optimize

from lipctrl.bounds.barrier import SolverError
from lipctrl.bounds.problem import Program

# The largest eigenvalue is replaced by a smooth maximum this sharp, relative to its size.
_SHARPNESS = 60.0
_INFEASIBLE = 20.0


class _Objective:
    """log of the smoothed ρ over the logarithms of the multipliers."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.inputs = int(np.count_nonzero(np.diag(program.slope)))
        total = len(program.constant)
        self.plain = np.array_equal(program.left, np.eye(total)[self.inputs :])
        self.best = np.inf
        self.multipliers = np.zeros(0)

    def _matrix(self, weights: np.ndarray) -> np.ndarray:
        p = self.program
        if self.plain:
            # Slopes [0, s]: the first factor picks the neurons, no product of matrices is needed.
            half = np.zeros_like(p.constant)
            half[self.inputs :] = weights[:, None] * p.right
        else:
            half = p.left.T @ (weights[:, None] * p.right)
        return p.constant + half + half.T

    def __call__(self, logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        p, n = self.program, self.inputs
        lam = np.exp(logarithms)
        matrix = self._matrix(lam if p.members is None else lam[p.members])
        try:
            factor = scipy.linalg.cho_factor(matrix[n:, n:], lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return _INFEASIBLE + np.log(self.best), np.zeros_like(logarithms)
        follow = scipy.linalg.cho_solve(factor, matrix[n:, :n], check_finite=False)
        schur = matrix[:n, n:] @ follow - matrix[:n, :n]
        values, vectors = np.linalg.eigh(0.5 * (schur + schur.T))
        largest = float(values[-1])
        if not (np.isfinite(largest) and largest > 0.0):
            return _INFEASIBLE + np.log(self.best), np.zeros_like(logarithms)
        if largest < self.best:
            self.best, self.multipliers = largest, lam
        ratios = values / largest
        shares = np.exp(_SHARPNESS * (ratios - 1.0))
        smooth = 1.0 + np.log(shares.sum()) / _SHARPNESS
        shares /= shares.sum()
        slopes = shares / smooth
        slopes[-1] += 1.0 - float(shares @ ratios) / smooth
        extended = np.vstack([vectors, -follow @ vectors])
        left = extended[n:] if self.plain else p.left @ extended
        pull = -2.0 * (left * (p.right @ extended)) @ slopes
        if p.members is not None:
            pull = np.bincount(p.members, pull, minlength=p.variables)
        return float(np.log(largest * smooth)), pull * lam / largest


def descend(program: Program, multipliers: np.ndarray, evaluations: int = 400) -> tuple[float, np.ndarray]:
    """Return (ρ, multipliers) with a smaller ρ than the strictly feasible start.

    Raises
    ------
    SolverError
        When the start is not strictly feasible.
    """
    objective = _Objective(program)
    objective(np.log(multipliers))
    if not np.isfinite(objective.best):
        raise SolverError("the start is not strictly feasible")
    scipy.optimize.minimize(
        objective,
        np.log(multipliers),
        jac=True,
        method="L-BFGS-B",
        options={"maxfun": evaluations, "maxiter": evaluations, "maxcor": 20, "ftol": 1e-8},
    )
    return objective.best, objective.multipliers
