"""The dense form that training runs is the certified map, and so are its gradients."""

from __future__ import annotations

import pytest
import torch

from lipctrl.nn import LipschitzResNet
from lipctrl.nn.dense import Dense, condense
from lipctrl.nn.series import _fits, training_form

CASES = [
    {"parametrization": p, "activation": a}
    for p in ("lossless", "sandwich", "ldlt", "gershgorin", "sll", "aol")
    for a in ("relu", "tanh")
]


@pytest.mark.parametrize(
    "options",
    [*CASES, {"depth": 9}, {"inner_depth": 3}, {"zero_at_origin": True}, {"activation": "leaky_relu"}],
)
def test_the_dense_form_is_the_same_map(options):
    torch.manual_seed(0)
    net = LipschitzResNet(3, 2, lipschitz=4.0, **{"width": 16, "depth": 2, **options}).double()
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    y, z = condense(net.explicit()).run(x), net(x)
    assert torch.allclose(y, z, rtol=0.0, atol=1e-13)
    inputs, weight = (x, *net.parameters()), torch.randn(7, 2, dtype=torch.float64)
    found = torch.autograd.grad(y, inputs, weight, allow_unused=True)
    wanted = torch.autograd.grad(z, inputs, weight, allow_unused=True)
    for g, h in zip(found, wanted, strict=True):
        assert (g is None) == (h is None)
        assert g is None or torch.allclose(g, h, rtol=0.0, atol=1e-12)


def test_the_default_network_has_a_dense_form_of_fewer_products():
    net = LipschitzResNet(3, 1, width=32, depth=2)
    dense = condense(net.explicit())
    assert isinstance(dense, Dense)
    # 3 -> 32, (3 + 32) -> 32 and (3 + 32 + 32) -> 1
    assert dense.products() == 3 * 32 + 35 * 32 + 67
    assert not isinstance(condense(LipschitzResNet(3, 1, width=8, depth=20).explicit()), Dense)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_derivatives_of_second_order(activation):
    torch.manual_seed(1)
    net = LipschitzResNet(3, 2, width=8, depth=2, activation=activation).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    dense = condense(net.explicit())
    assert isinstance(dense, Dense)
    assert torch.autograd.gradcheck(lambda y: dense.run(y), x)
    assert torch.autograd.gradgradcheck(lambda y: dense.run(y), x)


SERIES = [
    {},
    {"activation": "tanh"},
    {"activation": "leaky_relu"},
    {"depth": 1},
    {"depth": 5, "width": 24},
    {"zero_at_origin": True},
    {"trainable_lipschitz": True, "zero_at_origin": True, "activation": "tanh"},
]


@pytest.mark.parametrize("options", SERIES)
@pytest.mark.parametrize("shape", [(3, 2), (1, 1), (2, 5)])
def test_small_blocks_in_series_are_the_same_map_with_the_same_gradients(options, shape):
    torch.manual_seed(0)
    net = LipschitzResNet(*shape, lipschitz=4.0, **{"width": 16, "depth": 2, **options}).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert _fits(net, net.trunk)
    x = torch.randn(7, shape[0], dtype=torch.float64)
    y, z = training_form(net).run(x), net(x)
    assert torch.allclose(y, z, rtol=0.0, atol=1e-12)
    inputs, weight = tuple(net.parameters()), torch.randn(7, shape[1], dtype=torch.float64)
    found = torch.autograd.grad(y, inputs, weight)
    wanted = torch.autograd.grad(z, inputs, weight)
    for g, h in zip(found, wanted, strict=True):
        assert torch.allclose(g, h, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "options", [{"inner_depth": 2}, {"activation": "elu"}, {"depth": 30}, {"width": 128}]
)
def test_what_is_no_small_series_keeps_the_fold_of_its_parts(options):
    net = LipschitzResNet(3, 1, **{"width": 16, "depth": 2, **options})
    assert not _fits(net, net.trunk)
    x = torch.randn(4, 3)
    assert torch.allclose(training_form(net).run(x), net(x), atol=1e-5)


def test_a_network_with_a_fold_of_its_own_is_run_by_that_fold():
    class Doubled(LipschitzResNet):
        def fold(self):
            return super().fold().shifted(torch.ones(1))

    net, x = Doubled(3, 1, width=16, depth=2), torch.randn(4, 3)
    assert torch.allclose(training_form(net).run(x), net(x), atol=1e-5)


def test_not_a_number_in_a_weight_reaches_the_output():
    net = LipschitzResNet(3, 1, width=16, depth=2)
    with torch.no_grad():
        net.trunk.mix.weight[0, 0, 0] = torch.nan
    assert training_form(net).run(torch.ones(2, 3)).isnan().all()
