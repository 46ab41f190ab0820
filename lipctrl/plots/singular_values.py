"""Singular values of every block's Jacobian: whether a deep certified network keeps its gradients alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lipctrl.certificate import Certificate
from lipctrl.plots.style import CERTIFIED, GREY, SKY, VERMILION, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class BlockSingularValues:
    """Singular values of block Jacobians at sampled inputs, normalised by the gain proved for the block.

    `blocks[k]` has shape (points, rank); `through[k]` is the largest singular value of the Jacobian of blocks 0..k
    divided by the product of their gains, shape (points,).
    """

    names: tuple[str, ...]
    blocks: tuple[np.ndarray, ...]
    through: tuple[np.ndarray, ...]


def _jacobians(node: Certificate, points: np.ndarray, step: float) -> np.ndarray:
    """Central differences of a block at each point: (points, out, in)."""
    shifts = step * np.eye(node.in_features)
    forward = node.evaluate(points[:, None, :] + shifts)
    backward = node.evaluate(points[:, None, :] - shifts)
    return np.swapaxes((forward - backward) / (2.0 * step), -1, -2)


def block_singular_values(
    certificate: Certificate, *, points: int = 16, spread: float = 1.0, seed: int = 0
) -> BlockSingularValues:
    """Sample the Jacobians of the blocks that a certificate describes, in numpy.

    Parameters
    ----------
    certificate : any certificate; the parts of nested `series` nodes are its blocks, anything else is one block.
    points : number of inputs drawn from a normal distribution of standard deviation `spread`.
    seed : of the draw.

    Examples
    --------
    >>> from lipctrl import rules
    >>> certificate = rules.series(rules.scaling([2.0]), rules.linear([[3.0]]), rules.elementwise("tanh", 1))
    >>> block_singular_values(certificate).names
    ('1: scaling', '2: linear', '3: activation')
    """
    if points < 1:
        raise ValueError(f"points is {points}; expected at least one input")
    blocks = _series_blocks(certificate)
    x = np.random.default_rng(seed).normal(0.0, spread, (points, certificate.in_features))
    total = np.broadcast_to(np.eye(certificate.in_features), (points, *2 * (certificate.in_features,)))
    singular, through, gain = [], [], 1.0
    for block in blocks:
        jacobian = _jacobians(block, x, step=1e-6 * max(1.0, spread))
        singular.append(np.linalg.svd(jacobian, compute_uv=False) / (block.gain or 1.0))
        total, gain = jacobian @ total, gain * (block.gain or 1.0)
        through.append(np.linalg.svd(total, compute_uv=False)[:, 0] / gain)
        x = block.evaluate(x)
    names = tuple(f"{k}: {block.rule}" for k, block in enumerate(blocks, start=1))
    return BlockSingularValues(names, tuple(singular), tuple(through))


def _series_blocks(certificate: Certificate) -> list[Certificate]:
    out: list[Certificate] = []
    stack = [certificate]
    while stack:
        node = stack.pop()
        if node.rule == "series":
            stack.extend(reversed(node.parts))
        else:
            out.append(node)
    return out


@styled
def singular_values_plot(
    data: BlockSingularValues, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw the spread of singular values block by block, and the largest one through all blocks so far.

    One is the proved gain: points above it would refute the certificate, a falling line is the decay of deep networks
    (Juston et al. 2025).

    Examples
    --------
    >>> from lipctrl import rules
    >>> certificate = rules.series(rules.scaling([2.0]), rules.linear([[3.0]]), rules.elementwise("tanh", 1))
    >>> singular_values_plot(block_singular_values(certificate)).get_xlabel()
    'block'
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes_or_new(ax)
    x = np.arange(1, len(data.blocks) + 1)
    for q_low, q_high, alpha in ((0, 100, 0.25), (25, 75, 0.45)):
        low = [np.percentile(b, q_low) for b in data.blocks]
        high = [np.percentile(b, q_high) for b in data.blocks]
        name = "range, one block" if q_low == 0 else "middle half, one block"
        ax.bar(x, np.subtract(high, low), 0.7, low, color=SKY, alpha=alpha, label=name, edgecolor="none")
    medians = [np.median(b) for b in data.blocks]
    ax.plot(x, medians, "_", color=CERTIFIED, markersize=11, markeredgewidth=2.2, label="median, one block")
    ax.plot(x, [np.median(t) for t in data.through], "o-", color=VERMILION, markersize=4.5,
            label="largest, input to block")  # fmt: skip
    ax.axhline(1.0, color=GREY, ls="--", lw=1.5)
    ax.set(xlabel="block", ylabel="singular value / proved gain", ylim=(0.0, 1.1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(title or "Jacobian of every block")
    legend_below(ax, 2)
    return ax
