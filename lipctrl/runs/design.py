"""Designs the policy for a task before training: which map, which Lipschitz budget, and why."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lipctrl.nn import LipschitzResNet
from lipctrl.policies import LipschitzPolicy, ResidualPolicy
from lipctrl.runs.folder import Run
from lipctrl.runs.guarantee import StabilityGuarantee
from lipctrl.training.environments import Task, find_task
from lipctrl.training.experts import lqr_gain
from lipctrl.training.rollout import measure_observation_scale
from lipctrl.training.seeds import split_seed

# A residual uses this share of the stability radius, so that the residual may double (6 dB) before the proof ends.
RADIUS_SHARE = 0.5
# Without a linearisation to compute a radius from: action limits per unit of scaled observation.
FREE_SHARE = 5.0


@dataclass(frozen=True)
class Design:
    """A policy with new weights, what proves its loop (if anything does), and the reasons in words."""

    policy: LipschitzPolicy | ResidualPolicy
    guarantee: StabilityGuarantee | None
    reasons: tuple[str, ...]


def output_gain(plant: Any) -> np.ndarray:
    """Return the LQR gain K (m, p) on *observations*, u = -K y, of a plant whose observation determines its state.

    Behind an actuator delay of d samples the commands under way are not observed. The gain is then that of the plant
    without the delay, or K (A - B K)^d, which is K on the state that its own ideal loop reaches d samples later: the
    one whose loop *with* the delay has the larger stability radius.

    Raises
    ------
    ValueError
        When the linearised observation does not determine the state, or neither gain survives the delay.

    Examples
    --------
    >>> from lipctrl_envs import Pendulum
    >>> plant = Pendulum()
    >>> K, system = output_gain(plant), plant.linearize()
    >>> bool(abs(np.linalg.eigvals(system.A - system.B @ K)).max() < 1.0)
    True
    """
    if getattr(plant, "delay", 0):
        return _delayed_gain(plant)
    state_gain, C = lqr_gain(plant), np.asarray(plant.linearize().C)
    if np.linalg.matrix_rank(C) < plant.state_size:
        raise ValueError(
            f"{plant.name}: {C.shape[0]} observations do not determine {plant.state_size} states, so there is no "
            "static LQR gain; give a gain of your own, or train a plain policy (--policy plain)"
        )
    # Rounded to the precision in which the policy runs: the centre that is analysed is the one that acts.
    return _rounded(state_gain @ np.linalg.pinv(C))


def _delayed_gain(plant: Any) -> np.ndarray:
    from lipctrl.analysis import stability_radius

    prompt = dataclasses.replace(plant, delay=0)
    gain, system, delayed = output_gain(prompt), prompt.linearize(), plant.linearize()
    A, B, C = (np.asarray(matrix) for matrix in (system.A, system.B, system.C))
    ahead = gain @ C @ np.linalg.matrix_power(A - B @ gain @ C, plant.delay) @ np.linalg.pinv(C)
    candidates = [gain, _rounded(ahead)]
    radii = [float(stability_radius(delayed, candidate)) for candidate in candidates]
    if not max(radii) > 0.0:
        raise ValueError(
            f"{plant.name}: no static LQR gain stabilises it behind a delay of {plant.delay} samples; give a gain of "
            "your own, a shorter delay, or train a plain policy (--policy plain)"
        )
    return candidates[int(np.argmax(radii))]


def _rounded(gain: np.ndarray) -> np.ndarray:
    return gain.astype(np.float32).astype(np.float64)


def observes_linearly(plant: Any) -> bool:
    """Whether the observation is the linear function C x of the state, so that u = -K y is the LQR law everywhere."""
    C = torch.as_tensor(np.asarray(plant.linearize().C))
    states = torch.randn(
        (16, plant.state_size), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return bool(torch.allclose(plant.observe(states), states @ C.mT))


def takes_residual(task: Task) -> bool:
    """Whether the policy designed for a task is residual unless told otherwise: its plant is observed linearly.

    Examples
    --------
    >>> takes_residual(find_task("lipctrl/Pendulum-v0")), takes_residual(find_task("Pendulum-v1"))
    (True, False)
    """
    return task.plant is not None and observes_linearly(task.plant)


def design_policy(
    task: Task,
    *,
    lipschitz: float | str = "auto",
    kind: str = "auto",
    parametrization: str = "lossless",
    width: int = 32,
    depth: int = 2,
    activation: Any = "relu",
    seed: int = 0,
    trainable_lipschitz: bool = False,
) -> Design:
    """Build a policy whose certified bound is exactly what was asked for, with every wrapper counted.

    Parameters
    ----------
    lipschitz : the bound in action units per observation unit: of the residual for a residual policy (then "auto" is
        half the stability radius of the linearised plant with its LQR gain), of the whole policy for a plain one
        (then "auto" lets a unit of scaled observation move the action by five times its limit). "scaled" is half the
        stability radius between observations and actions divided by their sizes: the same guarantee, and more room
        where channels differ in unit or size. A plain policy takes it as "auto".
    kind : "residual", "plain", or "auto": residual where the plant observes its state linearly.
    trainable_lipschitz : the bound is a cap, and training learns which share of it to use; see `gain_price` in the
        settings of the algorithms.

    Raises
    ------
    ValueError
        When a residual is asked for and no stabilising gain exists, or the budget reaches the stability radius.

    Examples
    --------
    >>> design = design_policy(find_task("lipctrl/Pendulum-v0"), width=8)
    >>> design.policy.certificate().radius < design.guarantee.radius
    True
    """
    _check_request(task, kind, lipschitz)
    residual = kind == "residual" or (kind == "auto" and takes_residual(task))
    streams = split_seed(seed)
    scale = _observation_scale(task, streams["simulator"])
    sizes = (scale, _action_scale(task)) if lipschitz == "scaled" else (None, None)
    if residual:
        guarantee, bound, reason = _around_lqr(task, lipschitz, float(scale.min()), *sizes)
    else:
        guarantee, bound, reason = _free(task, lipschitz, float(scale.min()))
    # torch draws initial weights from its global generator: seeded inside, restored outside.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams["network"])
        network = LipschitzResNet(
            task.observation_size,
            task.action_size,
            lipschitz=bound,
            width=width,
            depth=depth,
            parametrization=parametrization,
            activation=activation,
            trainable_lipschitz=trainable_lipschitz,
        )
    # A map that starts at the middle of an asymmetric box acts from the first step on; the gain does not count it.
    sizes_of_actions = 1.0 if guarantee is None or guarantee.action_scale is None else guarantee.action_scale
    with torch.no_grad():
        network.bias.add_(torch.as_tensor(task.action_center / sizes_of_actions, dtype=network.bias.dtype))
    limits = task.action_box if np.isfinite(task.action_limit).all() else None
    if guarantee is None:
        policy = LipschitzPolicy(network, observation_scale=scale, action_limits=limits)
    else:
        policy = ResidualPolicy(guarantee.gain, network, scale, limits, action_scale=guarantee.action_scale)
    return Design(policy, guarantee, (reason,))


def take_over(task: Task, run: Run) -> Design:
    """Return the trained policy of another run as where training begins; a residual is proved for this task anew.

    Raises
    ------
    ValueError
        When the policy fits another number of observations or actions, or its gain does not stabilise this plant.

    Examples
    --------
    >>> import lipctrl
    >>> made = build_policy("lipctrl/Pendulum-v0", width=8)
    >>> run = lipctrl.train("lipctrl/Pendulum-v0", made, steps=1024, out="taught", progress=False)
    >>> print(take_over(find_task("lipctrl/Pendulum-v0"), run).reasons[0])
    the residual policy of taught
    """
    policy = run.policy
    found = (policy.network.in_features, policy.network.out_features)
    if found != (task.observation_size, task.action_size):
        raise ValueError(
            f"the policy of {run.path} maps {found[0]} observations to {found[1]} actions; expected "
            f"{task.observation_size} and {task.action_size}, those of {task.env_id}"
        )
    residual = isinstance(policy, ResidualPolicy)
    guarantee = None
    if residual and task.plant is not None:
        guarantee = _guarantee_of(task.plant.linearize(), policy)
    return Design(policy, guarantee, (f"the {'residual' if residual else 'plain'} policy of {run.path}",))


def _guarantee_of(system: Any, policy: ResidualPolicy) -> StabilityGuarantee:
    """Return the guarantee in the policy's own scales where these are powers of two, else for one radius."""
    found = (policy.observation_scale, policy.action_scale)
    sizes = [None if scale is None else scale.detach().cpu().double().numpy() for scale in found]
    if any(size is not None and not (np.frexp(size)[0] == 0.5).all() for size in sizes):
        sizes = [None, None]
    return StabilityGuarantee.of(system, policy.gain.detach().cpu().numpy(), *sizes)


def _check_request(task: Task, kind: str, lipschitz: float | str) -> None:
    if not isinstance(task, Task):
        raise ValueError(
            f"task is {task!r}; expected what find_task(env_id) returns (build_policy takes a name)"
        )
    if not isinstance(kind, str) or kind not in ("auto", "residual", "plain"):
        raise ValueError(f"policy is {kind!r}; expected auto, residual or plain")
    if isinstance(lipschitz, str) and lipschitz not in ("auto", "scaled"):
        raise ValueError(f"lipschitz is {lipschitz!r}; expected a positive number, 'auto' or 'scaled'")
    number = isinstance(lipschitz, numbers.Real) and not isinstance(lipschitz, bool)
    if not isinstance(lipschitz, str) and not (number and math.isfinite(lipschitz) and lipschitz > 0.0):
        raise ValueError(f"lipschitz is {lipschitz!r}; expected a positive finite number, 'auto' or 'scaled'")
    if kind == "residual" and task.plant is None:
        raise ValueError(
            f"{task.env_id} is a black box without weights for an LQR gain; use a plain policy, or in Python a "
            "ResidualPolicy around a gain of your own"
        )


def _around_lqr(
    task: Task, lipschitz: float | str, smallest: float, s: np.ndarray | None, a: np.ndarray | None
) -> tuple[StabilityGuarantee, float, str]:
    """Return what proves the loop of a residual about LQR, the bound of its network, and why."""
    plant: Any = task.plant
    guarantee = StabilityGuarantee.of(plant.linearize(), output_gain(plant), s, a)
    budget = RADIUS_SHARE * guarantee.radius if isinstance(lipschitz, str) else float(lipschitz)
    if not budget < guarantee.radius:
        raise ValueError(
            f"lipschitz is {budget:g}, not below the stability radius {guarantee.radius:.6g} of {task.env_id} with "
            "its LQR gain; no stability could be certified. Give less, 'auto' or 'scaled'"
        )
    law, bound = ("φ(y), Lip φ", budget * smallest) if s is None else ("a ∘ f(y / s), Lip f", budget)
    reason = (
        f"residual policy u = -K y + {law} ≤ {budget:.6g} < {guarantee.radius:.6g}, "
        "the stability radius of the linearised plant with its LQR gain K"
    )
    if s is not None and a is not None:
        reason += f", for the sizes s = {_listed(s)} of observations and a = {_listed(a)} of actions"
    return guarantee, bound, reason


def _listed(sizes: np.ndarray) -> str:
    return f"[{', '.join(f'{size:g}' for size in sizes)}]"


def _free(task: Task, lipschitz: float | str, smallest: float) -> tuple[None, float, str]:
    """Return no guarantee, the bound of the network of a plain policy, and why."""
    limit = task.action_limit[np.isfinite(task.action_limit)]
    free = FREE_SHARE * float(limit.max(initial=0.0) or 1.0)
    bound = free if isinstance(lipschitz, str) else float(lipschitz) * smallest
    return None, bound, f"plain policy u = φ(y), Lip φ ≤ {bound / smallest:.6g} (observation scale counted)"


def build_policy(
    env_id: str,
    *,
    lipschitz: float | str = "auto",
    kind: str = "auto",
    parametrization: str = "lossless",
    width: int = 32,
    depth: int = 2,
    activation: Any = "relu",
    env_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LipschitzPolicy | ResidualPolicy:
    """Return the policy of `design_policy` for an environment's name.

    Examples
    --------
    >>> policy = build_policy("lipctrl/Pendulum-v0", width=8)
    >>> type(policy).__name__
    'ResidualPolicy'
    """
    return design_policy(
        find_task(env_id, env_options),
        lipschitz=lipschitz,
        kind=kind,
        parametrization=parametrization,
        width=width,
        depth=depth,
        activation=activation,
        seed=seed,
    ).policy


def _observation_scale(task: Task, seed: int) -> np.ndarray:
    """Return the powers of two above the size of each observation: they scale without rounding."""
    return 2.0 ** np.ceil(np.log2(measure_observation_scale(task, seed)))


def _action_scale(task: Task) -> np.ndarray:
    """Return the powers of two nearest to the limit of each action over the largest one, 1 where there is none."""
    limit = np.where(np.isfinite(task.action_limit), task.action_limit, 1.0)
    return 2.0 ** np.round(np.log2(limit / limit.max()))
