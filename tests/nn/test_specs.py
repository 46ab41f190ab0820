"""Every network of lipctrl.nn says how it was built, in JSON values, and is built again from that and its weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lipctrl
from lipctrl.nn import (
    AOLLayer,
    Concat,
    Feedback,
    GershgorinBlock,
    ImplicitBlock,
    LDLTBlock,
    LipschitzResNet,
    LosslessBlock,
    Metric,
    Mix,
    OrthogonalLinear,
    Parallel,
    Recursive,
    Repeat,
    Residual,
    SandwichLayer,
    Scale,
    Sequential,
    SLLBlock,
    Sum,
    UnrolledISTA,
    specs,
)
from lipctrl.nn.specs import network_from_spec, network_spec
from lipctrl.nn.squashed import Squashed

NETWORKS = {
    "lossless": lambda: LosslessBlock(
        3, 3, lipschitz=0.7, width=4, inner_depth=2, activation="tanh", depth=2
    ),
    "gershgorin": lambda: GershgorinBlock(3, 2, lipschitz=2.0, width=4, scaled=False),
    "ldlt": lambda: LDLTBlock(3, 2, width=4, inner_depth=3),
    "sandwich": lambda: SandwichLayer(3, 3, depth=2, activation={"name": "leaky_relu", "slope": 0.2}),
    "sll": lambda: SLLBlock(3, 3, width=5, depth=2, norm="cpl"),
    "aol": lambda: AOLLayer(3, 2, activation=None),
    "linear": lambda: OrthogonalLinear(3, 2, lipschitz=3.0, bias=False),
    "implicit": lambda: ImplicitBlock(3, 2, width=4, activation="tanh"),
    "ista": lambda: UnrolledISTA(3, 2, width=4, residuals=5, iterations=3),
    "resnet": lambda: LipschitzResNet(3, 2, width=4, depth=1, parametrization="gershgorin"),
    "series": lambda: Sequential(
        OrthogonalLinear(3, 4), LosslessBlock(4, 4, width=4), OrthogonalLinear(4, 2)
    ),
    "sum": lambda: Sum(OrthogonalLinear(3, 2), OrthogonalLinear(3, 2), coefficients=[0.5, -0.25]),
    "mix": lambda: Mix(OrthogonalLinear(3, 2), LosslessBlock(3, 2, width=4)),
    "residual": lambda: Residual(LosslessBlock(3, 3, width=4)),
    "concat": lambda: Concat(OrthogonalLinear(3, 2), OrthogonalLinear(3, 1)),
    "parallel": lambda: Parallel(OrthogonalLinear(2, 2), OrthogonalLinear(1, 1)),
    "scale": lambda: Scale(OrthogonalLinear(3, 2), -1.5),
    "metric": lambda: Metric(
        OrthogonalLinear(3, 2), np.diag([1.0, 2.0, 4.0]), [[1.0, 0.5], [0.0, 1.0], [2.0, 0.0]]
    ),
    "squashed": lambda: Squashed(
        Sequential(OrthogonalLinear(3, 4), LosslessBlock(4, 2, width=4)), [-1.0, 1e6], [2.0, 1e6 + 0.125]
    ),
    "squashed within": lambda: Sequential(
        Squashed(Squashed(OrthogonalLinear(3, 2), [-1.0, -2.0], [1.0, 5.0]), [-3.0, -2.0], [1.0, 1.0]),
        OrthogonalLinear(2, 1),
    ),
    "repeat": lambda: Repeat(LosslessBlock(3, 3, width=4), 3),
    "feedback": lambda: Feedback(OrthogonalLinear(2, 2, lipschitz=0.5), OrthogonalLinear(3, 2)),
    "recursive": lambda: Recursive(
        Recursive(LosslessBlock(3, 3, width=4), 4, 4, lipschitz=0.5), 3, 2, lipschitz=1.5
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_rebuilt_from_its_spec_and_weights(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.manual_seed(1)
    again = network_from_spec(json.loads(json.dumps(network_spec(network))))
    again.load_state_dict(network.state_dict())
    x = torch.randn(7, network.in_features)
    with torch.no_grad():
        assert torch.equal(again(x), network(x))
    assert again.certificate().gain == network.certificate().gain
    assert network_spec(again) == network_spec(network)


def test_the_table_names_every_network():
    public = {
        getattr(lipctrl.nn, name)
        for name in lipctrl.nn.__all__
        if isinstance(getattr(lipctrl.nn, name), type)
    }
    networks = {kind for kind in public if issubclass(kind, lipctrl.nn.CertifiedModule)}
    assert networks - {lipctrl.nn.CertifiedModule, LipschitzResNet} == set(specs._ARGUMENTS)
    assert {type(make()) for make in NETWORKS.values()} == (networks | {Squashed}) - {
        lipctrl.nn.CertifiedModule
    }


def test_what_changed_after_the_constructor_is_in_the_spec():
    network = Scale(LosslessBlock(2, 2, width=4), 0.5)
    network.factor, network.blocks[0].lipschitz = 0.25, 3.0
    again = network_from_spec(network_spec(network))
    assert (again.factor, again.blocks[0].lipschitz) == (0.25, 3.0)


def test_what_a_folder_cannot_say_is_refused():
    class Own(LosslessBlock):
        pass

    with pytest.raises(TypeError, match="a Own has no spec; expected a network of lipctrl"):
        network_spec(Sequential(Own(2, 2, width=4)))
    shared = LosslessBlock(2, 2, width=4)
    with pytest.raises(TypeError, match="more than one place"):
        network_spec(Sum(shared, Residual(shared)))
    honest = network_spec(Scale(OrthogonalLinear(2, 2), 2.0))
    for wrong in (
        {**honest, "network": "CertifiedModule"},
        {**honest, "network": ["Scale"]},
        {**honest, "extra": 1},
        {k: v for k, v in honest.items() if k != "factor"},
    ):
        with pytest.raises(ValueError, match="expected what network_spec"):
            network_from_spec(wrong)


@pytest.mark.parametrize("algorithm", ["apg", "ppo", "imitation"])
def test_hierarchical_blocks_are_trained_stored_and_loaded(algorithm, tmp_path):
    torch.manual_seed(0)
    inner = Recursive(LosslessBlock(3, 3, width=4), 4, 4)
    network = Sequential(
        OrthogonalLinear(2, 4), Mix(inner, Residual(Scale(inner_block(), 0.5))), OrthogonalLinear(4, 1)
    )
    policy = lipctrl.ResidualPolicy([[15.0, 5.0]], Scale(network, 0.5), observation_scale=[1.0, 2.0])
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    settings = {"environments": 2, "horizon": 8} if algorithm != "imitation" else {"environments": 2}
    kind = {"apg": lipctrl.training.APGConfig, "ppo": lipctrl.training.PPOConfig}.get(
        algorithm, lipctrl.training.ImitationConfig
    )
    if algorithm == "ppo":
        settings["minibatches"] = 2
    schedule = lipctrl.runs.Schedule(validation_episodes=1, evaluation_episodes=1)
    run = lipctrl.train(
        "lipctrl/Pendulum-v0",
        policy,
        algorithm,
        64,
        out=tmp_path / "run",
        config=kind(**settings),
        schedule=schedule,
        progress=False,
    )
    assert lipctrl.check(run.certificate).ok
    loaded = lipctrl.load_run(tmp_path / "run").policy
    y = torch.randn(5, 2)
    with torch.no_grad():
        assert torch.equal(loaded(y), run.policy(y))
    # The start may remain the best; that training took place is in its last checkpoint.
    last = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert any(
        name.endswith(key) and not torch.equal(value.float(), before[key].float())
        for name, value in last.items()
        for key in before
        if value.shape == before[key].shape
    )
    longer = lipctrl.train(
        "lipctrl/Pendulum-v0", None, algorithm, 128, out=tmp_path / "run", resume=True, progress=False
    )
    assert lipctrl.check(longer.certificate).ok


def inner_block():
    return SLLBlock(4, 4, width=4)


def test_a_squashed_composition_is_trained_stored_and_loaded(tmp_path):
    torch.manual_seed(0)
    inner = Sequential(OrthogonalLinear(2, 3), LosslessBlock(3, 1, width=4, lipschitz=4.0))
    policy = lipctrl.LipschitzPolicy(Squashed(inner, [-2.0], [3.0]))
    few = {"schedule": lipctrl.runs.Schedule(validation_episodes=1, evaluation_episodes=1), "progress": False}
    settings = lipctrl.training.PPOConfig(environments=2, horizon=8)
    run = lipctrl.train(
        "lipctrl/Pendulum-v0", policy, "ppo", 32, out=tmp_path / "run", config=settings, **few
    )
    loaded = lipctrl.load_run(tmp_path / "run").policy
    y = torch.randn(5, 2)
    assert torch.equal(loaded(y), run.policy(y))
    assert loaded.certificate().gain == run.certificate.gain <= 4.0 * (1.0 + 1e-3)
