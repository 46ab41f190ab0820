"""The network users ask for: residual blocks in series between a linear lift and a signed linear head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipctrl.activations import activation as read_activation
from lipctrl.nn.activations import Spec
from lipctrl.nn.compose import Sequential
from lipctrl.nn.explicit import Affine, Explicit, chain, reserved
from lipctrl.nn.gershgorin import GershgorinBlock
from lipctrl.nn.ldlt import LDLTBlock
from lipctrl.nn.lossless import LosslessBlock
from lipctrl.nn.module import CertifiedModule, positive, positive_gain
from lipctrl.nn.orthogonal import Semiorthogonal, matrices
from lipctrl.nn.sandwich import SandwichLayer
from lipctrl.nn.sll import AOLLayer, SLLBlock

Trunk = Callable[[int, int, int, int, Spec, float], CertifiedModule]


# So many blocks fold their input at initialisation; further blocks of a deeper network start at rest.
AWAKE = 16


def initial_spread(depth: int, lipschitz: float = 1.0) -> float:
    """Return the share of energy that leaves the skip path at initialisation, by depth and gain.

    Each block may lose up to a fraction of the order of spread² of the gradient: 3/depth keeps the gradient of a
    network of any depth alive. A steep network (L > 1, inputs and outputs of order one) of few blocks starts better
    with less of its slope, since it would fold its input too wildly; beyond ten blocks that wish gives way to depth.
    """
    steep = max(1.0, lipschitz * min(1.0, 10.0 / depth) ** 3)
    return min(1.5 if steep > 1.0 else 1.0, 3.0 / depth * steep)


def _raw_factor(factor: float | None, trainable: bool) -> Tensor:
    """Return the logit of the initial fraction of the gain."""
    if factor is None:
        # sigmoid(2.2) = 0.9: close to the cap, where the gradient is still alive.
        return torch.tensor(2.2)
    if not trainable:
        raise ValueError(
            f"initial_factor is {factor!r} but the gain is fixed; give trainable_lipschitz=True with it"
        )
    if not 0.0 < factor < 1.0:
        raise ValueError(f"initial_factor is {factor!r}; expected a number between 0 and 1")
    return torch.tensor(math.log(factor / (1.0 - factor)))


def _lossless(n: int, h: int, d: int, k: int, s: Spec, spread: float) -> CertifiedModule:
    return LosslessBlock(n, n, width=h, depth=d, inner_depth=k, activation=s, spread=spread)


def _gershgorin(n: int, h: int, d: int, k: int, s: Spec, spread: float) -> CertifiedModule:
    return GershgorinBlock(n, n, width=h, depth=d, inner_depth=k, activation=s, scaled=False)


def _gershgorin_scaled(n: int, h: int, d: int, k: int, s: Spec, spread: float) -> CertifiedModule:
    return GershgorinBlock(n, n, width=h, depth=d, inner_depth=k, activation=s, scaled=True)


def _ldlt(n: int, h: int, d: int, k: int, s: Spec, spread: float) -> CertifiedModule:
    return LDLTBlock(n, n, width=h, depth=d, inner_depth=k, activation=s, spread=spread)


def _sandwich(n: int, h: int, d: int, k: int, s: Spec, spread: float) -> CertifiedModule:
    return SandwichLayer(n, n, depth=d * k, activation=s)


def _sll(norm: str) -> Trunk:
    def build(n: int, h: int, d: int, k: int, s: Spec, spread: float) -> CertifiedModule:
        return SLLBlock(n, n, width=h, depth=d * k, activation=s, norm=norm)

    return build


def _aol(n: int, h: int, d: int, k: int, s: Spec, spread: float) -> CertifiedModule:
    return Sequential(*(AOLLayer(n, n, activation=s) for _ in range(d * k)))


# name -> (features, width, depth, inner_depth, activation, spread) -> blocks in series of gain 1.
# Parametrisations without inner layers of their own take depth · inner_depth blocks.
TRUNKS: dict[str, Trunk] = {
    "lossless": _lossless,
    "gershgorin": _gershgorin,
    "gershgorin-scaled": _gershgorin_scaled,
    "ldlt": _ldlt,
    "sandwich": _sandwich,
    "sll": _sll("sll"),
    "cpl": _sll("cpl"),
    "aol": _aol,
}


class LipschitzResNet(CertifiedModule):
    """A residual network with ‖f(x)-f(x')‖ ≤ L‖x-x'‖ for all inputs and all parameter values.

    Parameters
    ----------
    in_features, out_features : dimensions; x of shape (..., in_features), outputs are signed (no activation).
    lipschitz : the l2 gain L, or its cap when `trainable_lipschitz`.
    width : features of the trunk and neurons of each inner layer.
    depth : residual blocks in series.
    inner_depth : inner layers of each block.
    parametrization : "lossless", "gershgorin", "gershgorin-scaled", "ldlt", "sandwich", "sll", "cpl" or "aol".
    activation : a name or table of `lipctrl.activations`.
    zero_at_origin : subtract f(0), so that f(0) = 0. A residual policy u = -K y + f(y) then leaves the
        equilibrium y = 0 where the linear part has it; off by default, because a regression wants the bias.
    spread : initial share of energy that leaves the skip path of lossless and LDLᵀ blocks; None chooses it by depth
        and gain. Large values (1) suit steep networks of few blocks, small ones keep deep gradients alive.
    trainable_lipschitz : learn a factor in (0, 1) of L.
    initial_factor : where that factor starts, in (0, 1); None is 0.9. A small one (0.01) starts a residual policy
        u = -K y + f(y) next to its linear part, and one that saturates its actuators where it can still learn.

    Raises
    ------
    ValueError
        For unknown names, numbers out of range, and an `initial_factor` without `trainable_lipschitz`.

    Examples
    --------
    >>> import torch
    >>> net = LipschitzResNet(3, 1, lipschitz=2.0, width=16, depth=2)
    >>> net(torch.zeros(5, 3)).shape
    torch.Size([5, 1])
    >>> net.certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        width: int = 64,
        depth: int = 4,
        inner_depth: int = 1,
        parametrization: str = "lossless",
        activation: Spec = "relu",
        zero_at_origin: bool = False,
        spread: float | None = None,
        trainable_lipschitz: bool = False,
        initial_factor: float | None = None,
    ) -> None:
        super().__init__(in_features, out_features)
        if not isinstance(parametrization, str) or parametrization not in TRUNKS:
            raise ValueError(f"parametrization is {parametrization!r}; expected one of {sorted(TRUNKS)}")
        self.lipschitz = positive_gain(lipschitz)
        self.width, self.depth = positive("width", width), positive("depth", depth)
        self.inner_depth = positive("inner_depth", inner_depth)
        self.parametrization, self.activation = parametrization, read_activation(activation)
        self.zero_at_origin = bool(zero_at_origin)
        self.lift = Semiorthogonal(width, in_features)
        self.spread = (
            initial_spread(depth, self.lipschitz) if spread is None else positive_gain(spread, "spread")
        )
        self.trunk = TRUNKS[parametrization](width, width, depth, inner_depth, self.activation, self.spread)
        self._rest()
        self.head = Semiorthogonal(out_features, width)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.initial_factor = initial_factor
        raw = _raw_factor(initial_factor, trainable_lipschitz)
        self.raw_factor = nn.Parameter(raw) if trainable_lipschitz else None

    def _rest(self) -> None:
        """Start all but `AWAKE` lossless blocks, evenly spread, at rest, and let deep ones turn more slowly.

        Dozens of random folds in series make a function too wild to train. A block whose biases lie below the
        usual pre-activations is nearly an orthogonal map: it passes every gradient on, and training wakes it
        where it helps. Only the direction of a stored matrix counts, so its length sets the angle by which a
        step of an adaptive optimiser turns it: the turns of many blocks add up, and are made smaller.
        """
        if not isinstance(self.trunk, LosslessBlock) or self.depth <= AWAKE:
            return
        usual = (2.0 * self.lipschitz * self.in_features / self.width) ** 0.5
        awake = {round(i * self.depth / AWAKE) for i in range(AWAKE)}
        resting = [i for i in range(self.depth) if i not in awake]
        inertia = max(1.0, self.depth / (2 * AWAKE))
        with torch.no_grad():
            self.trunk.bias[resting] -= 6.0 * usual
            for factor in self.trunk.modules():
                if isinstance(factor, Semiorthogonal):
                    factor.weight.mul_(inertia)

    def fold(self) -> Explicit:
        # The gain is split evenly between both ends; each end pays for the rounding of its own product.
        end = self.lipschitz**0.5 * reserved(self.bias.dtype, 1)
        head = end if self.raw_factor is None else end * torch.sigmoid(self.raw_factor)
        if isinstance(self.trunk, LosslessBlock):
            first, last, *inner = matrices(self.lift, self.head, *self.trunk.factors())
            trunk = self.trunk.assemble(*inner)
        else:
            (first, last), trunk = matrices(self.lift, self.head), self.trunk.fold()
        whole = chain(Affine(end * first), trunk, Affine(head * last, self.bias))
        if not self.zero_at_origin:
            return whole
        return whole.shifted(-whole.run(self.bias.new_zeros(self.in_features)))

    def current_lipschitz(self) -> Tensor:
        """Return the requested gain as it is now: L, or its trained fraction, differentiably."""
        if self.raw_factor is None:
            return self.bias.new_tensor(self.lipschitz)
        return self.lipschitz * torch.sigmoid(self.raw_factor)

    def spec(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values; the weights travel as `state_dict()`."""
        return {
            "network": "LipschitzResNet",
            "in_features": self.in_features,
            "out_features": self.out_features,
            "lipschitz": self.lipschitz,
            "width": self.width,
            "depth": self.depth,
            "inner_depth": self.inner_depth,
            "parametrization": self.parametrization,
            "activation": self.activation.to_dict(),
            "zero_at_origin": self.zero_at_origin,
            "spread": self.spread,
            "trainable_lipschitz": self.raw_factor is not None,
            "initial_factor": self.initial_factor,
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> LipschitzResNet:
        """Build a network, with new weights, from what `spec()` returned."""
        arguments = dict(spec)
        kind = arguments.pop("network", "LipschitzResNet")
        if kind != "LipschitzResNet":
            raise ValueError(f"network is {kind!r}; expected 'LipschitzResNet'")
        return cls(arguments.pop("in_features"), arguments.pop("out_features"), **arguments)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} → {self.out_features}, lipschitz={self.lipschitz:g}, {self.parametrization}"
        )
