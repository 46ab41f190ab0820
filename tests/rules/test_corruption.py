"""Corruptions with a repaired seal: whatever still proves must be true by an independent rational oracle."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest

from lipctrl import rules
from lipctrl.activations import activation
from lipctrl.certificate import Certificate, CertificateFormatError
from lipctrl.certificate_reader import certificate_from_dict
from lipctrl.checker import check

SUBSTITUTES = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-12, 1e12, -1e150, math.nan, math.inf, -math.inf)


def altered_number(value: float, rng: np.random.Generator) -> float:
    """Nudge by ulps, small factors, sign, or replace outright."""
    kind = rng.integers(6)
    if kind == 0:
        return math.nextafter(value, math.inf if rng.random() < 0.5 else -math.inf)
    if kind == 1:
        return -value
    if kind == 2:
        return value * (1.0 + 10.0 ** rng.uniform(-14, 0) * rng.choice([-1, 1]))
    if kind == 3:
        return value + 10.0 ** rng.uniform(-12, 2) * rng.choice([-1, 1])
    if kind == 4:
        return float(np.ldexp(value, int(rng.integers(-30, 30))))
    return float(rng.choice(SUBSTITUTES))


def altered_node(node: Certificate, rng: np.random.Generator, resealed) -> Certificate:
    """Alter one number of a node: its gain, a weight or a witness."""
    places = [("gain", "", ())]
    for kind in ("weights", "witness"):
        for name, array in getattr(node, kind).items():
            places += [(kind, name, index) for index in np.ndindex(array.shape)]
    kind, name, index = places[rng.integers(len(places))] if rng.random() < 0.8 else places[0]
    if kind == "gain":
        return resealed(node, gain=altered_number(node.gain, rng))
    arrays = {k: np.array(v) for k, v in getattr(node, kind).items()}
    arrays[name][index] = altered_number(float(arrays[name][index]), rng)
    return resealed(node, **{kind: arrays})


def altered_tree(tree: Certificate, rng: np.random.Generator, resealed) -> Certificate:
    """Alter one node somewhere, and repair the seals from there to the root."""
    if not tree.parts or rng.random() < 0.4:
        return altered_node(tree, rng, resealed)
    place = int(rng.integers(len(tree.parts)))
    parts = list(tree.parts)
    parts[place] = altered_tree(parts[place], rng, resealed)
    return resealed(tree, parts=tuple(parts))


def is_true(node: Certificate, oracle) -> bool:
    """Decide in rationals whether the claim of one node follows from its numbers and its parts' claims."""
    gain = Fraction(node.gain)
    parts = [Fraction(p.gain) for p in node.parts]
    weights = node.weights
    if node.rule == "linear":
        w = oracle.rational(weights["weight"])
        if node.norm == "linf":
            return gain >= max(sum(abs(v) for v in row) for row in w)
        square = oracle.rational(np.eye(w.shape[1])) * gain**2
        return gain >= 0 and oracle.is_positive_semidefinite(square - w.T @ w)
    if node.rule == "scaling":
        return all(gain >= abs(v) for v in oracle.rational(weights["scale"]))
    if node.rule == "identity":
        return gain >= 1
    if node.rule == "activation":
        return gain >= Fraction(activation(node.params["activation"]).gain)
    if node.rule == "series":
        return gain >= math.prod(parts, start=Fraction(1))
    if node.rule == "sum":
        c = oracle.rational(weights["coefficients"])
        return gain >= sum(abs(k) * g for k, g in zip(c, parts, strict=True))
    if node.rule == "concat":
        return (
            gain >= max(parts) if node.norm == "linf" else gain**2 >= sum(g**2 for g in parts) and gain >= 0
        )
    if node.rule == "parallel":
        return gain >= max(parts)
    if node.rule == "repeat":
        return gain >= parts[0] ** node.params["times"]
    if node.rule == "feedback":
        return parts[0] < 1 and gain >= parts[1] / (1 - parts[0])
    if node.rule == "centered":
        return gain >= parts[0] + parts[1]
    if node.rule == "projection":
        return gain >= parts[0] and bool((weights["lower"] <= weights["upper"]).all())
    if node.rule in ("neurons", "network") and node.norm == "l2":
        multipliers = all((lam >= 0.0).all() for lam in node.witness.values())
        return multipliers and oracle.is_positive_semidefinite(oracle.lmi(node))
    raise AssertionError(f"no oracle for {node.rule}")


def attack(cert: Certificate, count: int, seed: int, oracle, route: str = "float") -> int:
    """Return how many altered certificates still proved; every one of them is true node by node."""
    rng = np.random.default_rng(seed)
    proved = 0
    for _ in range(count):
        forged = altered_tree(cert, rng, oracle.resealed)
        if not check(forged, route=route).ok:
            continue
        proved += 1
        for node in forged.nodes():
            assert is_true(node, oracle), (node, node.gain)
    return proved


LOCAL = "network-local-linf"


@pytest.mark.parametrize("route", ["float", "exact"])
def test_altered_numbers_prove_only_what_is_true(specimens, oracle, route):
    total = proved = 0
    for name, cert in specimens.items():
        if name in (LOCAL, "network-linf"):
            continue
        count = 120 if route == "float" else 25
        total += count
        proved += attack(cert, count, seed=len(name), oracle=oracle, route=route)
    assert 0 < proved < total


@pytest.mark.slow
def test_ten_thousand_alterations_prove_only_what_is_true(specimens, oracle):
    count = 0
    for seed in range(3):
        for name, cert in specimens.items():
            if name not in (LOCAL, "network-linf"):
                attack(cert, 200, seed=1000 + seed, oracle=oracle)
                count += 200
    assert count >= 10_000


def test_altered_linf_networks_are_never_beaten_by_pairs(specimens, oracle):
    """No exact oracle here: an attack by pairs stands in for it."""
    rng = np.random.default_rng(0)
    proved = 0
    for name in (LOCAL, "network-linf"):
        tight = specimens[name]
        for gain in (10.0, 5.0, 2.0, 1.0, 0.5, 0.1):
            if check(oracle.resealed(tight, gain=gain)).ok:
                tight = oracle.resealed(tight, gain=gain)
        for _ in range(150):
            forged = altered_node(tight, rng, oracle.resealed)
            if check(forged).ok and np.isfinite(forged.gain):
                proved += 1
                assert oracle.attacked(forged, rng, pairs=60) <= forged.gain * (1 + 1e-9)
    assert proved > 0


def smallest_proved_gain(node: Certificate, oracle) -> float:
    """Bisect the gain at which the checker stops proving a node."""
    low, high = 0.0, node.gain
    for _ in range(60):
        middle = 0.5 * (low + high)
        if check(oracle.resealed(node, gain=middle)).ok:
            high = middle
        else:
            low = middle
    return high


@pytest.mark.parametrize("kind", ["relu", "tanh", {"name": "leaky_relu", "slope": 0.3}, "silu", "abs"])
def test_the_edge_of_a_block_is_found_from_the_safe_side(kind, oracle):
    """The smallest gain that proves: the oracle agrees above, and it refuses 1e-6 below."""
    node = oracle.neuron_block(np.random.default_rng(3), kind)
    high = smallest_proved_gain(node, oracle)
    assert is_true(oracle.resealed(node, gain=high), oracle)
    assert not is_true(oracle.resealed(node, gain=high * (1.0 - 1e-6)), oracle)


def test_exchanging_activations_of_a_proved_block(oracle):
    """A certificate of ReLU must not prove for activations with wider slopes."""
    node = oracle.neuron_block(np.random.default_rng(3), "relu")
    high = smallest_proved_gain(node, oracle)
    tight = oracle.resealed(node, gain=high)
    for spec in ({"name": "abs"}, {"name": "silu"}, {"name": "leaky_relu", "slope": -0.5}, {"name": "sin"}):
        forged = oracle.resealed(tight, params={"activations": [spec]})
        assert not check(forged).ok or is_true(forged, oracle)
    same = oracle.resealed(tight, params={"activations": [{"name": "tanh"}]})
    assert check(same).ok


def test_a_forged_part_does_not_lift_the_whole(oracle):
    tree = rules.series(rules.linear([[2.0]]), rules.linear([[3.0]]))
    cheap = oracle.resealed(tree.parts[0], gain=1e-3)
    forged = oracle.resealed(tree, parts=(cheap, tree.parts[1]), gain=4e-3)
    report = check(forged)
    assert not report.ok
    assert len(report.failures) == 1
    assert report.failures[0].startswith("node 0")


def _nested_activation(depth: int) -> dict:
    table: dict = {"name": "silu"}
    for _ in range(depth):
        table = {"name": "averaged", "activation": table}
    return table


@pytest.mark.parametrize(
    "activations",
    [
        *(5, 2.5, "relu", None, {}, [[]], [None], [{"name": "groupsort", "size": 10**30}]),
        *(
            [{"name": "leaky_relu", "slope": 10**400}],
            [{"name": "elu", "alpha": -1.0}],
            [_nested_activation(700)],
        ),
        *([{"name": "clip", "lower": 1.0, "upper": 0.0}], [{"part": 0}], [{"part": True}]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_activations_of_the_wrong_kind_are_a_failed_proof_that_can_be_printed(specimens, activations):
    node = specimens["network"]
    forged = dataclasses.replace(node, params={"activations": activations}, digest="")
    report = check(forged)
    assert not report.ok
    assert str(forged)
    assert repr(forged)
    assert str(report)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [10**400, 0]),
        ("shape", [1] * 100 + [4]),
        ("shape", [-2, -2]),
        ("shape", [2.0, 2.0]),
        ("data", [10**400] * 4),
        ("data", ["NaN"] * 4),
        ("data", [True] * 4),
        ("data", [None] * 4),
    ],
)
def test_arrays_of_absurd_shape_are_no_certificate(specimens, field, value):
    data = json.loads(json.dumps(specimens["linear"].to_dict()))
    data["nodes"][0]["weights"]["weight"][field] = value
    if field == "shape" and value != [-2, -2] and value != [2.0, 2.0] and 0 in value:
        data["nodes"][0]["weights"]["weight"]["data"] = []
    with pytest.raises(CertificateFormatError):
        certificate_from_dict(data)


@pytest.mark.parametrize("parts", [[0], [1], [-1], [True], [0.0], "0", None])
def test_cycles_and_strange_references_are_no_certificate(specimens, parts):
    data = json.loads(json.dumps(specimens["linear"].to_dict()))
    data["nodes"][0]["parts"] = parts
    with pytest.raises(CertificateFormatError):
        certificate_from_dict(data)


@pytest.mark.parametrize("rule", ["", "\ud800", "a\x00b", 7, None, ["linear"]])
def test_rules_are_words(specimens, rule):
    data = json.loads(json.dumps(specimens["linear"].to_dict()))
    data["nodes"][0]["rule"] = rule
    with pytest.raises(CertificateFormatError):
        certificate_from_dict(data)
