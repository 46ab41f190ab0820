"""A batch of environments in torch: one plant, any device, tensors in and out."""

from __future__ import annotations

import math
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
    output : "torch" (default), or "numpy" for Gymnasium's own vector wrappers, such as RecordEpisodeStatistics,
        and for training scripts written in numpy; actions are taken as either in any case.
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

    metadata: dict[str, Any] = {  # noqa: RUF012 (read from the class by Gymnasium, replaced by instances)
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
        output: str = "torch",
        render_mode: str | None = None,
        **parameters: Any,
    ) -> None:
        if max_episode_steps is not None:
            parameters["horizon"] = max_episode_steps
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if output not in ("torch", "numpy"):
            raise ValueError(f"output must be 'torch' or 'numpy', got {output!r}")
        self.plant = make_plant(plant, parameters)
        self.output = output
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.device = torch.device(device)
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not (isinstance(found, torch.dtype) and found.is_floating_point):
            raise ValueError(f"dtype must be a floating-point type, such as 'float64', got {dtype!r}")
        self.dtype = found
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            **self.metadata,
            "autoreset_mode": self.autoreset_mode,
            "render_fps": max(1, round(1.0 / self.plant.dt)),
            "torch": output == "torch",
        }
        self.single_action_space = action_space(self.plant)
        self.single_observation_space = observation_space(self.plant)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        # Where waiting for the device is free, look before drawing; elsewhere draw for all and select.
        self._host = self.device.type == "cpu"
        try:
            self._generator = torch.Generator(self.device)
        except RuntimeError as error:
            raise ValueError(
                f"device is {str(device)!r}, which this build of torch or this machine lacks; pass 'cpu'"
            ) from error
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
            self._end(self._done & ~mask)
            self._choose_parameters(mask, parameters)
        else:
            self._state = start
            self._parameters = parameters
            self._clock = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
            self._end(torch.zeros(self.num_envs, dtype=torch.bool, device=self.device))
        self._command = torch.zeros(
            (self.num_envs, self.plant.action_size), dtype=self.dtype, device=self.device
        )
        return self._given(self._observe(self._state)), {}

    @torch.no_grad()
    def step(self, actions: Tensor | np.ndarray) -> StepResult:
        """Advance every environment by one sample; actions (num_envs, m) in physical units."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        action = self._checked(actions)
        disturbance = self.plant.sample_disturbance(self.num_envs, self._generator, self.device, self.dtype)
        command = self.plant.saturate(action)
        state = self.plant.advance(self._state, command, disturbance, self._parameters)
        reward = self.plant.step_cost(self._state, command, state).neg_()
        terminated = self.plant.terminated(state)
        self._clock += 1
        truncated = self._clock >= self.plant.horizon
        self._command = command
        info: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._pending:
            state = self._restart(state, reward, terminated, truncated)
        observation = self._observe(state)
        self._end(terminated | truncated)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._pending:
            info = {"final_obs": observation, "_final_obs": self._done}
            state = self._restart(state)
            observation = torch.where(self._done[:, None], self._observe(state), observation)
        self._state = state
        if self.output == "numpy":
            info = {name: self._given(value) for name, value in info.items()}
            observation, reward = self._given(observation), self._given(reward)
            terminated, truncated = self._given(terminated), self._given(truncated)
        return observation, reward, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one picture for each environment."""
        if self.render_mode is None:
            gymnasium.logger.warn("pass render_mode='rgb_array' when making the environment to render it")
            return None
        states = self.state.double().cpu().numpy()
        actions = self._command.double().cpu().numpy()
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
            # One sum finds what is not finite; only if it does (or overflows) is each entry looked at.
            if not math.isfinite(action.sum()) and not bool(action.isfinite().all()):
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

    def _given(self, value: Tensor) -> Any:
        return value if self.output == "torch" else value.cpu().numpy()

    def _fresh(self, count: int) -> Tensor:
        return self.plant.initial_state(count, self._generator, self.device, self.dtype)

    def _fresh_parameters(self, count: int) -> dict[str, Tensor] | None:
        return self.plant.sample_parameters(count, self._generator, self.device, self.dtype)

    def _end(self, done: Tensor) -> None:
        """Note which episodes have ended; a host that may look also notes where, and whether any has."""
        self._done = done
        self._rows = done.nonzero().squeeze(-1) if self._host else None
        self._pending = self._rows is None or len(self._rows) > 0

    def _restart(self, state: Tensor, *blank: Tensor) -> Tensor:
        """Begin new episodes where they have ended: new states, clocks and every tensor of `blank` at zero.

        `state` and `blank` are overwritten. A host that may look draws just as many starts as it needs.
        """
        if self._rows is None:
            for tensor in (self._clock, *blank):
                tensor.masked_fill_(self._done, 0)
            self._choose_parameters(self._done, self._fresh_parameters(self.num_envs))
            return torch.where(self._done[:, None], self._fresh(self.num_envs), state)
        for tensor in (self._clock, *blank):
            tensor.index_fill_(0, self._rows, 0)
        state[self._rows] = self._fresh(len(self._rows))
        drawn = self._fresh_parameters(len(self._rows))
        if drawn is not None and self._parameters is not None:
            self._parameters = {k: v.index_copy(0, self._rows, drawn[k]) for k, v in self._parameters.items()}
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
        shared = observation.untyped_storage().data_ptr() == state.untyped_storage().data_ptr()
        return observation.clone() if shared else observation
