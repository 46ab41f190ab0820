"""One environment in numpy: a plant behind Gymnasium's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch

from lipctrl_envs.canvas import Canvas
from lipctrl_envs.plant import Plant
from lipctrl_envs.registry import make_plant
from lipctrl_envs.spaces import action_space, observation_space

if TYPE_CHECKING:
    import control

    from lipctrl_envs.lure import LureForm


class PlantEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Step a plant as a Gymnasium environment: float32 observations and actions, a float64 state inside.

    Parameters
    ----------
    plant : a `Plant`, or the name of a registered one (its docstring tables states, actions, units).
    render_mode : None or "rgb_array".
    max_episode_steps : length of an episode; the plant's `horizon` where it is None. `gymnasium.make` takes
        the keyword for itself and adds its own, shorter, limit.
    **parameters : keywords of the plant, such as `mass=2.0` or `delay=1`; an unknown one is a TypeError.

    `reset(seed=…)` fixes everything random. `reset(options={"state": x})` starts from a state of your choice.
    `info["state"]` is the full state, float64.

    >>> import gymnasium
    >>> env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0", cart_mass=2.0)
    >>> observation, info = env.reset(seed=1)
    >>> observation.shape, env.unwrapped.linearize().dt
    ((4,), 0.02)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (read from the class by Gymnasium, replaced by instances)

    def __init__(
        self,
        plant: Plant | str,
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **parameters: Any,
    ) -> None:
        if max_episode_steps is not None:
            parameters["horizon"] = max_episode_steps
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.plant = make_plant(plant, parameters)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": max(1, round(1.0 / self.plant.dt))}
        self.action_space = action_space(self.plant)
        self.observation_space = observation_space(self.plant)
        self._state: torch.Tensor | None = None
        self._parameters: dict[str, torch.Tensor] | None = None
        self._generator = torch.Generator()
        self._steps = 0
        self._action = np.zeros(self.plant.action_size)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._generator.manual_seed(int(self.np_random.integers(2**63)))
        self._state = self.plant.initial_state(1, self._generator, dtype=torch.float64)
        if options and "state" in options:
            self._state = chosen_state(self.plant, options["state"], 1)
        self._parameters = self.plant.sample_parameters(1, self._generator, dtype=torch.float64)
        self._steps = 0
        self._action = np.zeros(self.plant.action_size)
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        command = np.asarray(action, dtype=np.float64)
        if command.shape != (self.plant.action_size,) or not np.all(np.isfinite(command)):
            raise ValueError(
                f"{self.plant.name}: an action is {self.plant.action_size} finite numbers "
                f"{self.plant.action_names}, got {action!r}"
            )
        u = torch.from_numpy(command)[None]
        disturbance = self.plant.sample_disturbance(1, self._generator, dtype=torch.float64)
        following = self.plant.transition(self._state, u, disturbance, self._parameters)
        reward = float(self.plant.reward(self._state, u, following))
        self._state, self._action = following, self.plant.saturate(u)[0].numpy()
        self._steps += 1
        terminated = bool(self.plant.terminated(following))
        truncated = self._steps >= self.plant.horizon
        return self._observation(), reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            gymnasium.logger.warn("pass render_mode='rgb_array' when making the environment to render it")
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before render()")
        return frame(self.plant, self._state[0].numpy(), self._action)

    def linearize(self, state: Any = None, action: Any = None) -> control.StateSpace:
        """Return the plant's exact linearisation; see `Plant.linearize`."""
        return self.plant.linearize(state, action)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        """Return the plant's Lur'e form; see `Plant.lure_form`."""
        return self.plant.lure_form(region)

    def _observation(self) -> np.ndarray:
        assert self._state is not None
        observation = self.plant.observe(self._state)
        noise = self.plant.sample_noise(1, self._generator, dtype=torch.float64)
        if noise is not None:
            observation = observation + noise
        return observation[0].numpy().astype(np.float32)

    def _info(self) -> dict[str, Any]:
        assert self._state is not None
        return {"state": self._state[0].numpy().copy()}


def chosen_state(plant: Plant, state: Any, count: int) -> torch.Tensor:
    """Return a start that the caller chose, (n,) or (count, n), as float64 (count, n)."""
    given = torch.as_tensor(state, dtype=torch.float64).cpu()
    if given.shape not in ((plant.state_size,), (count, plant.state_size)) or not bool(
        given.isfinite().all()
    ):
        raise ValueError(
            f"{plant.name}: options['state'] must be finite, of shape ({plant.state_size},) or "
            f"({count}, {plant.state_size}) for {plant.state_names}, got shape {tuple(given.shape)}"
        )
    return given.expand(count, plant.state_size).clone()


def frame(plant: Plant, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Draw a plant as uint8 (height, width, 3)."""
    canvas = Canvas(*plant.frame_size)
    plant.draw(canvas, np.asarray(state, dtype=np.float64)[: plant.physical_size], action)
    return canvas.image
