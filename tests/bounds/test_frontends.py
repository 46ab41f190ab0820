"""Front ends: what is read is what runs, and what has no rule is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lipctrl
from lipctrl.bounds import UnsupportedOperationError, read_network


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, hidden), nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return x + 0.3 * self.b(F.relu(self.a(x)))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(10, 4)
        self.register_buffer("k", torch.tensor([1.0, 2.0, -3.0, 0.1]))

    def forward(self, x):
        h = torch.cat([torch.tanh(self.a(x)), x], -1)
        u, v = self.b(h).chunk(2, -1)
        return torch.cat([v - 1.0, -u], dim=-1) / 2 + self.k * x[..., 0:4] - self.k


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_features = 4
        self.w = nn.Parameter(torch.randn(5, 4))
        self.v = nn.Parameter(torch.randn(5, 2))

    def forward(self, x):
        h = F.leaky_relu(F.linear(x, self.w), 0.2)
        h = F.dropout(h, 0.5, training=self.training)
        h = torch.add(h, F.softplus(h), alpha=0.5).sigmoid()
        return torch.flatten(h @ self.v, 1)


MODULES = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
    "resnet": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), Block(6, 9), nn.SiLU(), Block(6, 9), nn.Linear(6, 2)
    ),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 8, bias=False), nn.GELU(), nn.Linear(8, 3, bias=False)),
    "dropout": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.Dropout(0.9), nn.ELU(), nn.Identity(), nn.Linear(8, 3)
    ),
    "linear twice": lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Softsign(), nn.Linear(8, 3)),
    "branches": Branches,
    "functional": Functional,
    "activation last": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
    "activation first": lambda: nn.Sequential(nn.Hardtanh(), nn.Linear(4, 3), nn.Softshrink(0.2)),
    "linear": lambda: nn.Linear(4, 2),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_read_as_it_runs(name):
    torch.manual_seed(3)
    net = MODULES[name]()
    cert = lipctrl.certify(net)
    assert lipctrl.check(cert).ok
    assert net.training
    x = torch.randn(64, cert.in_features, dtype=torch.float64)
    expected = net.double().eval()(x).detach().numpy()
    assert np.allclose(cert.evaluate(x.numpy()), expected, atol=1e-10, rtol=1e-10)
    assert lipctrl.lipschitz_lower_bound(net, seed=2) <= cert.gain
    product = lipctrl.certify(net.float(), "product")
    assert product.gain >= lipctrl.lipschitz_lower_bound(product)
    assert np.allclose(product.evaluate(x.numpy()), expected, atol=1e-5)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)

    def forward(self, x):
        return x * self.a(x)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.function = nn.Linear(2, 2), function

    def forward(self, x):
        return self.function(self.a(x))


class Scaled(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


class Cat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 3), nn.Parameter(torch.ones(1, 7))
        self.register_buffer("slope", torch.tensor([0.3]))

    def forward(self, x):
        h = torch.cat((F.relu6(self.a(x)), x.clamp(-0.5, 0.25)), dim=1)
        return torch.sub(h, self.c) * 0.5 + F.prelu(h, self.slope) + torch.clamp(h, min=0)


def _shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.ReLU(), layer)


def _normalised() -> nn.Module:
    net = nn.Sequential(
        nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 2)
    )
    for _ in range(5):
        net(3.0 * torch.randn(50, 4) + 1.0)
    return net.eval()


def _stale(normalise) -> nn.Module:
    """A weight whose stored copy is older than its parameters, as after a step of an optimiser."""
    net = nn.Sequential(normalise(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2))
    net(torch.randn(3, 4))
    with torch.no_grad():
        for p in net[0].parameters():
            p.mul_(1.7)
    return net.eval()


MATRIX = {
    "shared weights": _shared,
    "batch norm": _normalised,
    "subclassed linear": lambda: nn.Sequential(Scaled(4, 3), nn.ReLU(), nn.Linear(3, 2)),
    "old weight norm": lambda: _stale(nn.utils.weight_norm),
    "old spectral norm": lambda: _stale(nn.utils.spectral_norm),
    "weight norm": lambda: _stale(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: _stale(nn.utils.parametrizations.spectral_norm),
    "orthogonal": lambda: nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.ReLU()),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(4, 3)), nn.Identity()), nn.Tanh()),
    "functional": Cat,
    "prelu": lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(3, 0.4), nn.Linear(3, 2)),
    "prelu steep": lambda: nn.Sequential(nn.PReLU(init=-1.5), nn.Linear(4, 2)),
    "relu6": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.Linear(3, 2)),
    "elu": lambda: nn.Sequential(nn.Linear(4, 3), nn.ELU(2.5), nn.ELU(0.25), nn.Linear(3, 2)),
    "log sigmoid": lambda: nn.Sequential(nn.Linear(4, 3), nn.LogSigmoid(), nn.Tanhshrink(), nn.Linear(3, 2)),
    "float64": lambda: nn.Sequential(nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 2)).double(),
    "half": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).half(),
    "leaky": lambda: nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(1.5), nn.LeakyReLU(-0.2), nn.Linear(3, 2)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:.*deprecated.*:FutureWarning")
@pytest.mark.parametrize("name", MATRIX)
def test_what_other_people_bring_is_read_as_it_runs(name):
    torch.manual_seed(0)
    net = MATRIX[name]()
    training = [part.training for part in net.modules()]
    certs = [lipctrl.certify(net, method) for method in ("lipsdp", "eclipse-fast", "product")]
    certs.append(lipctrl.certify(net, region=(-0.5, 0.75)))
    assert [part.training for part in net.modules()] == training
    x = torch.randn(64, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = net.eval().double()(x).numpy()
    for cert in certs:
        assert lipctrl.check(cert).ok
        assert np.allclose(cert.evaluate(x.numpy()), expected, atol=1e-6, rtol=1e-6)
        assert lipctrl.lipschitz_lower_bound(cert, region=cert.region) <= cert.gain


def test_convolutions_are_certified_when_their_input_has_a_shape():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.PReLU(3), nn.Flatten(), nn.Linear(6, 2)),
    )
    net(torch.randn(20, 2, 8, 4))
    net.eval()
    cert = lipctrl.certify(net, input_shape=(2, 8, 4))
    assert lipctrl.check(cert).ok
    x = torch.randn(9, 2, 8, 4, dtype=torch.float64)
    with torch.no_grad():
        assert np.allclose(cert.evaluate(x.reshape(9, -1).numpy()), net.double()(x).numpy(), atol=1e-6)
    assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain
    line = nn.Sequential(nn.Conv1d(1, 2, 3, groups=1, dilation=2), nn.Tanh(), nn.Conv1d(2, 1, 2, bias=False))
    cert = lipctrl.certify(line, "product", input_shape=(1, 9))
    x = torch.randn(5, 1, 9, dtype=torch.float64)
    with torch.no_grad():
        assert np.allclose(cert.evaluate(x[:, 0].numpy()), line.double()(x).flatten(1).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "shape", "word"),
    [
        (lambda: nn.Sequential(nn.Conv1d(1, 1, 2), nn.ReLU()), None, "input_shape"),
        (lambda: nn.Sequential(nn.Conv1d(1, 1, 2), nn.Linear(3, 2)), (1, 4), "flatten"),
        (lambda: nn.Sequential(nn.Conv1d(3, 1, 2), nn.ReLU()), (1, 4), "Conv1d"),
        (lambda: nn.Sequential(nn.Conv1d(1, 1, 2, padding=1, padding_mode="circular")), (1, 4), "circular"),
        (lambda: nn.Sequential(nn.Conv2d(1, 64, 3)), (1, 200, 200), "too large"),
        (lambda: nn.Sequential(nn.Conv1d(1, 1, 2), nn.MaxPool1d(2)), (1, 4), "MaxPool1d"),
        (lambda: nn.Sequential(nn.Conv1d(1, 1, 2), nn.GroupNorm(1, 1)), (1, 4), "GroupNorm"),
    ],
)
def test_what_has_no_matrix_is_refused(make, shape, word):
    with pytest.raises(UnsupportedOperationError, match=word):
        lipctrl.certify(make(), input_shape=shape)


def test_hooks_and_replaced_forwards_are_refused():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    handle = net[1].register_forward_hook(lambda m, args, y: 3.0 * y)
    with pytest.raises(UnsupportedOperationError, match="hook"):
        lipctrl.certify(net)
    handle.remove()
    net[0].forward = lambda x: x * x
    with pytest.raises(UnsupportedOperationError, match="replaced"):
        lipctrl.certify(net)


def test_a_foreign_module_does_not_name_its_own_activation():
    """An attribute called spec is no evidence of what a module computes."""

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spec = {"name": "relu"}

        def forward(self, x):
            return torch.exp(x)

    with pytest.raises(UnsupportedOperationError, match="exp"):
        lipctrl.certify(nn.Sequential(nn.Linear(2, 2), Steep()))


REFUSED = {
    "Conv1d": lambda: nn.Sequential(nn.Linear(2, 2), nn.Conv1d(1, 1, 1)),
    "Conv2d": lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(2, 2)),
    "BatchNorm1d": lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
    "LayerNorm": lambda: nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)),
    "Softmax": lambda: nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)),
    "Bilinear": lambda: nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2)),
    "GELU": lambda: nn.Sequential(nn.Linear(2, 2), nn.GELU(approximate="tanh")),
    "Softplus": lambda: nn.Sequential(nn.Linear(2, 2), nn.Softplus(threshold=1.0)),
    "MaxPool1d": lambda: nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d(2)),
    "Hardswish": lambda: nn.Sequential(nn.Linear(2, 2), nn.Hardswish()),
    "Mish": lambda: nn.Sequential(nn.Linear(2, 2), nn.Mish()),
    "GLU": lambda: nn.Sequential(nn.Linear(2, 2), nn.GLU()),
    "GroupNorm": lambda: nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2)),
    "Embedding": lambda: nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2)),
    "LSTM": lambda: nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)),
    "TransformerEncoderLayer": lambda: nn.Sequential(nn.Linear(2, 2), nn.TransformerEncoderLayer(2, 1, 4)),
    "RReLU": lambda: nn.Sequential(nn.Linear(2, 2), nn.RReLU()),
    "ConvTranspose1d": lambda: nn.Sequential(nn.ConvTranspose1d(1, 1, 1), nn.Linear(2, 2)),
    "gt": lambda: Call(lambda v: torch.where(v > 0, v, 2 * v)),
    "maximum": lambda: Call(lambda v: torch.maximum(v, v + 1.0)),
    "sqrt": lambda: Call(torch.sqrt),
    "clamp": lambda: Call(lambda v: v.clamp(max=v.abs())),
    "layer_norm": lambda: Call(lambda v: F.layer_norm(v, (2,))),
    "mul": Product,
    "Branching": Branching,
    "exp": lambda: Call(torch.exp),
    "norm": lambda: Call(torch.norm),
    "softmax": lambda: Call(lambda v: F.softmax(v, -1)),
    "pow": lambda: Call(lambda v: v**2),
    "flatten": lambda: Call(lambda v: torch.flatten(v)),
    "dropout": lambda: Call(lambda v: F.dropout(v, 0.5)),
    "getitem": lambda: Call(lambda v: v[0]),
    "cat": lambda: Call(lambda v: torch.cat([v, v], 0)),
    "truediv": lambda: Call(lambda v: 1.0 / v),
    "transpose": lambda: Call(lambda v: v.transpose(0, 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operation_without_a_rule_is_refused_by_name(name):
    with pytest.raises(UnsupportedOperationError, match=name):
        lipctrl.certify(REFUSED[name]())


def test_lipctrl_networks_bring_their_own_certificate_or_are_bounded_anew():
    torch.manual_seed(0)
    net = lipctrl.LipschitzResNet(3, 2, lipschitz=2.0, width=8, depth=2)
    assert lipctrl.certify(net).digest == net.certificate().digest
    for method in ("product", "eclipse-fast", "lipsdp"):
        cert = lipctrl.certify(net.export(), method)
        assert lipctrl.check(cert).ok
        assert cert.gain >= lipctrl.lipschitz_lower_bound(net)
    assert cert.gain <= net.certificate().gain * (1 + 1e-5)
    x = torch.randn(16, 3)
    assert np.allclose(cert.evaluate(x.numpy()), net(x).detach().numpy(), atol=1e-5)
    assert lipctrl.certify(net, region=(-0.1, 0.1)).gain <= 2.0 * (1 + 1e-5)


def test_layers_and_safetensors_agree_with_torch(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = nn.Sequential(*(m for i in range(11) for m in (nn.Linear(3, 3), nn.Tanh()))).append(nn.Linear(3, 2))
    save_file(net.state_dict(), tmp_path / "n.safetensors")
    cert = lipctrl.certify(tmp_path / "n.safetensors", "eclipse-fast", activation="tanh")
    x = torch.randn(9, 3, dtype=torch.float64)
    assert np.allclose(cert.evaluate(x.numpy()), net.double()(x).detach().numpy(), atol=1e-12)
    save_file({"conv.weight": torch.zeros(2, 2, 3)}, tmp_path / "bad.safetensors")
    with pytest.raises(UnsupportedOperationError, match=r"conv\.weight"):
        lipctrl.certify(tmp_path / "bad.safetensors", activation="relu")
    with pytest.raises(ValueError, match=r"\.onnx"):
        lipctrl.certify(tmp_path / "n.pickle")


class TestOnnx:
    def save(self, path, nodes, initializers, features: int = 3):
        onnx = pytest.importorskip("onnx")
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, ["n", features])],
            [helper.make_tensor_value_info("y", kind, None)],
            [onnx.numpy_helper.from_array(np.float32(v), k) for k, v in initializers.items()],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path)
        )
        return path

    def test_a_residual_graph_is_read_as_onnxruntime_runs_it(self, tmp_path):
        helper = pytest.importorskip("onnx").helper
        runtime = pytest.importorskip("onnxruntime")
        rng = np.random.default_rng(0)
        nodes = [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
            helper.make_node("LeakyRelu", ["h"], ["r"], alpha=0.25),
            helper.make_node("MatMul", ["r", "v"], ["m"]),
            helper.make_node("Add", ["m", "c"], ["a"]),
            helper.make_node("Add", ["a", "x"], ["s"]),
            helper.make_node("Mul", ["s", "k"], ["p"]),
            helper.make_node("Concat", ["p", "x"], ["y"], axis=-1),
        ]
        arrays = {"w": rng.normal(size=(5, 3)), "b": rng.normal(size=5), "v": rng.normal(size=(5, 3))}
        arrays |= {"c": rng.normal(size=3), "k": np.array(0.5)}
        path = self.save(tmp_path / "m.onnx", nodes, arrays)
        cert = lipctrl.certify(path)
        x = rng.normal(size=(7, 3)).astype(np.float32)
        (y,) = runtime.InferenceSession(str(path)).run(None, {"x": x})
        assert np.allclose(cert.evaluate(x), y, atol=1e-5)
        assert lipctrl.check(cert).ok

    def test_normalisations_and_clips_are_read_as_onnxruntime_runs_them(self, tmp_path):
        helper = pytest.importorskip("onnx").helper
        runtime = pytest.importorskip("onnxruntime")
        rng = np.random.default_rng(0)
        nodes = [
            helper.make_node("BatchNormalization", ["x", "g", "h", "m", "v"], ["n"], epsilon=1e-3),
            helper.make_node("Gemm", ["n", "w"], ["a"], alpha=0.5),
            helper.make_node("Clip", ["a", "low", "high"], ["c"]),
            helper.make_node("PRelu", ["a", "s"], ["p"]),
            helper.make_node("Elu", ["p"], ["e"], alpha=0.4),
            helper.make_node("Sub", ["e", "c"], ["y"]),
        ]
        arrays = {k: rng.normal(size=3) for k in "ghms"} | {"v": rng.uniform(0.5, 2.0, 3)}
        arrays |= {"w": rng.normal(size=(3, 3)), "low": np.array(-0.25), "high": np.array(6.0)}
        path = self.save(tmp_path / "m.onnx", nodes, arrays)
        cert = lipctrl.certify(path)
        x = rng.normal(size=(50, 3)).astype(np.float32)
        (y,) = runtime.InferenceSession(str(path)).run(None, {"x": x})
        assert np.allclose(cert.evaluate(x), y, atol=1e-5)
        assert lipctrl.check(cert).ok
        assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain

    def test_gates_and_one_sided_clips_are_read_as_onnxruntime_runs_them(self, tmp_path):
        helper = pytest.importorskip("onnx").helper
        runtime = pytest.importorskip("onnxruntime")
        rng = np.random.default_rng(0)
        nodes = [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
            helper.make_node("Sigmoid", ["h"], ["s"]),
            helper.make_node("Mul", ["h", "s"], ["u"]),
            helper.make_node("Clip", ["u", "low"], ["p"]),
            helper.make_node("Clip", ["h", "", "high"], ["q"]),
            helper.make_node("Add", ["p", "q"], ["y"]),
        ]
        arrays = {
            "w": rng.normal(size=(3, 3)),
            "b": rng.normal(size=3),
            "low": np.array(-0.1),
            "high": np.array(0.4),
        }
        path = self.save(tmp_path / "m.onnx", nodes, arrays)
        cert = lipctrl.certify(path)
        x = rng.normal(size=(50, 3)).astype(np.float32)
        (y,) = runtime.InferenceSession(str(path)).run(None, {"x": x})
        assert np.allclose(cert.evaluate(x), y, atol=1e-5)
        assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain

    @pytest.mark.parametrize(
        ("kind", "inputs"),
        [("Clip", ["x", "zero", "x"]), ("Mul", ["x", "x"]), ("Clip", ["x", "one", "zero"])],
    )
    def test_products_and_moving_ends_are_refused(self, tmp_path, kind, inputs):
        helper = pytest.importorskip("onnx").helper
        nodes = [helper.make_node(kind, inputs, ["y"])]
        path = self.save(tmp_path / "m.onnx", nodes, {"zero": np.array(0.0), "one": np.array(1.0)})
        with pytest.raises(UnsupportedOperationError, match=kind):
            lipctrl.certify(path)

    @pytest.mark.parametrize("kind", ["Softmax", "Exp", "LayerNormalization", "Conv", "ReduceSum"])
    def test_unknown_operators_are_refused_by_name(self, tmp_path, kind):
        helper = pytest.importorskip("onnx").helper
        path = self.save(tmp_path / "m.onnx", [helper.make_node(kind, ["x", "w"], ["y"])], {"w": np.eye(3)})
        with pytest.raises(UnsupportedOperationError, match=kind):
            lipctrl.certify(path)


class TestPeerDefects:
    """Mistakes that published tools make on other people's networks, each one a test here."""

    def test_residual_connections_count(self):
        """A tool that collects nn.Linear only certified 0.07 for a residual network of gain 1."""
        net = Block(4, 4)
        for p in net.parameters():
            nn.init.constant_(p, 0.01)
        cert = lipctrl.certify(net)
        assert cert.gain >= lipctrl.lipschitz_lower_bound(net) >= 1.0 - 1e-6

    def test_silu_is_steeper_than_one(self):
        net = nn.Sequential(nn.Linear(1, 1), nn.SiLU())
        nn.init.constant_(net[0].weight, 1.0)
        for method in ("product", "eclipse-fast", "lipsdp"):
            assert lipctrl.certify(net, method).gain >= 1.0998

    def test_layers_without_bias(self):
        cert = lipctrl.certify(
            nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
        )
        assert lipctrl.check(cert).ok

    def test_a_fallback_is_announced(self, monkeypatch):
        from lipctrl.bounds import methods
        from lipctrl.bounds.barrier import SolverError

        def broken(*_args, **_keywords):
            raise SolverError("no progress")

        monkeypatch.setattr(methods, "solve", broken)
        layers = [np.eye(2), np.eye(2)]
        cert = lipctrl.certify(layers, activation="relu")
        assert cert.note["failed"] == {"lipsdp": "no progress"}
        assert cert.note["method"] == "eclipse-fast"
        with pytest.raises(SolverError, match="no progress"):
            lipctrl.certify(layers, "lipsdp", activation="relu")

    def test_multipliers_that_couple_neurons_are_not_believed(self):
        """LipSDP's "network" form adds λ_ij(e_i - e_j)(e_i - e_j)ᵀ and is unsound: its bound fails on this network."""
        rng = np.random.default_rng(0)
        for seed in range(20):
            w1, w2 = rng.standard_normal((4, 2)), rng.standard_normal((1, 4))
            cert = lipctrl.certify([w1, w2], "lipsdp", activation="relu")
            assert lipctrl.lipschitz_lower_bound(cert, seed=seed) <= cert.gain
            assert set(cert.witness) == {"multiplier1"}

    def test_norms_are_not_bounded_by_unfinished_power_iteration(self):
        """Nearly equal singular values: a few power steps from a bad start report too little."""
        rng = np.random.default_rng(0)
        q, _ = np.linalg.qr(rng.standard_normal((50, 50)))
        p, _ = np.linalg.qr(rng.standard_normal((50, 50)))
        w = q @ np.diag(np.concatenate([[1.0], np.full(49, 0.999)])) @ p
        assert lipctrl.certify([w]).gain >= 1.0
        assert lipctrl.certify([w]).gain <= 1.0 + 1e-9


class TestLowerBound:
    def test_it_finds_the_norm_of_linear_maps(self):
        torch.manual_seed(0)
        net = nn.Linear(20, 10)
        norm = np.linalg.norm(net.weight.detach().double().numpy(), 2)
        assert lipctrl.lipschitz_lower_bound(net) == pytest.approx(norm, rel=1e-4)
        assert lipctrl.lipschitz_lower_bound(lipctrl.certify(net)) == pytest.approx(norm, rel=1e-4)

    def test_it_finds_a_steep_place(self):
        """tanh(8 x): the slope 8 is attained near zero only."""
        net = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
        nn.init.constant_(net[0].weight, 8.0)
        nn.init.constant_(net[0].bias, 0.0)
        assert lipctrl.lipschitz_lower_bound(net) > 7.5
        assert lipctrl.lipschitz_lower_bound(net, region=(2.0, 3.0)) < 1e-6

    def test_it_is_reproducible_and_leaves_the_module_alone(self):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        before = [p.clone() for p in net.parameters()]
        assert lipctrl.lipschitz_lower_bound(net, seed=4) == lipctrl.lipschitz_lower_bound(net, seed=4)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        assert all(p.requires_grad for p in net.parameters())
        assert net[0].weight.dtype == torch.float32

    def test_what_it_cannot_read_is_named(self):
        with pytest.raises(TypeError, match="float"):
            lipctrl.lipschitz_lower_bound(3.0)
        with pytest.raises(ValueError, match="region"):
            lipctrl.lipschitz_lower_bound(nn.Linear(2, 2), region=(1.0, 0.0))


def test_neutral_networks_report_their_size():
    net = read_network([np.ones((5, 3)), np.ones((4, 5)), np.ones((2, 4))], "relu")
    assert (net.in_features, net.out_features, net.neurons) == (3, 2, 9)


def _called(forward) -> nn.Module:
    """A module with two Linear layers and a convolution, that runs `forward(self, x)`."""

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 2), nn.Conv1d(1, 2, 3)

        def forward(self, x):
            return forward(self, x)

    torch.manual_seed(0)
    return Called().double()


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.b(F.relu(s.a(x.view(x.size(0), -1)))),
        lambda s, x: s.b(F.relu(s.a(x)).reshape(x.shape[0], 6)),
        lambda s, x: s.b(torch.reshape(F.relu(s.a(x)), (-1, 6))) * x.shape[-1],
        lambda s, x: s.b(s.c(s.a(x).view(x.size(0), 1, 6)).view(x.size(0), -1)[:, 0:6]),
        lambda s, x: s.b(F.selu(s.a(x))),
        lambda s, x: s.b(F.celu(s.a(x), 0.7)),
        lambda s, x: s.b(F.softplus(s.a(x), beta=3.0)),
        lambda s, x: s.b(F.logsigmoid(s.a(x)) + F.tanhshrink(s.a(x))),
        lambda s, x: s.b(s.a(x).clamp(min=0.3)),
        lambda s, x: (lambda v: s.b(v * torch.sigmoid(v) + torch.sigmoid(v) * v))(s.a(x)),
        lambda s, x: s.b(torch.clamp_max(s.a(x), 0.3)),
    ],
)
def test_reshapes_and_composed_activations_are_read_as_they_run(forward):
    net = _called(forward)
    certificate = lipctrl.certify(net)
    x = torch.randn(20, 4, dtype=torch.float64)
    assert np.allclose(certificate.evaluate(x.numpy()), net(x).detach().numpy(), atol=1e-12)
    assert lipctrl.check(certificate).ok
    assert lipctrl.lipschitz_lower_bound(net) <= certificate.gain


@pytest.mark.parametrize(
    ("forward", "word"),
    [
        (lambda s, x: s.b(s.a(x).view(3, -1)), "view"),
        (lambda s, x: s.b(s.a(x).view(-1, 3)), "view"),
        (lambda s, x: s.b(s.a(x).view(x.size(1), x.size(0))), "view"),
        (lambda s, x: s.b(s.a(x)) * x.size(0), "batch"),
        (lambda s, x: s.b(s.a(x) * torch.sigmoid(s.a(x) + 1e-3)), "mul"),
        (lambda s, x: s.b(s.a(x) * torch.sigmoid(-s.a(x))), "mul"),
        (lambda s, x: s.b(s.a(x)) / -x.size(0), "batch"),
        (lambda s, x: s.b(s.a(x).to(x.dtype)), "getattr"),
    ],
)
def test_what_mixes_or_counts_samples_is_refused(forward, word):
    with pytest.raises(UnsupportedOperationError, match=word):
        lipctrl.certify(_called(forward))


def test_a_concatenation_of_tensors_is_one_of_channels_only():
    """Along the last axis the numbers of flattened samples interleave: reading it as stacking is another map."""
    x = torch.randn(5, 1, 6, dtype=torch.float64)
    for parts in (lambda s, x: [s.c(x), s.c(x)], lambda s, x: [s.c(x)] * 2):
        along = _called(lambda s, x, parts=parts: torch.cat(parts(s, x), 1).flatten(1))
        certificate = lipctrl.certify(along, input_shape=(1, 6))
        got = certificate.evaluate(x.numpy().reshape(5, -1))
        assert np.allclose(got, along(x).detach().numpy(), atol=1e-12)
        across = _called(lambda s, x, parts=parts: torch.cat(parts(s, x), -1).flatten(1))
        with pytest.raises(UnsupportedOperationError, match="shapes"):
            lipctrl.certify(across, input_shape=(1, 6))
