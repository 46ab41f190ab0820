"""A block inside a block's nonlinearity, composed by the algebra: one certificate, proved node by node.

    python examples/02_recursive_blocks.py [--fast]

Every map below knows its gain, and every combination knows the rule that gives the gain of the whole. Nothing has to be
proved by hand, and the certificate tree prints how the bound came about.
"""

from __future__ import annotations

import argparse

import torch

import lipctrl
from lipctrl import nn


def hierarchy(levels: int, width: int) -> nn.CertifiedModule:
    """Return a block whose nonlinearity is a block whose nonlinearity is … a lossless block; gain at most 1."""
    block: nn.CertifiedModule = nn.LosslessBlock(width, width, width=width)
    for _ in range(levels):
        block = nn.Recursive(block, width, width)
    return block


def main() -> None:
    """Build, certify, check, and attack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="a smaller network")
    options = parser.parse_args()
    levels, width = (2, 8) if options.fast else (5, 24)
    torch.manual_seed(0)

    # Two experts read the same input; their mix is scaled to a gain of 3 and added to a linear map.
    coarse = nn.Sequential(
        nn.OrthogonalLinear(4, width), hierarchy(levels, width), nn.OrthogonalLinear(width, 2)
    )
    fine = lipctrl.LipschitzResNet(4, 2, lipschitz=0.5, width=width, depth=3, parametrization="sandwich")
    network = nn.Sum(nn.Scale(nn.Mix(coarse, fine), 3.0), nn.OrthogonalLinear(4, 2)).double()

    # The tree: leaves carry weights and multipliers, inner nodes the rule that composes the gains.
    certificate = network.certificate()
    print(certificate)
    print(lipctrl.check(certificate))

    # The certificate also *is* the network: it runs in numpy, and agrees with torch.
    x = torch.randn(64, 4, dtype=torch.float64)
    difference = (torch.as_tensor(certificate.evaluate(x.numpy())) - network(x)).abs().max().item()
    print(f"certificate against torch: {difference:.1e}")

    # Attack: gradient ascent on the Jacobian's norm never gets past the proved gain.
    lower = lipctrl.lipschitz_lower_bound(network, seed=0)
    print(f"{lower:.4f} ≤ Lipschitz constant ≤ {certificate.gain:.4f}")
    assert lower <= certificate.gain


if __name__ == "__main__":
    main()
