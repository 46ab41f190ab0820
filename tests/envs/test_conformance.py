"""Every plant of the registry keeps the same promises."""

from __future__ import annotations

import pickle
import re
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from scipy.optimize import lsq_linear

from lipctrl_envs import environment_id, plant_class, plant_names
from lipctrl_envs.plant import Plant

NAMES = plant_names()
OPTIONS = {"plain": {}, "delayed": {"delay": 2}}
CASES = [pytest.param(n, o, id=f"{n}-{k}") for n in NAMES for k, o in OPTIONS.items()]

# Physical units and unbounded speeds are meant; Gymnasium's own environments are excused the same two.
RECOMMENDATIONS = ("we recommend using a symmetric and normalized space", "infinity. This is probably too")


def points(plant: Plant, count: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random states and actions of ordinary size: starts of episodes, widened, and half the actuator's box."""
    rng = torch.Generator().manual_seed(seed)
    state = plant.initial_state(count, rng, dtype=torch.float64)
    state = state + spread * 0.1 * torch.randn(state.shape, generator=rng, dtype=torch.float64)
    limit = torch.as_tensor(np.where(np.isfinite(plant.action_limit), plant.action_limit, 1.0))
    action = (torch.rand((count, plant.action_size), generator=rng, dtype=torch.float64) - 0.5) * limit
    return state, action


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_accepts_the_environment(name):
    env = gymnasium.make(f"lipctrl_envs:{environment_id(name)}", render_mode="rgb_array")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    unexpected = [str(w.message) for w in caught if not any(r in str(w.message) for r in RECOMMENDATIONS)]
    assert unexpected == []


@pytest.mark.parametrize(("name", "options"), CASES)
def test_signals_and_weights_fit_together(name, options):
    plant = plant_class(name)(**options)
    assert len(plant.state_names) == len(plant.state_units) == plant.state_size
    assert len(set(plant.state_names)) == plant.state_size
    assert len(plant.action_names) == len(plant.action_units) == plant.action_size == len(plant.action_limit)
    assert len(plant.observation_names) == plant.observation_size
    assert plant.Q.shape == (plant.state_size, plant.state_size)
    assert plant.R.shape == (plant.action_size, plant.action_size)
    assert np.linalg.eigvalsh(plant.Q).min() >= 0.0
    assert np.linalg.eigvalsh(plant.R).min() > 0.0
    for table in (*plant.state_names[: plant.physical_size], *plant.action_names):
        shown = re.sub(r"\d+", "1", table)
        assert f"`{shown}`" in (type(plant).__doc__ or ""), f"{table} is missing from the docstring's tables"


@pytest.mark.parametrize(("name", "options"), CASES)
def test_zero_is_the_equilibrium(name, options):
    plant = plant_class(name)(**options)
    state, action = plant.equilibrium()
    torch.testing.assert_close(plant.transition(state, action), state, rtol=0, atol=1e-14)
    assert not bool(plant.terminated(state))
    assert float(plant.reward(state, action, state)) == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_linearisation_agrees_with_finite_differences_of_the_step(name, options):
    plant = plant_class(name)(**options)
    for state, action in zip(*points(plant, 3, seed=1), strict=True):
        system = plant.linearize(state, action)
        h = 1e-6

        def difference(function, at, h=h):
            eye = torch.eye(at.numel(), dtype=torch.float64) * h
            return ((function(at + eye) - function(at - eye)) / (2 * h)).T.numpy()

        A = difference(lambda x, u=action: plant.transition(x, u.expand(len(x), -1)), state)
        B = difference(lambda u, x=state: plant.transition(x.expand(len(u), -1), u), action)
        C = difference(plant.observe, state)
        scale = 1.0 + np.abs(system.A).max()
        np.testing.assert_allclose(system.A, A, atol=2e-8 * scale)
        np.testing.assert_allclose(system.B, B, atol=2e-8 * scale)
        np.testing.assert_allclose(system.C, C, atol=2e-8)
        assert system.dt == plant.dt
        assert list(system.state_labels) == list(plant.state_names)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_quadratic_weights_are_the_curvature_of_the_cost_at_rest(name, options):
    plant = plant_class(name)(**options)
    state, action = plant.equilibrium()

    def cost(x, u):
        return -plant.reward(x, u, plant.transition(x, u))

    (Q, N), (_, R) = torch.func.hessian(cost, argnums=(0, 1))(state, action)
    np.testing.assert_allclose(Q.numpy() / 2, plant.Q, atol=1e-9)
    np.testing.assert_allclose(R.numpy() / 2, plant.R, atol=1e-9)
    np.testing.assert_allclose(N.numpy(), 0.0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_an_lqr_of_the_linearisation_steadies_the_plant(name):
    import control

    plant = plant_class(name)(disturbance=0.0)
    system = plant.linearize()
    K, _, poles = control.dlqr(system.A, system.B, plant.Q, plant.R)
    assert np.abs(poles).max() < 1.0
    state = 0.1 * plant.initial_state(64, torch.Generator().manual_seed(0), dtype=torch.float64)
    if name in ("PendulumSwingUp", "GymPendulum"):
        state = torch.remainder(state + np.pi, 2 * np.pi) - np.pi
        state = state.clamp(-0.05, 0.05)
    start = state.norm(dim=-1).mean()
    steps = int(12.0 / np.log(1.0 / np.abs(poles).max()))
    for _ in range(min(steps, 4000)):
        state = plant.transition(state, -state @ torch.as_tensor(K).T)
    assert float(state.norm(dim=-1).mean()) < 0.05 * float(start)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_lure_form_reproduces_the_step_where_it_claims_to_be_exact(name, options):
    plant = plant_class(name)(**options)
    form = plant.lure_form()
    x, u = (t.numpy() for t in points(plant, 200, seed=2))
    inside = form.contains(x, u)
    x, u = x[inside], u[inside]
    assert len(x) > 20, "the region must hold ordinary states"
    if not form.exact:
        with pytest.raises(ValueError, match="cannot be stepped"):
            form.step(x, u)
        return
    expected = plant.transition(torch.as_tensor(x), torch.as_tensor(u)).numpy()
    np.testing.assert_allclose(form.step(x, u), expected, atol=1e-12)
    np.testing.assert_allclose(form.output(x, u), plant.observe(torch.as_tensor(x)).numpy(), atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_lure_form_explains_every_increment_within_its_slopes(name, options):
    """Solve for slopes in [lower, upper] that explain Δx⁺ and Δy exactly: bounded least squares must reach zero."""
    plant = plant_class(name)(**options)
    form = plant.lure_form()
    rng = np.random.default_rng(3)
    x, u = widest(plant, form, 4000, rng)
    inside = form.contains(x, u)
    x, u = x[inside][:60], u[inside][:60]
    pairs = len(x) // 2
    assert pairs >= 10
    following = plant.advance(torch.as_tensor(x), torch.as_tensor(u)).numpy()
    output = plant.observe(torch.as_tensor(x)).numpy()
    for a, b in zip(range(pairs), range(pairs, 2 * pairs), strict=True):
        dx, du = x[a] - x[b], u[a] - u[b]
        dz = form.argument(dx, du)
        residual = np.concatenate(
            [
                following[a] - following[b] - form.A @ dx - form.B @ du,
                output[a] - output[b] - form.C @ dx,
            ]
        )
        matrix = np.vstack([form.B_w, form.D_w]) * dz
        if matrix.shape[1] == 0:
            np.testing.assert_allclose(residual, 0.0, atol=1e-10)
            continue
        width = np.maximum(form.upper - form.lower, 1e-9)
        found = lsq_linear(matrix, residual, bounds=(form.lower - 1e-9, form.lower + width), tol=1e-14)
        scale = 1.0 + np.abs(residual).max()
        np.testing.assert_allclose(matrix @ found.x, residual, atol=1e-6 * scale)


def widest(plant, form, count, rng):
    """Points that fill the region: each signal up to the largest bound a single-signal channel puts on it."""
    rows = np.hstack([form.C_z, form.D_zu])
    reach = np.full(rows.shape[1], np.inf)
    for row, bound in zip(rows, form.z_max, strict=True):
        if np.count_nonzero(row) == 1:
            j = int(np.flatnonzero(row)[0])
            reach[j] = min(reach[j], bound / abs(row[j]))
    limit = np.where(np.isfinite(plant.action_limit), plant.action_limit, 1.0)
    fallback = np.concatenate([np.full(plant.state_size, 0.3), limit])
    reach = np.where(np.isfinite(reach), reach, fallback)
    sample = rng.uniform(-reach, reach, size=(count, len(reach)))
    # Mostly corners of the region: extremes are where a wrong bound shows.
    corner = rng.random(sample.shape) < 0.3
    sample = np.where(corner, np.sign(sample) * reach, sample)
    return sample[:, : plant.state_size], sample[:, plant.state_size :]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_single_and_batched_environments_step_alike(name, options):
    quiet = {"disturbance": 0.0, **options}
    single = gymnasium.make(f"lipctrl_envs:{environment_id(name)}", **quiet).unwrapped
    count = 4
    batch = gymnasium.make_vec(
        f"lipctrl_envs:{environment_id(name)}",
        num_envs=count,
        dtype=torch.float64,
        autoreset_mode="Disabled",
        **quiet,
    )
    plant = single.plant
    start, _ = points(plant, count, seed=4)
    rng = np.random.default_rng(0)
    # Wider than the actuator, so that saturation is compared too.
    actions = rng.uniform(-1.5, 1.5, size=(20, count, plant.action_size)) * plant.action_limit
    observation, _ = batch.reset(seed=0, options={"state": start})
    runs = [[] for _ in range(count)]
    for k in range(count):
        first, _ = single.reset(seed=0, options={"state": start[k]})
        np.testing.assert_allclose(first, observation[k].numpy(), rtol=1e-6, atol=1e-6)
        for t in range(20):
            runs[k].append(single.step(actions[t, k]))
    for t in range(20):
        observation, reward, terminated, truncated, _ = batch.step(actions[t])
        for k in range(count):
            expected = runs[k][t]
            np.testing.assert_allclose(observation[k].numpy(), expected[0], rtol=1e-5, atol=1e-5)
            assert float(reward[k]) == pytest.approx(expected[1], rel=1e-9, abs=1e-9)
            assert (bool(terminated[k]), bool(truncated[k])) == expected[2:4]
        if bool(terminated.any()):
            break


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_fixes_everything_random(name):
    noisy = {"observation_noise": 0.01, "disturbance": 0.1}

    def rollout(seed):
        env = gymnasium.make_vec(f"lipctrl_envs:{environment_id(name)}", num_envs=8, **noisy)
        observation, _ = env.reset(seed=seed)
        log = [observation]
        for _ in range(5):
            observation, reward, *_ = env.step(torch.zeros(8, env.unwrapped.plant.action_size))
            log += [observation, reward[:, None]]
        return torch.cat(log, dim=1)

    first, again, other = rollout(1), rollout(1), rollout(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_through_step_and_reward(name):
    plant = plant_class(name)()
    state, action = points(plant, 5, seed=5)
    state.requires_grad_(), action.requires_grad_()
    following = plant.transition(state, action)
    reward = plant.reward(state, action, following)
    for gradient in torch.autograd.grad(following.sum() + reward.sum(), (state, action)):
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().sum()) > 0.0


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_stays_single(name):
    plant = plant_class(name)(disturbance=0.1, observation_noise=0.1, delay=1)
    generator = torch.Generator().manual_seed(0)
    state = plant.initial_state(3, generator)
    action = torch.zeros(3, plant.action_size)
    following = plant.transition(state, action, plant.sample_disturbance(3, generator))
    reward = plant.reward(state, action, following)
    assert {state.dtype, following.dtype, reward.dtype, plant.observe(state).dtype} == {torch.float32}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_plants_and_forms_travel_between_processes(name, options):
    plant = plant_class(name)(
        randomization=dict.fromkeys(plant_class(name)().parameter_units, 0.1), **options
    )
    plant.initial_state(2)
    copy = pickle.loads(pickle.dumps(plant))
    state, action = points(plant, 2, seed=6)
    assert torch.equal(copy.transition(state, action), plant.transition(state, action))
    assert copy.randomization == plant.randomization
    form = pickle.loads(pickle.dumps(plant.lure_form()))
    np.testing.assert_array_equal(form.A, plant.lure_form().A)
