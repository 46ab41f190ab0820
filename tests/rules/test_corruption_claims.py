"""Corruptions with a repaired seal of claims on a box, of other properties and of implicit layers.

No rational oracle covers these nodes. What still proves after an alteration is attacked where it would break first: at
the Jacobians of the altered map, taken inside the altered box.
"""

from __future__ import annotations

import numpy as np
import pytest

import lipctrl
from lipctrl import rules
from lipctrl.certificate import Certificate
from lipctrl.checker import check

RNG = np.random.default_rng(11)
FIRST, LAST = RNG.standard_normal((4, 2)), RNG.standard_normal((2, 4))
# Biases off zero: tanh is steeper where the box is wider.
LAYERS = [(FIRST, np.array([1.2, -1.1, 0.9, 1.4])), (LAST, np.zeros(2))]
STATE = np.array([[0.2, -0.3, 0.1], [0.4, -0.5, 0.0], [-0.1, 0.2, 0.3]])


def box_specimen(radius: float) -> Certificate:
    return lipctrl.certify(LAYERS, "local", region=(-radius, radius), activation="tanh")


def implicit_specimen(norm: str) -> Certificate:
    weights = {"state": STATE, "input": FIRST[:3], "output": LAST[:, :3]}
    biases = {"bias": np.array([0.3, -0.2, 0.1]), "output.bias": np.zeros(2)}
    for gain in 2.0 ** np.arange(0, 12):
        node = Certificate(
            "implicit", float(gain), 2, 2, weights={**weights, **biases}, params={"activation": {"name": "tanh"}},
            witness={"scale": np.ones(3)} if norm == "linf" else {"multiplier": np.full(3, 0.3 * gain)},
            norm=norm,
        )  # fmt: skip
        if check(node).ok:
            return node
    raise AssertionError("no gain proves the implicit layer")


def jacobians(node: Certificate, points: np.ndarray, step: float = 1e-6) -> np.ndarray:
    columns = []
    for direction in np.eye(node.in_features):
        rise = node.evaluate(points + step * direction) - node.evaluate(points - step * direction)
        columns.append(rise / (2.0 * step))
    return np.stack(columns, axis=-1)


def worst_constant(node: Certificate, rng: np.random.Generator, count: int = 60) -> float:
    """Return the largest (for "inverse" the smallest) constant seen at Jacobians inside the node's box."""
    lower, upper = node.region if node.region is not None else (-3.0 * np.ones(2), 3.0 * np.ones(2))
    corners = np.array(
        [[lower[0], lower[1]], [lower[0], upper[1]], [upper[0], lower[1]], [upper[0], upper[1]]]
    )
    slopes = jacobians(node, np.vstack([corners, lower + (upper - lower) * rng.random((count, 2))]))
    if node.claim in ("contraction", "contraction-rate"):
        root = np.linalg.cholesky(node.witness["metric"]).T
        slopes = root @ slopes @ np.linalg.inv(root)
    if node.claim in ("one-sided", "contraction-rate"):
        return float(np.linalg.eigvalsh(0.5 * (slopes + slopes.swapaxes(-1, -2)))[:, -1].max())
    if node.claim == "inverse":
        return float(np.linalg.svd(slopes, compute_uv=False)[:, -1].min())
    return float(np.linalg.norm(slopes, 2 if node.norm == "l2" else np.inf, axis=(1, 2)).max())


def is_beaten(node: Certificate, rng: np.random.Generator) -> bool:
    """Tell whether a Jacobian contradicts the claim beyond what difference quotients cannot see."""
    found, blur = worst_constant(node, rng), 1e-6 * (1.0 + abs(node.gain))
    return found < node.gain - blur if node.claim == "inverse" else found > node.gain + blur


def one_digit_changed(node: Certificate, rng: np.random.Generator, oracle) -> Certificate:
    """Change one number of the gain, the box, the weights or the witness in one of its leading digits."""
    places: list[tuple[str, str, tuple[int, ...]]] = [("gain", "", ())]
    for kind in ("weights", "witness"):
        for name, array in getattr(node, kind).items():
            places += [(kind, name, index) for index in np.ndindex(array.shape)]
    if node.region is not None:
        places += 3 * [("region", str(side), (k,)) for side in range(2) for k in range(node.in_features)]

    def changed(value: float) -> float:
        digit = 10.0 ** (np.floor(np.log10(abs(value) or 0.1)) - rng.integers(0, 4))
        return float(value + rng.choice([-1, 1]) * rng.integers(1, 9) * digit)

    kind, name, index = places[rng.integers(len(places))]
    if kind == "gain":
        return oracle.resealed(node, gain=changed(node.gain))
    if kind == "region":
        box = [np.array(end) for end in node.region or ()]
        box[int(name)][index] = changed(float(box[int(name)][index]))
        return oracle.resealed(node, region=tuple(box))
    arrays = {key: np.array(value) for key, value in getattr(node, kind).items()}
    arrays[name][index] = changed(float(arrays[name][index]))
    return oracle.resealed(node, **{kind: arrays})


def tightened(node: Certificate, oracle) -> Certificate:
    """Return the node with the best constant that its witness proves (to 1e-6)."""
    far = node.gain - 2.0 * (1.0 + abs(node.gain)) if node.claim != "inverse" else node.gain + 10.0
    if node.claim in ("lipschitz", "contraction"):
        far = 0.0
    good, bad = node.gain, far
    while abs(good - bad) > 1e-6 * (1.0 + abs(good)):
        middle = 0.5 * (good + bad)
        good, bad = (middle, bad) if check(oracle.resealed(node, gain=middle)).ok else (good, middle)
    return oracle.resealed(node, gain=good)


def of_property(name: str, shift: float) -> Certificate:
    """Certify x ↦ shift·x + small network for a property that needs a square map."""
    layers = [
        rules.Layer({0: 0.3 * FIRST}, "tanh", np.zeros(4)),
        rules.Layer({0: shift * np.eye(2), 1: 0.3 * LAST}, "identity", np.zeros(2)),
    ]
    metric = np.array([[2.0, 0.3], [0.3, 1.0]]) if name.startswith("contraction") else None
    output = rules.Output({2: np.eye(2)})
    gains = 2.0 ** np.arange(-6, 6) if name != "inverse" else 2.0 ** np.arange(1, -8, -1.0)
    for gain in gains:
        for weight in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
            node = rules.network(
                layers, output, {1: np.full(4, weight)}, float(gain), in_features=2, claim=name, metric=metric
            )
            if check(node).ok:
                return node
    raise AssertionError(f"nothing proves {name}")


SPECIMENS = {
    "a narrow box": lambda: box_specimen(0.02),
    "a box": lambda: box_specimen(0.3),
    "implicit l2": lambda: implicit_specimen("l2"),
    "implicit linf": lambda: implicit_specimen("linf"),
    "one-sided": lambda: of_property("one-sided", -1.0),
    "inverse": lambda: of_property("inverse", 2.0),
    "contraction": lambda: of_property("contraction", 0.2),
    "contraction-rate": lambda: of_property("contraction-rate", -1.0),
}


@pytest.fixture(scope="module")
def made() -> dict[str, Certificate]:
    return {name: build() for name, build in SPECIMENS.items()}


@pytest.mark.parametrize("name", SPECIMENS)
@pytest.mark.parametrize("route", ["float", "exact"])
def test_what_proves_after_one_changed_digit_is_true(made, name, route, oracle):
    rng = np.random.default_rng(len(name))
    tight = tightened(made[name], oracle)
    assert check(tight, route=route).ok
    assert not is_beaten(tight, rng)
    refused = proved = 0
    for _ in range(80 if route == "float" else 12):
        forged = one_digit_changed(tight, rng, oracle)
        if check(forged, route=route).ok:
            proved += 1
            assert not is_beaten(forged, rng), forged
        else:
            refused += 1
    assert refused > 0
    assert proved > 0


@pytest.mark.parametrize("radius", [0.02, 0.3])
def test_a_wider_box_needs_a_larger_gain(radius, oracle):
    """Every end of the box moved outwards by one digit: the tight gain no longer proves, a larger one does."""
    tight = tightened(box_specimen(radius), oracle)
    assert tight.region is not None
    for side in range(2):
        for k in range(2):
            box = [np.array(end) for end in tight.region]
            box[side][k] *= 1.5
            wider = oracle.resealed(tight, region=tuple(box))
            assert not check(wider).ok
            assert check(oracle.resealed(wider, gain=1.5 * tight.gain)).ok
    assert not check(oracle.resealed(tight, region=None)).ok


def test_the_attack_sees_a_gain_that_is_too_small(oracle):
    """The oracle of this file is no rubber stamp: it contradicts a claim 20 % below the truth."""
    rng = np.random.default_rng(0)
    for name, factor in (("a narrow box", 0.8), ("contraction", 0.5), ("inverse", 2.0)):
        tight = tightened(SPECIMENS[name](), oracle)
        assert is_beaten(oracle.resealed(tight, gain=factor * tight.gain), rng)


def test_an_implicit_layer_is_refused_where_its_equation_is_not_well_posed(oracle):
    for norm in ("l2", "linf"):
        node = implicit_specimen(norm)
        weights = {**{k: np.array(v) for k, v in node.weights.items()}, "state": 1.2 * np.eye(3)}
        assert not check(oracle.resealed(node, weights=weights, gain=1e6)).ok
