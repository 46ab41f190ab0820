"""One plant, one truth: the same torch transition is stepped, differentiated, linearised and bounded."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lipctrl_envs.options import check_numbers, check_randomization, per_channel
from lipctrl_envs.overlay import Overlay
from lipctrl_envs.signals import Parameters, Signal, join

if TYPE_CHECKING:
    import control

    from lipctrl_envs.canvas import Canvas
    from lipctrl_envs.lure import LureForm


@dataclass(frozen=True, kw_only=True, eq=False)
class Plant(ABC):
    """A controlled system in discrete time, written once in torch, in SI units, with its rest at zero.

    A plant is immutable; everything that varies (state, clock, randomised parameters) is passed in, so one
    plant serves one environment or a million, on any device, in any precision, with gradients.

    Parameters common to every plant
    --------------------------------
    dt : sampling period [s].
    horizon : length of an episode in steps, after which it is truncated.
    action_limit : actuator saturation, the symmetric box |action| <= action_limit in physical units (a number,
        or one for each action); `math.inf` means none.
    delay : actuator delay in samples. The commands under way are part of the state, so the delayed plant
        is still Markov and still linearises exactly. The cost charges a command when it is given.
    observation_noise : standard deviation of the noise that environments add to each observation.
    disturbance : standard deviation of each disturbance, drawn afresh in every step (physical units).
    randomization : name of a physical parameter -> relative half-width r; in every episode the parameter
        is its nominal value times a number uniform in [1 - r, 1 + r].

    Raises
    ------
    TypeError : an unknown keyword.
    ValueError : a value out of range, saying which and what to pass.
    """

    dt: float = 0.02
    horizon: int = 500
    action_limit: Any = 1.0
    delay: int = 0
    observation_noise: Any = 0.0
    disturbance: Any = 0.0
    randomization: Mapping[str, float] = field(default_factory=dict)

    name: ClassVar[str]
    actions: ClassVar[tuple[Signal, ...]]
    disturbances: ClassVar[tuple[Signal, ...]]
    frame_size: ClassVar[tuple[int, int]] = (400, 600)

    def __post_init__(self) -> None:
        check_numbers(self)
        for attribute, size in (
            ("action_limit", self.action_size),
            ("observation_noise", self.observation_size),
            ("disturbance", len(self.disturbances)),
        ):
            object.__setattr__(
                self, attribute, per_channel(self.name, attribute, getattr(self, attribute), size)
            )
        check_randomization(self.name, self.randomization, self.parameter_units)

    # ------------------------------------------------------------------ what a plant must say about itself

    @property
    @abstractmethod
    def physical_states(self) -> tuple[Signal, ...]:
        """Return the states of the plant without the commands under way in a delayed actuator."""

    @abstractmethod
    def flow(self, state: Tensor, action: Tensor, disturbance: Tensor | None, p: Any) -> Tensor:
        """Advance the physical state by one step, without delay and without saturation.

        `p` carries the physical parameters as attributes: numbers, or tensors of the batch shape.
        """

    @property
    @abstractmethod
    def state_weights(self) -> np.ndarray:
        """Return the diagonal of the quadratic cost of the physical state, in 1/unit² for each step."""

    @property
    @abstractmethod
    def action_weights(self) -> np.ndarray:
        """Return the diagonal of the quadratic cost of the action, in 1/unit² for each step."""

    @property
    @abstractmethod
    def initial_spread(self) -> np.ndarray:
        """Return the half-widths of the box around zero from which episodes start."""

    @abstractmethod
    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        """Draw the plant in one physical state; `action` is the command last applied."""

    # ------------------------------------------------------------------ hooks with a usual answer

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        """Return the plant as a linear system with slope-restricted nonlinearities, valid on a region.

        Parameters
        ----------
        region : name of a state or action -> bound on its absolute value (its unit); the plant's own
            operating region where it is not given.

        Raises
        ------
        ValueError
            When the plant does not say; linearisation, simulation and training need no Lur'e form.
        """
        raise ValueError(
            f"{self.name} has no Lur'e form; regions of attraction need one: define its lure_form (see "
            "lipctrl_envs.LureForm)"
        )

    @property
    def observations(self) -> tuple[Signal, ...]:
        """Return the observed signals: the physical states, unless a plant says otherwise."""
        return self.physical_states

    def sense(self, state: Tensor) -> Tensor:
        """Observe a physical state (..., n) as (..., p), without noise."""
        return state

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Cost of one step in physical states: xᵀQx + uᵀRu unless a plant adds to it."""
        return self.quadratic_cost(state, action)

    def failed(self, state: Tensor) -> Tensor:
        """Whether the episode ends for good in this physical state; never, unless a plant says otherwise."""
        return torch.zeros(state.shape[:-1], dtype=torch.bool, device=state.device)

    @property
    def observation_bounds(self) -> np.ndarray:
        """Return a bound on the absolute value of every observation, infinite where physics sets none."""
        return np.full(self.observation_size, np.inf)

    # ------------------------------------------------------------------ signals

    def __reduce__(self) -> tuple[Any, ...]:
        # Rebuilt from its keywords: what is cached on a device stays there.
        return partial(type(self), **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}), ()

    @property
    def parameter_units(self) -> dict[str, str]:
        """Return the physical parameters and their SI units."""
        return {f.name: f.metadata["unit"] for f in dataclasses.fields(self) if "unit" in f.metadata}

    @cached_property
    def _queue(self) -> tuple[Signal, ...]:
        age = range(self.delay, 0, -1)
        return tuple(Signal(f"{s.name}_{k}_ago", s.unit) for k in age for s in self.actions)

    @cached_property
    def states(self) -> tuple[Signal, ...]:
        """Return every state: the physical ones, then the commands under way, oldest first."""
        return self.physical_states + self._queue

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.states)

    @property
    def state_units(self) -> tuple[str, ...]:
        return tuple(s.unit for s in self.states)

    @property
    def action_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.actions)

    @property
    def action_units(self) -> tuple[str, ...]:
        return tuple(s.unit for s in self.actions)

    @property
    def observation_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.observations)

    @cached_property
    def physical_size(self) -> int:
        return len(self.physical_states)

    @cached_property
    def state_size(self) -> int:
        return self.physical_size + self.delay * self.action_size

    @property
    def action_size(self) -> int:
        return len(self.actions)

    @property
    def observation_size(self) -> int:
        return len(self.observations)

    # ------------------------------------------------------------------ cost weights

    @cached_property
    def Q(self) -> np.ndarray:
        """Return the (n, n) weight of the state in the quadratic cost of a step; commands under way weigh nothing."""
        return np.diag(np.concatenate([self.state_weights, np.zeros(len(self._queue))]))

    @cached_property
    def R(self) -> np.ndarray:
        """Return the (m, m) weight of the action in the quadratic cost of a step."""
        return np.diag(self.action_weights)

    def quadratic_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """xᵀQx + uᵀRu for physical states (..., n) and actions (..., m)."""
        terms = zip(
            (*self.state_weights.tolist(), *self.action_weights.tolist()),
            (*state.unbind(-1), *action.unbind(-1)),
            strict=True,
        )
        total: Tensor | None = None
        for weight, signal in terms:
            if weight != 0.0 and total is None:
                total = signal * signal * weight
            elif weight != 0.0 and total is not None:
                total = torch.addcmul(total, signal, signal, value=weight)
        if total is None:
            return state.new_zeros(state.shape[:-1])
        return total

    # ------------------------------------------------------------------ the truth

    @cached_property
    def _limits(self) -> list[float]:
        return self.action_limit.tolist()

    def saturate(self, action: Tensor) -> Tensor:
        """Clip an action (..., m) to the actuator's box."""
        limits = self._limits
        if len(set(limits)) == 1:
            return action if math.isinf(limits[0]) else action.clamp(-limits[0], limits[0])
        # By columns: a tensor of limits would have to be copied to the device in every step.
        return join([a.clamp(-bound, bound) for a, bound in zip(action.unbind(-1), limits, strict=True)])

    def advance(
        self,
        state: Tensor,
        action: Tensor,
        disturbance: Tensor | None = None,
        parameters: Parameters | None = None,
    ) -> Tensor:
        """Return the next state without saturation: what `linearize` differentiates."""
        p = self if parameters is None else Overlay(self, parameters)
        if not self.delay:
            return self.flow(state, action, disturbance, p)
        n, m = self.physical_size, self.action_size
        queue = state[..., n:]
        moved = self.flow(state[..., :n], queue[..., :m], disturbance, p)
        return torch.cat([moved, queue[..., m:], action.expand((*moved.shape[:-1], m))], dim=-1)

    def transition(
        self,
        state: Tensor,
        action: Tensor,
        disturbance: Tensor | None = None,
        parameters: Parameters | None = None,
    ) -> Tensor:
        """Return the next state (..., n); the action (..., m) saturates first. Differentiable, any device.

        Parameters
        ----------
        disturbance : (..., d) in physical units, None for none.
        parameters : physical parameters that differ from this plant's, as tensors of the batch shape.
        """
        return self.advance(state, self.saturate(action), disturbance, parameters)

    def observe(self, state: Tensor) -> Tensor:
        """Return the observation (..., p) of a state (..., n), without noise."""
        return self.sense(state[..., : self.physical_size] if self.delay else state)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Return minus the cost of a step (...,), of the saturated action; differentiable."""
        return -self.step_cost(state, self.saturate(action), next_state)

    def step_cost(self, state: Tensor, command: Tensor, next_state: Tensor) -> Tensor:
        """Return the cost of a step (...,) with a command that is within the limits."""
        if self.delay:
            n = self.physical_size
            state, next_state = state[..., :n], next_state[..., :n]
        return self.cost(state, command, next_state)

    def terminated(self, state: Tensor) -> Tensor:
        """Whether the episode ends for good in this state, as bool (...,). Time limits are not termination."""
        return self.failed(state[..., : self.physical_size] if self.delay else state)

    # ------------------------------------------------------------------ randomness, always from a generator

    def initial_state(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw `count` initial states (count, n), uniform in the box of `initial_spread`; no command under way."""
        draw = torch.rand((self.physical_size, count), generator=generator, device=device, dtype=dtype)
        start = (draw - 0.5) * self._column("initial_spread", 2.0 * self.initial_spread, draw)
        if self.delay:
            start = torch.cat([start, start.new_zeros((len(self._queue), count))])
        return start.T

    def _gaussian(
        self,
        name: str,
        deviation: np.ndarray,
        count: int,
        generator: torch.Generator | None,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> Tensor | None:
        if not deviation.any():
            return None
        draw = torch.randn((len(deviation), count), generator=generator, device=device, dtype=dtype)
        return (draw * self._column(name, deviation, draw)).T

    @cached_property
    def _columns(self) -> dict[tuple[str, torch.device, torch.dtype], Tensor]:
        return {}

    def _column(self, name: str, values: np.ndarray, like: Tensor) -> Tensor:
        """Return values as a column on the device, kept there: a copy in every step would make the step wait."""
        key = (name, like.device, like.dtype)
        if key not in self._columns:
            self._columns[key] = torch.as_tensor(values, dtype=like.dtype, device=like.device)[:, None]
        return self._columns[key]

    def sample_disturbance(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor | None:
        """Draw disturbances (count, d) for one step, or None when this plant has none."""
        return self._gaussian("disturbance", self.disturbance, count, generator, device, dtype)

    def sample_noise(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor | None:
        """Draw observation noise (count, p) for one step, or None when this plant has none."""
        return self._gaussian("observation_noise", self.observation_noise, count, generator, device, dtype)

    def sample_parameters(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor] | None:
        """Draw the randomised parameters of `count` episodes, or None when nothing is randomised."""
        widths = {name: width for name, width in sorted(self.randomization.items()) if width > 0.0}
        if not widths:
            return None
        draw = torch.rand((len(widths), count), generator=generator, device=device, dtype=dtype)
        return {
            name: getattr(self, name) * (1.0 - width + 2.0 * width * row)
            for (name, width), row in zip(widths.items(), draw, strict=True)
        }

    # ------------------------------------------------------------------ local analysis

    def equilibrium(self) -> tuple[Tensor, Tensor]:
        """Return the state (n,) and the action (m,) at which the plant rests, float64: zero by convention."""
        return torch.zeros(self.state_size, dtype=torch.float64), torch.zeros(
            self.action_size, dtype=torch.float64
        )

    def linearize(self, state: Any = None, action: Any = None) -> control.StateSpace:
        """Return the exact Jacobians of transition and observation as a discrete `control.StateSpace`.

        From the action to the observation, in deviations from (state, action), without saturation and
        without noise; float64. Where nothing is given, at the equilibrium.

        >>> from lipctrl_envs import Pendulum
        >>> system = Pendulum(dt=0.02).linearize()
        >>> system.dt, system.nstates, system.input_labels
        (0.02, 2, ['torque'])
        """
        import control

        rest = self.equilibrium()
        x = self._point(state, rest[0], "state")
        u = self._point(action, rest[1], "action")
        A, B = torch.func.jacrev(self.advance, argnums=(0, 1))(x, u)
        C = torch.func.jacrev(self.observe)(x)
        return control.StateSpace(
            A.numpy(),
            B.numpy(),
            C.numpy(),
            np.zeros((self.observation_size, self.action_size)),
            self.dt,
            states=list(self.state_names),
            inputs=list(self.action_names),
            outputs=list(self.observation_names),
            name=self.name,
        )

    def _point(self, value: Any, default: Tensor, what: str) -> Tensor:
        if value is None:
            return default
        point = torch.as_tensor(np.asarray(value, dtype=np.float64))
        if point.shape != default.shape or not bool(torch.isfinite(point).all()):
            raise ValueError(
                f"{self.name}: {what} must be {default.numel()} finite numbers, got {np.asarray(value).tolist()}"
            )
        return point

    def bounds(self, default: Mapping[str, float], region: Mapping[str, float] | None) -> dict[str, float]:
        """Merge a region asked for with the plant's own; an unknown signal or a negative bound is an error."""
        merged = dict(default)
        for name, bound in (region or {}).items():
            if name not in default:
                raise ValueError(f"{self.name}: the region knows {sorted(default)}, got {name!r}")
            if math.isnan(bound) or bound <= 0.0:
                raise ValueError(f"{self.name}: the bound on {name} must be positive, got {bound}")
            merged[name] = float(bound)
        return merged
