"""Stable-Baselines3 trains certified actors: policy classes for PPO and SAC, and the way back to a certificate.

    from stable_baselines3 import PPO
    model = PPO(CertifiedActorCriticPolicy, "Pendulum-v1", policy_kwargs={"lipschitz": 6.0})
    model.learn(100_000)
    certificate = certified_policy(model).certificate()

Needs the extra `sb3`: pip install "lipctrl[sb3]".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from lipctrl.nn import LipschitzResNet
from lipctrl.nn.squashed import Squashed
from lipctrl.policies import LipschitzPolicy, ResidualPolicy
from lipctrl.training.sb3_wrappers import refuse_hidden_factors

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import MlpExtractor
    from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, SACPolicy
except ImportError as error:
    raise ImportError(
        "lipctrl.training.sb3 needs Stable-Baselines3; install it with: pip install 'lipctrl[sb3]'"
    ) from error

__all__ = ["CertifiedActorCriticPolicy", "CertifiedSACPolicy", "certified_policy"]


def _box(what: str, space: gymnasium.Space) -> gymnasium.spaces.Box:
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"the {what} space is {space}; a certified actor needs a Box of one dimension")
    if what == "action" and not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"the actions are of type {space.dtype}; rounding to whole numbers has no Lipschitz bound"
        )
    return space


def _network(
    observation_space: gymnasium.Space, action_space: gymnasium.Space, settings: Mapping[str, Any]
) -> LipschitzResNet:
    observations, actions = _box("observation", observation_space), _box("action", action_space)
    fraction = settings["initial_fraction"]
    number = isinstance(fraction, float)
    if fraction is not None and not (number and 0.0 < fraction < 1.0):
        raise ValueError(f"initial_fraction is {fraction!r}; expected a number between 0 and 1, or None")
    network = LipschitzResNet(
        observations.shape[0],
        actions.shape[0],
        lipschitz=settings["lipschitz"],
        width=settings["width"],
        depth=settings["depth"],
        parametrization=settings["parametrization"],
        activation=settings["activation"],
        trainable_lipschitz=fraction is not None,
    )
    if fraction is not None and network.raw_factor is not None:
        with torch.no_grad():
            network.raw_factor.fill_(math.log(fraction / (1.0 - fraction)))
    return network


def _no_sde(use_sde: bool) -> None:
    if use_sde:
        raise ValueError("use_sde=True is not supported: its noise is made of the features of a plain actor")


class CertifiedActorCriticPolicy(ActorCriticPolicy):
    """The mean of the Gaussian is a lipctrl policy, certified at every step of training; the critic is SB3's.

    Deterministic actions are clip(π(y)) in physical units, π the map that `certified_policy(model)` returns.
    For PPO and A2C; pass it as the policy, and these as `policy_kwargs`.

    Parameters
    ----------
    lipschitz : l2 gain of the network, action units over observation units (over `observation_scale`).
    width, depth, parametrization, activation : as in `lipctrl.LipschitzResNet`.
    initial_fraction : the network starts with this fraction of the gain and learns how much of it to use, never more
        than all. Starting at the full gain saturates the actuator, and then nothing can be learned. None: fixed.
    gain : None, or K (m, p): the mean is then -K y + f(y), a `ResidualPolicy`. Sign: u = π(y).
    observation_scale : None, or positive (p,): the network sees y / scale, which counts in the gain.
    net_arch : hidden layers of the critic.
    log_std_init : initial logarithm of the exploration noise, in action units.
    optimizer_class, optimizer_kwargs : as in SB3.

    Raises
    ------
    ValueError
        For spaces that are no vectors, use_sde=True, and numbers out of range.
    """

    action_net: LipschitzPolicy | ResidualPolicy

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        lr_schedule: Any,
        *,
        lipschitz: float = 1.0,
        width: int = 64,
        depth: int = 2,
        parametrization: str = "lossless",
        activation: Any = "relu",
        initial_fraction: float | None = 0.1,
        gain: Any = None,
        observation_scale: Any = None,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        log_std_init: float = 0.0,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        _no_sde(use_sde)
        if isinstance(net_arch, Mapping):
            raise ValueError(
                f"net_arch is {net_arch!r}; expected the hidden layers of the critic, such as [64, 64]: the actor is "
                "the certified network, of width and depth"
            )
        self._critic_layers = [64, 64] if net_arch is None else net_arch
        # The base class calls `_build` before its constructor returns.
        self._certified = {
            "lipschitz": lipschitz,
            "width": width,
            "depth": depth,
            "parametrization": parametrization,
            "activation": activation,
            "initial_fraction": initial_fraction,
            "gain": gain,
            "observation_scale": observation_scale,
        }
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch={"pi": [], "vf": self._critic_layers},
            activation_fn=activation_fn,
            log_std_init=log_std_init,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def _build_mlp_extractor(self) -> None:
        # No hidden layers for the actor: the certified map reads the observation itself.
        self.mlp_extractor = MlpExtractor(
            self.features_dim, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device
        )

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        settings = self._certified
        network = _network(self.observation_space, self.action_space, settings)
        scale, gain = settings["observation_scale"], settings["gain"]
        self.action_net = (
            LipschitzPolicy(network, scale) if gain is None else ResidualPolicy(gain, network, scale)
        ).to(self.device)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # pyright: ignore[reportCallIssue] (the base class of optimisers has no rate)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            **self._certified,
            "net_arch": self._critic_layers,
            "activation_fn": self.activation_fn,
            "log_std_init": self.log_std_init,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    def __getattr__(self, name: str) -> Any:
        if name in ("actor", "critic", "actor_target", "critic_target"):
            raise _refuse_algorithm(name, "PPO and A2C")
        return super().__getattr__(name)

    def certified(self) -> LipschitzPolicy | ResidualPolicy:
        """Return the map from observations to deterministic actions, sharing the weights of this policy."""
        mean, box = self.action_net, _box("action", self.action_space)
        limits = (box.low.astype(np.float64), box.high.astype(np.float64))
        bounded = limits if np.isfinite(limits).all() else None
        if isinstance(mean, ResidualPolicy):
            return ResidualPolicy(mean.gain.cpu(), mean.network, _scale_of(mean), bounded).to(self.device)
        return LipschitzPolicy(mean.network, _scale_of(mean), bounded).to(self.device)


def _scale_of(policy: Any) -> Any:
    return None if policy.observation_scale is None else policy.observation_scale.cpu()


class _CertifiedActor(Actor):
    """SAC's actor: a certified mean before tanh, and a plain network for the noise."""

    log_std: nn.Module

    def __init__(self, *, certified: Mapping[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        box = self.action_space
        network = _network(self.observation_space, box, certified)
        self.squashed = Squashed(network, box.low, box.high)
        self.policy = LipschitzPolicy(network, certified["observation_scale"])
        # The mean of the base class is not used, and must have no parameters to train or to save.
        self.mu = nn.Identity()
        self._settings = dict(certified)

    def get_action_dist_params(self, obs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        features = self.extract_features(obs, self.features_extractor)
        mean = self.policy(features) / self.squashed.reach
        deviation = self.log_std(self.latent_pi(features)).clamp(LOG_STD_MIN, LOG_STD_MAX)
        return mean, deviation, {}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "certified": self._settings}


class CertifiedSACPolicy(SACPolicy):
    """SAC whose deterministic action is certified: c + h·tanh(f(y / scale) / h), the squashing counted in the gain.

    tanh between the half-widths h of the action box is 1-Lipschitz and the factors h cancel, so the gain in
    physical units is at most `lipschitz` / min(observation_scale). There is no residual form: tanh would act on
    -K y as well, and the map would leave every ball around -K.

    Parameters
    ----------
    lipschitz, width, depth, parametrization, activation, initial_fraction, observation_scale : as in
        `CertifiedActorCriticPolicy`.
    net_arch : hidden layers of the critics, and of the network that gives the exploration noise.
    log_std_init, n_critics, optimizer_class, optimizer_kwargs : as in SB3.

    Raises
    ------
    ValueError
        For spaces that are no vectors, unbounded actions, use_sde=True, and numbers out of range.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.spaces.Box,
        lr_schedule: Any,
        *,
        lipschitz: float = 1.0,
        width: int = 64,
        depth: int = 2,
        parametrization: str = "lossless",
        activation: Any = "relu",
        initial_fraction: float | None = 0.3,
        observation_scale: Any = None,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        log_std_init: float = -3.0,
        n_critics: int = 2,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        _no_sde(use_sde)
        self._certified = {
            "lipschitz": lipschitz,
            "width": width,
            "depth": depth,
            "parametrization": parametrization,
            "activation": activation,
            "initial_fraction": initial_fraction,
            "observation_scale": observation_scale,
        }
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            log_std_init=log_std_init,
            n_critics=n_critics,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def make_actor(self, features_extractor: Any = None) -> Actor:
        arguments = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return _CertifiedActor(certified=self._certified, **arguments).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        dropped = {
            "use_sde",
            "use_expln",
            "clip_mean",
            "features_extractor_class",
            "features_extractor_kwargs",
        }
        inherited = super()._get_constructor_parameters()
        kept = {k: v for k, v in inherited.items() if k not in {*dropped, "normalize_images"}}
        return {**kept, **self._certified}

    def __getattr__(self, name: str) -> Any:
        if name == "actor_target":
            raise _refuse_algorithm(name, "SAC")
        return super().__getattr__(name)

    def forward(self, obs: Any, deterministic: bool = False) -> Tensor:
        raise ValueError(
            "PPO and A2C call a policy like this, and CertifiedSACPolicy fits SAC; use CertifiedActorCriticPolicy. For "
            "the actions of an SAC model call predict, or certified()"
        )

    def certified(self) -> LipschitzPolicy:
        """Return the map from observations to deterministic actions, sharing the weights of this policy."""
        actor: Any = self.actor
        return LipschitzPolicy(actor.squashed, _scale_of(actor.policy)).to(self.device)


def certified_policy(
    model: BaseAlgorithm, *, trusted: tuple[type, ...] = ()
) -> LipschitzPolicy | ResidualPolicy:
    """Return the certified map behind a Stable-Baselines3 model: `model.predict(y, deterministic=True)`.

    In physical units, action limits included; `.certificate()` proves its gain. The policy shares its weights with
    the model; take `copy.deepcopy` before training on.

    Parameters
    ----------
    model : an SB3 model with a policy of this module.
    trusted : classes of wrappers, of your own for instance, that change no unit of an observation or an action.

    Raises
    ------
    ValueError
        When the model's policy is not certified, or its environment may scale observations or actions outside of
        the policy (`VecNormalize`, `NormalizeObservation`, `RescaleAction`, any wrapper that is neither known nor
        trusted): that factor would be missing from the gain. A model without an environment (freshly loaded) is taken
        at its word: pass `env=` to `load` to have it looked at.

    Examples
    --------
    >>> from stable_baselines3 import PPO
    >>> model = PPO(CertifiedActorCriticPolicy, "Pendulum-v1", policy_kwargs={"lipschitz": 2.0}, device="cpu")
    >>> certified_policy(model).certificate().gain <= 2.0 * (1.0 + 1e-3)
    True
    """
    policy = getattr(model, "policy", None)
    if not isinstance(policy, (CertifiedActorCriticPolicy, CertifiedSACPolicy)):
        raise ValueError(
            f"the model's policy is a {type(policy).__name__}; expected CertifiedActorCriticPolicy (PPO, A2C) or "
            "CertifiedSACPolicy (SAC). For a plain network use lipctrl.certify"
        )
    refuse_hidden_factors(model, trusted)
    return policy.certified()


def _refuse_algorithm(name: str, wanted: str) -> AttributeError:
    return AttributeError(
        f"this policy has no {name!r}: it fits {wanted}. TD3 and DDPG have no certified actor here; "
        "train with SAC, or certify their plain actor with lipctrl.certify"
    )
