"""Training with the sketched LMI: necessary for the bound, exact when the sketch is whole, and useful."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lipctrl
from lipctrl.bounds import SketchedLMI, UnsupportedOperationError, sketched_lmi_penalty


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(3, width), nn.Linear(width, 9), nn.Linear(9, width)
        self.last = nn.Linear(width + 3, 2)

    def forward(self, x):
        h = self.first(x)
        h = h + 0.5 * self.b(F.silu(self.a(h))) - 1.0
        return self.last(torch.cat([F.leaky_relu(h, 0.2), x], -1))


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)),
    "residual": lambda: Residual(6),
    "silu": lambda: nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2)).double(),
    "last": lambda: nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Softsign()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_sketch_is_the_lmi(name):
    """With as many directions as rows, minimising over the multipliers reaches zero exactly above the LipSDP bound."""
    torch.manual_seed(0)
    net = NETWORKS[name]().double()
    bound = lipctrl.certify(net, "lipsdp").gain
    for factor, reachable in ((1.05, True), (0.95, False)):
        penalty = SketchedLMI(net, factor * bound, directions=1000)
        optimiser = torch.optim.LBFGS(
            penalty.parameters(), max_iter=300, tolerance_grad=1e-14, line_search_fn="strong_wolfe"
        )

        def closure(optimiser=optimiser, penalty=penalty):
            optimiser.zero_grad()
            value = penalty()
            value.backward(inputs=list(penalty.parameters()))
            return value

        optimiser.step(closure)
        assert (float(penalty().detach()) < 1e-9) == reachable


@pytest.mark.parametrize("name", NETWORKS)
def test_a_part_of_the_sketch_is_necessary_only(name):
    torch.manual_seed(0)
    net = NETWORKS[name]().double()
    bound = lipctrl.certify(net, "eclipse-fast").gain
    generator = torch.Generator().manual_seed(1)
    # The closed-form multipliers prove this bound, so no subspace may object.
    for _ in range(5):
        value = sketched_lmi_penalty(net, 1.0001 * bound, directions=4, generator=generator)
        assert float(value.detach()) < 1e-6
    low = lipctrl.lipschitz_lower_bound(net)
    assert float(sketched_lmi_penalty(net, 0.5 * low, directions=4, iterations=30).detach()) > 0.0


def test_training_with_it_lowers_the_certified_bound_at_nearly_equal_loss():
    def trained(bound: float | None) -> tuple[float, lipctrl.Certificate]:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
        x = 2.0 * torch.rand(256, 2, generator=generator) - 1.0
        y = torch.sin(3.0 * x[:, :1]) * torch.cos(2.0 * x[:, 1:])
        penalty = None if bound is None else SketchedLMI(net, bound, generator=generator)
        parameters = [*net.parameters(), *(() if penalty is None else penalty.parameters())]
        optimiser = torch.optim.Adam(parameters, lr=5e-3)
        loss = torch.zeros(())
        for _ in range(500):
            optimiser.zero_grad()
            loss = ((net(x) - y) ** 2).mean()
            (loss if penalty is None else loss + 0.03 * penalty()).backward()
            optimiser.step()
        return float(loss.detach()), lipctrl.certify(net, "lipsdp")

    (plain_loss, plain), (loss, cert) = trained(None), trained(4.0)
    assert lipctrl.check(cert).ok
    assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain
    assert cert.gain < 0.75 * plain.gain
    # The target has variance 0.23: one per cent of it.
    assert loss < plain_loss + 2.5e-3


def test_the_network_stays_the_callers():
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.GELU(), nn.Linear(4, 1))
    penalty = SketchedLMI(net, 0.1)
    penalty().backward()
    assert net.training
    assert all(p.grad is not None for p in (net[0].weight, net[3].weight))
    assert {id(p) for p in penalty.parameters()}.isdisjoint(id(p) for p in net.parameters())
    assert all(name.startswith("log_multipliers") for name in penalty.state_dict())


@pytest.mark.parametrize(
    ("net", "arguments", "word"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), {"lipschitz": 0.0}, "positive"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), {"lipschitz": 1.0, "directions": 0}, "directions"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), {"lipschitz": 1.0}, "LayerNorm"),
        (nn.Sequential(nn.Linear(2, 2), nn.PReLU()), {"lipschitz": 1.0}, "PReLU"),
    ],
)
def test_bad_arguments_are_named(net, arguments, word):
    with pytest.raises(ValueError, match=word):
        SketchedLMI(net, **arguments)


def test_unknown_operations_are_refused_by_name():
    with pytest.raises(UnsupportedOperationError, match="Softmax"):
        SketchedLMI(nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)), 1.0)
