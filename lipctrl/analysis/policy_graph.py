"""A policy as one graph of neurons: what a structured loop inequality needs to know about it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.activations import Activation, activation
from lipctrl.analysis.ball import LOCAL, Ball, ScaledBall, as_ball
from lipctrl.arithmetic import Enclosure
from lipctrl.certificate import Certificate
from lipctrl.rules.neurons import read_graph

# A signal is an affine function of the observation (key 0), of the outputs of layer l (key l) and of 1.
Signal = dict[int, Enclosure]
CONSTANT = -1


@dataclass(frozen=True)
class PolicyGraph:
    """Increments of a policy u = π(y): Δu = F₀Δy + F₁Δw, Δv = G₀Δy + G₁Δw, Δw = δ∘Δv, δ ∈ [lower, upper].

    `f0` (m, p), `f1` (m, h), `g0` (h, p), `g1` (h, h, strictly block lower triangular) are enclosures of the
    products of the stored weights. Neurons with the same number in `owner` share one multiplier: they are
    coupled (GroupSort, a nested map that is known by its gain only), and the inequality
    (Δw - lower·Δv)ᵀ(Δw - upper·Δv) ≤ 0 holds for their sum. `opaque` names the nodes that entered by their gain.
    `f_bias` and `g_bias`, known up to `f_slack` and `g_slack` (rounding of their products), complete the values
    u = F₀y + F₁w + f, v = G₀y + G₁w + g; `layers` lists
    (start, stop, nonlinearity), where a map that is known by its gain alone has None.
    """

    f0: Enclosure
    f1: Enclosure
    g0: Enclosure
    g1: Enclosure
    lower: np.ndarray
    upper: np.ndarray
    owner: np.ndarray
    f_bias: np.ndarray
    g_bias: np.ndarray
    f_slack: np.ndarray
    g_slack: np.ndarray
    layers: tuple[tuple[int, int, Activation | None], ...] = ()
    opaque: tuple[str, ...] = ()
    clipped: bool = False

    @property
    def neurons(self) -> int:
        """Number of nonlinear channels h."""
        return len(self.lower)

    def values(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (u, v, w) at observations (..., p), in float64; ValueError where a map is known by its gain only."""
        y = np.asarray(y, dtype=np.float64)
        v = np.zeros((*y.shape[:-1], self.neurons))
        w = np.zeros_like(v)
        for start, stop, sigma in self.layers:
            if sigma is None:
                raise ValueError(
                    f"the values of {', '.join(self.opaque) or 'a ball'} are not known, only a gain; expected neurons"
                )
            cut = slice(start, stop)
            drive = y @ self.g0.middle()[cut].T + w @ self.g1.middle()[cut].T + self.g_bias[cut]
            v[..., cut] = drive
            w[..., cut] = sigma.value(drive)
        return y @ self.f0.middle().T + w @ self.f1.middle().T + self.f_bias, v, w


class _Builder:
    """Walks a derivation tree; linear parts are multiplied out, nonlinear ones become neurons."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.drives: list[Signal] = []
        self.lower: list[np.ndarray] = []
        self.upper: list[np.ndarray] = []
        self.owner: list[np.ndarray] = []
        self.owners = 0
        self.opaque: list[str] = []
        self.sigmas: list[Activation | None] = []

    def neurons(
        self, drive: Signal, lower: np.ndarray, upper: np.ndarray, group: int, sigma: Activation | None
    ) -> Signal:
        """Append channels w = δ∘v and return w; an identity is substituted."""
        if sigma is not None and sigma.name == "identity":
            return drive
        height = len(lower)
        self.sizes.append(height)
        self.drives.append(drive)
        self.lower.append(lower)
        self.upper.append(upper)
        self.owner.append(self.owners + np.arange(height) // group)
        self.owners += height // group
        self.sigmas.append(sigma)
        return {len(self.sizes): Enclosure.exact(np.eye(height))}

    def black_box(self, node: Certificate, x: Signal, rows_in: int) -> Signal:
        """Enter a map by its gain alone, padded to a square channel with one multiplier."""
        if node.norm != "l2" or node.claim != "lipschitz" or node.region is not None:
            raise ValueError(
                f"the policy holds a {node.rule!r} node that is known only by a bound of another kind "
                f"({node.claim}, {node.norm}{', on a box' if node.region is not None else ''}); expected a global "
                "l2 Lipschitz bound. Certify the policy with lipctrl.certify(..., region=None)"
            )
        self.opaque.append(node.rule)
        size = max(rows_in, node.out_features)
        pad = Enclosure.exact(np.eye(size)[:, :rows_in])
        bound = np.full(size, node.gain)
        out = self.neurons(_mapped(pad, x), -bound, bound, size, None)
        return _mapped(Enclosure.exact(np.eye(size)[: node.out_features]), out)

    def run(self, node: Certificate, x: Signal) -> Signal:
        """Return the output signal of a node whose input is x."""
        rule = node.rule
        if rule == "linear":
            return _affine(_mapped(Enclosure.exact(node.weights["weight"]), x), node.weights["bias"])
        if rule == "scaling":
            return _scaled(x, node.weights["scale"])
        if rule == "identity":
            return x
        if rule in ("series", "repeat"):
            parts = node.parts if rule == "series" else node.parts * int(node.params["times"])
            for part in parts:
                x = self.run(part, x)
            return x
        if rule == "centered":
            return _added(self.run(node.parts[0], x), self.run(node.parts[1], x))
        if rule == "sum":
            total: Signal = {}
            for c, part in zip(node.weights["coefficients"], node.parts, strict=True):
                total = _added(total, _scaled(self.run(part, x), np.full(node.out_features, c)))
            return total
        if rule == "concat":
            return self._side_by_side(node, [x] * len(node.parts))
        if rule == "parallel":
            cuts = np.cumsum([0, *(p.in_features for p in node.parts)])
            eye = np.eye(node.in_features)
            pieces = [_mapped(Enclosure.exact(eye[a:b]), x) for a, b in itertools.pairwise(cuts)]
            return self._side_by_side(node, pieces)
        if rule == "activation":
            return self._activated(activation(node.params["activation"]), node.in_features, x)
        if rule in ("neurons", "network"):
            return self._graph(node, x)
        if rule == "projection":
            value = self.run(node.parts[0], x)
            ones = np.ones(node.out_features)
            low, high = node.weights["lower"], node.weights["upper"]
            clip = Activation("clip", 0.0, 1.0, lambda v: np.clip(v, low, high))
            return self.neurons(value, 0.0 * ones, ones, 1, clip)
        return self.black_box(node, x, node.in_features)

    def _side_by_side(self, node: Certificate, inputs: list[Signal]) -> Signal:
        total: Signal = {}
        row = 0
        for part, x in zip(node.parts, inputs, strict=True):
            place = np.zeros((node.out_features, part.out_features))
            place[row : row + part.out_features] = np.eye(part.out_features)
            row += part.out_features
            total = _added(total, _mapped(Enclosure.exact(place), self.run(part, x)))
        return total

    def _activated(self, sigma: Activation, size: int, drive: Signal) -> Signal:
        return self.neurons(drive, np.full(size, sigma.lower), np.full(size, sigma.upper), sigma.group, sigma)

    def _graph(self, node: Certificate, x: Signal) -> Signal:
        graph = read_graph(node)
        signals = [x]
        for l, (sources, part) in enumerate(zip(graph.sources[:-1], graph.nonlinear, strict=True), start=1):
            drive = _affine(_gathered(sources, signals), graph.biases[l - 1])
            if isinstance(part, Certificate):
                signals.append(self.run(part, drive))
            else:
                signals.append(self._activated(part, graph.sizes[l], drive))
        return _affine(_gathered(graph.sources[-1], signals), graph.biases[-1])


def _affine(signal: Signal, bias: np.ndarray) -> Signal:
    return _added(signal, {CONSTANT: Enclosure.exact(bias[:, None])})


def _mapped(matrix: Enclosure, signal: Signal) -> Signal:
    return {k: matrix @ m for k, m in signal.items()}


def _scaled(signal: Signal, factors: np.ndarray) -> Signal:
    if (factors == 1.0).all():
        return signal
    column = Enclosure.exact(factors).column()
    return {k: column.times(m) for k, m in signal.items()}


def _added(a: Signal, b: Signal) -> Signal:
    return {k: a[k] + b[k] if k in a and k in b else (a[k] if k in a else b[k]) for k in {**a, **b}}


def _gathered(sources: Any, signals: list[Signal]) -> Signal:
    total: Signal = {}
    for j, weight in sources.items():
        total = _added(total, _mapped(Enclosure.exact(weight), signals[j]))
    return total


def assembled(rows: list[list[Enclosure]]) -> Enclosure:
    """Assemble a block matrix of enclosures."""
    return Enclosure(
        np.block([[cell.middle() for cell in row] for row in rows]),
        np.block([[cell.radius for cell in row] for row in rows]),
    )


def zeros(rows: int, columns: int) -> Enclosure:
    """Return an exact zero matrix."""
    return Enclosure.exact(np.zeros((rows, columns)))


def policy_certificate(policy: Any) -> Any:
    """Return the certificate (or the ball) of a policy object; `as_ball` checks it."""
    if isinstance(policy, Certificate | Ball):
        return policy
    produce = getattr(policy, "certificate", None)
    return produce() if callable(produce) else policy


def policy_graph(policy: Any, *, clip: bool = True) -> PolicyGraph:
    """Return the neurons of a policy with their slopes; a certificate is checked before it is believed.

    Parameters
    ----------
    policy : `IncrementalBall`, `Certificate`, or an object with `.certificate()`; sign u = π(y).
    clip : whether the outermost clip, an actuator limit, enters as neurons of slopes [0, 1] (then statements hold with
        and without saturation) or is left out (then they hold while it is inactive). A clip inside the policy is a
        part of its map and always enters.

    Raises
    ------
    ValueError
        When a certificate does not prove its claim, or it or a ball holds bounds that are not global l2 Lipschitz
        bounds.

    Examples
    --------
    >>> from lipctrl.rules import Layer, Output, neurons
    >>> layer, output = Layer({0: [[0.5], [0.5]]}, "tanh"), Output({1: [[1.0, 1.0]]})
    >>> net = neurons([layer], output, [[2.0, 2.0]], 1.1, in_features=1)
    >>> policy_graph(net).neurons
    2
    """
    source = policy_certificate(policy)
    ball = as_ball(source)
    if isinstance(source, Ball) and source.region is not None:
        raise ValueError(LOCAL)  # A ball has no neurons whose slopes would hold outside its box.
    builder = _Builder()
    start: Signal = {0: Enclosure.exact(np.eye(ball.observations))}
    limited = isinstance(source, Certificate) and source.rule == "projection"
    if isinstance(source, Certificate):
        output = builder.run(source.parts[0] if limited and not clip else source, start)
    else:
        scaled = source if isinstance(source, ScaledBall) else None
        s, a = (
            (1.0, np.ones(ball.actions))
            if scaled is None
            else (scaled.observation_scale, scaled.action_scale)
        )
        size = max(ball.actions, ball.observations)
        bound = np.full(size, (scaled or ball).radius)
        pad = Enclosure.exact(np.eye(size)[:, : ball.observations] / s)
        w = builder.neurons(_mapped(pad, start), -bound, bound, size, None)
        read = Enclosure.exact(np.eye(size)[: ball.actions] * a[:, None])
        output = _added(_mapped(Enclosure.exact(ball.center), start), _mapped(read, w))
    return _finished(builder, output, ball.observations, ball.actions, clipped=limited and clip)


def _finished(builder: _Builder, output: Signal, p: int, m: int, *, clipped: bool) -> PolicyGraph:
    sizes = builder.sizes
    h = sum(sizes)

    def row(signal: Signal, height: int) -> tuple[Enclosure, Enclosure]:
        first = signal.get(0, zeros(height, p))
        rest = [signal.get(l, zeros(height, size)) for l, size in enumerate(sizes, start=1)]
        return first, assembled([rest]) if rest else zeros(height, 0)

    f0, f1 = row(output, m)
    rows = [row(drive, size) for drive, size in zip(builder.drives, sizes, strict=True)]
    g0 = assembled([[r[0]] for r in rows]) if rows else zeros(0, p)
    g1 = assembled([[r[1]] for r in rows]) if rows else zeros(0, h)

    def constant(signal: Signal, height: int) -> Enclosure:
        return signal.get(CONSTANT, zeros(height, 1))

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(arrays) if arrays else np.zeros(0)

    f = constant(output, m)
    g = [constant(d, size) for d, size in zip(builder.drives, sizes, strict=True)]

    stops = np.cumsum(sizes)
    return PolicyGraph(
        f0,
        f1,
        g0,
        g1,
        joined(builder.lower),
        joined(builder.upper),
        joined(builder.owner).astype(int),
        f_bias=f.middle()[:, 0],
        g_bias=joined([c.middle()[:, 0] for c in g]),
        f_slack=f.radius[:, 0],
        g_slack=joined([c.radius[:, 0] for c in g]),
        layers=tuple((int(b) - a, int(b), s) for a, b, s in zip(sizes, stops, builder.sigmas, strict=True)),
        opaque=tuple(builder.opaque),
        clipped=clipped,
    )
