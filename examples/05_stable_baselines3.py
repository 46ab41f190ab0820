"""Train a certified controller with Stable-Baselines3, save it, load it back and prove its gain.

    python examples/05_stable_baselines3.py                  SAC on Gymnasium's pendulum, about 2 minutes
    python examples/05_stable_baselines3.py --algorithm ppo  less exact in the same time
    python examples/05_stable_baselines3.py --fast           a smoke run of seconds

Needs the extra: pip install "lipctrl[sb3]".
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

import lipctrl
from lipctrl.training.evaluation import evaluate
from lipctrl.training.sb3 import CertifiedActorCriticPolicy, CertifiedSACPolicy, certified_policy

ENVIRONMENT = "Pendulum-v1"
LIPSCHITZ = 12.0  # at most so many N·m per unit of the scaled observation
SCALE = [1.0, 1.0, 2.0]  # cos θ, sin θ, θ̇; the gain counts 1 / min(SCALE)


def new_model(algorithm: str, fast: bool) -> Any:
    """Return an SB3 model whose actor is certified; it learns how much of its gain to use."""
    actor = {"lipschitz": LIPSCHITZ, "observation_scale": SCALE, "width": 32, "depth": 2}
    if algorithm == "sac":
        return SAC(
            CertifiedSACPolicy,
            ENVIRONMENT,
            policy_kwargs=actor,
            learning_rate=1e-3,
            learning_starts=100 if fast else 1000,
            batch_size=64,
            seed=0,
            device="cpu",
        )
    return PPO(
        CertifiedActorCriticPolicy,
        make_vec_env(ENVIRONMENT, n_envs=4, seed=0),
        policy_kwargs=actor,
        n_steps=32 if fast else 256,
        batch_size=128 if fast else 256,
        n_epochs=2 if fast else 10,
        gamma=0.9,
        gae_lambda=0.95,
        learning_rate=1e-3,
        seed=0,
        device="cpu",
    )


def main() -> None:
    """Train, save, load, certify, evaluate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algorithm", choices=("ppo", "sac"), default="sac")
    parser.add_argument("--fast", action="store_true", help="a smoke run of seconds")
    options = parser.parse_args()
    steps = 256 if options.fast else (10_000 if options.algorithm == "sac" else 150_000)

    model = new_model(options.algorithm, options.fast)
    model.learn(steps)

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        loaded = type(model).load(Path(folder) / "model", device="cpu")

        # The certificate is a file of numbers: whoever checks it needs neither torch nor Stable-Baselines3.
        certified_policy(loaded).certificate().save(Path(folder) / "certificate.json")
        certificate = lipctrl.load_certificate(Path(folder) / "certificate.json")

    print(certificate)
    print(lipctrl.check(certificate))
    print(evaluate(certificate, ENVIRONMENT, episodes=4 if options.fast else 100))


if __name__ == "__main__":
    main()
