"""An oracle in rational arithmetic, independent of lipctrl's proofs, and small certificates of every rule."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from lipctrl import rules
from lipctrl.activations import activation
from lipctrl.certificate import Certificate


def rational(array) -> np.ndarray:
    """Turn doubles into the fractions that they are."""
    array = np.asarray(array, dtype=np.float64)
    out = np.empty(array.shape, dtype=object)
    out.ravel()[:] = [Fraction(float(v)) for v in array.ravel()]
    return out


def is_positive_semidefinite(matrix: np.ndarray) -> bool:
    """Decide M ⪰ 0 by rational LDLᵀ with symmetric elimination: no rounding anywhere."""
    m = matrix.copy()
    size = len(m)
    for k in range(size):
        pivot = m[k, k]
        if pivot < 0:
            return False
        rest = range(k + 1, size)
        if pivot == 0:
            if any(m[k, j] != 0 for j in rest):
                return False
            continue
        for i in rest:
            factor = m[i, k] / pivot
            if factor != 0:
                for j in rest:
                    m[i, j] -= factor * m[k, j]
    return True


def lmi(node: Certificate) -> np.ndarray:
    """Assemble N of a `neurons` or `network` node (global slopes) from definitions, neuron by neuron."""
    specs = node.params["activations"]
    sizes = [node.in_features]
    kinds = []
    for l, spec in enumerate(specs, start=1):
        sizes.append(len(node.weights[f"layer{l}.bias"]))
        if "part" in spec:
            gain = node.parts[spec["part"]].gain
            kinds.append((-gain, gain, node.rule == "network" and gain == 0.0))
        else:
            sigma = activation(spec)
            kinds.append((sigma.lower, sigma.upper, node.rule == "network" and sigma.lower == sigma.upper))
    starts = np.cumsum([0, sizes[0], *(0 if k[2] else s for k, s in zip(kinds, sizes[1:], strict=True))])
    total = int(starts[-1])
    one = rational(np.eye(total))
    states = [one[: sizes[0]]]

    def mixed(prefix: str, rows: int) -> np.ndarray:
        out = rational(np.zeros((rows, total)))
        for j, state in enumerate(states):
            weight = node.weights.get(f"{prefix}.from{j}")
            if weight is not None:
                out = out + rational(weight) @ state
        return out

    n = rational(np.zeros((total, total)))
    for l, (low, high, linear) in enumerate(kinds, start=1):
        v = mixed(f"layer{l}", sizes[l])
        if linear:
            states.append(Fraction(low) * v)
            continue
        e = one[starts[l] : starts[l + 1]]
        states.append(e)
        lam = rational(node.witness[f"multiplier{l}"])
        a, b = e - Fraction(low) * v, e - Fraction(high) * v
        half = (a * lam[:, None]).T @ b
        n = n + half + half.T
    y, x, gain = mixed("output", node.out_features), one[: sizes[0]], Fraction(node.gain)
    if node.claim == "lipschitz":
        return n + gain**2 * (x.T @ x) - y.T @ y
    if node.claim == "inverse":
        return n - gain**2 * (x.T @ x) + y.T @ y
    return n + gain * (x.T @ x) - (x.T @ y + y.T @ x) / 2


def resealed(node: Certificate, **changes) -> Certificate:
    """Return an altered certificate whose digest is right: an attack on the proof, not on the seal."""
    return dataclasses.replace(node, **changes, digest="")


def attacked(certificate: Certificate, rng: np.random.Generator, pairs: int = 400) -> float:
    """Return the largest ratio ‖Δy‖/‖Δx‖ (in the certificate's norm) over near and far pairs, many near zero."""
    order = 2 if certificate.norm == "l2" else np.inf
    best = 0.0
    for scale in (1e-3, 1.0, 30.0):
        x = scale * rng.standard_normal((pairs, certificate.in_features))
        for step in (1e-4 * scale, scale):
            direction = rng.standard_normal(x.shape)
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            other = x + step * direction
            if certificate.region is not None:
                x, other = (np.clip(p, *certificate.region) for p in (x, other))
            run = np.linalg.norm(x - other, ord=order, axis=1)
            high, low = certificate.evaluate(x), certificate.evaluate(other)
            rise = np.linalg.norm(high - low, ord=order, axis=1)
            rise -= 2.0**-44 * (np.abs(high).sum(axis=1) + np.abs(low).sum(axis=1))
            best = max(best, float((rise[run > 0] / run[run > 0]).max(initial=0.0)))
    return best


def neuron_block(rng: np.random.Generator, kind="relu", inputs: int = 2, hidden: int = 2) -> Certificate:
    """Return a proved residual block of one hidden layer with generous multipliers."""
    c = rng.standard_normal((hidden, inputs))
    a, b = rng.standard_normal((2, inputs)), rng.standard_normal((2, hidden))
    lam = np.full(hidden, 1.0 + float(np.linalg.norm(b, 2)) ** 2)
    for gain in 2.0 ** np.arange(0, 20):
        node = rules.neurons(
            [rules.Layer({0: c}, kind, rng.standard_normal(hidden))],
            rules.Output({0: a, 1: b}),
            [lam],
            float(gain),
            in_features=inputs,
        )
        try:
            rules.RULES["neurons"].prove(node, _float_kind())
        except rules.NotProvedError:
            continue
        return node
    raise AssertionError("no gain proves the block")


def _float_kind():
    from lipctrl.arithmetic import Enclosure

    return Enclosure


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(
        rational=rational,
        is_positive_semidefinite=is_positive_semidefinite,
        lmi=lmi,
        resealed=resealed,
        attacked=attacked,
        neuron_block=neuron_block,
    )


def _specimens() -> dict[str, Certificate]:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((2, 2))
    lin, block = rules.linear(w, [1.0, -1.0]), neuron_block(rng, "tanh")
    relu, scale = rules.elementwise("relu", 2), rules.scaling([0.5, -0.25])
    sup = rules.linear(w, norm="linf")
    box = (np.array([-1.0, -1.0]), np.array([1.0, 0.5]))
    layers = [rules.Layer({0: w}, "identity"), rules.Layer({1: w}, "relu", rng.standard_normal(2))]
    return {
        "linear": lin,
        "linear-linf": sup,
        "scaling": scale,
        "identity": rules.identity(2),
        "activation": relu,
        "groupsort": rules.elementwise({"name": "groupsort", "size": 2}, 2, norm="linf"),
        "series": rules.series(lin, relu, scale),
        "series-linf": rules.series(sup, rules.elementwise("tanh", 2, norm="linf")),
        "sum": rules.total(lin, rules.series(lin, relu), coefficients=[1.0, -0.5]),
        "concat": rules.concat(lin, relu),
        "concat-linf": rules.concat(sup, rules.identity(2, norm="linf")),
        "parallel": rules.parallel(lin, scale),
        "repeat": rules.repeat(rules.series(lin, relu), 3),
        "feedback": rules.feedback(rules.series(scale, relu), lin),
        "neurons": block,
        "centered": rules.centered(w, scale),
        "projection": rules.projection(block, [-1.0, -1.0], [1.0, 0.5]),
        "network": rules.network(layers, rules.Output({2: w}), {2: 30.0 * np.ones(2)}, 9.0, in_features=2),
        "network-linf": rules.network(layers, rules.Output({2: w}), {}, 60.0, in_features=2, norm="linf"),
        "network-local-linf": rules.network(
            layers, rules.Output({2: w}), {}, 60.0, in_features=2, norm="linf", region=box
        ),
    }


SPECIMENS = _specimens()


@pytest.fixture(params=sorted(SPECIMENS))
def specimen(request) -> Certificate:
    """One proved certificate of every rule."""
    return SPECIMENS[request.param]


@pytest.fixture(scope="session")
def specimens() -> dict[str, Certificate]:
    return dict(SPECIMENS)
