"""Environment steps per second: our torch batches against Gymnasium's own vector environments."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import torch

from lipctrl_envs import TorchVectorEnv, plant_class, plant_names

Row = dict[str, Any]


def rate(
    step: Callable[[], None], steps_per_call: int, seconds: float, sync: Callable[[], None] | None
) -> float:
    """Return the median of three rates: per CPU-second, or per wall-clock second where a device must be waited for."""
    clock = time.perf_counter if sync else time.process_time
    for _ in range(20):
        step()
    found = []
    for _ in range(3):
        if sync:
            sync()
        calls, start = 0, clock()
        while True:
            for _ in range(20):
                step()
            calls += 20
            if sync:
                sync()
            elapsed = clock() - start
            if elapsed >= seconds:
                break
        found.append(calls * steps_per_call / elapsed)
    return statistics.median(found)


def synchronous(count: int, seconds: float) -> float:
    """Gymnasium's SyncVectorEnv over Pendulum-v1."""
    env = gymnasium.make_vec("Pendulum-v1", count, vectorization_mode="sync")
    env.reset(seed=0)
    actions = env.action_space.sample()
    found = rate(lambda: env.step(actions), count, seconds, None)
    env.close()
    return found


def built_in(count: int, seconds: float) -> float:
    """Gymnasium's vectorised CartPole-v1, its fastest environment."""
    env = gymnasium.make_vec("CartPole-v1", count, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    actions = env.action_space.sample()
    return rate(lambda: env.step(actions), count, seconds, None)


def ours(
    plant: str, count: int, seconds: float, device: str = "cpu", policy: bool = False, **options: Any
) -> float:
    """Our batch with staggered clocks, so that episodes end and begin in every step; optionally with a policy."""
    env = TorchVectorEnv(plant, count, device=device, **options)
    observation, _ = env.reset(seed=0)
    env._clock.random_(0, env.plant.horizon)
    m = env.plant.action_size
    actions = torch.as_tensor(env.plant.action_limit, dtype=torch.float32, device=device)
    actions = (torch.rand((count, m), device=device) * 2 - 1) * actions
    network = torch.nn.Sequential(
        torch.nn.Linear(env.plant.observation_size, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, m),
    ).to(device)
    latest = [observation]

    @torch.no_grad()
    def step() -> None:
        latest[0] = env.step(network(latest[0]) if policy else actions)[0]

    return rate(step, count, seconds, torch.cuda.synchronize if device == "cuda" else None)


def run(fast: bool = False) -> list[Row]:
    """Pendulum steps per CPU-second against SyncVectorEnv and Gymnasium's vectorised CartPole (one thread)."""
    seconds = 0.1 if fast else 0.7
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows: list[Row] = []
        sync = {n: synchronous(n, seconds) for n in (16, 1024)}
        for count in (16, 1024, 65_536):
            # SyncVectorEnv of 65,536 Python objects is no faster for each step than one of 1024, and takes gigabytes.
            reference = sync[min(count, 1024)]
            table = {
                "Gymnasium CartPole-v1, built-in vector": built_in(count, seconds),
                "lipctrl GymPendulum-v1": ours("GymPendulum", count, seconds),
                "lipctrl GymPendulum-v1, 64x64 policy": ours("GymPendulum", count, seconds, policy=True),
                "lipctrl CartPole-v0, gusts": ours("CartPole", count, seconds),
            }
            if count in sync:
                table = {"Gymnasium Pendulum-v1, SyncVectorEnv": sync[count], **table}
            rows += [row(name, count, "cpu", found, reference) for name, found in table.items()]
        if torch.cuda.is_available():
            for count in (1024, 65_536, 1_048_576):
                for policy in (False, True):
                    name = "lipctrl GymPendulum-v1" + (", 64x64 policy" if policy else "")
                    found = ours("GymPendulum", count, seconds, "cuda", policy)
                    rows.append(row(name, count, torch.cuda.get_device_name(), found, sync[1024]))
        return rows
    finally:
        torch.set_num_threads(threads)


def row(name: str, count: int, device: str, found: float, reference: float) -> Row:
    return {
        "environment": name,
        "environments": count,
        "device": device,
        "steps/s": f"{found:.3g}",
        "against SyncVectorEnv(Pendulum-v1)": f"{found / reference:.3g}×",
    }


def plants(fast: bool = False) -> list[Row]:
    """Steps per CPU-second of every plant in batches of 1024 and 65,536 (one thread), with default options."""
    seconds = 0.1 if fast else 0.5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            {
                "plant": name,
                "states": plant_class(name)().state_size,
                "actions": plant_class(name)().action_size,
                "steps/s at 1024": f"{ours(name, 1024, seconds):.3g}",
                "steps/s at 65,536": f"{ours(name, 65_536, seconds):.3g}",
            }
            for name in plant_names()
        ]
    finally:
        torch.set_num_threads(threads)


def throughput() -> dict[str, float]:
    """Return the two ratios the tests hold us to: ours over SyncVectorEnv at 1024 and at 65,536 environments."""
    reference = synchronous(1024, 0.2)
    return {str(n): ours("GymPendulum", n, 0.2) / reference for n in (1024, 65_536)}


TABLES = {"environment-steps": run, "plants": plants}
