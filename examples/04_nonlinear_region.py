"""From the linearised plant to the nonlinear one: a region of attraction of a pendulum with a limited motor.

    python examples/04_nonlinear_region.py [--fast] [--out FOLDER]

A verdict for the linearisation says nothing about large angles or about saturation. Here the pendulum's sine is
enclosed by slopes, the motor's limit is respected, and an ellipsoid is proved from which every trajectory converges.
Simulations from its boundary illustrate the proof; they are no part of it. Needs the extra: pip install "lipctrl[lmi]".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import torch

import lipctrl
from lipctrl import plots
from lipctrl.analysis import region_of_attraction
from lipctrl.training import lqr_gain


def main() -> None:
    """Linear verdict first, then the region, then its picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="a smaller network, fewer simulations")
    parser.add_argument("--out", type=Path, default=Path("runs/region"))
    options = parser.parse_args()
    width, starts = (4, 8) if options.fast else (8, 32)

    env = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0")
    plant = env.unwrapped.plant
    K = lqr_gain(plant)
    torch.manual_seed(0)
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=0.5, width=width, depth=1, zero_at_origin=True).double()
    policy = lipctrl.ResidualPolicy(gain=K, network=network)

    # 1. The linearised loop: certified for all states, which is more than is true of the pendulum.
    report = lipctrl.analyze(env, policy)
    print(f"linearised plant: {report.verdict}; scope: {'; '.join(report.scope)}")

    # 2. The nonlinear loop. The policy's own neurons and the sine each bring their slopes and multipliers.
    region = region_of_attraction(plant, policy, action_limit=plant.action_limit)
    print(region)

    # 3. Simulate from the boundary: inside the motor's limit all the way, and back to rest.
    ellipsoid, simulated = plots.region_data(
        region, plant.state_names, plant.state_units, starts=starts, steps=600
    )
    residue = abs(simulated.signals[:, -1] - region.center).max()
    print(f"largest distance to the equilibrium after {simulated.time[-1]:.1f} s: {residue:.1e}")

    options.out.mkdir(parents=True, exist_ok=True)
    ax = plots.region_plot(ellipsoid, trajectories=simulated)
    ax.figure.savefig(options.out / "region.png")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
