"""Evaluation of a controller: complete episodes on unseen seeds, undisturbed and perturbed."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from lipctrl.certificate import Certificate
from lipctrl.nn.module import CertifiedModule
from lipctrl.training.attack import Attack, Loss, Wave
from lipctrl.training.environments import Task, action_box, blamed, qualified, vector_box
from lipctrl.training.seeds import split_seed

Controller = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Perturbation:
    """What stands between the policy and its environment; the defaults change nothing.

    Parameters
    ----------
    observation_noise : standard deviation of Gaussian noise on the observation: one number or one each (its units).
    attack : the adversary that moves the (noisy) observation, an `Attack` or a `Wave`, or None.
    delay : samples by which every action arrives late; zero actions are under way at the start.
    gain_scale : k of the policy k·π, applied before the actuator limits of the environment.
    disturbance : standard deviation of a Gaussian disturbance, drawn in each step and added to the action before
        the actuator limits. A plant's own disturbances are options of the environment.
    """

    observation_noise: Any = 0.0
    attack: Attack | Wave | None = None
    delay: int = 0
    gain_scale: float = 1.0
    disturbance: Any = 0.0

    def __post_init__(self) -> None:
        for name in ("observation_noise", "disturbance"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.ndim > 1 or not np.isfinite(value).all() or (value < 0.0).any():
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected standard deviations >= 0")
        if isinstance(self.delay, bool) or not isinstance(self.delay, int) or self.delay < 0:
            raise ValueError(f"delay is {self.delay!r}; expected a whole number of samples >= 0")
        if not math.isfinite(self.gain_scale):
            raise ValueError(f"gain_scale is {self.gain_scale!r}; expected a finite number")

    def to_dict(self) -> dict[str, Any]:
        """Return the perturbation as JSON values."""
        return {
            "observation_noise": np.asarray(self.observation_noise, dtype=np.float64).tolist(),
            "attack": None if self.attack is None else self.attack.to_dict(),
            "delay": self.delay,
            "gain_scale": float(self.gain_scale),
            "disturbance": np.asarray(self.disturbance, dtype=np.float64).tolist(),
        }


@dataclass(frozen=True)
class Evaluation:
    """Returns of complete episodes: undiscounted sums of rewards, one number an episode.

    Attributes
    ----------
    returns, lengths : (episodes,) sum of rewards, and number of steps.
    terminated : (episodes,) bool; True where the episode ended of its own (a failure), False where a time limit
        cut it.
    seed : the seed given; `reset_seeds` are those that the environments were reset with.
    """

    env_id: str
    returns: np.ndarray = field(repr=False)
    lengths: np.ndarray = field(repr=False)
    terminated: np.ndarray = field(repr=False)
    seed: int
    reset_seeds: tuple[int, ...] = field(repr=False)
    perturbation: Perturbation = field(default_factory=Perturbation)

    @property
    def episodes(self) -> int:
        return len(self.returns)

    @property
    def mean(self) -> float:
        """Return the mean return."""
        return float(self.returns.mean())

    @property
    def cost(self) -> float:
        """Return the mean cost, minus the mean return."""
        return -self.mean

    @property
    def standard_error(self) -> float:
        """Return the standard error of the mean; NaN for a single episode, which says nothing about it."""
        n = self.episodes
        return float(self.returns.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "env_id": self.env_id,
            "episodes": self.episodes,
            "mean_return": self.mean,
            "standard_error": self.standard_error if self.episodes > 1 else None,
            "worst_return": float(self.returns.min()),
            "failed_episodes": int(self.terminated.sum()),
            "seed": self.seed,
            "reset_seeds": list(self.reset_seeds),
            "perturbation": self.perturbation.to_dict(),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
        }

    def __str__(self) -> str:
        ended = int(self.terminated.sum())
        return (
            f"{self.env_id}: return {self.mean:.4g} ± {self.standard_error:.3g} ({self.episodes} episodes, "
            f"median {np.median(self.returns):.4g}, worst {self.returns.min():.4g}), "
            f"{ended} ended before the time limit, mean length {self.lengths.mean():.4g} steps"
        )


def evaluate(
    policy: Any,
    env_id: str | Task,
    *,
    episodes: int = 100,
    seed: int = 0,
    num_envs: int | None = None,
    env_options: Mapping[str, Any] | None = None,
    observation_noise: Any = 0.0,
    attack: Attack | Wave | tuple[float, int] | None = None,
    delay: int = 0,
    gain_scale: float = 1.0,
    disturbance: Any = 0.0,
    max_steps: int = 10_000,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Run a controller for complete episodes, deterministically, and return what it earned.

    Every episode is counted once and to its end, so short (failed) episodes weigh no more than long ones.
    The seeds belong to a stream of their own: no training run sees these starts.

    Parameters
    ----------
    policy : a policy of lipctrl or any torch module (n, p) -> (n, m) in physical units, u = π(y); a `Certificate`
        (the described map runs in numpy); or a function of numpy arrays (n, p) -> (n, m).
    env_id : a Gymnasium id with Box observations and actions of one dimension. Ids that register a vector
        environment of tensors run as one batch, all others in Gymnasium's `SyncVectorEnv`. A `Task` stands for its
        id and options; the environment itself runs, never a copy of its dynamics.
    episodes, seed : number of episodes, and the seed they and all perturbations derive from.
    num_envs : environments at a time; all episodes at once for batched environments, at most 16 otherwise.
    env_options : keywords of the environment, such as {"mass": 1.2}.
    observation_noise, delay, gain_scale, disturbance : see `Perturbation`.
    attack : an `Attack`, or (epsilon, steps) for an l2 attack on the action: these need a torch policy. Or a
        `Wave`, which takes any policy. `worst_case` runs all of them and reports the worst.
    max_steps : episodes of environments without a time limit are cut here.
    device : of batched environments and torch policies.

    Raises
    ------
    ValueError
        For spaces or shapes that do not fit, numbers out of range, an attack on a policy without gradients, and for
        actions or returns that are NaN or inf.

    Examples
    --------
    >>> import numpy as np
    >>> result = evaluate(lambda y: np.zeros((len(y), 1)), "Pendulum-v1", episodes=2, seed=1)
    >>> result.lengths.tolist(), result.terminated.tolist(), result.mean < -500.0
    ([200, 200], [False, False], True)
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; expected at least 1")
    options = dict(env_options or {})
    if isinstance(env_id, Task):
        env_id, options = env_id.env_id, {**env_id.options, **options}
    if isinstance(attack, tuple):
        attack = Attack(*attack)
    perturbation = Perturbation(observation_noise, attack, delay, gain_scale, disturbance)
    device = torch.device(device)
    controller = _controller(policy, device)
    if isinstance(attack, Attack) and attack.steps and not isinstance(controller, nn.Module):
        raise ValueError(
            f"an attack needs gradients, and a {type(policy).__name__} has none; pass the torch policy of the run, "
            "or use steps=0 or a Wave"
        )
    streams = np.random.SeedSequence(split_seed(seed)["evaluation"]).spawn(2)
    reset_seeds = [int(s) for s in streams[0].generate_state(episodes) % 2**31]
    generator = torch.Generator(device).manual_seed(int(streams[1].generate_state(1, np.uint64)[0] >> 1))

    parts: list[tuple[np.ndarray, ...]] = []
    used: list[int] = []
    done = 0
    while done < episodes:
        left = episodes - done
        env = _make(env_id, min(left, num_envs or left), options, device, num_envs is None)
        try:
            seeds = reset_seeds[done : done + env.num_envs]
            # A batch of tensors has one generator; standard vector environments take a seed each.
            batched = bool(env.metadata.get("torch", False))
            used += seeds[:1] if batched else seeds
            here = perturbation
            if isinstance(attack, Wave):
                here = dataclasses.replace(perturbation, attack=attack.episodes(done, done + env.num_envs))
            loop = _Loop(env_id, env, controller, here, generator, device)
            parts.append(loop.run(seeds[0] if batched else seeds, max_steps))
        finally:
            env.close()
        done += len(seeds)
    returns, lengths, terminated = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Evaluation(env_id, returns, lengths, terminated, seed, tuple(used), perturbation)


def describe(env_id: str | Task, env_options: Mapping[str, Any] | None = None) -> tuple[int, bool]:
    """Return (p, whether its dynamics can be simulated ahead) of the environment that `evaluate` would run."""
    options = dict(env_options or {})
    if isinstance(env_id, Task):
        env_id, options = env_id.env_id, {**env_id.options, **options}
    env = _make(env_id, 1, options, torch.device("cpu"), True)
    try:
        seen = vector_box(str(env_id), "observation", env.single_observation_space)
        return seen.shape[0], hasattr(env.unwrapped, "plant")
    finally:
        env.close()


def _make(
    env_id: str, count: int, options: dict[str, Any], device: torch.device, limit: bool
) -> gymnasium.vector.VectorEnv:
    """Make a batch of `count` environments; standard ones at most 16 at a time when `limit`."""
    env_id = qualified(env_id)
    module, _, name = env_id.rpartition(":")
    if module:
        # Gymnasium's `make` imports the module of "module:name", its `spec` does not.
        importlib.import_module(module)
    if gymnasium.spec(name).vector_entry_point is None:
        return gymnasium.make_vec(env_id, min(count, 16) if limit else count, **options)
    if device.type != "cpu":
        options = {**options, "device": str(device)}
    return gymnasium.make_vec(env_id, count, **options)


def _controller(policy: Any, device: torch.device) -> Controller:
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


class _Loop:
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
