"""The dense form of small lossless blocks in series, in one step and with its derivative written out.

A fold of small matrices spends its time in the launches of a hundred operations, not in arithmetic. In training, where
nothing but the dense form is run, one function from the orthogonal factors to its weights takes a third of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipctrl.nn.activations import short
from lipctrl.nn.dense import RUNNABLE, Dense, condense
from lipctrl.nn.explicit import Explicit, reserved
from lipctrl.nn.lossless import LosslessBlock, bounded_exp
from lipctrl.nn.module import CertifiedModule, composed
from lipctrl.nn.orthogonal import matrices
from lipctrl.nn.resnet import LipschitzResNet
from lipctrl.nn.small import SMALL


def training_form(network: CertifiedModule) -> Explicit | Dense:
    """Return the map of a network in the form that a training loop runs fastest, differentiably.

    The same map as `network.explicit()` up to rounding; what is exported and certified stays the fold. Derivatives of
    second order take `condense(network.explicit())` instead.

    Examples
    --------
    >>> net, x = LipschitzResNet(3, 1, width=16, depth=2), torch.ones(1, 3)
    >>> torch.allclose(training_form(net).run(x), net(x), atol=1e-6)
    True
    """
    trunk = network.trunk if type(network) is LipschitzResNet else None
    if isinstance(trunk, LosslessBlock) and _fits(network, trunk):
        return _series(network, trunk)
    return condense(network.explicit())


def _fits(network: Any, trunk: LosslessBlock) -> bool:
    """Tell whether launches outweigh arithmetic, and the dense form has fewer products than the chain."""
    p, q, h, depth = network.in_features, network.out_features, network.width, network.depth
    dense = h * (depth * p + h * depth * (depth - 1) // 2) + q * (p + depth * h)
    chained = h * p + 3 * depth * h * h + q * h
    return (
        not composed()
        and type(trunk) is LosslessBlock
        and trunk.inner_depth == 1
        and short(trunk.activation) in RUNNABLE
        and trunk.bias.device.type == "cpu"
        and trunk.bias.dtype in (torch.float32, torch.float64)
        and 2 * trunk.first.weight.numel() <= SMALL
        and dense <= chained
    )


def _series(network: Any, trunk: LosslessBlock) -> Dense:
    first, last, pair, mix = matrices(network.lift, network.head, *trunk.factors())
    end = network.lipschitz**0.5 * reserved(network.bias.dtype, 1)
    if network.raw_factor is not None:
        last = torch.sigmoid(network.raw_factor) * last
    scale = None if trunk.log_scale is None else bounded_exp(trunk.log_scale[:, 0])
    gain = trunk.lipschitz ** (1.0 / trunk.depth) * reserved(network.bias.dtype, 1)
    found: Any = _Series.apply(
        end, gain, scale, first, last, network.bias, pair, mix, trunk.bias[:, 0], trunk.output_bias
    )
    count = trunk.depth + 1
    activations = (trunk.activation.name,) * trunk.depth
    dense = Dense(found[:count], found[count:], activations)
    if not network.zero_at_origin:
        return dense
    origin = dense.run(network.bias.new_zeros(1, network.in_features))[0]
    return Dense(dense.weights, (*dense.biases[:-1], dense.biases[-1] - origin), activations)


@dataclass(frozen=True)
class Blocks:
    """What each block does with its input v: it reads R v + b, and passes on T v + C w + d of its neurons w."""

    read: np.ndarray
    through: np.ndarray
    carried: np.ndarray


class _Series(torch.autograd.Function):
    """The weights, then the biases, of the dense form; (first, last) are scaled by √L here."""

    @staticmethod
    def forward(
        ctx: Any, end: float, gain: float, scale: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        first, last, bias, pair, mix, biases, output_biases = (t.detach().numpy() for t in tensors)
        psi = None if scale is None else scale.detach().numpy()
        blocks = _blocks(pair, mix, psi, gain)
        # Column 0 holds constants, so that weights and biases share their products.
        state = np.zeros((len(first), 1 + first.shape[1]), first.dtype)
        state[:, 1:] = end * first
        states, out = [state], []
        for i in range(len(pair)):
            layer = blocks.read[i] @ state
            layer[:, 0] += biases[i]
            out.append(layer)
            state = np.concatenate((blocks.through[i] @ state, blocks.carried[i]), 1)
            state[:, 0] += output_biases[i]
            states.append(state)
        layer = end * (last @ state)
        layer[:, 0] += bias
        out.append(layer)
        ctx.save_for_backward(*tensors)
        ctx.blocks, ctx.states, ctx.end, ctx.gain, ctx.psi = blocks, states, end, gain, psi
        return (
            *(torch.from_numpy(layer[:, 1:]) for layer in out),
            *(torch.from_numpy(layer[:, 0].copy()) for layer in out),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first, last, _, pair, mix, _, _ = (t.detach().numpy() for t in ctx.saved_tensors)
        blocks, states, count = ctx.blocks, ctx.states, len(pair) + 1
        layers = [
            np.concatenate((b.numpy()[:, None], w.numpy()), 1)
            for w, b in zip(gradients[:count], gradients[count:], strict=True)
        ]
        h = pair.shape[1]
        g_last = ctx.end * (layers[-1] @ states[-1].T)
        g = ctx.end * (last.T @ layers[-1])
        g_output = np.empty((count - 1, len(first)), first.dtype)
        by = Blocks(*(np.empty_like(m) for m in (blocks.read, blocks.through, blocks.carried)))
        for i in reversed(range(count - 1)):
            by.carried[i] = g[:, -h:]
            g = g[:, :-h]
            g_output[i] = g[:, 0]
            np.matmul(g, states[i].T, out=by.through[i])
            np.matmul(layers[i], states[i].T, out=by.read[i])
            g = blocks.through[i].T @ g + blocks.read[i].T @ layers[i]
        g_pair, g_mix, g_scale = _by_factors(by, blocks, pair, mix, ctx.psi, ctx.gain)
        g_biases = np.stack([layer[:, 0] for layer in layers[:-1]])
        g_psi = None if g_scale is None else torch.from_numpy(g_scale)
        found = (ctx.end * g[:, 1:], g_last, layers[-1][:, 0], g_pair, g_mix, g_biases, g_output)
        return None, None, g_psi, *(torch.from_numpy(a) for a in found)


def _blocks(pair: np.ndarray, mix: np.ndarray, scale: np.ndarray | None, gain: float) -> Blocks:
    """Return R = √(2g) Ψ⁻¹Q, T = g M_1 and C = √(2g) (M_2 Sᵀ - M_1 Qᵀ) Ψ of [Q S] = `pair`, [M_1 M_2] = `mix`."""
    n, root = mix.shape[1], math.sqrt(2.0 * gain)
    read = root * pair[..., :n]
    carried = root * (np.matmul(mix, _signed(pair, n).transpose(0, 2, 1)))
    if scale is not None:
        read /= scale[..., None]
        carried *= scale[:, None, :]
    return Blocks(read, gain * mix[..., :n], carried)


def _signed(pair: np.ndarray, n: int) -> np.ndarray:
    """Return [-Q S] of [Q S]."""
    signed = pair.copy()
    np.negative(signed[..., :n], out=signed[..., :n])
    return signed


def _by_factors(
    by: Blocks, blocks: Blocks, pair: np.ndarray, mix: np.ndarray, scale: np.ndarray | None, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the gradients of `pair`, `mix` and `scale` from those of the blocks."""
    n, root = mix.shape[1], math.sqrt(2.0 * gain)
    read, carried, g_scale = by.read, by.carried, None
    if scale is not None:
        g_scale = ((carried * blocks.carried).sum(1) - (read * blocks.read).sum(2)) / scale
        read, carried = read / scale[..., None], carried * scale[:, None, :]
    g_mix = root * np.matmul(carried, _signed(pair, n))
    g_mix[..., :n] += gain * by.through
    g_pair = root * np.matmul(carried.transpose(0, 2, 1), mix)
    g_pair[..., :n] = root * read - g_pair[..., :n]
    return g_pair, g_mix, g_scale
