"""What has no rule is refused by name, before any number is returned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lipctrl
from lipctrl.bounds import UnsupportedOperationError
from tests.bounds.modules import called


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
        lipctrl.certify(called(forward))


def test_a_concatenation_of_tensors_is_one_of_channels_only():
    """Along the last axis the numbers of flattened samples interleave: reading it as stacking is another map."""
    x = torch.randn(5, 1, 6, dtype=torch.float64)
    for parts in (lambda s, x: [s.c(x), s.c(x)], lambda s, x: [s.c(x)] * 2):
        along = called(lambda s, x, parts=parts: torch.cat(parts(s, x), 1).flatten(1))
        certificate = lipctrl.certify(along, input_shape=(1, 6))
        got = certificate.evaluate(x.numpy().reshape(5, -1))
        assert np.allclose(got, along(x).detach().numpy(), atol=1e-12)
        across = called(lambda s, x, parts=parts: torch.cat(parts(s, x), -1).flatten(1))
        with pytest.raises(UnsupportedOperationError, match="shapes"):
            lipctrl.certify(across, input_shape=(1, 6))
