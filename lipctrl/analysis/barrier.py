"""A dense interior-point method for loop inequalities whose unknowns enter as matrices of rank two.

Every unknown θ_k of a loop inequality enters through a few terms c·θ_k(a bᵀ + b aᵀ), so that with Z = M⁻¹ and
W = JᵀZJ, J the matrix of all vectors a and b, gradient and Hessian of -log det M need entries of W only:
tr Z(abᵀ+baᵀ)Z(cdᵀ+dcᵀ) = 2(W_ac W_bd + W_ad W_bc). A Newton step costs one factorisation of the size of the
inequality and O(terms²), where general solvers spend their time on the cone. The result is a guess: what is
returned is proved elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class Terms:
    """M(θ) = Σ_r coefficient_r θ[owner_r] (a bᵀ + b aᵀ), a = vectors[:, left_r], b = vectors[:, right_r]."""

    vectors: np.ndarray
    owner: np.ndarray
    coefficient: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def value(self, theta: np.ndarray) -> np.ndarray:
        """Return M(θ)."""
        weighted = self.vectors[:, self.left] * (self.coefficient * theta[self.owner])
        half = weighted @ self.vectors[:, self.right].T
        return half + half.T

    def derivatives(
        self, inverse: np.ndarray, weight: np.ndarray, unknowns: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tr(Z M_k), tr(Z M_k Z M_l) and tr(Z M_k Z R) for R = diag(weight)."""
        left, right = self.vectors[:, self.left], self.vectors[:, self.right]
        z_left, z_right = inverse @ left, inverse @ right
        cross = left.T @ z_right
        second = (left.T @ z_left) * (right.T @ z_right) + cross * cross.T
        mixed = (z_left * weight[:, None] * z_right).sum(axis=0)
        outer = self.coefficient[:, None] * second * self.coefficient[None, :]
        first = np.bincount(self.owner, 2.0 * self.coefficient * np.diag(cross), unknowns)
        gathered = np.zeros((unknowns, unknowns))
        np.add.at(gathered, (self.owner[:, None], self.owner[None, :]), 2.0 * outer)
        return first, gathered, np.bincount(self.owner, 2.0 * self.coefficient * mixed, unknowns)


@dataclass(frozen=True)
class Margin:
    """The largest margin t found with M(θ) ⪰ tR, and a bound that the method's duality gap suggests."""

    theta: np.ndarray
    margin: float
    ceiling: float
    steps: int


def largest_margin(
    main: Terms,
    positive: Terms,
    start: np.ndarray,
    signs: np.ndarray,
    weight: np.ndarray,
    budget: np.ndarray,
    *,
    enough: float = 0.3,
    accuracy: float = 1e-9,
) -> Margin:
    """Maximise t with M(θ) ⪰ t·diag(weight), Q(θ) ≻ 0, θ[signs] > 0 and budgetᵀθ = 1.

    Stops as soon as t > 0 is within the factor `enough` of optimal, or the gap shows that no t > 0 exists, or the
    gap is below `accuracy`. `start` must satisfy all but the first. The equality keeps θ = 0 out.
    """
    return _CentralPath(main, positive, signs, weight, budget).follow(start, enough, accuracy)


class _CentralPath:
    def __init__(
        self, main: Terms, positive: Terms, signs: np.ndarray, weight: np.ndarray, budget: np.ndarray
    ) -> None:
        self.main, self.positive, self.signs = main, positive, signs
        self.weight, self.budget = weight, budget
        self.order = len(weight) + positive.vectors.shape[0] + len(signs)

    def _factors(self, theta: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Return Cholesky factors of both matrices, None outside the domain."""
        if (theta[self.signs] <= 0.0).any():
            return None
        try:
            shifted = self.main.value(theta) - np.diag(t * self.weight)
            return scipy.linalg.cholesky(shifted), scipy.linalg.cholesky(self.positive.value(theta))
        except (np.linalg.LinAlgError, ValueError):
            return None

    def _height(
        self, factors: tuple[np.ndarray, np.ndarray], theta: np.ndarray, t: float, tau: float
    ) -> float:
        logs = sum(2.0 * np.log(np.diag(f)).sum() for f in factors)
        return float(-tau * t - logs - np.log(theta[self.signs]).sum())

    def _newton(
        self, factors: tuple[np.ndarray, np.ndarray], theta: np.ndarray, tau: float
    ) -> tuple[np.ndarray, float]:
        """Return the Newton direction in (θ, t) and the decrement."""
        k = len(theta)
        z = scipy.linalg.cho_solve((factors[0], False), np.eye(len(self.weight)))
        y = scipy.linalg.cho_solve((factors[1], False), np.eye(len(factors[1])))
        first, second, mixed = self.main.derivatives(z, self.weight, k)
        first_p, second_p, _ = self.positive.derivatives(y, np.zeros(len(y)), k)
        gradient = np.zeros(k + 1)
        gradient[:k] = -first - first_p
        gradient[self.signs] -= 1.0 / theta[self.signs]
        gradient[k] = -tau + self.weight @ np.diag(z)
        hessian = np.zeros((k + 1, k + 1))
        hessian[:k, :k] = second + second_p
        hessian[self.signs, self.signs] += 1.0 / theta[self.signs] ** 2
        hessian[:k, k] = hessian[k, :k] = -mixed
        hessian[k, k] = self.weight @ (z * z) @ self.weight
        scale = 1.0 / np.sqrt(np.diag(hessian))
        scaled = hessian * np.outer(scale, scale)
        # Two right-hand sides: the step, and its correction that keeps budgetᵀθ.
        sides = np.column_stack([-scale * gradient, scale * np.append(self.budget, 0.0)])
        if not (np.isfinite(scaled).all() and np.isfinite(sides).all()):
            return np.full(k + 1, np.nan), np.nan  # Beyond float64: the search ends here.
        try:
            solutions = scipy.linalg.cho_solve(scipy.linalg.cho_factor(scaled), sides)
        except np.linalg.LinAlgError:
            solutions = np.linalg.lstsq(scaled, sides, rcond=1e-14)[0]
        step, correction = scale[:, None] * solutions[:, :1], scale[:, None] * solutions[:, 1:]
        excess = (self.budget @ step[:k, 0]) / (self.budget @ correction[:k, 0])
        direction = step[:, 0] - excess * correction[:, 0]
        return direction, float(-gradient @ direction)

    def follow(self, theta: np.ndarray, enough: float, accuracy: float) -> Margin:
        theta = theta.copy()
        lowest = scipy.linalg.eigvalsh(
            self.main.value(theta) / np.sqrt(np.outer(self.weight, self.weight)), subset_by_index=[0, 0]
        )[0]
        t = float(lowest) - max(1.0, 0.1 * abs(float(lowest)))
        tau, best = 1.0, Margin(theta, t, np.inf, 0)
        for step in range(1, 301):
            factors = self._factors(theta, t)
            if factors is None or not np.isfinite(theta).all():
                return best
            direction, decrement = self._newton(factors, theta, tau)
            if not np.isfinite(direction).all():
                return best
            height = self._height(factors, theta, t, tau)
            length, moved = 1.0 if decrement < 0.25 else 1.0 / (1.0 + np.sqrt(decrement)), False
            for _ in range(30):
                trial, t_trial = theta + length * direction[:-1], t + length * direction[-1]
                inside = self._factors(trial, t_trial)
                if inside is not None and self._height(inside, trial, t_trial, tau) < height + 1e-9 * abs(
                    height
                ):
                    theta, t, moved = trial, t_trial, True
                    break
                length *= 0.5
            gap = self.order / tau
            best = Margin(theta, t, t + 2.0 * gap, step)
            if not moved:
                return best
            if decrement < 0.5:
                if t + 2.0 * gap < 0.0 or (t > 0.0 and gap < t / enough) or gap < accuracy:
                    return best
                tau *= 6.0
        return best
