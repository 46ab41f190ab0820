"""Proofs refuse a processor that flushes subnormal numbers to zero, which torch can switch on."""

from __future__ import annotations

import pytest
import torch

import lipctrl
from lipctrl.arithmetic import TINY, underflows_gradually
from lipctrl.positivity import NotProvedError


@pytest.fixture
def flushing():
    if not torch.set_flush_denormal(True):
        torch.set_flush_denormal(False)
        pytest.skip("this processor cannot flush subnormal numbers")
    yield
    torch.set_flush_denormal(False)


def network():
    torch.manual_seed(0)
    return lipctrl.LipschitzResNet(2, 1, width=6, depth=2).double()


def test_the_hazard_is_real(flushing):
    """With flushing on, a sum that is not zero becomes zero without any rounding bound noticing."""
    import numpy as np

    assert (np.array([1.5 * TINY]) - np.array([TINY]) == 0.0).all()
    assert not underflows_gradually()


def test_nothing_is_checked_or_certified_while_subnormals_are_flushed():
    net = network()
    certificate = net.certificate()
    assert underflows_gradually()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        report = lipctrl.check(certificate)
        assert not report.ok
        assert report.gain == float("inf")
        assert "subnormal" in str(report)
        with pytest.raises(NotProvedError):
            net.certificate()
    finally:
        torch.set_flush_denormal(False)
    assert lipctrl.check(certificate).ok
