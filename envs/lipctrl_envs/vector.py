"""A batch of environments in torch: one plant, any device, tensors in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from lipctrl_envs.plant import Plant
from lipctrl_envs.registry import make_plant
from lipctrl_envs.single import chosen_state, frame
from lipctrl_envs.spaces import action_space, observation_space

if TYPE_CHECKING:
    import control

    from lipctrl_envs.lure import LureForm

StepResult = tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]


class TorchVectorEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """Step `num_envs` copies of a plant at once: tensors in, tensors out, a clock for each environment.

    Parameters
    ----------
    plant : a `Plant`, or the name of a registered one.
    num_envs : number of environments.
    device, dtype : where and in which precision states, observations and rewards live (names are taken too).
    autoreset_mode : `AutoresetMode` or its value. "NextStep" (default): the step after the end of an episode
        ignores its action and returns the first observation of the next episode, with reward 0. "SameStep":
        the step that ends an episode returns the first observation of the next one, and the last one in
        `info["final_obs"]` where `info["_final_obs"]`. "Disabled": nothing is reset; the caller passes
        `reset(options={"reset_mask": mask})`.
    max_episode_steps : length of an episode; the plant's `horizon` where it is None.
    render_mode : None or "rgb_array"; `render` then returns one picture for each environment.
    **parameters : keywords of the plant, such as `mass=2.0`; an unknown one is a TypeError.

    `terminated` (failure) and `truncated` (time limit) are bool tensors (num_envs,). Nothing carries gradients; to
    differentiate through the plant, call `env.plant.transition`. On a CPU, actions are checked to be finite and
    random starts are drawn only for environments that need them; on an accelerator no step waits for the device.

    >>> import gymnasium, torch
    >>> env = gymnasium.make_vec("lipctrl_envs:lipctrl/Pendulum-v0", num_envs=3, device="cpu")
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(torch.zeros(3, 1))
    >>> observation.shape, reward.shape
    (torch.Size([3, 2]), torch.Size([3]))
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's name)
        "render_modes": ["rgb_array"],
        "render_fps": 50,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "torch": True,
    }

    def __init__(
        self,
        plant: Plant | str,
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **parameters: Any,
    ) -> None:
        if max_episode_steps is not None:
            parameters["horizon"] = max_episode_steps
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.plant = make_plant(plant, parameters)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        if not self.dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {self.dtype}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            **self.metadata,
            "autoreset_mode": self.autoreset_mode,
            "render_fps": max(1, round(1.0 / self.plant.dt)),
        }
        self.single_action_space = action_space(self.plant)
        self.single_observation_space = observation_space(self.plant)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        # Where waiting for the device is free, look before drawing; elsewhere draw for all and select.
        self._host = self.device.type == "cpu"
        self._generator = torch.Generator(self.device)
        self._state: Tensor | None = None

    # ------------------------------------------------------------------ Gymnasium's interface

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Start new episodes: everywhere, or where `options["reset_mask"]` says; `options["state"]` sets the start."""
        super().reset(seed=seed)
        if seed is not None or self._state is None:
            self._generator.manual_seed(int(self.np_random.integers(2**63)))
        options = options or {}
        start = self._fresh(self.num_envs)
        if "state" in options:
            chosen = chosen_state(self.plant, options["state"], self.num_envs)
            start = chosen.to(self.device, self.dtype)
        parameters = self._fresh_parameters(self.num_envs)
        if "reset_mask" in options and self._state is not None:
            mask = self._mask(options["reset_mask"])
            self._state = torch.where(mask[:, None], start, self._state)
            self._clock.masked_fill_(mask, 0)
            self._done = self._done & ~mask
            self._choose_parameters(mask, parameters)
        else:
            self._state = start
            self._parameters = parameters
            self._clock = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
            self._done = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._pending = not self._host or bool(self._done.any())
        self._action = torch.zeros(
            (self.num_envs, self.plant.action_size), dtype=self.dtype, device=self.device
        )
        return self._observe(self._state), {}

    @torch.no_grad()
    def step(self, actions: Tensor | np.ndarray) -> StepResult:
        """Advance every environment by one sample; actions (num_envs, m) in physical units."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        action = self._checked(actions)
        disturbance = self.plant.sample_disturbance(self.num_envs, self._generator, self.device, self.dtype)
        state = self.plant.transition(self._state, action, disturbance, self._parameters)
        reward = self.plant.reward(self._state, action, state).to(self.dtype)
        terminated = self.plant.terminated(state)
        self._clock += 1
        truncated = self._clock >= self.plant.horizon
        self._action = action
        info: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            if self._pending:
                begin = self._done
                state = self._restart(begin, state)
                reward.masked_fill_(begin, 0.0)
                terminated, truncated = terminated & ~begin, truncated & ~begin
            observation = self._observe(state)
            self._done = terminated | truncated
            self._pending = not self._host or bool(self._done.any())
        elif self.autoreset_mode is AutoresetMode.SAME_STEP:
            observation = self._observe(state)
            done = terminated | truncated
            if not self._host or bool(done.any()):
                info = {"final_obs": observation, "_final_obs": done}
                state = self._restart(done, state)
                observation = torch.where(done[:, None], self._observe(state), observation)
        else:
            observation = self._observe(state)
            self._done = terminated | truncated
            self._pending = self._host and bool(self._done.any())
        self._state = state
        return observation, reward, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one picture for each environment."""
        if self.render_mode is None:
            gymnasium.logger.warn("pass render_mode='rgb_array' when making the environment to render it")
            return None
        states = self.state.double().cpu().numpy()
        actions = self.plant.saturate(self._action).double().cpu().numpy()
        return tuple(frame(self.plant, x, u) for x, u in zip(states, actions, strict=True))

    # ------------------------------------------------------------------ the plant behind it

    @property
    def state(self) -> Tensor:
        """Return the states (num_envs, n) as they are now."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._state

    @property
    def parameters(self) -> dict[str, Tensor] | None:
        """Return the randomised parameters of the present episodes, each (num_envs,), or None."""
        return self._parameters if self._state is not None else None

    @property
    def elapsed(self) -> Tensor:
        """Return the clock of each environment in steps, int32 (num_envs,)."""
        return self._clock

    def linearize(self, state: Any = None, action: Any = None) -> control.StateSpace:
        """Return the plant's exact linearisation; see `Plant.linearize`."""
        return self.plant.linearize(state, action)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        """Return the plant's Lur'e form; see `Plant.lure_form`."""
        return self.plant.lure_form(region)

    # ------------------------------------------------------------------ inside

    def _checked(self, actions: Tensor | np.ndarray) -> Tensor:
        action = torch.as_tensor(actions, dtype=self.dtype, device=self.device)
        if action.shape != (self.num_envs, self.plant.action_size):
            raise ValueError(
                f"{self.plant.name}: actions must have shape ({self.num_envs}, {self.plant.action_size}), "
                f"got {tuple(action.shape)}"
            )
        if self._host:
            if not bool(torch.isfinite(action).all()):
                raise ValueError(
                    f"{self.plant.name}: actions must be finite; {int((~action.isfinite()).sum())} are not"
                )
            if self._pending and self.autoreset_mode is AutoresetMode.DISABLED:
                raise ValueError(
                    "autoreset is disabled and an episode has ended: call reset(options={'reset_mask': mask}) first"
                )
        return action

    def _mask(self, mask: Any) -> Tensor:
        chosen = torch.as_tensor(mask, device=self.device)
        if chosen.dtype is not torch.bool or chosen.shape != (self.num_envs,):
            raise ValueError(
                f"options['reset_mask'] must be bool of shape ({self.num_envs},), "
                f"got {chosen.dtype} {tuple(chosen.shape)}"
            )
        return chosen

    def _fresh(self, count: int) -> Tensor:
        return self.plant.initial_state(count, self._generator, self.device, self.dtype)

    def _fresh_parameters(self, count: int) -> dict[str, Tensor] | None:
        return self.plant.sample_parameters(count, self._generator, self.device, self.dtype)

    def _restart(self, mask: Tensor, state: Tensor) -> Tensor:
        """Begin new episodes where `mask`; on a CPU draw just as many starts as there are new episodes."""
        self._clock.masked_fill_(mask, 0)
        if not self._host:
            self._choose_parameters(mask, self._fresh_parameters(self.num_envs))
            return torch.where(mask[:, None], self._fresh(self.num_envs), state)
        rows = mask.nonzero().squeeze(-1)
        state = state.index_copy(0, rows, self._fresh(len(rows)))
        drawn = self._fresh_parameters(len(rows))
        if drawn is not None and self._parameters is not None:
            self._parameters = {k: v.index_copy(0, rows, drawn[k]) for k, v in self._parameters.items()}
        return state

    def _choose_parameters(self, mask: Tensor, drawn: dict[str, Tensor] | None) -> None:
        if drawn is not None and self._parameters is not None:
            self._parameters = {k: torch.where(mask, drawn[k], v) for k, v in self._parameters.items()}

    def _observe(self, state: Tensor) -> Tensor:
        observation = self.plant.observe(state)
        noise = self.plant.sample_noise(self.num_envs, self._generator, self.device, self.dtype)
        if noise is not None:
            return observation + noise
        # A plant that observes its state hands out the state itself; a caller's in-place change must not reach it.
        return observation.clone() if observation is state or observation._base is not None else observation
