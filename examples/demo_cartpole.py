"""The demo as a script: `lipctrl demo` without the screen. Run with --fast for a training of seconds.

LQR balances the linear cart-pole best; against gusts, saturation and the end of the track it does not. A residual
on top of it cuts the cost, and cannot destabilise the loop: its Lipschitz constant stays below the stability radius.
"""

import argparse
from pathlib import Path

import control
import gymnasium
import numpy as np
import torch

import lipctrl
from lipctrl.runs import StabilityGuarantee
from lipctrl.training import APGConfig, evaluate

parser = argparse.ArgumentParser()
parser.add_argument("--fast", action="store_true")
parser.add_argument("--out", type=Path, default=Path("runs/example-cartpole"))
arguments = parser.parse_args()
torch.set_num_threads(1)

# The plant and its LQR gain; u = -K y, and the observation is the state.
env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
plant = env.unwrapped.plant
system = plant.linearize()
K, _, _ = control.dlqr(system.A, system.B, plant.Q, plant.R)
K = np.float64(np.float32(K))

# Any f with Lip f below the stability radius keeps u = -K y + f(y / sizes) stable. The network gets a quarter of it.
sizes = np.array([0.5, 0.25, 0.5, 1.0])  # of position, angle and their speeds
guarantee = StabilityGuarantee.of(system, K, sizes)
torch.manual_seed(0)
network = lipctrl.LipschitzResNet(4, 1, lipschitz=0.25 * guarantee.radius, width=32, depth=2)
policy = lipctrl.ResidualPolicy(K, network, observation_scale=sizes, action_limits=plant.action_limit)

# Training goes through the plant's own derivatives; the bound holds at every step, and every checkpoint proves it.
config = APGConfig(
    environments=128, horizon=100, policy_rate=1e-2, value_rate=1e-3, value_epochs=2, value_minibatches=16
)
steps = config.environments * config.horizon * (4 if arguments.fast else 50)
run = lipctrl.train(
    "lipctrl/CartPole-v0", policy, "apg", steps, out=arguments.out, config=config, guarantee=guarantee
)

# The certificate is a file that proves itself; the analysis carries it to the loop.
certificate = lipctrl.load_certificate(arguments.out / "certificate.json")
print(lipctrl.check(certificate))
report = lipctrl.analyze(env, certificate)
print(report.summary())
report.save(arguments.out / "report.html")

# Cost on the nonlinear plant, in episodes that training never saw.
lqr = evaluate(lambda y: np.clip(-y @ K.T, -10.0, 10.0), "lipctrl/CartPole-v0", episodes=256, seed=1)
trained = evaluate(run.policy, "lipctrl/CartPole-v0", episodes=256, seed=1)
print(f"cost of LQR {lqr.cost:.1f}, of the trained policy {trained.cost:.1f}")
