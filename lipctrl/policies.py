"""Control policies: scales around a certified network, action limits, all inside one certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipctrl import rules
from lipctrl.certificate import Certificate
from lipctrl.nn.explicit import Affine, Explicit, numbers
from lipctrl.nn.module import CertifiedModule
from lipctrl.nn.specs import network_from_spec, network_spec

__all__ = ["LipschitzPolicy", "ResidualPolicy", "policy_from_spec"]

Limits = tuple[Any, Any] | float | Any


def _real(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; expected numbers") from None


def _scale(value: Any, features: int, name: str) -> Tensor | None:
    if value is None:
        return None
    given = _real(value, name)
    if given.shape not in ((), (1,), (features,)):
        raise ValueError(f"{name} has shape {given.shape}; expected one number, or {features}")
    scale = torch.as_tensor(given).expand(features).clone()
    if not (torch.isfinite(scale).all() and (scale > 0.0).all()):
        use = "y / scale" if name == "observation_scale" else "scale ∘ f"
        raise ValueError(f"{name} is {value!r}; expected positive finite numbers, {use}")
    return scale


def _limits(value: Limits | None, features: int) -> tuple[Tensor, Tensor] | None:
    if value is None:
        return None
    sides = value if isinstance(value, tuple) else (value, value)
    if len(sides) != 2:
        raise ValueError("action_limits takes (lower, upper), or one positive limit of a symmetric box")
    lower, upper = (_real(side, "action_limits") for side in sides)
    pair = (lower, upper) if isinstance(value, tuple) else (-lower, upper)
    for given in map(np.shape, pair):
        if given not in ((), (1,), (features,)):
            raise ValueError(
                f"action_limits have shape {given}; expected one number, or {features}, for either side (a pair of "
                "lower and upper limits is a tuple)"
            )
    lower, upper = (torch.as_tensor(np.asarray(v, dtype=np.float64)).expand(features).clone() for v in pair)
    if not (torch.isfinite(lower).all() and torch.isfinite(upper).all() and (lower < upper).all()):
        raise ValueError(f"action_limits are {value!r}; expected finite lower < upper")
    return lower, upper


class _Policy(CertifiedModule):
    """What both policies share: y / scale before the network, a scale of its outputs and the clip after it."""

    network: CertifiedModule
    observation_scale: Tensor | None
    action_scale: Tensor | None
    lower: Tensor | None
    upper: Tensor | None

    def __init__(
        self,
        network: CertifiedModule,
        observation_scale: Any,
        action_limits: Limits | None,
        action_scale: Any,
    ) -> None:
        if not isinstance(network, CertifiedModule):
            raise TypeError(
                f"network is a {type(network).__name__}; expected a CertifiedModule of lipctrl.nn"
            )
        super().__init__(network.in_features, network.out_features)
        self.network = network
        dtype = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
        limits = _limits(action_limits, self.out_features)
        for name, value, features in (
            ("observation_scale", observation_scale, self.in_features),
            ("action_scale", action_scale, self.out_features),
        ):
            scale = _scale(value, features, name)
            self.register_buffer(name, None if scale is None else scale.to(dtype))
        self.register_buffer("lower", None if limits is None else limits[0].to(dtype))
        self.register_buffer("upper", None if limits is None else limits[1].to(dtype))

    @property
    def action_limits(self) -> tuple[Tensor, Tensor] | None:
        """Return (lower, upper) of the clip, or None."""
        return None if self.lower is None or self.upper is None else (self.lower, self.upper)

    def _residual(self) -> Explicit:
        inner, s, a = self.network.explicit(), self.observation_scale, self.action_scale
        return inner if s is None and a is None else _Scaled(inner, None if s is None else 1.0 / s, a)

    def _clipped(self, inner: Explicit) -> Explicit:
        limits = self.action_limits
        return inner if limits is None else _Clip(inner, *limits)

    def _common_spec(self) -> dict[str, Any]:
        limits = self.action_limits
        scales = {"observation_scale": self.observation_scale, "action_scale": self.action_scale}
        return {
            "policy": type(self).__name__,
            "network": network_spec(self.network),
            **{name: None if scale is None else scale.tolist() for name, scale in scales.items()},
            "action_limits": None if limits is None else [b.tolist() for b in limits],
        }


class LipschitzPolicy(_Policy):
    """u = clip(a ∘ f(y / s)) with the scales s, a: an l2 gain of at most L max(a) / min(s).

    Parameters
    ----------
    network : a certified network f.
    observation_scale : s: None (1), or positive (p,) numbers in the units of the observation. They count in the gain,
        and the analysis uses them channel by channel (`lipctrl.ScaledBall`; powers of two round nothing).
    action_limits : None, (lower, upper), or one (m,) array of symmetric limits, in the units of the action.
    action_scale : a: None (1), or positive (m,) numbers in the units of the action, where these differ.

    Examples
    --------
    >>> from lipctrl.nn import LipschitzResNet
    >>> policy = LipschitzPolicy(LipschitzResNet(2, 1, width=8), observation_scale=[0.5, 2.0], action_limits=3.0)
    >>> policy.certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        network: CertifiedModule,
        observation_scale: Any = None,
        action_limits: Limits | None = None,
        *,
        action_scale: Any = None,
    ) -> None:
        super().__init__(network, observation_scale, action_limits, action_scale)

    def fold(self) -> Explicit:
        return self._clipped(self._residual())

    def spec(self) -> dict[str, Any]:
        """Return what `policy_from_spec` needs, as JSON values."""
        return self._common_spec()


class ResidualPolicy(_Policy):
    """u = clip(-K y + a ∘ f(y / s)) with the scales s, a: in the ball around -K where the clip is inactive.

    Sign: actions are u = π(y), the policy carries the minus of its own gain. `certificate().center` is -K and
    `.radius` the gain of the residual in the units of action over observation.

    Parameters
    ----------
    gain : K, shape (m, p), action units over observation units.
    network, observation_scale, action_limits, action_scale : as in `LipschitzPolicy`.

    Examples
    --------
    >>> from lipctrl.nn import LipschitzResNet
    >>> policy = ResidualPolicy([[1.0, 2.0]], LipschitzResNet(2, 1, lipschitz=0.5, width=8))
    >>> certificate = policy.certificate()
    >>> certificate.center.tolist(), certificate.radius <= 0.5
    ([[-1.0, -2.0]], True)
    """

    gain: Tensor

    def __init__(
        self,
        gain: Any,
        network: CertifiedModule,
        observation_scale: Any = None,
        action_limits: Limits | None = None,
        *,
        action_scale: Any = None,
    ) -> None:
        super().__init__(network, observation_scale, action_limits, action_scale)
        matrix = torch.as_tensor(np.atleast_2d(_real(gain, "gain")))
        if matrix.shape != (self.out_features, self.in_features):
            raise ValueError(
                f"gain has shape {tuple(matrix.shape)}; expected (actions, observations) = "
                f"{(self.out_features, self.in_features)} of the network"
            )
        if not torch.isfinite(matrix).all():
            raise ValueError("gain has NaN or inf entries; expected a finite matrix K of u = -K y + f(y)")
        dtype = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
        self.register_buffer("gain", matrix.to(dtype))

    def fold(self) -> Explicit:
        return self._clipped(_Centered(-self.gain, self._residual()))

    def spec(self) -> dict[str, Any]:
        """Return what `policy_from_spec` needs, as JSON values."""
        return {**self._common_spec(), "gain": self.gain.tolist()}


def policy_from_spec(spec: Mapping[str, Any]) -> LipschitzPolicy | ResidualPolicy:
    """Build a policy, with new weights, from what `policy.spec()` returned; then `load_state_dict`.

    Raises
    ------
    ValueError
        For an unknown kind of policy or unknown fields.

    Examples
    --------
    >>> from lipctrl import LipschitzResNet
    >>> policy = LipschitzPolicy(LipschitzResNet(2, 1, width=4, depth=1))
    >>> policy_from_spec(policy.spec()).spec() == policy.spec()
    True
    """
    fields = dict(spec)
    kind = fields.pop("policy", None)
    network = network_from_spec(fields.pop("network"))
    limits = fields.pop("action_limits", None)
    common: dict[str, Any] = {
        "observation_scale": fields.pop("observation_scale", None),
        "action_scale": fields.pop("action_scale", None),
        "action_limits": None if limits is None else tuple(limits),
    }
    if kind == "ResidualPolicy" and set(fields) == {"gain"}:
        return ResidualPolicy(fields["gain"], network, **common)
    if kind == "LipschitzPolicy" and not fields:
        return LipschitzPolicy(network, **common)
    raise ValueError(
        f"policy is {kind!r} with the fields {sorted(fields)}; expected what policy.spec() returns"
    )


class _Scaled(Explicit):
    """after ∘ f(before ∘ y), either factor None where it is 1."""

    def __init__(self, inner: Explicit, before: Tensor | None, after: Tensor | None) -> None:
        self.inner, self.before, self.after = inner, before, after

    def run(self, x: Tensor) -> Tensor:
        out = self.inner.run(x if self.before is None else x * self.before)
        return out if self.after is None else out * self.after

    def certificate(self) -> Certificate:
        first, last = ([] if f is None else [rules.scaling(numbers(f))] for f in (self.before, self.after))
        return rules.series(*first, self.inner.certificate(), *last)

    def export(self) -> nn.Module:
        first, last = ([] if f is None else [_Multiply(f)] for f in (self.before, self.after))
        return nn.Sequential(*first, self.inner.export(), *last)

    def shifted(self, offset: Tensor) -> Explicit:
        inner = self.inner.shifted(offset if self.after is None else offset / self.after)
        return _Scaled(inner, self.before, self.after)


class _Centered(Explicit):
    """K₀ y + f(y)."""

    def __init__(self, center: Tensor, inner: Explicit) -> None:
        self.center, self.inner = center, inner

    def run(self, x: Tensor) -> Tensor:
        return x @ self.center.mT + self.inner.run(x)

    def certificate(self) -> Certificate:
        return rules.centered(numbers(self.center), self.inner.certificate())

    def export(self) -> nn.Module:
        return _PlainCentered(Affine(self.center).export(), self.inner.export())

    def shifted(self, offset: Tensor) -> Explicit:
        return _Centered(self.center, self.inner.shifted(offset))


class _Clip(Explicit):
    """clip(f(y), lower, upper)."""

    def __init__(self, inner: Explicit, lower: Tensor, upper: Tensor) -> None:
        self.inner, self.lower, self.upper = inner, lower, upper

    def run(self, x: Tensor) -> Tensor:
        return torch.clamp(self.inner.run(x), self.lower, self.upper)

    def certificate(self) -> Certificate:
        return rules.projection(self.inner.certificate(), numbers(self.lower), numbers(self.upper))

    def export(self) -> nn.Module:
        return nn.Sequential(self.inner.export(), _PlainClip(self.lower, self.upper))

    def shifted(self, offset: Tensor) -> Explicit:
        raise TypeError("a clipped map cannot be shifted: shift what is inside the clip")


class _Multiply(nn.Module):
    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _PlainCentered(nn.Module):
    def __init__(self, center: nn.Module, residual: nn.Module) -> None:
        super().__init__()
        self.center, self.residual = center, residual

    def forward(self, x: Tensor) -> Tensor:
        return self.center(x) + self.residual(x)


class _PlainClip(nn.Module):
    lower: Tensor
    upper: Tensor

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        super().__init__()
        self.register_buffer("lower", lower.clone())
        self.register_buffer("upper", upper.clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.lower, self.upper)
