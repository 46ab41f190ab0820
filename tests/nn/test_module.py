"""The fold and its cache: never stale, never copied, shared where asked, differentiable."""

from __future__ import annotations

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl.activations import activation
from lipctrl.nn import AOLLayer, LipschitzResNet, LosslessBlock
from lipctrl.nn.activations import activation_module


def small(**options):
    torch.manual_seed(0)
    return LipschitzResNet(3, 2, lipschitz=2.0, width=6, depth=2, **options)


def output(net, x):
    with torch.no_grad():
        return net(x)


@pytest.fixture
def x():
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def test_folds_are_reused_without_gradients_and_only_then(x):
    net = small()
    with torch.no_grad():
        net(x)
        first = net.explicit()
        assert net.explicit() is first
    assert net.explicit() is not first


@pytest.mark.parametrize("optimizer", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_an_optimiser_step_invalidates_the_fold(x, optimizer):
    """Fused optimisers do not count versions: the fold must notice by the numbers."""
    net = small()
    before = output(net, x)
    adam = torch.optim.Adam(net.parameters(), lr=0.1, **optimizer)
    net(x).square().sum().backward()
    adam.step()
    after = output(net, x)
    assert not torch.equal(before, after)
    assert torch.allclose(after, net(x), atol=1e-6)


def edit_in_place(net):
    with torch.no_grad():
        net.trunk.bias.add_(0.3)


def edit_behind_autograd(net):
    net.trunk.bias.data.neg_()


def load(net):
    state = {k: v + 0.1 for k, v in net.state_dict().items()}
    net.load_state_dict(state)


def replace(net):
    net.trunk.bias = torch.nn.Parameter(net.trunk.bias.detach() * 3.0)


def replace_data(net):
    net.trunk.bias.data = net.trunk.bias.data * 2.0


def cast(net):
    net.double()


@pytest.mark.parametrize("edit", [edit_in_place, edit_behind_autograd, load, replace, replace_data, cast])
def test_every_way_of_changing_parameters_invalidates_the_fold(x, edit):
    net = small()
    before = output(net, x)
    edit(net)
    x = x.to(next(net.parameters()).dtype)
    after = output(net, x)
    assert not torch.equal(before.to(after.dtype), after)
    assert np.abs(net.certificate().evaluate(x.numpy()) - after.numpy()).max() < 1e-5


def test_copies_and_pickles_start_without_a_fold(x):
    net = small()
    before = output(net, x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        edit_in_place(twin)
        assert not torch.equal(output(twin, x), before)
        assert torch.equal(output(net, x), before)


def test_inference_mode_does_not_leak_into_later_gradients(x):
    net = small().requires_grad_(False)
    with torch.inference_mode():
        net(x)
    x = x.clone().requires_grad_(True)
    net(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_networks_compile(x):
    """Tracing goes through the fold; the compiled network computes the same, also after a step."""
    net = small(activation="tanh")
    compiled = torch.compile(net, backend="eager")
    for _ in range(2):
        assert torch.allclose(compiled(x), net(x), atol=1e-6)
        edit_in_place(net)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="the default backend of torch.compile needs a C++ compiler"
)
def test_networks_compile_to_native_code(x, tmp_path, monkeypatch):
    """The default backend builds the fold and its gradient: both agree with the plain ones."""
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path)
    )  # never a library that another run left half written
    torch.compiler.reset()
    net = small()
    compiled = torch.compile(net)
    compiled(x).square().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    assert torch.allclose(compiled(x), net(x), atol=1e-5)
    net.zero_grad()
    net(x).square().sum().backward()
    for g, p in zip(gradients, net.parameters(), strict=True):
        assert torch.allclose(g, p.grad, rtol=1e-3, atol=1e-4)
    edit_in_place(net)
    assert torch.allclose(compiled(x), net(x), atol=1e-5)


def test_fold_once_shares_one_differentiable_fold(x):
    net, twin = small(), small()
    with net.fold_once():
        shared = net.explicit()
        assert net.explicit() is shared
        (net(x).sum() + net(2.0 * x).sum()).backward()
    (twin(x).sum() + twin(2.0 * x).sum()).backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-5)
    assert net.explicit() is not shared


def test_fold_once_notices_a_step_inside(x):
    net = small()
    with net.fold_once():
        before = net(x).detach()
        edit_in_place(net)
        assert not torch.equal(net(x).detach(), before)


def test_gradients_flow_to_every_parameter(x):
    for parametrization in ("lossless", "gershgorin-scaled", "ldlt", "sandwich", "sll", "aol"):
        net = small(parametrization=parametrization, activation="tanh", trainable_lipschitz=True)
        net(x).square().sum().backward()
        for name, p in net.named_parameters():
            assert p.grad is not None, (parametrization, name)
            assert torch.isfinite(p.grad).all(), (parametrization, name)


def test_nan_parameters_are_refused_in_words():
    net = small()
    with torch.no_grad():
        net.trunk.bias[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="diverged"):
        net.certificate()


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="parametrization"):
        LipschitzResNet(1, 1, parametrization="magic")
    with pytest.raises(ValueError, match="lipschitz"):
        LipschitzResNet(1, 1, lipschitz=-1.0)
    with pytest.raises(ValueError, match="width"):
        LipschitzResNet(1, 1, width=0)
    with pytest.raises(ValueError, match="activation"):
        LipschitzResNet(1, 1, activation="magic")
    with pytest.raises(ValueError, match="multiple of 2"):
        LosslessBlock(1, 1, width=3, activation="groupsort")
    with pytest.raises(ValueError, match="multiple of 2"):
        AOLLayer(2, 3, activation="groupsort")
    with pytest.raises(ValueError, match="features come last"):
        small()(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="float32 or float64"):
        small().to(torch.bfloat16).certificate()
    with pytest.raises(TypeError):
        LipschitzResNet(1, 1, depht=3)


def test_the_spec_rebuilds_the_network(x):
    net = small(activation={"name": "leaky_relu", "slope": 0.2}, zero_at_origin=True)
    twin = LipschitzResNet.from_spec(net.spec())
    twin.load_state_dict(net.state_dict())
    assert torch.equal(net(x), twin(x))


def test_zero_at_origin_is_exact_and_costs_no_gain():
    net = small(zero_at_origin=True).double()
    with torch.no_grad():
        net.trunk.bias.normal_()
    assert net(torch.zeros(3, dtype=torch.float64)).abs().max() < 1e-14
    assert lipctrl.check(net.certificate()).gain <= 2.0 + 1e-9


def test_a_trainable_bound_stays_below_its_cap(x):
    net = small(trainable_lipschitz=True).double()
    for value in (-30.0, 0.0, 30.0):
        with torch.no_grad():
            net.raw_factor.fill_(value)
        report = lipctrl.check(net.certificate())
        assert report.ok
        assert report.gain <= 2.0 + 1e-9
        assert report.gain == pytest.approx(net.current_lipschitz().item(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("factor", [1e-3, 0.3, 0.95])
def test_a_trainable_bound_starts_where_asked(x, factor):
    """The whole network, its certificate included, starts at the fraction; the gradient can raise it."""
    net = small(trainable_lipschitz=True, initial_factor=factor).double()
    assert lipctrl.check(net.certificate()).gain == pytest.approx(2.0 * factor, rel=1e-5)
    reference = small(trainable_lipschitz=True).double()
    reference.load_state_dict(net.state_dict() | {"raw_factor": reference.raw_factor.detach()})
    ratio = factor / torch.sigmoid(torch.tensor(2.2)).item()
    assert torch.allclose(net(x.double()), ratio * reference(x.double()), rtol=1e-5)
    net(x.double()).square().sum().backward()
    assert net.raw_factor.grad.abs() > 0.0
    assert LipschitzResNet.from_spec(net.spec()).spec() == net.spec()


def test_a_bad_initial_factor_is_refused():
    with pytest.raises(ValueError, match="trainable_lipschitz"):
        small(initial_factor=0.3)
    for factor in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            small(trainable_lipschitz=True, initial_factor=factor)


def test_exports_hold_plain_layers_and_trace(x):
    plain = small().export()
    assert not any(p.requires_grad for p in plain.parameters())
    assert torch.fx.symbolic_trace(plain)(x).shape == (7, 2)


@pytest.mark.parametrize(
    "spec",
    [
        *("identity", "relu", "tanh", "softplus", "sigmoid", "elu", "abs", "softsign", "hardtanh", "arctan"),
        *("sin", "silu", "gelu", "leaky_relu", "soft_threshold", "groupsort"),
        {"name": "groupsort", "size": 3},
        {"name": "averaged", "activation": {"name": "silu"}},
        {"name": "averaged", "activation": {"name": "groupsort", "size": 2}},
    ],
)
def test_torch_activations_are_twins_of_the_certified_ones(spec):
    v = torch.linspace(-30.0, 30.0, 600, dtype=torch.float64).reshape(-1, 6)
    v = v[:, torch.randperm(6, generator=torch.Generator().manual_seed(0))]
    assert np.abs(activation_module(spec)(v).numpy() - activation(spec).value(v.numpy())).max() < 1e-13


class _Louder(lipctrl.LipschitzResNet):
    def forward(self, x):
        return 10.0 * super().forward(x)


def _hooked(net):
    net.register_forward_hook(lambda m, args, y: 10.0 * y)


def _replaced(net):
    net.forward = lambda x: 10.0 * x


@pytest.mark.parametrize(("kind", "change"), [(_Louder, None), (None, _hooked), (None, _replaced)])
def test_what_runs_otherwise_than_its_fold_has_no_certificate(kind, change):
    net = (kind or lipctrl.LipschitzResNet)(2, 2, width=4)
    if change is not None:
        change(net)
    for claim in (net.certificate, net.export, lambda: lipctrl.certify(net)):
        with pytest.raises(ValueError, match="forward"):
            claim()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", "wide"),
        ("depth", None),
        ("depth", float("inf")),
        ("inner_depth", 1.5),
        ("lipschitz", None),
        ("lipschitz", "big"),
        ("activation", None),
        ("activation", torch.nn.ReLU()),
        ("activation", torch.relu),
    ],
)
def test_arguments_of_the_wrong_kind_are_named_with_what_was_expected(name, value):
    with pytest.raises(ValueError, match=f"{name} .*(expected|known)"):
        lipctrl.LipschitzResNet(2, 1, **{name: value})
