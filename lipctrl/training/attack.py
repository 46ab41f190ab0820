"""Worst-case observations: projected gradient ascent inside a ball around what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NORMS = ("l2", "linf")
OBJECTIVES = ("action", "cost")

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attack:
    """An adversary that may move every observation by at most `epsilon`, and knows the policy.

    Parameters
    ----------
    epsilon : radius of the ball, in the units of the observation.
    steps : steps of projected gradient ascent for each observation.
    norm : "l2" or "linf".
    objective : "action" maximises ‖π(y+δ) - π(y)‖; "cost" maximises the plant's cost over the next
        `lookahead` steps (plants that can be differentiated: the environments of lipctrl_envs).
    lookahead : steps that the objective "cost" simulates, without noise and with the true state.

    Raises
    ------
    ValueError
        For numbers out of range and unknown names.

    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", eq. (2);
    for policies Pattanaik et al. 2018. The ascent starts at a random point of the sphere, because the gradient
    of the first objective vanishes at δ = 0, and keeps the best point that it met.
    """

    epsilon: float
    steps: int = 10
    norm: str = "l2"
    objective: str = "action"
    lookahead: int = 10

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0.0):
            raise ValueError(f"epsilon is {self.epsilon!r}; expected a finite radius >= 0")
        for name in ("steps", "lookahead"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number >= 1")
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}; expected one of {NORMS}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; expected one of {OBJECTIVES}")

    def project(self, delta: Tensor) -> Tensor:
        """Return the nearest point of the ball, row by row."""
        if self.norm == "linf":
            return delta.clamp(-self.epsilon, self.epsilon)
        length = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
        return delta * (self.epsilon / length.clamp_min(self.epsilon)) if self.epsilon > 0.0 else 0.0 * delta

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the steepest unit step of this norm; zero where the gradient is zero."""
        if self.norm == "linf":
            return gradient.sign()
        length = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        return gradient / length.clamp_min(torch.finfo(gradient.dtype).tiny)

    def perturb(self, loss: Loss, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return observations (n, p) within the ball that make `loss` (n, p) -> (n,) large, row by row.

        Never worse than the unperturbed observation.

        Examples
        --------
        >>> import torch
        >>> attack = Attack(0.5, norm="linf")
        >>> attack.perturb(lambda y: y.sum(-1), torch.zeros(1, 2), torch.Generator().manual_seed(0))
        tensor([[0.5000, 0.5000]])
        """
        # Steps of 2.5 ε / n can cross the ball even when half of them go the wrong way (Madry et al. 2018).
        rate = 2.5 * self.epsilon / self.steps
        start = torch.randn(
            observation.shape, generator=generator, device=observation.device, dtype=observation.dtype
        )
        delta = self.epsilon * self.ascent(start)
        with torch.no_grad():
            best, best_loss = observation, loss(observation)
        for step in range(self.steps + 1):
            attacked = (observation + delta).detach().requires_grad_()
            with torch.enable_grad():
                value = loss(attacked)
                # A policy that ignores its input has no gradient; the random start is then as good as any.
                gradient = (
                    torch.autograd.grad(value.sum(), attacked)[0]
                    if step < self.steps and value.requires_grad
                    else torch.zeros_like(attacked)
                )
            better = value.detach() > best_loss
            best = torch.where(better[:, None], attacked.detach(), best)
            best_loss = torch.where(better, value.detach(), best_loss)
            delta = self.project(delta + rate * self.ascent(gradient))
        return best
