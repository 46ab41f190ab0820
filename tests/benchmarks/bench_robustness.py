"""What certainty costs in return, and what it saves under noise, attacks, delay and a wrong gain.

    python -m tests.benchmarks robustness                          the tables, measured anew
    python -m tests.benchmarks.bench_robustness docs/robustness.csv   measure into a file, or go on with one

`docs/robustness.py` draws the curves of that file.
"""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lipctrl
from lipctrl.runs.design import output_gain
from lipctrl.training import PPO, Imitation, evaluate, find_task, make_simulator, split_seed, worst_case
from lipctrl.training.experts import Expert

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One environment: who trains in it, for how long, and what it is tried under.

    Every policy is u = f(y), certified or a multilayer perceptron. PPO chooses its own gain. Imitation has a teacher
    of four times the LQR gain, saturated: undisturbed about as good as LQR itself, so that nothing in training warns
    of it. `bounds` are l2 gains of the whole policy in action units over observation units, limits counted: for
    imitation in multiples of the LQR gain. Noise and attacks are in units of `observation_sizes`.
    """

    env_id: str
    algorithm: str
    steps: int
    bounds: tuple[float, ...]
    noise: tuple[float, ...]
    attacks: tuple[float, ...]
    delays: tuple[int, ...]
    gains: tuple[float, ...] = (0.5, 2.0, 4.0)


TEACHER_GAIN = 4.0
_IMITATED: Row = {
    "algorithm": "imitation",
    "steps": 64_000,
    "bounds": (1.0, 2.0),
    "noise": (0.25, 0.5, 1.0),
    "attacks": (0.2, 0.5),
    "delays": (1, 2, 4),
}
SETTINGS = (
    Setting(
        "lipctrl/GymPendulum-v1",
        "ppo",
        400_000,
        (10.0, 14.0, 20.0),
        (0.1, 0.2, 0.3, 0.5),
        (0.05, 0.11, 0.15),
        (1, 2, 3),
    ),
    Setting("lipctrl/LateralVehicle-v0", **_IMITATED),
    Setting("lipctrl/SpinningSatellite-v0", **_IMITATED),
)
HORIZON = 200
EPISODES = 32
LOOKAHEAD = 6
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
    """u = MLP(y): two hidden layers of ReLU, the last layer small at first, the command limited as the actuator is."""

    def __init__(self, observations: int, actions: int, width: int, limit: Any) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(observations, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, actions),
        )
        with torch.no_grad():
            self.network[-1].weight.mul_(0.1)  # type: ignore[operator]
        self.limit: Tensor
        self.register_buffer("limit", torch.as_tensor(limit, dtype=torch.float32))

    def forward(self, y: Tensor) -> Tensor:
        command = self.network(y)
        # In training the environment limits: a clip here would hide the gradient.
        return command if self.training else torch.clamp(command, -self.limit, self.limit)


@lru_cache(maxsize=8)
def lqr(env_id: str) -> np.ndarray:
    """Return the LQR gain K (m, p) on observations."""
    return output_gain(find_task(env_id).plant)


@lru_cache(maxsize=8)
def observation_sizes(setting: Setting) -> tuple[float, ...]:
    """Return the unit of noise and attacks: root mean squares along LQR trajectories; 1 for Gymnasium's pendulum."""
    task = find_task(setting.env_id)
    if setting.algorithm == "ppo":
        return (1.0,) * task.observation_size
    simulator = make_simulator(task, 64, 12345)
    gain, squares = torch.as_tensor(lqr(setting.env_id), dtype=torch.float32), 0.0
    for _ in range(HORIZON):
        squares = squares + simulator.observation.square().mean(0)
        simulator.step(-simulator.observation @ gain.mT)
    return tuple((squares / HORIZON).sqrt().tolist())  # type: ignore[union-attr]


def physical(setting: Setting, bound: float) -> float:
    """Return a bound in action units over observation units."""
    return bound if setting.algorithm == "ppo" else bound * float(np.linalg.norm(lqr(setting.env_id), 2))


def teacher(setting: Setting) -> Expert:
    """Return the saturated law of too much gain, u = clip(-4 K x); these plants observe their states."""
    plant: Any = find_task(setting.env_id).plant
    gain = TEACHER_GAIN * torch.as_tensor(lqr(setting.env_id))
    return lambda state: plant.saturate(-state @ gain.to(state).mT)


def certified_policy(setting: Setting, bound: float, width: int, seed: int) -> Any:
    """Return a new policy whose certified gain never exceeds its bound, in physical units."""
    task = find_task(setting.env_id)
    torch.manual_seed(split_seed(seed)["network"])
    network = lipctrl.LipschitzResNet(
        task.observation_size,
        task.action_size,
        lipschitz=physical(setting, bound),
        width=width,
        depth=2,
        trainable_lipschitz=True,
        initial_factor=INITIAL_FRACTION,
    )
    return lipctrl.LipschitzPolicy(network, None, task.action_limit)


def plain_policy(setting: Setting, parameters: int, seed: int) -> PlainPolicy:
    """Return an unconstrained network with as many parameters as fit in `parameters`."""
    task = find_task(setting.env_id)
    torch.manual_seed(split_seed(seed)["network"])
    p, m = task.observation_size, task.action_size
    # width² + (p + m + 2) width + m parameters.
    linear = p + m + 2
    width = int((math.sqrt(linear**2 + 4.0 * (parameters - m)) - linear) / 2.0)
    return PlainPolicy(p, m, width, task.action_limit)


def measured_gain(policy: PlainPolicy, setting: Setting) -> float:
    """Return the largest slope of a plain network that was met on its own closed loop (a lower bound of its gain)."""
    simulator = make_simulator(find_task(setting.env_id), 64, 12345)
    seen = []
    with torch.no_grad():
        for _ in range(HORIZON):
            seen.append(simulator.observation)
            simulator.step(policy(simulator.observation))
    slope = torch.vmap(torch.func.jacrev(policy.network))(torch.cat(seen))
    return float(torch.linalg.matrix_norm(slope.detach(), 2).max())


def trained(setting: Setting, policy: Any, steps: int, environments: int | None, seed: int) -> float:
    """Train a policy in place; return the CPU-seconds that it took."""
    task, streams = find_task(setting.env_id), split_seed(seed)
    kind: Any = {"ppo": PPO, "imitation": Imitation}[setting.algorithm]
    config = kind.Config() if environments is None else kind.Config(environments=environments)
    simulator = make_simulator(task, config.environments, streams["simulator"])
    last: Any = torch.as_tensor(task.action_limit.copy()) if kind is PPO else teacher(setting)
    learner = kind(policy, simulator, config, streams, last)
    iterations = math.ceil(steps / learner.steps_per_iteration)
    policy.train()
    start = time.process_time()
    for i in range(iterations):
        learner.iterate(i / iterations)
    policy.eval()
    return time.process_time() - start


def train_and_test(arguments: tuple[Setting, float | None, int, bool]) -> list[Row]:
    """Train one policy (bound None: plain) and evaluate it under every condition; runs in a worker process."""
    setting, bound, seed, fast = arguments
    torch.set_num_threads(1)
    certified = certified_policy(setting, bound or 1.0, 8 if fast else 32, seed)
    size = sum(p.numel() for p in certified.parameters())
    policy: Any = certified if bound is not None else plain_policy(setting, size, seed)
    steps, environments = (4_000, 32) if fast else (setting.steps, None)
    seconds = trained(setting, policy, steps, environments, seed)
    if bound is None:
        gain = measured_gain(policy, setting)
    else:
        certificate = policy.certificate()
        report, gain = lipctrl.check(certificate), certificate.gain
        if not report.ok or gain > physical(setting, bound) * (1.0 + 1e-3):
            raise AssertionError(f"the certificate does not prove {bound}: {report}")
    known = {
        "environment": setting.env_id.rpartition("/")[2],
        "policy": label(setting, bound),
        "seed": seed,
        "gain": gain,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "seconds": seconds,
    }
    return [{**known, **row} for row in conditions(policy, setting, fast)]


def conditions(policy: Any, setting: Setting, fast: bool) -> Iterator[Row]:
    """Yield the mean return under each condition, over the same unseen starts."""
    sizes = observation_sizes(setting)
    options: Row = {"episodes": 4 if fast else EPISODES, "env_options": {"horizon": 20 if fast else HORIZON}}
    many: slice = slice(-1, None) if fast else slice(None)

    def row(condition: str, level: float, **change: Any) -> Row:
        found = evaluate(policy, setting.env_id, **change, **options)
        failed = float(found.terminated.mean())
        return {
            "condition": condition,
            "level": level,
            "return": found.mean,
            "failed": failed,
            "adversary": "",
        }

    yield row("nominal", 0.0)
    for size in setting.noise[many]:
        yield row("noise", size, observation_noise=size * np.asarray(sizes))
    for delay in setting.delays[many]:
        yield row("delay", delay, delay=delay)
    for gain in setting.gains[many]:
        yield row("gain", gain, gain_scale=gain)
    for size in setting.attacks[many]:
        worst = worst_case(
            policy, setting.env_id, size, scale=sizes, waves=4 if fast else 24, lookahead=LOOKAHEAD, **options
        )
        for name, found in worst.evaluations.items():
            if name != "nothing":
                yield {
                    "condition": f"attack: {name}",
                    "level": size,
                    "return": found.mean,
                    "failed": float(found.terminated.mean()),
                    "adversary": name,
                }
        yield {
            "condition": "attack",
            "level": size,
            "return": worst.worst.mean,
            "failed": float(worst.worst.terminated.mean()),
            "adversary": worst.name,
        }


def label(setting: Setting, bound: float | None) -> str:
    if bound is None:
        return "MLP"
    return f"certified L ≤ {bound:g}" + ("" if setting.algorithm == "ppo" else " × LQR")


def measure(fast: bool, workers: int, done: set[tuple[str, str, int]]) -> Iterator[list[Row]]:
    """Yield the rows of every policy that is not in `done`, as they come."""
    jobs = [
        (setting, bound, seed, fast)
        for seed in range(1 if fast else 3)
        for setting in SETTINGS
        for bound in (None, *(setting.bounds[:1] if fast else setting.bounds))
        if (setting.env_id.rpartition("/")[2], label(setting, bound), seed) not in done
    ]
    # Fresh processes: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for future in as_completed([pool.submit(train_and_test, job) for job in jobs]):
            yield future.result()


@lru_cache(maxsize=2)
def results(fast: bool) -> tuple[Row, ...]:
    """Measure everything once, two policies at a time; all tables read from here."""
    return tuple(row for rows in measure(fast, min(2, os.cpu_count() or 1), set()) for row in rows)


def _grouped(rows: Any) -> dict[tuple[str, str], dict[tuple[str, float], list[Row]]]:
    """Return (environment, policy) -> (condition, level) -> rows of the seeds, in the order of the settings."""
    out: dict[tuple[str, str], dict[tuple[str, float], list[Row]]] = {}
    for setting in SETTINGS:
        for bound in (None, *setting.bounds):
            key = (setting.env_id.rpartition("/")[2], label(setting, bound))
            mine = [r for r in rows if (r["environment"], r["policy"]) == key]
            for row in sorted(mine, key=lambda r: r["seed"]):
                out.setdefault(key, {}).setdefault((row["condition"], row["level"]), []).append(row)
    return out


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4g} ({min(values):.4g} … {max(values):.4g})"


def certified_against_plain(fast: bool) -> list[Row]:
    """Certified policies against an MLP of equal size: same algorithm, budget and teacher.

    Returns are means over unseen episodes of 200 steps; smallest and largest seed in brackets. `gain` is proved where
    the policy is certified, and for the MLP the largest slope met on its own trajectories.
    """
    return [
        {
            "environment": environment,
            "policy": policy,
            "gain": _spread([r["gain"] for r in found["nominal", 0.0]]),
            "certified": policy != "MLP",
            "return": _spread([r["return"] for r in found["nominal", 0.0]]),
            "failed": float(np.mean([r["failed"] for r in found["nominal", 0.0]])),
            "seeds": len(found["nominal", 0.0]),
            "parameters": found["nominal", 0.0][0]["parameters"],
            "training CPU s": float(np.mean([r["seconds"] for r in found["nominal", 0.0]])),
        }
        for (environment, policy), found in _grouped(results(fast)).items()
    ]


def robustness(fast: bool) -> list[Row]:
    """Robustness: return lost against the same policy undisturbed, mean of the seeds, beside what the MLP loses.

    Noise σ and attacks ε (l2) are in units of the observations' sizes, on the pendulum in observation units; an attack
    is the worst of four adversaries (`lipctrl.training.worst_case`). Delays are in samples.
    """
    grouped = _grouped(results(fast))
    rows = []
    for (environment, policy), found in grouped.items():
        if policy == "MLP":
            continue
        plain = grouped[environment, "MLP"]
        for (condition, level), mine in found.items():
            if condition not in ("nominal",) and ":" not in condition:
                theirs = _losses(plain, condition, level)
                lost = _losses(found, condition, level)
                both = min(len(lost), len(theirs))
                saved = theirs[:both] - lost[:both]
                rows.append(
                    {
                        "environment": environment,
                        "policy": policy,
                        "condition": f"{condition} {level:g}",
                        "lost": float(lost.mean()),
                        "lost by the MLP": float(theirs.mean()),
                        "saved": float(saved.mean()),
                        "± standard error": float(saved.std(ddof=1) / math.sqrt(both))
                        if both > 1
                        else math.nan,
                        "worst adversaries": ", ".join(sorted({r["adversary"] for r in mine} - {""})),
                    }
                )
    return rows


def _losses(found: dict[tuple[str, float], list[Row]], condition: str, level: float) -> np.ndarray:
    base = np.array([r["return"] for r in found["nominal", 0.0]])
    return base - np.array([r["return"] for r in found[condition, level]])


def pendulum_against_literature(fast: bool) -> list[Row]:
    """Gymnasium's pendulum beside Barbara et al. 2024: return, and the return lost to attack and delay.

    Our γ is the certified gain in N·m per observation unit, observation scaling and torque limits counted; theirs
    leaves both out, their attack is a single one, and their pendulum is MuJoCo's: compare the losses, not the levels.
    """
    columns = {
        "ε .11, action": ("attack: action", 0.11),
        "ε .15, action": ("attack: action", 0.15),
        "delay 2": ("delay", 2),
        "delay 3": ("delay", 3),
        "ε .11, worst of 4": ("attack", 0.11),
    }
    rows = []
    for (environment, policy), found in _grouped(results(fast)).items():
        if environment == "GymPendulum-v1":
            lost = {
                f"lost to {name}": float(_losses(found, *key).mean()) if key in found else math.nan
                for name, key in columns.items()
            }
            nominal = found["nominal", 0.0]
            rows.append({
                "source": "ours", "policy": policy, "γ": _spread([r["gain"] for r in nominal]),
                "nominal": float(np.mean([r["return"] for r in nominal])), **lost,
            })  # fmt: skip
    for name, values in LITERATURE.items():
        lost = {f"lost to {c}": float(values[0] - v) for c, v in zip(columns, values[1:], strict=False)}
        rows.append({
            "source": "Barbara et al.", "policy": name, "γ": "-", "nominal": float(values[0]), **lost,
            "lost to ε .11, worst of 4": math.nan,
        })  # fmt: skip
    return rows


TABLES = {
    "certified_against_plain": certified_against_plain,
    "robustness": robustness,
    "pendulum_against_literature": pendulum_against_literature,
}
COLUMNS = (
    "environment", "policy", "seed", "gain", "parameters", "seconds",
    "condition", "level", "return", "failed", "adversary",
)  # fmt: skip


def main(path: Path, workers: int) -> None:
    """Measure into a CSV file, policy by policy; what is in it already is not measured again."""
    done = set()
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            done = {(r["environment"], r["policy"], int(r["seed"])) for r in csv.DictReader(stream)}
    for rows in measure(False, workers, done):
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer: Any = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
            )
        print(
            rows[0]["environment"], rows[0]["policy"], rows[0]["seed"], f"{rows[0]['return']:.4g}", flush=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
