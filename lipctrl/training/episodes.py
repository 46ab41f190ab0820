"""One episode in each environment of a batch: environments, a controller, and a perturbation between them."""

from __future__ import annotations

import copy
import importlib
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from lipctrl.certificate import Certificate
from lipctrl.nn.module import CertifiedModule
from lipctrl.training.attack import Attack, Loss, Wave
from lipctrl.training.environments import action_box, blamed, making, qualified, vector_box
from lipctrl.training.perturbation import Perturbation

Controller = Callable[[Tensor], Tensor]


def make_batch(
    env_id: str, count: int, options: dict[str, Any], device: torch.device, limit: bool
) -> gymnasium.vector.VectorEnv:
    """Make a batch of `count` environments; standard ones at most 16 at a time when `limit`."""
    env_id = qualified(env_id)
    module, _, name = env_id.rpartition(":")
    with making(env_id, options):
        if module:
            # Gymnasium's `make` imports the module of "module:name", its `spec` does not.
            importlib.import_module(module)
        if gymnasium.spec(name).vector_entry_point is None:
            return gymnasium.make_vec(env_id, min(count, 16) if limit else count, **options)
        if device.type != "cpu":
            options = {**options, "device": str(device)}
        return gymnasium.make_vec(env_id, count, **options)


def as_controller(policy: Any, device: torch.device) -> Controller:
    """Return the policy as a map of tensors on `device`; modules become frozen copies of themselves."""
    if isinstance(policy, CertifiedModule):
        return policy.export().to(device)
    if isinstance(policy, nn.Module):
        return copy.deepcopy(policy).requires_grad_(False).eval().to(device)
    run = policy.evaluate if isinstance(policy, Certificate) else policy
    if not callable(run):
        raise ValueError(
            f"policy is a {type(policy).__name__}; expected a torch module, a Certificate, or a function of arrays"
        )

    def act(observation: Tensor) -> Tensor:
        action = np.asarray(run(observation.cpu().double().numpy()), dtype=np.float64)
        # Copied: the function may return a read-only view of its own.
        return torch.tensor(action, device=device)

    return act


class Episodes:
    """One batch of environments with a controller and what stands between them."""

    def __init__(
        self,
        name: str,
        env: gymnasium.vector.VectorEnv,
        controller: Controller,
        perturbation: Perturbation,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.name, self.env, self.controller, self.perturbation = name, env, controller, perturbation
        self.generator, self.device = generator, device
        observations = vector_box(name, "observation", env.single_observation_space)
        actions = action_box(name, env.single_action_space)
        tensors = (
            [*controller.parameters(), *controller.buffers()] if isinstance(controller, nn.Module) else []
        )
        self.dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)
        self.lower, self.upper = (self._tensor(b) for b in (actions.low, actions.high))
        self.noise = self._deviation("observation_noise", observations.shape[0])
        self.disturbance = self._deviation("disturbance", actions.shape[0])
        attack = perturbation.attack
        if isinstance(attack, Attack) and attack.objective == "cost" and not hasattr(env.unwrapped, "plant"):
            raise ValueError(
                "the attack on the cost differentiates through the plant, and this environment has none; "
                "use objective='action'"
            )

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value).to(self.device, self.dtype)

    def _deviation(self, name: str, size: int) -> Tensor | None:
        value = np.asarray(getattr(self.perturbation, name), dtype=np.float64)
        if value.ndim == 1 and value.size != size:
            raise ValueError(f"{name} has {value.size} entries; expected one number, or {size}")
        return self._tensor(np.broadcast_to(value, (size,)).copy()) if value.any() else None

    def _gaussian(self, deviation: Tensor, count: int) -> Tensor:
        draw = torch.randn(
            (count, deviation.numel()), generator=self.generator, device=self.device, dtype=self.dtype
        )
        return draw * deviation

    def run(self, seed: int | list[int], max_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (returns, lengths, terminated) of one episode in each environment."""
        env: Any = self.env
        with blamed(self.name, "reset"):
            observation, _ = env.reset(seed=seed)
        n = env.num_envs
        total = torch.zeros(n, dtype=torch.float64, device=self.device)
        length = torch.zeros(n, dtype=torch.int64, device=self.device)
        failed = torch.zeros(n, dtype=torch.bool, device=self.device)
        alive = torch.ones(n, dtype=torch.bool, device=self.device)
        rest = torch.zeros((n, self.lower.numel()), device=self.device, dtype=self.dtype)
        queue = deque([rest.clamp(self.lower, self.upper)] * self.perturbation.delay)
        for step in range(max_steps):
            queue.append(self._act(self._tensor(observation), queue, step))
            action = queue.popleft()
            if self.disturbance is not None:
                action = (action + self._gaussian(self.disturbance, n)).clamp(self.lower, self.upper)
            batched = isinstance(observation, Tensor)
            sent = action if batched else action.cpu().numpy().astype(env.action_space.dtype)
            with blamed(self.name, "step"):
                observation, reward, terminated, truncated, _ = env.step(sent)
            total += torch.where(alive, torch.as_tensor(reward).to(total), 0.0)
            length += alive
            ended = torch.as_tensor(terminated).to(self.device)
            failed |= alive & ended
            alive &= ~(ended | torch.as_tensor(truncated).to(self.device))
            # Looking at `alive` waits for an accelerator, so there it is looked at now and then.
            if (self.device.type == "cpu" or step % 32 == 31) and not bool(alive.any()):
                break
        if not bool(torch.isfinite(total).all()):
            raise ValueError(
                f"{int((~total.isfinite()).sum())} of {n} returns are NaN or inf: a reward of the environment, or "
                "an action of the policy, is not finite; check the policy's weights and the environment's options"
            )
        return total.cpu().numpy(), length.cpu().numpy(), failed.cpu().numpy()

    def _act(self, observation: Tensor, queue: deque[Tensor], step: int) -> Tensor:
        """Return the command that the policy gives for what it is shown."""
        if self.noise is not None:
            observation = observation + self._gaussian(self.noise, len(observation))
        attack = self.perturbation.attack
        if isinstance(attack, Wave):
            observation = observation + attack.offset(step, observation)
        elif attack is not None and attack.epsilon > 0.0:
            observation = attack.perturb(self._loss(attack, observation, queue), observation, self.generator)
        with torch.no_grad():
            command = self._command(observation)
        if self.device.type == "cpu" and not bool(torch.isfinite(command).all()):
            raise ValueError(
                "the policy's action is NaN or inf; check its weights, or the observation: "
                f"{int((~observation.isfinite()).sum())} of its entries are not finite"
            )
        return command

    def _loss(self, attack: Attack, observation: Tensor, queue: deque[Tensor]) -> Loss:
        """Return what the attack maximises, for observations (n, p) or trials of them (k, n, p)."""
        if attack.objective == "cost":
            pending = list(queue)
            return lambda y: self._cost_ahead(y, y - observation, pending, attack)
        # Seen through the actuator: a budget spent on what the limits take away would be wasted.
        with torch.no_grad():
            honest = self._command(observation)
        return lambda y: (self._command(y) - honest).square().sum(-1)

    def _command(self, observation: Tensor) -> Tensor:
        flat = observation.reshape(-1, observation.shape[-1])
        action = self.controller(flat).to(self.dtype)
        if action.shape != (len(flat), self.lower.numel()):
            raise ValueError(
                f"the policy returned actions of shape {tuple(action.shape)}; expected "
                f"({len(flat)}, {self.lower.numel()})"
            )
        action = action.reshape(*observation.shape[:-1], -1)
        return (self.perturbation.gain_scale * action).clamp(self.lower, self.upper)

    def _cost_ahead(
        self, observation: Tensor, delta: Tensor, pending: list[Tensor], attack: Attack
    ) -> Tensor:
        """Cost of the next steps when the policy is shown `observation` now, and the truth plus δ if it is held."""
        env: Any = self.env.unwrapped
        plant, parameters = env.plant, env.parameters
        state = env.state.to(self.dtype).expand(*observation.shape[:-1], -1)
        commands = deque(
            [*(c.expand(*observation.shape[:-1], -1) for c in pending), self._command(observation)]
        )
        total = observation.new_zeros(observation.shape[:-1])
        # A delayed command shows its effect only after the delay.
        for step in range(attack.lookahead + self.perturbation.delay):
            if step:
                shown = plant.observe(state)
                commands.append(self._command(shown + delta if attack.hold else shown))
            action = commands.popleft()
            following = plant.transition(state, action, None, parameters)
            total = total - plant.reward(state, action, following)
            state = following
        return total
