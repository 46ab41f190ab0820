"""Worst-case observations: gradient ascent, search, and waves, inside a ball around what was measured."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
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
    epsilon : radius of the ball, in the units of the observation (times `scale`).
    steps : steps of projected gradient ascent for each observation; 0 for a search among the starts alone.
    norm : "l2" or "linf", of δ / scale.
    objective : "action" maximises ‖π(y+δ) - π(y)‖; "cost" maximises the plant's cost over the next
        `lookahead` steps (plants that can be differentiated: the environments of lipctrl_envs).
    lookahead : steps that the objective "cost" simulates, without noise.
    hold : the objective "cost" shows the policy y + δ in all of these steps, as one bias; False: in the first only.
    starts : random points of the sphere that are tried besides both ends of every axis (every corner of the box for
        "linf" up to six observations). The ascent begins at the best of them. A saturated policy hides its gradient,
        so a search is stronger there than any ascent. 0: one random point and nothing else.
    scale : None, or positive (p,): sizes of the observations where their units differ.

    Raises
    ------
    ValueError
        For numbers out of range and unknown names.

    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", eq. (2);
    for policies Pattanaik et al. 2018. The ascent starts on the sphere, because the gradient of the first objective
    vanishes at δ = 0, and keeps the best point that it met.
    """

    epsilon: float
    steps: int = 10
    norm: str = "l2"
    objective: str = "action"
    lookahead: int = 10
    hold: bool = True
    starts: int = 8
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_radius(self.epsilon, self.scale)
        for name, least in (("steps", 0), ("lookahead", 1), ("starts", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}")
        if self.steps == 0 and self.starts == 0:
            raise ValueError(
                "steps and starts are both 0, which is no attack; expected at least one of them > 0"
            )
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}; expected one of {NORMS}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; expected one of {OBJECTIVES}")

    def to_dict(self) -> dict[str, Any]:
        """Return the attack as JSON values."""
        return dataclasses.asdict(self)

    def project(self, delta: Tensor) -> Tensor:
        """Return the nearest point of the ball (of δ / scale), row by row."""
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
        """Return observations (n, p) within the ball that make `loss` (..., n, p) -> (..., n) large, row by row.

        Never worse than the unperturbed observation.

        Examples
        --------
        >>> import torch
        >>> attack = Attack(0.5, norm="linf")
        >>> attack.perturb(lambda y: y.sum(-1), torch.zeros(1, 2), torch.Generator().manual_seed(0))
        tensor([[0.5000, 0.5000]])
        """
        scale = _scale_tensor(self.scale, observation)
        with torch.no_grad():
            best, best_loss = torch.zeros_like(observation), loss(observation)
            trials = self._starts(observation, generator)
            losses = loss(observation + trials * scale)
            top = losses.argmax(0)
            rows = torch.arange(len(observation), device=observation.device)
            delta, value = trials[top, rows], losses[top, rows]
            better = value > best_loss
            best = torch.where(better[:, None], delta, best)
            best_loss = torch.where(better, value, best_loss)
        for step in range(self.steps):
            # Steps of 2.5 ε / n can cross the ball even when half of them go the wrong way (Madry et al. 2018); the
            # later ones are shorter, to settle.
            rate = 2.5 * self.epsilon / self.steps * (1.0 if step < (self.steps + 1) // 2 else 0.4)
            moved = delta.detach().requires_grad_()
            with torch.enable_grad():
                value = loss(observation + moved * scale)
                # A policy that ignores its input has no gradient; the start is then as good as any.
                gradient = (
                    torch.autograd.grad(value.sum(), moved)[0]
                    if value.requires_grad
                    else torch.zeros_like(moved)
                )
            delta = self.project(delta + rate * self.ascent(gradient))
            with torch.no_grad():
                value = loss(observation + delta * scale)
                better = value > best_loss
                best = torch.where(better[:, None], delta, best)
                best_loss = torch.where(better, value, best_loss)
        return observation + best * scale

    def _starts(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return trial points (k, n, p) on the sphere: random ones, and the ends of the axes or the corners."""
        n, p = observation.shape
        like = {"device": observation.device, "dtype": observation.dtype}
        drawn = torch.randn((max(self.starts, 1), n, p), generator=generator, **like)
        random = self.epsilon * self.ascent(drawn)
        if self.starts == 0:
            return random
        if self.norm == "linf" and p <= 6:
            signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], **like)] * p).reshape(-1, p)
        else:
            axes = torch.eye(p, **like)
            signs = torch.cat([axes, -axes])
        return torch.cat([self.epsilon * signs[:, None].expand(-1, n, -1), random])


@dataclass(frozen=True, eq=False)
class Wave:
    """An adversary that knows nothing: δ(t) = epsilon · scale · direction · sign cos(2π (t / period + phase)).

    The direction has length one, so ‖δ / scale‖ = epsilon in every step. Constant for an infinite period: the bias that
    a sensor has. Needs no gradient and no plant, so it attacks any policy; `worst_case` searches for the worst one.

    Parameters
    ----------
    epsilon : size, in the units of the observation (times `scale`).
    direction : (p,), or (episodes, p) for one each; of any length but zero.
    period : in samples, > 0 or inf; one number, or one for each episode.
    phase : in turns; one number, or one for each episode.
    scale : None, or positive (p,).

    Raises
    ------
    ValueError
        For numbers out of range.

    Examples
    --------
    >>> import torch
    >>> Wave(0.5, (0.0, 2.0), period=4).offset(2, torch.zeros(1, 2))
    tensor([[-0.0000, -0.5000]])
    """

    epsilon: float
    direction: Any
    period: Any = math.inf
    phase: Any = 0.0
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_radius(self.epsilon, self.scale)
        direction = np.asarray(self.direction, dtype=np.float64)
        length = np.linalg.norm(direction, axis=-1) if direction.ndim in (1, 2) else np.zeros(1)
        if not (np.isfinite(length).all() and (length > 0.0).all()):
            raise ValueError(
                f"direction has shape {direction.shape}; expected finite (p,) or (episodes, p), not zero"
            )
        period, phase = (np.asarray(v, dtype=np.float64) for v in (self.period, self.phase))
        if period.ndim > 1 or not (period > 0.0).all():
            raise ValueError(f"period is {self.period!r}; expected samples > 0, or inf")
        if phase.ndim > 1 or not np.isfinite(phase).all():
            raise ValueError(f"phase is {self.phase!r}; expected finite turns")
        object.__setattr__(self, "direction", direction / length[..., None])
        object.__setattr__(self, "period", period)
        object.__setattr__(self, "phase", phase)

    def to_dict(self) -> dict[str, Any]:
        """Return the wave as JSON values; an infinite period as None."""
        period = np.where(np.isinf(self.period), np.nan, self.period)
        listed = [None if np.isnan(v) else float(v) for v in period.reshape(-1)]
        return {
            "epsilon": self.epsilon,
            "direction": self.direction.tolist(),
            "period": listed if period.ndim else listed[0],
            "phase": self.phase.tolist(),
            "scale": self.scale,
        }

    def episodes(self, first: int, last: int) -> Wave:
        """Return the waves of episodes `first` … `last` - 1."""
        cut = [
            v[first:last] if v.ndim == n else v
            for v, n in ((self.direction, 2), (self.period, 1), (self.phase, 1))
        ]
        return Wave(self.epsilon, cut[0], cut[1], cut[2], self.scale)

    def offset(self, step: int, observation: Tensor) -> Tensor:
        """Return δ at a step, broadcast to observations (n, p)."""
        # Seen just after the sample, so that a sign is never decided by the rounding of a zero of the cosine.
        turns = (step + 1e-6) / self.period + self.phase
        sign = np.where(np.cos(2.0 * math.pi * turns) > 0.0, 1.0, -1.0)
        delta = torch.as_tensor(self.epsilon * self.direction * sign[..., None]).to(observation)
        return (delta * _scale_tensor(self.scale, observation)).expand_as(observation)


def _check_radius(epsilon: float, scale: tuple[float, ...] | None) -> None:
    number = isinstance(epsilon, numbers.Real) and math.isfinite(epsilon)
    if not (number and epsilon >= 0.0):
        raise ValueError(f"epsilon is {epsilon!r}; expected a finite radius >= 0")
    if scale is not None:
        values = np.asarray(scale, dtype=np.float64)
        if values.ndim != 1 or not (np.isfinite(values).all() and (values > 0.0).all()):
            raise ValueError(f"scale is {scale!r}; expected positive numbers, one for each observation")


def _scale_tensor(scale: tuple[float, ...] | None, observation: Tensor) -> Tensor:
    if scale is None:
        return observation.new_ones(())
    if len(scale) != observation.shape[-1]:
        raise ValueError(
            f"scale has {len(scale)} entries; expected {observation.shape[-1]}, one for each observation"
        )
    return torch.as_tensor(scale).to(observation)
