"""What certainty costs in return, and what it saves under noise, attacks, delay and a wrong gain."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lipctrl
from lipctrl.runs.design import output_gain
from lipctrl.training import APG, PPO, evaluate, find_task, make_simulator, split_seed
from lipctrl.training.attack import Attack

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One environment: who trains in it, for how long, and what a perturbation of size one is.

    Without `residual`, `bounds` are l2 gains of the whole policy in action units over observation units, scaling and
    limits counted. With it, every policy is the LQR law plus a network, u = -K y + f(y), and `bounds` are those of f,
    as shares of the stability radius. `unit` scales observation noise and attacks to the size of the signals.
    """

    env_id: str
    algorithm: str
    steps: int
    bounds: tuple[float, ...]
    scale: tuple[float, ...] | None
    unit: float
    horizon: int
    residual: bool = False


# No environment here can be left by failing: where an episode may end early and rewards are costs, a policy that
# starts from nothing learns to fail early, and its return says nothing.
SETTINGS = (
    Setting("lipctrl/GymPendulum-v1", "ppo", 400_000, (6.0, 10.0, 20.0), (1.0, 1.0, 2.0), 1.0, 200),
    Setting("lipctrl/MassSpringChain-v0", "apg", 300_000, (0.5, 0.9), None, 1.0, 200, residual=True),
    Setting("lipctrl/TwoMassDrive-v0", "apg", 300_000, (0.5, 0.9), None, 1.0, 200, residual=True),
)
# name of the column -> keywords of `evaluate`; noise and attacks are multiplied by the setting's unit.
NOISE = {"noise .1": 0.1, "noise .2": 0.2}
ATTACKS = {"ε .05": 0.05, "ε .11": 0.11, "ε .15": 0.15}
LOOP = {
    "delay 1": {"delay": 1},
    "delay 2": {"delay": 2},
    "delay 3": {"delay": 3},
    "gain ×0.5": {"gain_scale": 0.5},
    "gain ×2": {"gain_scale": 2.0},
}
COST_ATTACK = 0.11
ATTACK_STEPS = 5
EPISODES = 50
# Share of the bound that a policy starts with; it learns how much of the bound to use.
INITIAL_FRACTION = 0.3
# Barbara, Wang & Manchester 2024 (arXiv 2405.11432), pendulum of MuJoCo MJX, mean of 10 seeds. Their γ leaves out the
# observation normaliser and the scaling of the action; ε, noise and dynamics are theirs.
LITERATURE = {
    "MLP": (-156, -330, -480, -415, -356),
    "γ=3": (-170, -392, -552, -205, -588),
    "γ=4": (-161, -184, -280, -171, -202),
    "γ=6": (-158, -239, -312, -167, -184),
    "γ=10": (-157, -313, -395, -258, -192),
}


class PlainPolicy(nn.Module):
    """u = -K y + MLP(y / scale): two hidden layers of ReLU, the last layer small at first; K = 0 without a residual."""

    def __init__(self, observations: int, actions: int, width: int, scale: Any, gain: Any) -> None:
        super().__init__()
        self.gain: Tensor
        self.register_buffer("gain", torch.as_tensor(gain, dtype=torch.float32))
        self.net = nn.Sequential(
            nn.Linear(observations, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, actions),
        )
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)  # type: ignore[operator]
        self.scale: Tensor
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))

    def forward(self, y: Tensor) -> Tensor:
        return self.network(y) - y @ self.gain.mT

    def network(self, y: Tensor) -> Tensor:
        """Return the part that is trained."""
        return self.net(y / self.scale)


class Saturated(nn.Module):
    """A policy with its actuator: the adversary must not waste its budget on what the clip takes away."""

    def __init__(self, policy: nn.Module, limit: Any) -> None:
        super().__init__()
        self.policy = policy
        self.limit: Tensor
        self.register_buffer("limit", torch.as_tensor(limit, dtype=torch.float32))

    def forward(self, y: Tensor) -> Tensor:
        return torch.clamp(self.policy(y), -self.limit, self.limit)


@lru_cache(maxsize=8)
def nominal(env_id: str) -> tuple[np.ndarray, float]:
    """Return the LQR gain K (m, p) on observations and the stability radius of its loop."""
    plant = find_task(env_id).plant
    gain = output_gain(plant)
    return gain, float(lipctrl.stability_radius(plant.linearize(), gain))


def certified_policy(setting: Setting, bound: float, width: int, seed: int) -> Any:
    """Return a new policy whose certified gain (of f, for a residual) never exceeds its bound, in physical units."""
    task = find_task(setting.env_id)
    torch.manual_seed(split_seed(seed)["network"])
    smallest = 1.0 if setting.scale is None else min(setting.scale)
    network = lipctrl.LipschitzResNet(
        task.observation_size,
        task.action_size,
        lipschitz=physical(setting, bound) * smallest,
        width=width,
        depth=2,
        trainable_lipschitz=True,
    )
    with torch.no_grad():
        network.raw_factor.fill_(math.log(INITIAL_FRACTION / (1.0 - INITIAL_FRACTION)))  # type: ignore[union-attr]
    if setting.residual:
        return lipctrl.ResidualPolicy(nominal(setting.env_id)[0], network, setting.scale, task.action_limit)
    return lipctrl.LipschitzPolicy(network, setting.scale, task.action_limit)


def physical(setting: Setting, bound: float) -> float:
    """Return a bound in action units over observation units."""
    return bound * nominal(setting.env_id)[1] if setting.residual else bound


def plain_policy(setting: Setting, parameters: int, seed: int) -> PlainPolicy:
    """Return an unconstrained network with as many parameters as fit in `parameters`."""
    task = find_task(setting.env_id)
    torch.manual_seed(split_seed(seed)["network"])
    p, m = task.observation_size, task.action_size
    # width² + (p + m + 2) width + m parameters.
    linear = p + m + 2
    width = int((math.sqrt(linear**2 + 4.0 * (parameters - m)) - linear) / 2.0)
    scale = np.ones(p) if setting.scale is None else setting.scale
    gain = nominal(setting.env_id)[0] if setting.residual else np.zeros((m, p))
    return PlainPolicy(p, m, width, scale, gain)


def measured_gain(policy: PlainPolicy, setting: Setting) -> float:
    """Return the largest slope of a plain network that was met on its own closed loop (a lower bound of its gain)."""
    simulator: Any = make_simulator(find_task(setting.env_id), 64, 12345)
    seen = []
    with torch.no_grad():
        for _ in range(setting.horizon):
            seen.append(simulator.observation)
            simulator.step(policy(simulator.observation))
    y = torch.cat(seen)
    slope = torch.vmap(torch.func.jacrev(policy.network))(y)
    return float(torch.linalg.matrix_norm(slope.detach(), 2).max())


def train_and_test(arguments: tuple[Setting, float | None, int, bool]) -> Row:
    """Train one policy (bound None: plain) and evaluate it under every condition; runs in a worker process."""
    setting, bound, seed, fast = arguments
    torch.set_num_threads(1)
    task, streams = find_task(setting.env_id), split_seed(seed)
    certified = certified_policy(setting, bound or 1.0, 8 if fast else 32, seed)
    size = sum(p.numel() for p in certified.parameters())
    policy: Any = certified if bound is not None else plain_policy(setting, size, seed)
    steps = 4_000 if fast else setting.steps
    start = time.process_time()
    algorithm = {"ppo": PPO, "apg": APG}[setting.algorithm]
    config = algorithm.Config(environments=32) if fast else algorithm.Config()
    simulator: Any = make_simulator(task, config.environments, streams["simulator"])
    limit = torch.as_tensor(task.action_limit.copy())
    learner: Any = (
        PPO(policy, simulator, config, streams, limit)  # type: ignore[arg-type]
        if setting.algorithm == "ppo"
        else APG(policy, simulator, config, streams)  # type: ignore[arg-type]
    )
    iterations = math.ceil(steps / learner.steps_per_iteration)
    for i in range(iterations):
        learner.iterate(i / iterations)
    seconds = time.process_time() - start
    if bound is None:
        gain = measured_gain(policy, setting)
    else:
        certificate = policy.certificate()
        report = lipctrl.check(certificate)
        gain = certificate.radius if setting.residual else certificate.gain
        if not report.ok or gain > physical(setting, bound) * (1.0 + 1e-3):
            raise AssertionError(f"the certificate does not prove {bound}: {report}")
    acting = Saturated(policy, task.action_limit) if bound is None else policy
    returns, failed = conditions(acting, setting, 4 if fast else EPISODES, 2 if fast else ATTACK_STEPS)
    parameters = sum(p.numel() for p in policy.parameters())
    return {"gain": gain, "seconds": seconds, "parameters": parameters, "returns": returns, "failed": failed}


def conditions(
    policy: Any, setting: Setting, episodes: int, attack_steps: int
) -> tuple[dict[str, float], float]:
    """Return the mean return under each condition, over the same unseen starts, and the nominal share of failures."""
    options: Row = {"episodes": episodes, "env_options": {"horizon": setting.horizon}}
    nominal = evaluate(policy, setting.env_id, **options)
    out = {"nominal": nominal.mean}
    for name, size in NOISE.items():
        noise = size * setting.unit
        out[name] = evaluate(policy, setting.env_id, observation_noise=noise, **options).mean
    for name, size in ATTACKS.items():
        attack = (size * setting.unit, attack_steps)
        out[name] = evaluate(policy, setting.env_id, attack=attack, **options).mean
    worst = Attack(COST_ATTACK * setting.unit, 3, objective="cost", lookahead=5)
    out[f"ε {COST_ATTACK} on the cost"] = evaluate(policy, setting.env_id, attack=worst, **options).mean
    for name, change in LOOP.items():
        out[name] = evaluate(policy, setting.env_id, **change, **options).mean
    return out, float(nominal.terminated.mean())


def _seeds(fast: bool) -> range:
    return range(1 if fast else 3)


@lru_cache(maxsize=2)
def results(fast: bool) -> dict[tuple[str, float | None], list[Row]]:
    """Train everything once, two at a time; all tables read from here."""
    jobs = [
        (setting, bound, seed, fast)
        for setting in SETTINGS
        for bound in (None, *(setting.bounds[:1] if fast else setting.bounds))
        for seed in _seeds(fast)
    ]
    # Fresh processes: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=context) as pool:
        rows = list(pool.map(train_and_test, jobs))
    out: dict[tuple[str, float | None], list[Row]] = {}
    for (setting, bound, _, _), row in zip(jobs, rows, strict=True):
        out.setdefault((setting.env_id, bound), []).append(row)
    return out


def _label(env_id: str, bound: float | None) -> str:
    residual = next(s.residual for s in SETTINGS if s.env_id == env_id)
    if bound is None:
        return "LQR + MLP" if residual else "MLP"
    return f"LQR + certified {bound:g} × radius" if residual else f"certified L ≤ {bound:g}"


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4g} ({min(values):.4g} … {max(values):.4g})"


def certified_against_plain(fast: bool) -> list[Row]:
    """Certified policies against an MLP of equal size: same algorithm, budget, start and nominal controller.

    Returns are means over unseen episodes of 200 steps; smallest and largest seed in brackets. `gain` is that of the
    network (without -K y): certified where it says so, and for the MLP the largest slope met on its own trajectories.
    """
    return [
        {
            "environment": env_id.rpartition("/")[2],
            "policy": _label(env_id, bound),
            "gain": _spread([r["gain"] for r in rows]),
            "certified": bound is not None,
            "return": _spread([r["returns"]["nominal"] for r in rows]),
            "failed": float(np.mean([r["failed"] for r in rows])),
            "seeds": len(rows),
            "parameters": rows[0]["parameters"],
            "training CPU s": float(np.mean([r["seconds"] for r in rows])),
        }
        for (env_id, bound), rows in results(fast).items()
    ]


def robustness(fast: bool) -> list[Row]:
    """Robustness: mean return over seeds, undisturbed and under noise, attack, delay and a wrong gain.

    Noise σ and the l2 radius ε of the attack (projected gradient ascent on the action) are in observation units; "on
    the cost" maximises the cost of the next 5 steps instead. Delays are in samples.
    """
    return [
        {
            "environment": env_id.rpartition("/")[2],
            "policy": _label(env_id, bound),
            **{name: float(np.mean([r["returns"][name] for r in rows])) for name in rows[0]["returns"]},
        }
        for (env_id, bound), rows in results(fast).items()
    ]


def pendulum_against_literature(fast: bool) -> list[Row]:
    """Gymnasium's pendulum beside Barbara et al. 2024: return, and the return lost to attack and delay.

    Our γ is the certified gain in N·m per observation unit, observation scaling and torque limits counted; theirs
    leaves both out, and their pendulum is MuJoCo's: compare the losses, not the levels.
    """
    columns = ("nominal", "ε .11", "ε .15", "delay 2", "delay 3")
    rows = [
        ("ours", _label(env_id, bound), _spread([r["gain"] for r in group]), [
            float(np.mean([r["returns"][c] for r in group])) for c in columns
        ])
        for (env_id, bound), group in results(fast).items()
        if "GymPendulum" in env_id
    ]  # fmt: skip
    rows += [("Barbara et al.", name, "-", list(map(float, v))) for name, v in LITERATURE.items()]
    return [
        {
            "source": source,
            "policy": name,
            "γ": gain,
            "nominal": values[0],
            **{f"lost to {c}": values[0] - v for c, v in zip(columns[1:], values[1:], strict=True)},
        }
        for source, name, gain, values in rows
    ]


TABLES = {
    "certified_against_plain": certified_against_plain,
    "robustness": robustness,
    "pendulum_against_literature": pendulum_against_literature,
}
