"""The same task, the same budget of parameters, the same bound: which parametrisation uses its Lipschitz constant?

    python examples/03_compare_parametrizations.py [--fast] [--out FOLDER]

A 2-D target of Lipschitz constant 1 is fitted by networks of bound 1. Tightness is the attained gain over the
proved one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import lipctrl
from lipctrl import plots

NAMES = ("lossless", "sandwich", "sll", "gershgorin", "gershgorin-scaled")


def target(x: torch.Tensor) -> torch.Tensor:
    """Distance to the nearest of three points, less its mean: gain exactly 1, kinked."""
    points = torch.tensor([[1.0, 0.5], [-1.2, 0.3], [0.1, -1.1]])
    return torch.cdist(x, points).min(dim=-1, keepdim=True).values - 0.8


def fit(name: str, depth: int, steps: int, seed: int) -> tuple[float, float]:
    """Train one network; return its test error (rms) and its tightness."""
    torch.manual_seed(seed)
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=1.0, width=24, depth=depth, parametrization=name)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        x = 4.0 * torch.rand(256, 2) - 2.0
        loss = (network(x) - target(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x = 4.0 * torch.rand(4096, 2) - 2.0
    with torch.no_grad():
        error = (network(x) - target(x)).square().mean().sqrt().item()
    certificate = network.certificate()
    assert lipctrl.check(certificate).ok
    return error, lipctrl.lipschitz_lower_bound(network, seed=seed) / certificate.gain


def main() -> None:
    """Fit all of them at several depths, print the table and draw the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--fast", action="store_true", help="few steps, one depth: shows the line, not the result"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/parametrizations"))
    options = parser.parse_args()
    depths, steps, seeds = ((2,), 20, 1) if options.fast else ((2, 4, 8, 16), 1500, 3)

    series = {}
    print(f"{'parametrisation':20}{'depth':>6}{'error (rms)':>14}{'tightness':>12}")
    for name in NAMES:
        errors = np.zeros((len(depths), seeds))
        for i, depth in enumerate(depths):
            results = [fit(name, depth, steps, seed) for seed in range(seeds)]
            errors[i] = [error for error, _ in results]
            tight = float(np.median([tightness for _, tightness in results]))
            print(f"{name:20}{depth:6d}{np.median(errors[i]):14.4f}{100 * tight:11.1f}%")
        series[name] = plots.SizeSeries(np.array(depths), errors)

    options.out.mkdir(parents=True, exist_ok=True)
    ax = plots.size_plot(series, quantity="error (rms) [output unit]", size="depth [blocks]")
    ax.figure.savefig(options.out / "error.png")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
