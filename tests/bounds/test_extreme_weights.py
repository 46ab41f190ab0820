"""Products of powers of two are carried out where float64 holds them; where it does not, layers stay as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lipctrl
from tests.bounds.modules import called

TINY, HUGE = 2.0**-1000, 2.0**1000


@pytest.mark.parametrize(
    ("forward", "factor"),
    [
        (lambda s, x: s.a(x * TINY * TINY) * HUGE * HUGE, 1.0),
        (lambda s, x: s.a(x * HUGE * HUGE) * TINY * TINY, 1.0),
        (lambda s, x: s.a(x / HUGE / HUGE * HUGE) * HUGE, 1.0),
        (lambda s, x: (s.a(x) * 1.5 * 2.0**-1074) * 2.0**1000 * 2.0**74, 1.5),
        (lambda s, x: torch.relu(s.a(x) * TINY) * 2.0**-74 * HUGE * 2.0**74, 1.0),
    ],
)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_gains_do_not_vanish_in_underflow(forward, factor, norm):
    net = called(forward)
    weight = net.a.weight.detach().numpy()
    true = factor * float(np.linalg.norm(weight, 2 if norm == "l2" else np.inf))
    for method in ("auto", "product"):
        cert = lipctrl.certify(net, method, norm=norm)
        assert true <= cert.gain <= true * 1.002
        assert lipctrl.check(cert).ok


@pytest.mark.parametrize("size", [1.7e308, 1e200])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("method", ["auto", "product"])
def test_bounds_beyond_float64_are_refused_in_words(size, norm, method):
    with pytest.raises(ValueError, match=r"overflow|range|rescale"):
        lipctrl.certify([np.array([[size]])] * 2, method, activation="relu", norm=norm)


@pytest.mark.parametrize("method", ["lipsdp", "eclipse", "descent"])
def test_a_solver_without_a_point_is_no_proof(method):
    with pytest.raises(lipctrl.NotProvedError, match=r"definiteness|feasible|range"):
        lipctrl.certify([np.eye(2) * 1e100, np.eye(2) * 1e80, np.eye(2)], method, activation="tanh")
