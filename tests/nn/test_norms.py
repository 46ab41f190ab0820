"""A composition is bounded in the norm of its blocks, and promises what that norm gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl.nn import (
    Concat,
    Feedback,
    ImplicitBlock,
    LosslessBlock,
    OrthogonalLinear,
    Recursive,
    Scale,
    Sequential,
    SLLBlock,
    Sum,
)
from lipctrl.nn.squashed import Squashed


@pytest.mark.parametrize("kind", ["sll", "cpl"])
def test_the_scaling_of_an_sll_block_is_no_norm(kind):
    """Two blocks of gain 1 side by side have √2, not 1, and stand beside blocks of other kinds."""
    torch.manual_seed(0)
    twice = Concat(*(SLLBlock(2, 2, width=4, norm=kind) for _ in range(2)))
    assert twice.lipschitz == pytest.approx(np.sqrt(2.0))
    with pytest.raises(ValueError, match="below 1"):
        Feedback(Scale(Sequential(twice, OrthogonalLinear(4, 2)), 0.9), OrthogonalLinear(2, 2))
    net = Recursive(Sum(LosslessBlock(2, 2, width=4), SLLBlock(2, 2, width=4, norm=kind)), 3, 2).double()
    assert lipctrl.check(net.certificate()).ok
    assert lipctrl.lipschitz_lower_bound(net) <= net.certificate().gain <= net.lipschitz


def test_compositions_of_linf_blocks_are_bounded_in_linf():
    blocks = [
        Sequential(ImplicitBlock(2, 2, width=3, norm="linf"), ImplicitBlock(2, 2, width=3, norm="linf"))
        for _ in range(2)
    ]
    both = Concat(*blocks).double()
    assert both.norm == "linf"
    assert both.certificate().gain <= both.lipschitz == 1.0
    with pytest.raises(ValueError, match="one norm"):
        Sequential(both, LosslessBlock(4, 2, width=4))
    with pytest.raises(ValueError, match="linf"):
        Recursive(blocks[0], 3, 2)
    with pytest.raises(ValueError, match="linf"):
        Squashed(blocks[0], [-1.0, -1.0], [1.0, 1.0])


def test_a_squashed_network_is_a_block_like_others():
    torch.manual_seed(0)
    inner = Squashed(LosslessBlock(2, 2, width=4, lipschitz=3.0), [-1.0, 0.0], [1.0, 20.0])
    net = Sequential(inner, Scale(OrthogonalLinear(2, 1), 2.0)).double()
    assert net.lipschitz == 6.0
    assert lipctrl.lipschitz_lower_bound(net) <= net.certificate().gain <= 6.0 * (1.0 + 1e-6)
