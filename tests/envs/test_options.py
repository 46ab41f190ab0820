"""Delay, saturation, noise, randomisation and disturbances: options of every plant."""

from __future__ import annotations

import math
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch

from lipctrl_envs import CartPole, Pendulum, Plant, TorchVectorEnv, plant_class, plant_names

NAMES = plant_names()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("delay", [1, 3])
def test_a_delayed_actuator_applies_each_command_late(name, delay):
    plain, late = plant_class(name)(), plant_class(name)(delay=delay)
    rng = torch.Generator().manual_seed(0)
    n = plain.state_size
    state = plain.initial_state(2, rng, dtype=torch.float64)
    queued = torch.cat([state, torch.zeros(2, late.state_size - n, dtype=torch.float64)], dim=-1)
    limit = torch.as_tensor(plain.action_limit)
    commands = (torch.rand((6, 2, plain.action_size), generator=rng, dtype=torch.float64) - 0.5) * 3 * limit
    applied = torch.cat([torch.zeros(delay, 2, plain.action_size, dtype=torch.float64), commands])
    for command, effect in zip(commands, applied[: len(commands)], strict=True):
        state, queued = plain.transition(state, effect), late.transition(queued, command)
        torch.testing.assert_close(queued[:, :n], state)
        torch.testing.assert_close(late.observe(queued), plain.observe(state))


@pytest.mark.parametrize("name", NAMES)
def test_commands_beyond_the_limit_do_what_the_limit_does(name):
    plant = plant_class(name)()
    state = plant.initial_state(3, torch.Generator().manual_seed(1), dtype=torch.float64)
    limit = torch.as_tensor(plant.action_limit).expand(3, -1)
    torch.testing.assert_close(plant.transition(state, 10 * limit), plant.transition(state, limit))
    torch.testing.assert_close(plant.transition(state, -10 * limit), plant.transition(state, -limit))
    assert not torch.equal(plant.transition(state, limit), plant.transition(state, 0.9 * limit))


def test_an_infinite_limit_never_saturates():
    plant = Pendulum(action_limit=math.inf)
    action = torch.tensor([[1e3]])
    assert torch.equal(plant.saturate(action), action)


def test_limits_may_differ_from_action_to_action():
    plant = plant_class("PlanarQuadrotor")(action_limit=(1.0, 2.0))
    found = plant.saturate(torch.tensor([[5.0, -5.0]]))
    assert found.tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize("name", NAMES)
def test_randomised_parameters_act_as_a_plant_built_with_them(name):
    nominal = plant_class(name)()
    for parameter in nominal.parameter_units:
        value = getattr(nominal, parameter)
        factors = torch.tensor([0.8, 1.0, 1.2], dtype=torch.float64)
        rng = torch.Generator().manual_seed(2)
        state = nominal.initial_state(3, rng, dtype=torch.float64)
        action = torch.as_tensor(nominal.action_limit).expand(3, -1) * 0.3
        push = torch.ones(3, len(nominal.disturbances), dtype=torch.float64)
        together = nominal.transition(state, action, push, {parameter: factors * value})
        for k, factor in enumerate(factors):
            alone = plant_class(name)(**{parameter: float(factor) * value})
            torch.testing.assert_close(together[k], alone.transition(state[k], action[k], push[k]))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_matters(name):
    nominal = plant_class(name)()
    rng = torch.Generator().manual_seed(3)
    state = nominal.initial_state(4, rng, dtype=torch.float64)
    state = state + 0.3 * torch.rand(state.shape, generator=rng, dtype=torch.float64)
    action = torch.as_tensor(nominal.action_limit).expand(4, -1) * 0.3
    reference = nominal.transition(state, action)
    for parameter in nominal.parameter_units:
        changed = plant_class(name)(**{parameter: 1.1 * getattr(nominal, parameter)})
        assert not torch.allclose(changed.transition(state, action), reference, rtol=0, atol=1e-12), parameter


@pytest.mark.parametrize("name", NAMES)
def test_every_disturbance_pushes(name):
    plant = plant_class(name)()
    state, action = plant.equilibrium()
    for k in range(len(plant.disturbances)):
        push = torch.zeros(len(plant.disturbances), dtype=torch.float64)
        push[k] = 1.0
        assert float((plant.transition(state, action, push) - state).abs().max()) > 1e-8


def test_samples_have_the_stated_spread():
    plant = CartPole(
        disturbance=(2.0, 0.0), observation_noise=(0.1, 0.2, 0.0, 0.3), randomization={"pole_mass": 0.4}
    )
    rng = torch.Generator().manual_seed(0)
    push = plant.sample_disturbance(50_000, rng)
    assert push.std(dim=0).tolist() == pytest.approx([2.0, 0.0], abs=0.03)
    noise = plant.sample_noise(50_000, rng)
    assert noise.std(dim=0).tolist() == pytest.approx([0.1, 0.2, 0.0, 0.3], abs=0.005)
    mass = plant.sample_parameters(50_000, rng)["pole_mass"]
    assert float(mass.min()) == pytest.approx(0.06, abs=1e-4)
    assert float(mass.max()) == pytest.approx(0.14, abs=1e-4)
    quiet = Pendulum(disturbance=0.0)
    assert (
        quiet.sample_disturbance(3, rng)
        is quiet.sample_noise(3, rng)
        is quiet.sample_parameters(3, rng)
        is None
    )


def test_noise_reaches_the_observation_and_not_the_state():
    for env in (
        TorchVectorEnv("Pendulum", 2, observation_noise=0.5, disturbance=0.0, dtype="float64"),
        gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0", observation_noise=0.5, disturbance=0.0).unwrapped,
    ):
        observation, _ = env.reset(seed=0)
        assert np.abs(np.asarray(observation) - env._state.numpy()).max() > 0.01
        start = env._state.clone()
        action = np.zeros(env.action_space.shape, dtype=np.float32)
        env.step(action)
        torch.testing.assert_close(
            env._state, env.plant.transition(start, torch.zeros(len(start), 1).double())
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mass": 0.0}, r"mass \[kg\] must be positive"),
        ({"mass": math.nan}, "mass"),
        ({"damping": -1.0}, "not negative"),
        ({"dt": 0.0}, "dt"),
        ({"delay": -1}, "delay"),
        ({"delay": 1.5}, "whole number"),
        ({"horizon": 0}, "horizon"),
        ({"action_limit": 0.0}, "math.inf for no limit"),
        ({"action_limit": (1.0, 2.0)}, "one number or 1 numbers"),
        ({"observation_noise": -0.1}, "observation_noise"),
        ({"disturbance": math.inf}, "disturbance"),
        ({"randomization": {"wing": 0.1}}, "wing"),
        ({"randomization": {"mass": 1.0}}, r"\[0, 1\)"),
        ({"randomization": {"mass": "wide"}}, r"\[0, 1\), got 'wide'"),
        ({"randomization": 0.1}, "maps parameters to relative half-widths"),
        ({"mass": "heavy"}, r"mass \[kg\] must be one number, got 'heavy'"),
        ({"mass": [1.0, 2.0]}, "one number"),
        ({"dt": "fast"}, "dt"),
        ({"delay": True}, "whole number"),
        ({"observation_noise": "loud"}, "takes one number or 2 numbers, got 'loud'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pendulum(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float31"}, "got 'float31'"), ({"dtype": "int32"}, "floating-point")]
    + ([] if torch.cuda.is_available() else [({"device": "cuda"}, "pass 'cpu'")]),
)
def test_batches_name_a_type_or_a_device_that_there_is_not(options, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make_vec("lipctrl_envs:lipctrl/Pendulum-v0", num_envs=2, **options)


def test_a_plant_without_a_lure_form_says_so_and_does_the_rest():
    class Bare(Pendulum):
        name = "Bare"
        lure_form = Plant.lure_form

    assert Bare().linearize().nstates == 2
    with pytest.raises(ValueError, match="Bare has no Lur'e form"):
        Bare().lure_form()


@pytest.mark.parametrize("maker", [gymnasium.make, gymnasium.make_vec])
def test_an_unknown_keyword_is_a_type_error_that_suggests_the_right_one(maker):
    with pytest.raises(TypeError, match=r"no parameter 'lenght'.*Did you mean 'length'"):
        maker("lipctrl_envs:lipctrl/Pendulum-v0", lenght=2.0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Pendulum(lenght=2.0)


def test_the_time_limit_can_be_set_in_both_ways_gymnasium_makes():
    single = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0", max_episode_steps=3)
    single.reset(seed=0)
    assert [single.step(np.zeros(1, dtype=np.float32))[3] for _ in range(3)] == [False, False, True]
    batch = gymnasium.make_vec("lipctrl_envs:lipctrl/Pendulum-v0", num_envs=2, max_episode_steps=3)
    batch.reset(seed=0)
    assert [bool(batch.step(torch.zeros(2, 1))[3].all()) for _ in range(3)] == [False, False, True]
    longer = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0", horizon=700)
    assert longer.unwrapped.plant.horizon == 700


@pytest.mark.parametrize(("state", "action"), [([1.0], None), ([0.0, math.nan], None), (None, [0.0, 1.0])])
def test_linearising_at_a_point_that_does_not_fit_is_refused(state, action):
    with pytest.raises(ValueError, match="finite numbers"):
        Pendulum().linearize(state, action)


def test_a_region_must_name_signals_of_the_plant():
    with pytest.raises(ValueError, match="the region knows"):
        Pendulum().lure_form({"angel": 1.0})
    with pytest.raises(ValueError, match="must be positive"):
        Pendulum().lure_form({"angle": -1.0})
    slopes = Pendulum().lure_form({"angle": math.inf})
    assert (slopes.lower[0], slopes.upper[0]) == (-1.0, 1.0)
    assert Pendulum().lure_form({"angle": 1.0}).lower[0] == pytest.approx(math.cos(1.0))


def test_a_chosen_start_must_fit():
    env = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0")
    with pytest.raises(ValueError, match="must be finite"):
        env.reset(options={"state": [1.0]})


def test_every_public_name_exists_and_unknown_ones_do_not():
    import lipctrl_envs

    assert set(lipctrl_envs.__all__) == set(lipctrl_envs._MODULES) | {
        "environment_id",
        "plant_class",
        "plant_names",
    }
    for name in lipctrl_envs.__all__:
        assert getattr(lipctrl_envs, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lipctrl_envs.no_such_name
    with pytest.raises(ValueError, match="known are"):
        plant_class("Rocket")


def test_importing_the_package_is_light():
    code = "import sys, lipctrl_envs; assert not {'torch', 'control', 'lipctrl'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
