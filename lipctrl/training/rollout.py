"""Many copies of one environment stepped together: differentiable plants, and black boxes behind Gymnasium.

Both kinds keep two things apart that are easily confused: `terminated` (the episode has ended for good, its
value is zero) and `truncated` (time is up, the value of the last observation still counts). `Step.observation` is
always the observation *reached*; the simulator's own `.observation` is the one to act on next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipctrl.training.environments import EnvironmentFailedError, Task, blamed


class Step(NamedTuple):
    """What one step of every environment gave; shapes (count, p), (count,), (count,), (count,)."""

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class Simulator(ABC):
    """`count` environments that restart themselves, with the returns of the episodes they finished."""

    count: int
    observation: Tensor

    def __init__(self, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self.count = count
        self.device = device
        self.dtype = dtype
        self._sums = torch.zeros(count, device=device, dtype=torch.float64)
        # Episodes whose beginning was not seen have no return to report.
        self._whole = torch.ones(count, device=device, dtype=torch.bool)
        self._finished = torch.zeros(2, device=device, dtype=torch.float64)

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Apply actions (count, m) and restart what has ended."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what continues this simulator exactly (a black box restarts its episodes, see there)."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""

    def _account(self, reward: Tensor, done: Tensor) -> None:
        self._sums += reward.detach().double()
        counted = done & self._whole
        self._finished[0] += torch.where(counted, self._sums, 0.0).sum()
        self._finished[1] += counted.sum()
        self._sums = torch.where(done, 0.0, self._sums)
        self._whole |= done

    def mean_return(self) -> float | None:
        """Return the mean undiscounted return of the episodes finished since the last call, None if there were none."""
        total, number = self._finished.tolist()
        self._finished.zero_()
        return total / number if number else None

    def _books(self) -> dict[str, Tensor]:
        return {"sums": self._sums, "whole": self._whole, "finished": self._finished}

    def _load_books(self, state: dict[str, Any]) -> None:
        self._sums = state["sums"].to(self.device)
        self._whole = state["whole"].to(self.device)
        self._finished = state["finished"].to(self.device)


class PlantSimulator(Simulator):
    """Copies of a differentiable plant; gradients flow from rewards to actions until `detach()`.

    Parameters
    ----------
    plant : dynamics with transition, observe, reward, terminated and the samplers, batched in torch.
    staggered : start the first episodes at random times of their clocks, so that not all end together.
    """

    def __init__(
        self,
        plant: Any,
        count: int,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        staggered: bool = True,
    ) -> None:
        super().__init__(count, torch.device(device), dtype)
        self.plant = plant
        self.generator = torch.Generator(device=self.device).manual_seed(seed)
        self.physical = plant.initial_state(count, self.generator, self.device, dtype)
        self.parameters = plant.sample_parameters(count, self.generator, self.device, dtype)
        self.clock = torch.zeros(count, device=self.device, dtype=torch.int64)
        if staggered:
            self.clock = torch.randint(
                0, plant.horizon, (count,), generator=self.generator, device=self.device
            )
            self._whole = self.clock == 0
        self.observation = self._sense(self.physical)

    def _sense(self, state: Tensor) -> Tensor:
        noise = self.plant.sample_noise(self.count, self.generator, self.device, self.dtype)
        seen = self.plant.observe(state)
        return seen if noise is None else seen + noise

    def step(self, action: Tensor) -> Step:
        disturbance = self.plant.sample_disturbance(self.count, self.generator, self.device, self.dtype)
        reached = self.plant.transition(self.physical, action, disturbance, self.parameters)
        reward = self.plant.reward(self.physical, action, reached)
        terminated = self.plant.terminated(reached.detach())
        self.clock = self.clock + 1
        truncated = (self.clock >= self.plant.horizon) & ~terminated
        observation = self._sense(reached)
        done = terminated | truncated
        self._account(reward, done)
        self.physical, self.observation = reached, observation
        # Asking the device whether anything ended would stall an accelerator; there, restarts are always drawn.
        if self.device.type != "cpu" or bool(done.any()):
            self._restart(done)
        return Step(observation, reward, terminated, truncated)

    def _restart(self, done: Tensor) -> None:
        fresh = self.plant.initial_state(self.count, self.generator, self.device, self.dtype)
        self.physical = torch.where(done[:, None], fresh, self.physical)
        parameters = self.plant.sample_parameters(self.count, self.generator, self.device, self.dtype)
        if parameters is not None and self.parameters is not None:
            old = self.parameters
            self.parameters = {k: torch.where(done, v, old[k]) for k, v in parameters.items()}
        self.clock = torch.where(done, 0, self.clock)
        self.observation = torch.where(done[:, None], self._sense(fresh), self.observation)

    def detach(self) -> None:
        """Cut the graph: later gradients do not reach earlier actions."""
        self.physical = self.physical.detach()
        self.observation = self.observation.detach()

    def state(self) -> dict[str, Any]:
        return {
            "physical": self.physical,
            "observation": self.observation,
            "clock": self.clock,
            "parameters": self.parameters,
            "generator": self.generator.get_state(),
            **self._books(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.physical = state["physical"].to(self.device)
        self.observation = state["observation"].to(self.device)
        self.clock = state["clock"].to(self.device)
        parameters = state["parameters"]
        self.parameters = (
            None if parameters is None else {k: v.to(self.device) for k, v in parameters.items()}
        )
        self.generator.set_state(state["generator"])
        self._load_books(state)


class GymSimulator(Simulator):
    """Copies of any Gymnasium environment with box spaces, behind its synchronous vector environment.

    The state of a foreign environment cannot be read. `state()` therefore restarts all episodes from a recorded
    seed, in a run that goes on as in one that is continued later: both see the same experience.
    """

    def __init__(
        self,
        task: Task,
        count: int,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        import gymnasium

        super().__init__(count, torch.device(device), dtype)
        self._name = task.env_id
        with blamed(self._name, "its constructor"):
            self.envs = gymnasium.make_vec(
                task.env_id,
                num_envs=count,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
                **task.options,
            )
        box = self.envs.single_action_space
        if not isinstance(box, gymnasium.spaces.Box):
            raise ValueError(f"{task.env_id} has the action space {box}; expected a Box")
        self._low, self._high = box.low, box.high
        self._seed, self._restarts = seed, 0
        self._restart()

    def _restart(self) -> None:
        words = np.random.SeedSequence([self._seed, self._restarts]).generate_state(self.count)
        with blamed(self._name, "reset"):
            seen, _ = self.envs.reset(seed=[int(w) for w in words])  # pyright: ignore[reportArgumentType] (the stub knows one seed)
        self._restarts += 1
        self.observation = self._tensor(seen)
        self._sums.zero_()
        self._whole.fill_(True)

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def step(self, action: Tensor) -> Step:
        command = np.clip(action.detach().cpu().numpy(), self._low, self._high)
        with blamed(self._name, "step"):
            seen, reward, terminated, truncated, info = self.envs.step(command)
        reached = np.array(seen, dtype=np.float64)
        for i in np.flatnonzero(info.get("_final_obs", np.zeros(self.count, dtype=bool))):
            reached[i] = info["final_obs"][i]
        if not (np.isfinite(reached).all() and np.isfinite(seen).all()):
            entries = np.flatnonzero(~np.isfinite(reached).all(0)).tolist()
            raise EnvironmentFailedError(
                f"the environment {self._name} gave observations that are NaN or infinite, in entries {entries}"
            )
        self.observation = self._tensor(seen)
        ended = torch.as_tensor(terminated, device=self.device)
        late = torch.as_tensor(truncated, device=self.device) & ~ended
        step = Step(self._tensor(reached), self._tensor(reward), ended, late)
        self._account(step.reward, ended | late)
        return step

    def state(self) -> dict[str, Any]:
        self._restart()
        return {"restarts": self._restarts, **self._books()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._restarts = state["restarts"] - 1
        self._restart()
        self._load_books(state)


def make_simulator(
    task: Task,
    count: int,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Simulator:
    """Return the differentiable simulator of a task where there is one, else the black-box one.

    Examples
    --------
    >>> from lipctrl.training.environments import find_task
    >>> type(make_simulator(find_task("lipctrl/Pendulum-v0"), 4, seed=0)).__name__
    'PlantSimulator'
    """
    if task.plant is not None:
        return PlantSimulator(task.plant, count, seed, device=device, dtype=dtype)
    return GymSimulator(task, count, seed, device=device, dtype=dtype)


def measure_observation_scale(task: Task, seed: int, *, count: int = 16, steps: int = 128) -> np.ndarray:
    """Return the root mean square of every observation under random actions, shape (p,), at least 1e-3.

    A policy stores it as `observation_scale`, where it counts in the certified gain.

    Examples
    --------
    >>> from lipctrl.training.environments import find_task
    >>> measure_observation_scale(find_task("lipctrl/Pendulum-v0"), seed=0, steps=8).shape
    (2,)
    """
    simulator = make_simulator(task, count, seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    limit = torch.as_tensor(np.where(np.isfinite(task.action_limit), task.action_limit, 1.0))
    center = torch.as_tensor(np.broadcast_to(task.action_center, limit.shape).copy())
    squares = torch.zeros(task.observation_size, dtype=torch.float64)
    for number in range(steps):
        squares += (simulator.observation**2).mean(0)
        if not bool(squares.isfinite().all()):
            entries = (~simulator.observation.isfinite().all(0)).nonzero().flatten().tolist()
            raise EnvironmentFailedError(
                f"the environment {task.env_id} gave observations that are NaN or infinite after {number} random "
                f"actions, in entries {entries}"
            )
        uniform = torch.rand((count, task.action_size), generator=generator, dtype=torch.float64)
        simulator.step((2.0 * uniform - 1.0) * limit + center)
    return (squares / steps).sqrt().clamp_min(1e-3).numpy()
