"""Bring your own plant (python-control) and your own network (torch): certify it, analyse the loop, draw it.

    python examples/01_your_own_plant_and_network.py [--fast] [--out FOLDER]

The plant is a flexible drive: a motor, a spring, a load, and its velocity controller is a network that was trained
somewhere else, here by imitating a saturating spring-damper law with plain torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import control
import torch

import lipctrl
from lipctrl import plots


def drive() -> control.StateSpace:
    """Return a two-mass drive: torque [N·m] to motor angle [rad] and speed [rad/s]; a spring ties it to the ground."""
    motor, load, spring, damping, ground = 0.5, 0.3, 20.0, 0.6, 1.0
    a = [
        [0.0, 1.0, 0.0, 0.0],
        [-(spring + ground) / motor, -damping / motor, spring / motor, 0.05 / motor],
        [0.0, 0.0, 0.0, 1.0],
        [spring / load, 0.05 / load, -spring / load, -damping / load],
    ]
    return control.ss(a, [[0.0], [1.0 / motor], [0.0], [0.0]], [[1.0, 0, 0, 0], [0, 1.0, 0, 0]], 0)


def trained_elsewhere(steps: int) -> torch.nn.Module:
    """Return a plain torch network that imitates u = -0.3 tanh(2 angle) - 0.2 tanh(speed) [N·m]."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 16),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 16),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 1),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        y = 2.0 * torch.randn(256, 2)
        wanted = -0.3 * torch.tanh(2.0 * y[:, :1]) - 0.2 * torch.tanh(y[:, 1:])
        loss = (network(y) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"imitation error (rms): {loss.item() ** 0.5:.4f} N·m")
    return network


def main() -> None:
    """Certify, check, analyse, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="a short training")
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    options = parser.parse_args()
    plant, network = drive(), trained_elsewhere(100 if options.fast else 3000)

    # 1. Bounds of a network that lipctrl did not build: loose and cheap, tight and dearer, and what is attained.
    for method in ("product", "eclipse", "lipsdp"):
        print(f"{method:8} gain ≤ {lipctrl.certify(network, method=method).gain:.4f}")
    print(f"{'ascent':8} gain ≥ {lipctrl.lipschitz_lower_bound(network, seed=0):.4f}")

    # 2. The certificate is a file; the check believes nothing in it.
    path = lipctrl.certify(network).save(options.out / "certificate.json")
    certificate = lipctrl.load_certificate(path)
    print(lipctrl.check(certificate))

    # 3. The loop. No centre is given, so this is the small-gain theorem: for all networks of that gain.
    report = lipctrl.analyze(plant, certificate)
    print(report.summary())
    report.save(options.out / "report.html")

    # 4. What gain could a network have at most here, and what does the verdict look like as a picture?
    print(f"largest gain that is safe for every network: {lipctrl.stability_radius(plant):.4f} N·m per unit")
    ax = plots.sigma_plot(plots.loop_response(plant, certificate))
    ax.figure.savefig(options.out / "sigma.png")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
